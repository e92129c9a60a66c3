package reconcile

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
	"kmsgate/policy"
	"kmsgate/softhsm"
)

const (
	testRegion    = "us-east-1"
	testStore     = "default"
	residentStore = "resident" // whose keys live in the token
	farRegion     = "ap-south-1"
	farStore      = "far" // of farRegion
	testAccount   = "111122223333"
)

// noon is when every fixture begins.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// token is the one of this process: SoftHSM can be opened but once.
var token = sync.OnceValues(openToken)

func TestMain(m *testing.M) {
	code := m.Run()
	engine, err := token()
	if err == nil {
		err = engine.Close()
	}
	if err := errors.Join(err, metadatatest.Stop(), os.RemoveAll(tokenDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var tokenDir, errTokenDir = os.MkdirTemp("", "kmsgate-reconcile-")

func openToken() (*pkcs11.Engine, error) {
	if errTokenDir != nil {
		return nil, errTokenDir
	}
	provisioned, err := softhsm.Provision(tokenDir, "test")
	if err != nil {
		return nil, err
	}
	engine, err := pkcs11.Open(context.Background(), pkcs11.Config{
		Module: provisioned.Module, Label: provisioned.Label, PIN: pkcs11.PINFile(provisioned.PINFile),
		Resident: []string{residentStore},
	})
	if err != nil {
		return nil, err
	}
	var keys []hsm.ServiceKey
	for _, store := range []string{testStore, residentStore, otherStore, farStore} {
		for _, kind := range hsm.ServiceKeyKinds {
			id := make([]byte, 16)
			_, _ = rand.Read(id) // never fails (crypto/rand, since Go 1.24)
			keys = append(keys, hsm.ServiceKey{Store: store, Kind: kind, Generation: 1, ID: id})
		}
	}
	_, err = engine.CreateServiceKeys(context.Background(), keys)
	return engine, err
}

// A fixture is a database with an account, and the token.
type fixture struct {
	store    *metadata.Store
	database *metadatatest.Database
	token    *pkcs11.Engine
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	engine, err := token()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{database: metadatatest.NewDatabase(t), token: engine}
	f.store = f.database.Open(t, nil)
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(
			tx.InsertAccount(t.Context(), metadata.Account{ID: testAccount, CreatedAt: noon}),
			tx.EnsureRegion(t.Context(), metadata.Region{Name: testRegion, CreatedAt: noon}),
			tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
				ID: testStore, Region: testRegion, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: noon,
			}),
			tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
				ID: residentStore, Region: testRegion, Account: testAccount, Type: metadata.CloudHSMKeyStore, State: metadata.Connected, CreatedAt: noon,
			}),
			tx.EnsureRegion(t.Context(), metadata.Region{Name: farRegion, CreatedAt: noon}),
			tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
				ID: farStore, Region: farRegion, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: noon,
			}),
		)
	})
	return f
}

// instance is another process that does jobs, with what it logs.
func (f *fixture) instance(t *testing.T) (*Reconciler, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	return New(Config{
		Store: f.database.Open(t, nil), Tokens: map[string]hsm.Token{testStore: f.token, residentStore: f.token, farStore: f.token},
		Logger: slog.New(slog.NewTextHandler(log, nil)), Fit: func(context.Context) error { return nil },
		Clock: func() time.Time { return noon }, Metrics: prometheus.NewRegistry(),
	}), log
}

// change makes a change that rests on nothing.
func (f *fixture) change(t *testing.T, change func(*metadata.Tx) error) {
	t.Helper()
	err := f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) { return []byte(`{}`), change(tx) })
	if err != nil {
		t.Fatal(err)
	}
}

// createKey makes a symmetric key; change may change it before, nil leaves it.
func (f *fixture) createKey(t *testing.T, change func(*metadata.Key)) metadata.KeyName {
	t.Helper()
	k := metadata.Key{
		Region: testRegion, ID: uuid.NewString(), Account: testAccount, Store: testStore, Spec: keyspec.SymmetricDefault,
		Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS, State: metadata.Enabled, CreatedAt: noon,
	}
	if change != nil {
		change(&k)
	}
	var id hsm.MaterialID
	_, _ = rand.Read(id[:]) // never fails
	made, err := f.token.Generate(t.Context(), hsm.Call{Account: k.Account}, hsm.Key{
		Store: k.Store, Region: k.Region, Account: k.Account, KeyID: k.ID, MaterialID: id, Spec: k.Spec, Usage: k.Usage, Origin: k.Origin,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.change(t, func(tx *metadata.Tx) error {
		m := metadata.Material{Key: made, Current: true, CreatedAt: noon}
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(k.Account)}, nil)
	})
	return metadata.KeyName{Region: k.Region, Account: k.Account, ID: k.ID}
}

// key reads a key as Postgres has it.
func (f *fixture) key(t *testing.T, k metadata.KeyName) *metadata.KeyEntry {
	t.Helper()
	entry, err := f.store.View().FreshKey(t.Context(), k.Region, k.ID)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

// A serviceEvent is the record of what a job did.
type serviceEvent struct {
	EventName, EventType string
	ServiceEventDetails  map[string]any
}

// events are the records of a name, those on their way too, oldest first.
func (f *fixture) events(t *testing.T, name string) (events []serviceEvent) {
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
	seen := map[string]bool{}
	for _, r := range append(records, waiting...) {
		var e serviceEvent
		if err := json.Unmarshal(r.Event, &e); err != nil {
			t.Fatalf("audit record %s: %v", r.Event, err)
		}
		if e.EventName == name && !seen[string(r.Event)] {
			events = append(events, e)
		}
		seen[string(r.Event)] = true
	}
	return events
}
