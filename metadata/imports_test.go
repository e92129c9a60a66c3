package metadata_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// newImport is a key that waits for its material, that material, and a set of
// parameters for it.
func (f fixture) newImport(t *testing.T) (metadata.Key, metadata.Material, metadata.ImportParameters) {
	t.Helper()
	k, m := newKey(account)
	k.Origin, k.State = keyspec.External, metadata.PendingImport
	m.Origin = keyspec.External
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, metadata.Material{}, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
	})
	return k, m, f.newParameters(t, k)
}

func (f fixture) newParameters(t *testing.T, k metadata.Key) metadata.ImportParameters {
	t.Helper()
	p := metadata.ImportParameters{
		ID: uuid.New(), Algorithm: keyspec.WrapOAEPSHA256, CreatedAt: noon, ExpiresAt: noon.Add(24 * time.Hour),
		Wrapping: hsm.Key{
			Store: k.Store, Region: k.Region, Account: k.Account, KeyID: k.ID, MaterialID: hsm.MaterialID{7}, Spec: keyspec.RSA3072,
			Usage: keyspec.ImportWrapping, Origin: keyspec.AWSKMS, Residency: hsm.Wrapped, Generation: 2,
			Blob: []byte("blob"), PublicKey: []byte("public"), Binding: []byte("binding"),
		},
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertImportParameters(t.Context(), p) })
	return p
}

func (f fixture) tryImport(t *testing.T, m metadata.Material, p metadata.ImportParameters, now time.Time) error {
	t.Helper()
	return f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.ImportMaterial(t.Context(), m, metadata.FirstOrKnown, p.ID, now)
	})
}

func (f fixture) drop(t *testing.T, m metadata.Material, expiredBy *time.Time) error {
	t.Helper()
	return f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.DropMaterial(t.Context(), region, account, m.KeyID, m.MaterialID, expiredBy)
	})
}

func TestImportParametersAreUsedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, m, p := f.newImport(t)
	got, err := f.ImportParameters(t.Context(), region, account, k.ID, p.ID)
	if err != nil || !got.Wrapping.Equal(&p.Wrapping) || got.Algorithm != p.Algorithm || !got.ExpiresAt.Equal(p.ExpiresAt) {
		t.Fatalf("ImportParameters = %+v, %v, want %+v", got, err, p)
	}
	for _, who := range [][3]string{{region, stranger, k.ID}, {"eu-west-1", account, k.ID}, {region, account, uuid.NewString()}} {
		if _, err := f.ImportParameters(t.Context(), who[0], who[1], who[2], p.ID); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("ImportParameters of %v = %v, want %v", who, err, metadata.ErrNotFound)
		}
	}
	if err := f.tryImport(t, m, p, p.ExpiresAt); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("import with expired parameters = %v", err)
	}
	if e := key(t, f.Store, k.ID); e.State != metadata.PendingImport || len(e.Materials) != 0 {
		t.Errorf("after a failed import: %+v", e)
	}
	if err := f.tryImport(t, m, p, noon); err != nil {
		t.Fatalf("import = %v", err)
	}
	e := key(t, f.Store, k.ID)
	if e.State != metadata.Enabled || e.Current() == nil || !e.Current().Key.Equal(&m.Key) {
		t.Errorf("after an import: %+v", e)
	}
	if err := f.tryImport(t, m, p, noon); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("import with used parameters = %v", err)
	}
}

func TestImportTakesTheSameMaterialOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, m, p := f.newImport(t)
	expiry := noon.Add(time.Hour)
	m.ExpiresAt, m.Description = &expiry, "first"
	if err := f.tryImport(t, m, p, noon); err != nil {
		t.Fatalf("import = %v", err)
	}
	other := m
	other.MaterialID[0] ^= 1
	if err := f.tryImport(t, other, f.newParameters(t, k), noon); !errors.Is(err, metadata.ErrOtherMaterial) {
		t.Errorf("import of other material = %v", err)
	}
	f.disable(t, k.ID)
	again := m
	again.ExpiresAt, again.Description, again.Blob = nil, "", bytes.Repeat([]byte("new"), 9)
	if err := f.tryImport(t, again, f.newParameters(t, k), noon); err != nil {
		t.Fatalf("import of the same = %v", err)
	}
	e := key(t, f.Store, k.ID)
	if got := e.Current(); e.State != metadata.Disabled || len(e.Materials) != 1 || got.ExpiresAt != nil || got.Description != "first" || !bytes.Equal(got.Blob, again.Blob) {
		t.Errorf("after another import: %+v", e)
	}
	if !e.Whole(expiry) {
		t.Error("material that does not expire is not there")
	}
}

// TestFirstImportsRace: of several materials that come at once, the key has one.
func TestFirstImportsRace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, m, p := f.newImport(t)
	const racers = 4
	imported := make(chan hsm.MaterialID, racers)
	var group sync.WaitGroup
	for i := range racers {
		mine, with := m, p
		if mine.MaterialID[0] ^= byte(i); i > 0 {
			with = f.newParameters(t, k)
		}
		group.Go(func() {
			switch err := f.tryImport(t, mine, with, noon); {
			case err == nil:
				imported <- mine.MaterialID
			case !errors.Is(err, metadata.ErrOtherMaterial):
				t.Errorf("import = %v, want %v", err, metadata.ErrOtherMaterial)
			}
		})
	}
	group.Wait()
	close(imported)
	e := key(t, f.Store, k.ID)
	if first, ok := <-imported; !ok || len(imported) != 0 || len(e.Materials) != 1 || e.Materials[0].MaterialID != first {
		t.Errorf("%s came first, %d more with it; the key has %+v", first, len(imported), e.Materials)
	}
}

func TestDroppedMaterialComesBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, m, p := f.newImport(t)
	expiry := noon.Add(time.Hour)
	m.ExpiresAt = &expiry
	if err := f.tryImport(t, m, p, noon); err != nil {
		t.Fatalf("import = %v", err)
	}
	due := func(now time.Time) (ids []string) {
		t.Helper()
		expired, err := f.ExpiredMaterials(t.Context(), now, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range expired {
			ids = append(ids, e.KeyID)
		}
		return ids
	}
	early := expiry.Add(-time.Second)
	if err := f.drop(t, m, &early); !errors.Is(err, metadata.ErrNotFound) || due(early) != nil {
		t.Errorf("dropped before its time: %v", err)
	}
	if diff := cmp.Diff([]string{k.ID}, due(expiry)); diff != "" {
		t.Errorf("expired (-want +got):\n%s", diff)
	}
	if key(t, f.Store, k.ID).Whole(expiry) {
		t.Error("a key is whole whose material has expired")
	}
	if err := f.drop(t, m, &expiry); err != nil {
		t.Fatalf("drop = %v", err)
	}
	e := key(t, f.Store, k.ID)
	if got := e.Current(); e.State != metadata.PendingImport || got == nil || got.Residency != hsm.Absent || got.Blob != nil || got.Binding != nil || got.MaterialID != m.MaterialID {
		t.Errorf("after it was dropped: %+v", e)
	}
	if err := f.drop(t, m, &expiry); !errors.Is(err, metadata.ErrNotFound) || due(expiry) != nil {
		t.Errorf("dropped twice: %v", err)
	}
	m.ExpiresAt = nil
	if err := f.tryImport(t, m, f.newParameters(t, k), noon); err != nil || key(t, f.Store, k.ID).State != metadata.Enabled {
		t.Errorf("import of what was dropped = %v", err)
	}
}

func TestImportParametersAreForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, _, p := f.newImport(t)
	if n, err := f.ForgetImportParameters(t.Context(), p.ExpiresAt.Add(-time.Second), 10); err != nil || n != 0 {
		t.Errorf("ForgetImportParameters before their time = %d, %v", n, err)
	}
	if n, err := f.ForgetImportParameters(t.Context(), p.ExpiresAt, 10); err != nil || n != 1 {
		t.Errorf("ForgetImportParameters = %d, %v, want 1", n, err)
	}
	if _, err := f.ImportParameters(t.Context(), region, account, k.ID, p.ID); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("ImportParameters that were forgotten = %v", err)
	}
}
