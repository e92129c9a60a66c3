package metadata_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
	"kmsgate/policy"
)

const (
	region    = "eu-central-1"
	account   = "111122223333"
	stranger  = "444455556666"
	keyStore  = "default"
	accessKey = "AKIAIOSFODNN7EXAMPLE"
)

// noon is when everything in a fixture was made.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// fixture is a store on a database with two accounts, a region and a key store.
type fixture struct {
	*metadata.Store
	database *metadatatest.Database
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	return populate(t, metadatatest.NewDatabase(t))
}

// populate makes a fixture of an empty database.
func populate(t *testing.T, db *metadatatest.Database) fixture {
	t.Helper()
	f := fixture{db.Open(t, nil), db}
	eventually(t, "a lease", f.Leased) // the first one empties the cache
	f.change(t, func(tx *metadata.Tx) error {
		for _, a := range []string{account, stranger} {
			if err := tx.InsertAccount(t.Context(), metadata.Account{ID: a, CreatedAt: noon}); err != nil {
				return err
			}
		}
		if err := tx.EnsureRegion(t.Context(), metadata.Region{Name: region, CreatedAt: noon}); err != nil {
			return err
		}
		return tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
			ID: keyStore, Region: region, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: noon,
		})
	})
	return f
}

// try makes a change that rests on nothing.
func (f fixture) try(ctx context.Context, change func(*metadata.Tx) error) error {
	return f.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) { return []byte(`{}`), change(tx) })
}

func (f fixture) change(t *testing.T, change func(*metadata.Tx) error) {
	t.Helper()
	if err := f.try(t.Context(), change); err != nil {
		t.Fatalf("Change: %v", err)
	}
}

// newKey is a key that can be inserted, with its material.
func newKey(owner string) (metadata.Key, metadata.Material) {
	id := uuid.New()
	k := metadata.Key{
		Region: region, ID: id.String(), Account: owner, Store: keyStore, Spec: keyspec.SymmetricDefault,
		Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS, State: metadata.Enabled, Description: "a key", Version: 1, CreatedAt: noon,
	}
	m := metadata.Material{Current: true, CreatedAt: noon, Key: hsm.Key{
		Store: keyStore, Region: region, Account: owner, KeyID: k.ID, Spec: k.Spec, Usage: k.Usage, Origin: k.Origin,
		Residency: hsm.Wrapped, Generation: 1, Blob: bytes.Repeat(id[:], 3), CheckValue: []byte{1, 2}, Binding: []byte{3},
	}}
	copy(m.MaterialID[:], id[:])
	return k, m
}

// insertKey adds a key with the default policy and returns its id.
func (f fixture) insertKey(t *testing.T, owner string, tags ...metadata.Tag) string {
	t.Helper()
	k, m := newKey(owner)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(owner)}, tags)
	})
	return k.ID
}

func (f fixture) insertAlias(t *testing.T, owner, name, keyID string) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertAlias(t.Context(), metadata.Alias{
			Account: owner, Region: region, Name: name, KeyID: keyID, CreatedAt: noon,
		}, metadata.MaxAliases)
	})
}

func (f fixture) insertAccessKey(t *testing.T, owner, id string) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertAccessKey(t.Context(), newAccessKey(owner, id)) })
}

func newAccessKey(owner, id string) metadata.AccessKey {
	return metadata.AccessKey{
		ID: id, Account: owner, Principal: "arn:aws:iam::" + owner + ":root", SealedSecret: []byte("sealed"),
		Status: metadata.AccessKeyActive, CreatedAt: noon,
	}
}

func (f fixture) disable(t *testing.T, keyID string) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetKeyState(t.Context(), region, account, keyID, metadata.Disabling)
	})
}

// key reads a key through a new view of a store.
func key(t *testing.T, s *metadata.Store, id string) *metadata.KeyEntry {
	t.Helper()
	e, err := s.View().Key(t.Context(), region, id)
	if err != nil {
		t.Fatalf("Key(%s): %v", id, err)
	}
	return e
}

// eventually waits for something that has no moment of its own.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("did not come to pass: %s", what)
}

func aliasName(i int) string { return fmt.Sprintf("alias/n%03d", i) }
