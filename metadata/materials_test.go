package metadata_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// newImported is a key with imported material, and that.
func (f fixture) newImported(t *testing.T) (metadata.Key, metadata.Material) {
	t.Helper()
	k, m, p := f.newImport(t)
	if err := f.tryImport(t, m, p, noon); err != nil {
		t.Fatalf("import = %v", err)
	}
	return k, m
}

// importAs imports material of a key as a kind.
func (f fixture) importAs(t *testing.T, k metadata.Key, m metadata.Material, kind metadata.ImportKind) error {
	t.Helper()
	p := f.newParameters(t, k)
	return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.ImportMaterial(t.Context(), m, kind, p.ID, noon) })
}

// like is other material for the same key.
func like(m metadata.Material, n byte) metadata.Material {
	m.MaterialID[0] ^= n
	return m
}

// requestRotation asks for a rotation on demand at noon.
func (f fixture) requestRotation(t *testing.T, k metadata.Key) error {
	t.Helper()
	return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.RequestRotation(t.Context(), region, account, k.ID, noon) })
}

func TestNewMaterialWaitsForARotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, first := f.newImported(t)
	if err := f.requestRotation(t, k); !errors.Is(err, metadata.ErrState) {
		t.Errorf("RequestRotation without material to rotate to = %v, want ErrState", err)
	}
	second, third := like(first, 1), like(first, 2)
	for _, c := range []struct {
		m    metadata.Material
		kind metadata.ImportKind
	}{{second, metadata.FirstOrKnown}, {second, metadata.KnownAgain}, {first, metadata.NewMaterial}} {
		if err := f.importAs(t, k, c.m, c.kind); !errors.Is(err, metadata.ErrOtherMaterial) {
			t.Errorf("import of %s as %q = %v, want ErrOtherMaterial", c.m.MaterialID, c.kind, err)
		}
	}
	if err := f.importAs(t, k, second, metadata.NewMaterial); err != nil {
		t.Fatalf("import of new material = %v", err)
	}
	var waits *metadata.PendingMaterialError
	if err := f.importAs(t, k, third, metadata.NewMaterial); !errors.As(err, &waits) || waits.ID != second.MaterialID {
		t.Errorf("import while material waits = %v, want that %s is pending", err, second.MaterialID)
	}
	if err := f.importAs(t, k, second, metadata.NewMaterial); !errors.Is(err, metadata.ErrOtherMaterial) {
		t.Errorf("import of what waits as new = %v, want ErrOtherMaterial", err)
	}
	expiry := noon.Add(time.Hour)
	second.ExpiresAt = &expiry
	if err := f.importAs(t, k, second, metadata.FirstOrKnown); err != nil {
		t.Errorf("import of what waits = %v", err)
	}
	e := key(t, f.Store, k.ID)
	if m := e.Material(second.MaterialID); len(e.Materials) != 2 || e.Current().MaterialID != first.MaterialID || !m.Pending || !m.ExpiresAt.Equal(expiry) || !e.Whole(expiry) {
		t.Errorf("the materials are %+v, want one current and one that waits", e.Materials)
	}
}

func TestImportedKeysRotateToWhatWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, first := f.newImported(t)
	second, expiry := like(first, 1), noon.Add(time.Hour)
	second.ExpiresAt = &expiry
	if err := errors.Join(f.importAs(t, k, second, metadata.NewMaterial), f.requestRotation(t, k)); err != nil {
		t.Fatal(err)
	}
	if got := due(t, f.ClaimOnDemand, claimed(uuid.New(), expiry)); len(got) != 0 {
		t.Errorf("%v is due, and what it waits for has expired", dueIDs(got))
	}
	c := claimed(uuid.New(), noon)
	d := due(t, f.ClaimOnDemand, c)
	if len(d) != 1 || d[0].Pending != second.MaterialID || d[0].Current != first.MaterialID {
		t.Fatalf("due are %+v, want %s with what waits", d, k.ID)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], nil, nil) })
	e := key(t, f.Store, k.ID)
	if now := e.Current(); len(e.Materials) != 2 || now.MaterialID != second.MaterialID || now.Pending || !now.RotatedAt.Equal(noon) || now.RotationType != metadata.OnDemandRotation {
		t.Errorf("the materials are %+v, want what waited to be current", e.Materials)
	}
	if e.Rotation.RequestedAt != nil || e.Rotation.OnDemand != 1 || e.Whole(expiry) {
		t.Errorf("after the rotation: %+v", e)
	}
}

// TestWhatWaitsGoesWithoutATrace: nothing was ever encrypted with it. The key is not
// rotated to it then, asked or not.
func TestWhatWaitsGoesWithoutATrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, first := f.newImported(t)
	second, expiry := like(first, 1), noon.Add(time.Minute)
	second.ExpiresAt = &expiry
	for _, expiredBy := range []*time.Time{nil, &expiry} {
		if err := errors.Join(f.importAs(t, k, second, metadata.NewMaterial), f.requestRotation(t, k)); err != nil {
			t.Fatal(err)
		}
		c := claimed(uuid.New(), noon)
		d := due(t, f.ClaimOnDemand, c)
		if err := f.drop(t, second, expiredBy); err != nil {
			t.Errorf("drop of what waits = %v", err)
		}
		err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], nil, nil) })
		if !errors.Is(err, metadata.ErrClaim) {
			t.Errorf("RotateKey to what is gone = %v, want ErrClaim", err)
		}
		if err := f.ReleaseKey(t.Context(), c, d[0].Name()); err != nil {
			t.Error(err)
		}
		if e := key(t, f.Store, k.ID); e.State != metadata.Enabled || len(e.Materials) != 1 || e.Rotation.RequestedAt != nil || !e.Whole(noon) {
			t.Errorf("after it was dropped: %+v", e)
		}
		if err := f.drop(t, second, nil); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("dropped twice: %v", err)
		}
		if err := f.importAs(t, k, second, metadata.KnownAgain); !errors.Is(err, metadata.ErrOtherMaterial) {
			t.Errorf("import of what is gone as known = %v, want ErrOtherMaterial", err)
		}
	}
}

// TestKeysWaitForAllTheirMaterials, and for none that waits itself.
func TestKeysWaitForAllTheirMaterials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, first := f.newImported(t)
	second, third := like(first, 1), like(first, 2)
	if err := errors.Join(f.importAs(t, k, second, metadata.NewMaterial), f.requestRotation(t, k)); err != nil {
		t.Fatal(err)
	}
	c := claimed(uuid.New(), noon)
	d := due(t, f.ClaimOnDemand, c)
	f.change(t, func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], nil, nil) })
	want := func(what string, err error, state metadata.State) {
		t.Helper()
		if got := key(t, f.Store, k.ID).State; err != nil || got != state {
			t.Errorf("after %s: %v, the key is %s, want %s", what, err, got, state)
		}
	}
	want("dropping the old one", f.drop(t, first, nil), metadata.PendingImport)
	want("dropping the current one", f.drop(t, second, nil), metadata.PendingImport)
	want("importing a new one", f.importAs(t, k, third, metadata.NewMaterial), metadata.PendingImport)
	want("importing one", f.importAs(t, k, second, metadata.KnownAgain), metadata.PendingImport)
	want("dropping the new one", f.drop(t, third, nil), metadata.PendingImport)
	want("importing the other", f.importAs(t, k, first, metadata.KnownAgain), metadata.Enabled)
	if e := key(t, f.Store, k.ID); len(e.Materials) != 2 || e.Current().MaterialID != second.MaterialID {
		t.Errorf("the materials are %+v, want the second one current", e.Materials)
	}
	// What has expired is not there, erased or not.
	expiry := noon.Add(-time.Second)
	second.ExpiresAt = &expiry
	want("importing what has expired", f.importAs(t, k, second, metadata.KnownAgain), metadata.Enabled)
	want("dropping the old one again", f.drop(t, first, nil), metadata.PendingImport)
	want("importing it again", f.importAs(t, k, first, metadata.KnownAgain), metadata.PendingImport)
}

// TestNewImportsRace: of several materials that come at once, one waits, and the
// others are told of it.
func TestNewImportsRace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, first := f.newImported(t)
	const racers = 4
	var group sync.WaitGroup
	imported, refused := make(chan hsm.MaterialID, racers), make(chan hsm.MaterialID, racers)
	for i := range racers {
		m, p := like(first, byte(i+1)), f.newParameters(t, k)
		group.Go(func() {
			err := f.try(t.Context(), func(tx *metadata.Tx) error {
				return tx.ImportMaterial(t.Context(), m, metadata.NewMaterial, p.ID, noon)
			})
			switch waits, ok := errors.AsType[*metadata.PendingMaterialError](err); {
			case err == nil:
				imported <- m.MaterialID
			case ok:
				refused <- waits.ID
			default:
				t.Errorf("import = %v, want nil or a *PendingMaterialError", err)
			}
		})
	}
	group.Wait()
	close(refused)
	if len(imported) != 1 || len(refused) != racers-1 {
		t.Fatalf("%d materials were taken and %d refused, want one taken", len(imported), len(refused))
	}
	won := <-imported
	for id := range refused {
		if id != won {
			t.Errorf("refused for %s, want for %s", id, won)
		}
	}
	if e := key(t, f.Store, k.ID); len(e.Materials) != 2 || !e.Material(won).Pending || e.Current().MaterialID != first.MaterialID {
		t.Errorf("the key has %+v", e.Materials)
	}
}
