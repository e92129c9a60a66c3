package worker

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
	"kmsgate/softhsm"
)

// workerArgs make the test binary a worker.
var workerArgs = []string{"serve-as-worker"}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == workerArgs[0] {
		if err := Serve(os.NewFile(Inherited, "gateway"), slog.New(slog.DiscardHandler)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == gatewayArg {
		beGateway()
	}
	os.Exit(m.Run())
}

const (
	testStore  = "exercise-a"
	otherStore = "exercise-b"
)

var client = hsm.Call{Account: "111122223333"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newConfig is the configuration of a token of its own.
func newConfig(t testing.TB) pkcs11.Config {
	t.Helper()
	tok, err := softhsm.Provision(t.TempDir(), "test")
	must(t, err)
	return pkcs11.Config{Module: tok.Module, Label: tok.Label, PIN: pkcs11.PINFile(tok.PINFile)}
}

// withShim puts a shim in front of the module.
func withShim(t testing.TB, cfg *pkcs11.Config) *softhsm.Shim {
	t.Helper()
	shim, err := softhsm.NewShim(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, shim.Close()) })
	cfg.Module = shim.Module
	return shim
}

// openIn opens a token and closes it with the test.
func openIn(t testing.TB, w *Worker, cfg pkcs11.Config) *Token {
	t.Helper()
	token, err := w.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		must(t, token.Close())
		if t, ok := t.(*testing.T); ok {
			goleak.VerifyNone(t)
		}
	})
	return token
}

// openWithKeys opens a token in a worker of its own, with service keys.
func openWithKeys(t testing.TB, cfg pkcs11.Config) *Token {
	t.Helper()
	token := openIn(t, New(workerArgs, nil), cfg)
	_, err := token.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1))
	must(t, err)
	return token
}

func serviceKeyRows(store string, generation int32) (rows []hsm.ServiceKey) {
	for _, kind := range hsm.ServiceKeyKinds {
		id := make([]byte, 16)
		rand.Read(id)
		rows = append(rows, hsm.ServiceKey{Store: store, Kind: kind, Generation: generation, ID: id})
	}
	return rows
}

func generateKey(t testing.TB, token hsm.Token, id string) *hsm.Key {
	t.Helper()
	k := hsm.Key{
		Store: testStore, Region: "us-east-1", Account: client.Account, KeyID: id,
		Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS,
	}
	rand.Read(k.MaterialID[:])
	made, err := token.Generate(t.Context(), client, k)
	must(t, err)
	return &made
}

// pid is the worker's process.
func (w *Worker) pid() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.process.cmd.Process.Pid
}

// eventually waits for something that has to come to pass.
func eventually(t testing.TB, what string, true func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !true() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
