package metadata_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// claimed is a claim of a process's at a time.
func claimed(holder uuid.UUID, now time.Time) metadata.Claim {
	return metadata.Claim{Holder: holder, Now: now, Until: now.Add(time.Minute)}
}

var stores = []string{keyStore}

// rotateEvery has a key rotated from a time on.
func (f fixture) rotateEvery(t *testing.T, id string, days int32, next time.Time) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetRotation(t.Context(), region, account, id, days, &next)
	})
}

// due are the ids of the keys that a process gets for a claim at a time.
func due(t *testing.T, claim func(context.Context, metadata.Claim, []string, int) ([]metadata.DueRotation, error), c metadata.Claim) []metadata.DueRotation {
	t.Helper()
	found, err := claim(t.Context(), c, stores, 10)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func dueIDs(found []metadata.DueRotation) (ids []string) {
	for _, d := range found {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	return ids
}

// made is a material that a key can be rotated to.
func made(d *metadata.DueRotation, at time.Time) *metadata.Material {
	_, m := newKey(d.Account)
	id := uuid.New()
	copy(m.MaterialID[:], id[:])
	m.KeyID, m.CreatedAt, m.RotatedAt, m.RotationType = d.ID, at, &at, d.Type
	return &m
}

func TestKeysAreClaimedWhenTheirRotationIsDue(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	soon, later, never := f.insertKey(t, account), f.insertKey(t, account), f.insertKey(t, account)
	f.rotateEvery(t, soon, 90, noon.Add(time.Hour))
	f.rotateEvery(t, later, 90, noon.Add(2*time.Hour))
	one, two := uuid.New(), uuid.New()
	if got := due(t, f.ClaimAutomatic, claimed(one, noon.Add(time.Hour-1))); len(got) != 0 {
		t.Errorf("before its time %v is due", dueIDs(got))
	}
	if got := due(t, f.ClaimAutomatic, claimed(one, noon.Add(time.Hour))); !slices.Equal(dueIDs(got), []string{soon}) {
		t.Errorf("after an hour %v is due, want %s", dueIDs(got), soon)
	}
	if got := due(t, f.ClaimAutomatic, claimed(two, noon.Add(time.Hour))); len(got) != 0 {
		t.Errorf("another process gets %v, which is claimed", dueIDs(got))
	}
	if got := due(t, f.ClaimOnDemand, claimed(two, noon.AddDate(10, 0, 0))); len(got) != 0 {
		t.Errorf("%v is due on demand, and nobody has asked", dueIDs(got))
	}
	// The claim has run out.
	got := due(t, f.ClaimAutomatic, claimed(two, noon.AddDate(1, 0, 0)))
	if want := []string{soon, later}; !slices.Equal(dueIDs(got), slices.Sorted(slices.Values(want))) {
		t.Errorf("after a year %v is due, want %v and not %s", dueIDs(got), want, never)
	}
	if got[0].ID != soon || got[0].Current == (hsm.MaterialID{}) || got[0].Type != metadata.AutomaticRotation || got[0].Rotation.PeriodDays != 90 {
		t.Errorf("the first is %+v, want the one that is due for longest", got[0])
	}
	if got, err := f.ClaimAutomatic(t.Context(), claimed(one, noon.AddDate(2, 0, 0)), []string{"other"}, 10); err != nil || len(got) != 0 {
		t.Errorf("of another store %v is due, %v", dueIDs(got), err)
	}
}

// TestOnlyWrappedEnabledSymmetricKeysAreClaimed: what is due in name only is left.
func TestOnlyWrappedEnabledSymmetricKeysAreClaimed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	insert := func(change func(*metadata.Key, *metadata.Material)) string {
		t.Helper()
		k, m := newKey(account)
		k.Rotation = metadata.Rotation{PeriodDays: 90, NextAt: new(noon)}
		change(&k, &m)
		f.change(t, func(tx *metadata.Tx) error {
			return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
		})
		return k.ID
	}
	insert(func(_ *metadata.Key, m *metadata.Material) { m.Residency = hsm.Resident })
	insert(func(k *metadata.Key, _ *metadata.Material) {
		k.Spec, k.Usage = keyspec.HMAC256, keyspec.GenerateVerifyMAC
	})
	insert(func(k *metadata.Key, _ *metadata.Material) { k.Origin = keyspec.External })
	disabled := insert(func(k *metadata.Key, _ *metadata.Material) { k.State = metadata.Disabled })
	whole := insert(func(*metadata.Key, *metadata.Material) {})
	if got := due(t, f.ClaimAutomatic, claimed(uuid.New(), noon)); !slices.Equal(dueIDs(got), []string{whole}) {
		t.Errorf("%v is due, want %s", dueIDs(got), whole)
	}
	f.enable(t, disabled)
	if got := due(t, f.ClaimAutomatic, claimed(uuid.New(), noon)); !slices.Equal(dueIDs(got), []string{disabled}) {
		t.Errorf("after EnableKey %v is due, want %s", dueIDs(got), disabled)
	}
}

func (f fixture) enable(t *testing.T, id string) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetKeyState(t.Context(), region, account, id, metadata.Enabling)
	})
}

func TestRotateKeyMakesAnotherMaterialCurrent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	id := f.insertKey(t, account)
	first := key(t, other, id).Current().MaterialID
	f.change(t, func(tx *metadata.Tx) error { return tx.RequestRotation(t.Context(), region, account, id, noon) })
	if got := key(t, f.Store, id).Rotation.RequestedAt; got == nil || !got.Equal(noon) {
		t.Errorf("RequestedAt %v, want %v", got, noon)
	}
	if err := f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.RequestRotation(t.Context(), region, account, id, noon)
	}); !errors.Is(err, metadata.ErrState) {
		t.Errorf("RequestRotation again = %v, want ErrState", err)
	}
	c := claimed(uuid.New(), noon.Add(time.Hour))
	d := due(t, f.ClaimOnDemand, c)
	if len(d) != 1 || d[0].Current != first || d[0].Type != metadata.OnDemandRotation {
		t.Fatalf("due are %+v, want %s on demand", d, id)
	}
	second := made(&d[0], c.Now)
	f.change(t, func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], second, nil) })
	for name, s := range map[string]*metadata.Store{"here": f.Store, "elsewhere": other} {
		eventually(t, "the rotation is seen "+name, func() bool { return len(key(t, s, id).Materials) == 2 })
		entry := key(t, s, id)
		if entry.Current().MaterialID != second.MaterialID || entry.Material(first) == nil || entry.Material(first).Current {
			t.Errorf("%s the materials are %+v, want the new one current and the first one kept", name, entry.Materials)
		}
		if r := entry.Rotation; r.OnDemand != 1 || r.RequestedAt != nil || r.NextAt != nil {
			t.Errorf("%s the rotation is %+v, want one that was done", name, r)
		}
		if m := entry.Current(); m.RotatedAt == nil || !m.RotatedAt.Equal(c.Now) || m.RotationType != metadata.OnDemandRotation {
			t.Errorf("%s the material was rotated to at %v, %s", name, m.RotatedAt, m.RotationType)
		}
	}
	if got := due(t, f.ClaimOnDemand, c); len(got) != 0 {
		t.Errorf("%v is due again", dueIDs(got))
	}
}

// TestRotateKeyNeedsItsClaim: whatever happened to the key since it was claimed that
// the rotation rests on undoes it.
func TestRotateKeyNeedsItsClaim(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, meanwhile := range map[string]func(id string, c *metadata.Claim){
		"disabled":    func(id string, _ *metadata.Claim) { f.disable(t, id) },
		"rescheduled": func(id string, _ *metadata.Claim) { f.rotateEvery(t, id, 100, noon.AddDate(1, 0, 0)) },
		"unscheduled": func(id string, _ *metadata.Claim) {
			f.change(t, func(tx *metadata.Tx) error { return tx.SetRotation(t.Context(), region, account, id, 0, nil) })
		},
		"asked for": func(id string, _ *metadata.Claim) {
			f.change(t, func(tx *metadata.Tx) error { return tx.RequestRotation(t.Context(), region, account, id, noon) })
		},
		"another's": func(_ string, c *metadata.Claim) { c.Holder = uuid.New() },
		"too late":  func(_ string, c *metadata.Claim) { c.Now = c.Until },
	} {
		id := f.insertKey(t, account)
		f.rotateEvery(t, id, 90, noon)
		c := claimed(uuid.New(), noon)
		d := due(t, f.ClaimAutomatic, c)
		if len(d) != 1 {
			t.Fatalf("%s: due are %v, want %s", name, dueIDs(d), id)
		}
		meanwhile(id, &c)
		err := f.try(t.Context(), func(tx *metadata.Tx) error {
			return tx.RotateKey(t.Context(), c, &d[0], made(&d[0], noon), nil)
		})
		if !errors.Is(err, metadata.ErrClaim) {
			t.Errorf("%s: RotateKey = %v, want ErrClaim", name, err)
		}
		if got := key(t, f.Store, id).Materials; len(got) != 1 || !got[0].Current {
			t.Errorf("%s: the materials are %+v, want the first one", name, got)
		}
	}
}

// TestRotateKeyTwice: of two that rotate the same key under the same claim one loses.
func TestRotateKeyTwice(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.rotateEvery(t, id, 90, noon)
	c := claimed(uuid.New(), noon)
	d := due(t, f.ClaimAutomatic, c)
	next := noon.AddDate(0, 0, 90)
	rotate := func() error {
		return f.try(t.Context(), func(tx *metadata.Tx) error {
			return tx.RotateKey(t.Context(), c, &d[0], made(&d[0], noon), &next)
		})
	}
	if err := rotate(); err != nil {
		t.Fatal(err)
	}
	if err := rotate(); !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("RotateKey again = %v, want ErrClaim", err)
	}
	if got := key(t, f.Store, id); len(got.Materials) != 2 || !got.Rotation.NextAt.Equal(next) || got.Rotation.OnDemand != 0 {
		t.Errorf("%d materials, rotation %+v; want two, and the next in 90 days", len(got.Materials), got.Rotation)
	}
}

func TestWornMaterials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	scheduled, other, fresh := f.insertKey(t, account), f.insertKey(t, account), f.insertKey(t, account)
	future := noon.AddDate(1, 0, 0)
	f.rotateEvery(t, scheduled, 365, future)
	f.rotateEvery(t, fresh, 365, future)
	f.database.Exec(t, `INSERT INTO material_uses (region, key_id, material_id, encryptions)
		SELECT region, key_id, id, CASE WHEN key_id = $1 THEN $2::bigint ELSE $2::bigint + 1 END FROM materials`, fresh, int64(metadata.WornAfter-1))
	worn, err := f.WornMaterials(t.Context(), metadata.WornAfter, 10)
	if err != nil || len(worn) != 2 || worn[0].Encryptions != metadata.WornAfter || worn[0].KeyID == fresh || worn[1].KeyID == fresh {
		t.Errorf("WornMaterials = %+v, %v; want those of %s and %s", worn, err, scheduled, other)
	}
	c := claimed(uuid.New(), noon)
	d, err := f.ClaimWorn(t.Context(), c, stores, 10, metadata.WornAfter)
	if err != nil || len(d) != 1 || d[0].ID != scheduled || d[0].Encryptions != metadata.WornAfter {
		t.Fatalf("ClaimWorn = %+v, %v; want %s alone", d, err, scheduled)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], made(&d[0], noon), &future) })
	if worn, err := f.WornMaterials(t.Context(), metadata.WornAfter, 10); err != nil || len(worn) != 1 || worn[0].KeyID != other {
		t.Errorf("afterwards WornMaterials = %+v, %v; want that of %s", worn, err, other)
	}
}

func TestReleasedKeysAreClaimedAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.rotateEvery(t, id, 90, noon)
	c := claimed(uuid.New(), noon)
	d := due(t, f.ClaimAutomatic, c)
	if err := f.ReleaseKey(t.Context(), metadata.Claim{Holder: uuid.New(), Now: c.Now, Until: c.Until}, d[0].Name()); err != nil {
		t.Fatal(err)
	}
	if got := due(t, f.ClaimAutomatic, c); len(got) != 0 {
		t.Error("somebody else released the claim")
	}
	later := claimed(c.Holder, c.Now.Add(time.Second))
	if err := f.ReleaseKey(t.Context(), later, d[0].Name()); err != nil {
		t.Fatal(err)
	}
	if got := due(t, f.ClaimAutomatic, c); len(got) != 0 {
		t.Error("a claim released another one of the same process's")
	}
	if err := f.ReleaseKey(t.Context(), c, d[0].Name()); err != nil {
		t.Fatal(err)
	}
	if got := due(t, f.ClaimAutomatic, c); len(got) != 1 {
		t.Errorf("%d keys are due, want the released one", len(got))
	}
}

// TestWhatNobodyEncryptsWithIsNotWorn: nobody could do anything about it.
func TestWhatNobodyEncryptsWithIsNotWorn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	deleted, pair, there := f.insertKey(t, account), f.insertKey(t, account), f.insertKey(t, account)
	f.database.Exec(t, `INSERT INTO material_uses (region, key_id, material_id, encryptions)
		SELECT region, key_id, id, $1::bigint FROM materials`, int64(metadata.WornAfter))
	f.database.Exec(t, `UPDATE keys SET spec = 'RSA_2048' WHERE id = $1`, pair)
	f.schedule(t, deleted)
	claim := claimOf(uuid.New(), noon.Add(7*day))
	claims(t, f.Store, metadata.DueDeletion, claim, 1)
	f.change(t, func(tx *metadata.Tx) error { return tx.BeginDeletion(t.Context(), named(account, deleted), claim) })
	worn, err := f.WornMaterials(t.Context(), metadata.WornAfter, 10)
	if err != nil || len(worn) != 1 || worn[0].KeyID != there {
		t.Errorf("WornMaterials = %+v, %v; want that of %s alone", worn, err, there)
	}
}
