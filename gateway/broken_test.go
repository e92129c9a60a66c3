package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// brokenToken is the real token behind the fixture, of which one function fails.
type brokenToken struct {
	hsm.Token
	broken string // name of the function; empty for none
}

func (b *brokenToken) fails(function string) error {
	if b.broken == function {
		return fmt.Errorf("for this test: %w", hsm.ErrUnavailable)
	}
	return nil
}

func (b *brokenToken) Random(ctx context.Context, on hsm.Call, n int) ([]byte, error) {
	if err := b.fails("Random"); err != nil {
		return nil, err
	}
	return b.Token.Random(ctx, on, n)
}

func (b *brokenToken) Seal(ctx context.Context, on hsm.Call, store string, secret, aad []byte) ([]byte, error) {
	if err := b.fails("Seal"); err != nil {
		return nil, err
	}
	return b.Token.Seal(ctx, on, store, secret, aad)
}

func (b *brokenToken) Open(ctx context.Context, on hsm.Call, sealed, aad []byte) ([]byte, error) {
	if err := b.fails("Open"); err != nil {
		return nil, err
	}
	return b.Token.Open(ctx, on, sealed, aad)
}

func (b *brokenToken) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	if err := b.fails("Generate"); err != nil {
		return hsm.Key{}, err
	}
	return b.Token.Generate(ctx, on, k)
}

func (b *brokenToken) Import(ctx context.Context, on hsm.Call, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, wrapped []byte, k hsm.Key) (hsm.Key, error) {
	if err := b.fails("Import"); err != nil {
		return hsm.Key{}, err
	}
	return b.Token.Import(ctx, on, wrapping, a, wrapped, k)
}

func (b *brokenToken) Destroy(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	if err := b.fails("Destroy"); err != nil {
		return err
	}
	return b.Token.Destroy(ctx, on, k)
}

// storages are two services.
func storages(c *Config) {
	callers := []string{"arn:aws:iam::" + account1 + ":root"}
	c.Services = []Service{{Name: "storage1", Callers: callers}, {Name: "storage2", Callers: callers}}
}

// brokenCase is a call that fails while a function of the token does.
type brokenCase struct {
	name, broken string
	ahead        time.Duration                              // of the instance's clock
	before       func(*testing.T, *fixture, *unread) string // goes well before; nil for nothing
	call         func(*testing.T, *fixture, *unread) string
}

// brokenCases are the calls about the fixture's callers, an imported key, and a
// request that imports its material again.
func brokenCases(imported string, again object) []brokenCase {
	parameters := asks(account1, "GetParametersForImport", func(*unread) object {
		return object{"KeyId": imported, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
	})
	describes := func(alias string) func(*testing.T, *fixture, *unread) string {
		return asks(account1, "DescribeKey", func(*unread) object { return object{"KeyId": alias} })
	}
	root := asks(account1, "ListKeys", nothingOf) // its access key is opened by then
	newSession := formed("sts", stsForm+"GetSessionToken")
	return []brokenCase{
		{"secret of an access key", "Open", 0, nil, asks("alice", "ListKeys", nothingOf)},
		{"session key", "Open", 0, nil, asks("session", "ListKeys", nothingOf)},
		{"session key to seal under", "Open", 0, nil, exchanges},
		{"new session key", "Random", 25 * time.Hour, root, newSession},
		{"new session key to be sealed", "Seal", 51 * time.Hour, root, newSession},
		{"import token", "Open", 0, root, asks(account1, "ImportKeyMaterial", func(u *unread) object { return u.material })},
		{"import", "Import", 0, root, asks(account1, "ImportKeyMaterial", func(*unread) object { return again })},
		{"id of a pair to wrap to", "Random", 0, root, parameters},
		{"pair to wrap to", "Generate", 0, root, parameters},
		{"new import token", "Seal", 0, root, parameters},
		{"random of a new access key", "Random", 0, root, formed("iam", iamForm+"CreateAccessKey&UserName=bob")},
		{"new access key", "Seal", 0, root, formed("iam", iamForm+"CreateAccessKey&UserName=alice")},
		{"id of a service's key", "Random", 0, root, describes("alias/aws/storage1")},
		{"service's key", "Generate", 0, root, describes("alias/aws/storage2")},
		{"material that is deleted", "Destroy", 0, root, asks(account1, "DeleteImportedKeyMaterial", func(*unread) object { return object{"KeyId": imported} })},
	}
}

// TestWhatTheTokenDoesNotDoRefuses has one function of the token fail in whatever
// needs it to authenticate a caller, or to make or open what is the gateway's own: the
// call fails inside. It succeeds once the token is well again.
func TestWhatTheTokenDoesNotDoRefuses(t *testing.T) {
	f := newFixture(t, nil)
	u := f.newUnread(t)
	imported := f.external(t)
	material := bytes.Repeat([]byte("i"), 32)
	f.must(t, "ImportKeyMaterial", f.wrapped(t, imported, material, nil))
	for _, tc := range brokenCases(imported, f.wrapped(t, imported, material, nil)) {
		t.Run(tc.name, func(t *testing.T) {
			token := &brokenToken{}
			g := f.another(t, func(c *Config) {
				token.Token, c.Tokens = c.Tokens[testStore], map[string]hsm.Token{testStore: token}
				storages(c)
			})
			g.skew.Store(int64(tc.ahead))
			if tc.before != nil && tc.before(t, g, u) != "" {
				t.Fatal("the call before has failed")
			}
			token.broken = tc.broken
			if code := tc.call(t, g, u); code != "KMSInternalException" && code != "InternalFailure" {
				t.Errorf("the call ends with %q, want an internal error", code)
			}
			token.broken = ""
			if code := tc.call(t, g, u); code != "" {
				t.Errorf("the call ends with %q when the token is well again, want success", code)
			}
			g.wantIdle(t)
		})
	}
}

// TestReadsThatDoNotHold: of a call whose record is stale at every attempt nothing is
// answered, and that is recorded.
func TestReadsThatDoNotHold(t *testing.T) {
	f := newFixture(t, nil)
	runs := 0
	f.handle("Read", func(*call) (work[kmsapi.Empty], error) {
		return work[kmsapi.Empty]{do: func(ctx context.Context) (*kmsapi.Empty, error) {
			runs++
			return &kmsapi.Empty{}, f.move(ctx, account1)
		}}, nil
	})
	a := f.want(t, account1, "Read", http.StatusInternalServerError, kmsapi.KMSInternalException)
	f.wantRecord(t, a, kmsapi.KMSInternalException)
	if runs != attempts {
		t.Errorf("it ran %d times, want %d", runs, attempts)
	}
	f.wantIdle(t)
}

// TestSessionKeyOfAnotherStore: a session that was sealed in a token that is not here
// is none here.
func TestSessionKeyOfAnotherStore(t *testing.T) {
	f := newFixture(t, nil)
	f.newUnread(t)
	elsewhere := metadata.KeyStore{
		ID: "elsewhere", Region: testRegion, Account: account1, Type: metadata.CloudHSMKeyStore, State: metadata.Connected, CreatedAt: f.now(),
	}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error { return tx.EnsureKeyStore(ctx, elsewhere) })
	f.database.Exec(t, `UPDATE session_keys SET store = 'elsewhere'`)
	f.another(t, nil).want(t, "session", "ListKeys", http.StatusBadRequest, kmsapi.UnrecognizedClientException)
}
