package cluster_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/cluster"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
	"kmsgate/softhsm"
)

// SoftHSM is one per process: the tests of this package do not run in parallel.

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

// fixture is a cluster of two tokens of one library behind a shim.
type fixture struct {
	*cluster.Token
	engines []*pkcs11.Engine
	slots   []uint
	shim    *softhsm.Shim
	held    map[string][]cluster.Held
}

func newFixture(t *testing.T, change func(*pkcs11.Config)) *fixture {
	t.Helper()
	dir, f := t.TempDir(), &fixture{held: map[string][]cluster.Held{}}
	var err error
	f.shim, err = softhsm.NewShim(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, f.shim.Close()) })
	var configs []pkcs11.Config
	for _, label := range []string{"one", "two"} { // both, before the module is in use
		tok, err := softhsm.Provision(dir, label)
		must(t, err)
		slot, err := strconv.ParseUint(tok.Serial[len(tok.Serial)-8:], 16, 32)
		must(t, err)
		f.slots = append(f.slots, uint(slot&0x7FFFFFFF)) // as SoftHSM numbers them
		cfg := pkcs11.Config{Label: tok.Label, PIN: pkcs11.PINFile(tok.PINFile)}
		if change != nil {
			change(&cfg)
		}
		configs = append(configs, cfg)
	}
	m := pkcs11.NewModule(f.shim.Module, "")
	var config cluster.Config
	for _, cfg := range configs {
		e, err := m.Open(t.Context(), cfg)
		must(t, err)
		t.Cleanup(func() { must(t, e.Close()) })
		f.engines = append(f.engines, e)
		config.Members = append(config.Members, cluster.Member{Name: cfg.Label, Serial: e.Stats().Serial, Token: e})
		config.Resident = func(k *hsm.Key) bool { return len(cfg.Resident) > 0 && cfg.Resident[0] == k.Store }
	}
	f.Token, err = cluster.New(config)
	must(t, err)
	t.Cleanup(f.Close)
	must(t, f.addGeneration(t.Context(), testStore, 1, f.engines...))
	must(t, f.addGeneration(t.Context(), otherStore, 1, f.engines...))
	return f
}

// addGeneration gives engines a generation of a store's service keys.
func (f *fixture) addGeneration(ctx context.Context, store string, generation int32, engines ...*pkcs11.Engine) error {
	var rows []hsm.ServiceKey
	for _, kind := range hsm.ServiceKeyKinds {
		id := make([]byte, 16)
		rand.Read(id)
		rows = append(rows, hsm.ServiceKey{Store: store, Kind: kind, Generation: generation, ID: id})
	}
	var pairs []pkcs11.TransportPair
	var serials []string
	for _, e := range engines {
		pair, err := e.TransportPair(ctx, store)
		if err != nil {
			return err
		}
		pairs, serials = append(pairs, pair), append(serials, e.Stats().Serial)
	}
	rows, parcels, err := engines[0].PackServiceKeys(ctx, rows, pairs)
	if err != nil {
		return err
	}
	for i, e := range engines {
		if err := errors.Join(e.AdoptServiceKeys(ctx, rows, pairs[i], parcels[i]), e.DestroyTransportPair(ctx, store)); err != nil {
			return err
		}
	}
	for i := range f.held[store] {
		f.held[store][i].Active = false
	}
	for _, row := range rows {
		f.held[store] = append(f.held[store], cluster.Held{Kind: row.Kind, Generation: generation, Active: true, Serials: serials})
	}
	f.LearnServiceKeys(store, f.held[store])
	return nil
}

func newKey(id string, spec keyspec.Spec, usage keyspec.Usage) hsm.Key {
	k := hsm.Key{
		Store: testStore, Region: "us-east-1", Account: client.Account, KeyID: id, Spec: spec, Usage: usage, Origin: keyspec.AWSKMS,
	}
	rand.Read(k.MaterialID[:])
	return k
}

func (f *fixture) generate(t *testing.T, id string) *hsm.Key {
	t.Helper()
	k, err := f.Generate(t.Context(), client, newKey(id, keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
	must(t, err)
	return &k
}

// works tells whether a token encrypts and decrypts under a key.
func works(ctx context.Context, token hsm.Token, k *hsm.Key) error {
	c, err := token.Encrypt(ctx, client, k, []byte("hello"), nil)
	if err != nil {
		return err
	}
	p, err := token.Decrypt(ctx, client, k, c, nil)
	if err == nil && string(p) != "hello" {
		err = errors.New("what was decrypted is not what was encrypted")
	}
	return err
}
