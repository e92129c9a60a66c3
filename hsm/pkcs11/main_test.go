package pkcs11

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// SoftHSM is one per process: the tests of this package do not run in parallel.

const (
	testStore  = "default"
	otherStore = "other"
)

// newToken provisions a token of its own for a test.
func newToken(t testing.TB) softhsm.Token {
	t.Helper()
	tok, err := softhsm.Provision(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func configFor(tok softhsm.Token) Config {
	return Config{Module: tok.Module, Label: tok.Label, PIN: PINFile(tok.PINFile)}
}

// serviceKeyRows are rows of one generation of a store, not made yet.
func serviceKeyRows(store string, generation int32) []hsm.ServiceKey {
	var rows []hsm.ServiceKey
	for _, kind := range hsm.ServiceKeyKinds {
		id := make([]byte, 16)
		rand.Read(id)
		rows = append(rows, hsm.ServiceKey{Store: store, Kind: kind, Generation: generation, ID: id})
	}
	return rows
}

// open opens an engine without service keys, and closes it with the test.
func open(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if t, ok := t.(*testing.T); ok {
			goleak.VerifyNone(t)
		}
	})
	return e
}

// openWithKeys opens an engine on a token of its own, with service keys of
// generation 1 for testStore.
func openWithKeys(t testing.TB, change func(*Config)) *Engine {
	t.Helper()
	cfg := configFor(newToken(t))
	if change != nil {
		change(&cfg)
	}
	e := open(t, cfg)
	if _, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1)); err != nil {
		t.Fatal(err)
	}
	return e
}

func newKey(id string) hsm.Key {
	k := hsm.Key{
		Store: testStore, Region: "us-east-1", Account: "111122223333", KeyID: id,
		Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS,
	}
	rand.Read(k.MaterialID[:])
	return k
}

var client = hsm.Call{Account: "111122223333"}

func generate(t testing.TB, e *Engine, id string) *hsm.Key {
	t.Helper()
	k, err := e.Generate(t.Context(), client, newKey(id))
	if err != nil {
		t.Fatal(err)
	}
	return &k
}

// within is a context of a test with a deadline.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func newCancel(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}
