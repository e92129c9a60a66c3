package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/metadatatest"
	"kmsgate/softhsm"
)

// SoftHSM is one per process: the tests with a fixture do not run in parallel.

const (
	testRegion = "us-east-1"
	testStore  = "exercise-default" // a store whose resident keys a test may destroy
	account1   = "111122223333"
	account2   = "444455556666"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := metadatatest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the server for tests:", err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// A fixture is a gateway on a token and a database of its own, behind HTTP.
type fixture struct {
	*Gateway
	engine   *pkcs11.Engine
	database *metadatatest.Database
	server   *httptest.Server
	keys     map[string]aws.Credentials // of the roots of both accounts
	log      *log
	numbers  *prometheus.Registry // of the store
	// skew is what the instance's clock is ahead of the machine's.
	skew atomic.Int64
	// stopped is the time at which the gateway's clock stands.
	stopped time.Time
}

// log is what was logged. Safe for concurrent use.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newFixture makes a gateway; configure may change its configuration, nil leaves it.
func newFixture(t *testing.T, configure func(*Config)) *fixture {
	t.Helper()
	return newFixtureOn(t, newEngine(t), configure)
}

// newFixtureOn is newFixture on an engine.
func newFixtureOn(t *testing.T, engine *pkcs11.Engine, configure func(*Config)) *fixture {
	t.Helper()
	f := &fixture{engine: engine, database: metadatatest.NewDatabase(t), keys: map[string]aws.Credentials{}}
	f.start(t, configure)
	for _, account := range []string{account1, account2} {
		f.addAccount(t, account)
	}
	return f
}

// another is a further instance on the token and the database of one.
func (f *fixture) another(t *testing.T, configure func(*Config)) *fixture {
	t.Helper()
	other := &fixture{engine: f.engine, database: f.database, keys: f.keys}
	other.start(t, configure)
	return other
}

// start makes the gateway and serves it.
func (f *fixture) start(t *testing.T, configure func(*Config)) {
	t.Helper()
	f.log, f.numbers, f.stopped = new(log), prometheus.NewRegistry(), time.Now()
	c := Config{
		Regions: []Region{{Name: testRegion, Store: testStore}}, Tokens: map[string]hsm.Token{testStore: f.engine},
		Store:  f.database.Open(t, func(c *metadata.Config) { c.Clock, c.Metrics = f.now, f.numbers }),
		Logger: slog.New(slog.NewTextHandler(f.log, nil)), Clock: f.now,
	}
	if configure != nil {
		configure(&c)
	}
	var err error
	if f.Gateway, err = New(c); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewServer(f.Handler())
	t.Cleanup(f.server.Close)
}

func (f *fixture) now() time.Time { return time.Now().Add(time.Duration(f.skew.Load())) }

// standstill is a clock that always tells the same time.
func (f *fixture) standstill() time.Time { return f.stopped }

// newEngine opens a token of the test's own with its service keys. New keys of the
// resident stores are token objects. It is closed with the test.
func newEngine(t *testing.T, resident ...string) *pkcs11.Engine {
	t.Helper()
	token, err := softhsm.Provision(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	engine, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: token.Module, Label: token.Label, PIN: pkcs11.PINFile(token.PINFile), Resident: resident})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	addServiceKeys(t, engine, testStore)
	return engine
}

// addServiceKeys makes the service keys of a store.
func addServiceKeys(t *testing.T, engine *pkcs11.Engine, store string) {
	t.Helper()
	var keys []hsm.ServiceKey
	for _, kind := range hsm.ServiceKeyKinds {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // never fails (crypto/rand, since Go 1.24)
		keys = append(keys, hsm.ServiceKey{Store: store, Kind: kind, Generation: 1, ID: id})
	}
	if _, err := engine.CreateServiceKeys(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
}

// addAccount makes an account and an access key of its root, and the key store
// that keys are made in, unless it is there.
func (f *fixture) addAccount(t *testing.T, account string) {
	t.Helper()
	key, err := f.addKey(t.Context(), account, func(tx *metadata.Tx) error {
		store := metadata.KeyStore{ID: testStore, Region: testRegion, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: f.now()}
		return errors.Join(
			tx.InsertAccount(t.Context(), metadata.Account{ID: account, CreatedAt: f.now()}),
			tx.EnsureRegion(t.Context(), metadata.Region{Name: testRegion, CreatedAt: f.now()}),
			tx.EnsureKeyStore(t.Context(), store),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.keys[account] = key
}

// move changes something of an account and lets all leases run out, so that what
// others have read of it is stale.
func (f *fixture) move(ctx context.Context, account string) error {
	_, err := f.addKey(ctx, account, func(*metadata.Tx) error { return nil })
	f.skew.Add(int64(time.Minute))
	return err
}

// addKey makes an access key of an account's root, after what else is done first.
func (f *fixture) addKey(ctx context.Context, account string, first func(*metadata.Tx) error) (aws.Credentials, error) {
	now := f.now()
	key, secret, err := identity.NewRootAccessKey(ctx, f.engine, testStore, account, now)
	if err != nil {
		return aws.Credentials{}, err
	}
	event := audit.Event{
		Identity: audit.UserIdentity{Type: audit.Unknown}, Time: now, Source: "kms.amazonaws.com", Name: "CreateAccessKey",
		Region: testRegion, SourceIP: "127.0.0.1", EventID: uuid.NewString(), Type: audit.ServiceEvent, RecipientAccount: account,
	}
	err = f.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		if err := first(tx); err != nil {
			return nil, err
		}
		return event.AppendJSON(nil), tx.InsertAccessKey(ctx, key)
	})
	return aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: string(secret)}, err
}

// handle adds an operation that only the test has. It acts on nothing, so that
// everybody may call it.
func (f *fixture) handle(name string, check func(*call) (work[kmsapi.Empty], error)) {
	f.routes[route{serviceKMS, name}] = &operation{
		service: serviceKMS, name: name, bucket: bucket(name),
		typed: do(nil, func(c *call, _ *kmsapi.Empty) (work[kmsapi.Empty], error) { return check(c) }),
	}
}

// An answer is an HTTP response as it came.
type answer struct {
	status          int
	code, requestID string
	body            string
}

// call sends a request that an account's root has signed. Any goroutine may.
func (f *fixture) call(ctx context.Context, account, operation, body string) (answer, error) {
	return f.callIn(ctx, testRegion, account, operation, body)
}

// callIn is call in a region.
func (f *fixture) callIn(ctx context.Context, region, account, operation, body string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.server.URL+"/", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", jsonMedia)
	r.Header.Set("X-Amz-Target", targetPrefix+operation)
	hash := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(ctx, f.keys[account], r, hex.EncodeToString(hash[:]), "kms", region, f.now()); err != nil {
		return answer{}, err
	}
	return f.send(r)
}

func (f *fixture) send(r *http.Request) (answer, error) {
	response, err := f.server.Client().Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close() //nolint:errcheck // nothing is written
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: response.StatusCode, requestID: response.Header.Get("x-amzn-RequestId"), body: string(body)}
	var failed struct {
		Type string `json:"__type"`
	}
	if response.StatusCode != http.StatusOK {
		err = json.Unmarshal(body, &failed)
	}
	a.code = failed.Type
	return a, err
}

// want calls an operation of the test's and checks how it ends; no code is success.
func (f *fixture) want(t *testing.T, account, operation string, status int, code kmsapi.Code) answer {
	t.Helper()
	a, err := f.call(t.Context(), account, operation, "{}")
	if err != nil {
		t.Fatal(err)
	}
	if a.status != status || a.code != string(code) {
		t.Errorf("%s by %s: %d %s, want %d %s", operation, account, a.status, a.body, status, code)
	}
	return a
}

// wantIdle checks that every place within a limit was given back, and all room.
func (f *fixture) wantIdle(t *testing.T) {
	t.Helper()
	if room := f.bodies.Load(); room != 0 {
		t.Errorf("bodies take %d bytes, want none", room)
	}
	if reading, inFlight, generating := len(f.reading), len(f.inFlight), f.generating.total; reading+inFlight+generating != 0 {
		t.Errorf("%d requests are being read, %d worked on, and %d have an RSA key made, want none", reading, inFlight, generating)
	}
}

// An event is what the tests look at in an audit record.
type event struct {
	EventName, EventType, ErrorCode, ErrorMessage, RequestID, RecipientAccountID, AWSRegion string
	UserIdentity                                                                            struct{ Type, ARN, AccountID, AccessKeyID string }
	AdditionalEventData                                                                     struct {
		Count  int64
		Second time.Time
	}
	ServiceEventDetails struct{ KeyID string }
}

// events is the whole audit log, with what is on its way there.
func (f *fixture) events(t *testing.T) []event {
	t.Helper()
	log := f.store.AuditLog()
	// The outbox first: a record that moves meanwhile is read twice, not missed.
	waiting, err := log.Outbox(t.Context(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	records, _, err := log.Last(t.Context(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	seen := map[string]bool{}
	for _, r := range append(waiting, records...) {
		var e event
		if err := json.Unmarshal(r.Event, &e); err != nil {
			t.Fatalf("audit record %s: %v", r.Event, err)
		}
		if !seen[string(r.Event)] {
			events = append(events, e)
		}
		seen[string(r.Event)] = true
	}
	return events
}

// wantRecord checks that a request has exactly one record, with an error code;
// empty for none.
func (f *fixture) wantRecord(t *testing.T, a answer, code kmsapi.Code) {
	t.Helper()
	var codes []string
	for _, e := range f.events(t) {
		if e.RequestID == a.requestID {
			codes = append(codes, e.ErrorCode)
		}
	}
	if len(codes) != 1 || codes[0] != string(code) {
		t.Errorf("request %s has records with the codes %q, want one with %q", a.requestID, codes, code)
	}
}
