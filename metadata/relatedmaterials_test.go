package metadata_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// A pair is a primary key and its replica, of imported material, each in a region.
type pair struct {
	fixture
	primary, replica metadata.Key
	first            metadata.Material // of the primary key
}

const replicaRegion = "us-east-1"

// newPair makes a pair; the replica lacks its material.
func newPair(t *testing.T) pair {
	t.Helper()
	f := newFixture(t)
	f.addRegions(t)
	id, err := f.insertRelated(t.Context()) // none
	if err != nil {
		t.Fatal(err)
	}
	p := pair{fixture: f}
	for in, role := range map[string]metadata.MultiRegionRole{region: metadata.Primary, replicaRegion: metadata.Replica} {
		k, m := newKey(account)
		k.ID, k.Region, k.Store, k.MultiRegionRole, k.Origin = id, in, relatedRegions[in], role, keyspec.External
		m.MaterialID = hsm.MaterialID{1}
		m.KeyID, m.Region, m.Store, m.Origin = k.ID, k.Region, k.Store, k.Origin
		if role == metadata.Replica {
			k.State, m.Residency, m.Generation, m.Blob, m.CheckValue, m.Binding = metadata.PendingImport, hsm.Absent, 0, nil, nil, nil
			p.replica = k
		} else {
			p.primary, p.first = k, m
		}
		f.change(t, func(tx *metadata.Tx) error {
			return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
		})
	}
	return p
}

// of is a material of the pair's as it is imported into one of its keys.
func (p pair) of(k *metadata.Key, m metadata.Material) metadata.Material {
	m.Region, m.Store, m.Current = k.Region, k.Store, false
	return m
}

// wants wants the materials of both keys to be as the primary's should be.
func (p pair) wants(t *testing.T, what string, want map[metadata.MultiRegionRole]map[hsm.MaterialID]string) {
	t.Helper()
	got := map[metadata.MultiRegionRole]map[hsm.MaterialID]string{}
	for role, k := range map[metadata.MultiRegionRole]*metadata.Key{metadata.Primary: &p.primary, metadata.Replica: &p.replica} {
		e, err := p.View().Key(t.Context(), k.Region, k.ID)
		if err != nil {
			t.Fatal(err)
		}
		got[role] = map[hsm.MaterialID]string{}
		for i := range e.Materials {
			m, is := &e.Materials[i], "old"
			switch {
			case m.Current:
				is = "current"
			case m.Pending:
				is = "pending"
			}
			if m.Residency == hsm.Absent {
				is += " absent"
			}
			got[role][m.MaterialID] = is
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: the materials (-want +got):\n%s", what, diff)
	}
}

// is tells what the materials of a key are, in pairs.
func is(pairs ...any) map[hsm.MaterialID]string {
	all := map[hsm.MaterialID]string{}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i].(metadata.Material).MaterialID] = pairs[i+1].(string)
	}
	return all
}

// both are the materials of the pair.
func both(primary, replica map[hsm.MaterialID]string) map[metadata.MultiRegionRole]map[hsm.MaterialID]string {
	return map[metadata.MultiRegionRole]map[hsm.MaterialID]string{metadata.Primary: primary, metadata.Replica: replica}
}

// imports imports a material into one of the keys.
func (p pair) imports(t *testing.T, k metadata.Key, m metadata.Material, kind metadata.ImportKind) {
	t.Helper()
	if err := p.importAs(t, k, p.of(&k, m), kind); err != nil {
		t.Fatalf("import of %s in %s: %v", m.MaterialID, k.Region, err)
	}
}

// drops deletes a material of one of the keys.
func (p pair) drops(t *testing.T, k metadata.Key, m metadata.Material) {
	t.Helper()
	p.change(t, func(tx *metadata.Tx) error {
		return tx.DropMaterial(t.Context(), k.Region, account, k.ID, m.MaterialID, nil)
	})
}

// wantState wants one of the keys to be in a state.
func (p pair) wantState(t *testing.T, k metadata.Key, want metadata.State) {
	t.Helper()
	e, err := p.View().Key(t.Context(), k.Region, k.ID)
	if err != nil || e.State != want {
		t.Errorf("in %s the key is %+v, %v, want it %s", k.Region, e, err, want)
	}
}

// TestReplicasGetTheMaterialOfTheirPrimary: a replica takes nothing but what the primary
// key has, and both wait until both have what is new.
func TestReplicasGetTheMaterialOfTheirPrimary(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	first, second := p.first, like(p.first, 1)
	for _, kind := range []metadata.ImportKind{metadata.FirstOrKnown, metadata.KnownAgain, metadata.NewMaterial} {
		if err := p.importAs(t, p.replica, p.of(&p.replica, second), kind); !errors.Is(err, metadata.ErrOtherMaterial) {
			t.Errorf("import into the replica of what the primary has not = %v, want ErrOtherMaterial", err)
		}
	}
	p.imports(t, p.replica, first, metadata.FirstOrKnown)
	p.wants(t, "after the first", both(is(first, "current"), is(first, "current")))
	p.wantState(t, p.replica, metadata.Enabled)

	described := second
	described.Description = "the second"
	p.imports(t, p.primary, described, metadata.NewMaterial)
	if err := p.requestRotation(t, p.primary); !errors.Is(err, metadata.ErrState) {
		t.Errorf("RequestRotation before the replica has the material = %v, want ErrState", err)
	}
	var waits *metadata.PendingMaterialError
	err := p.try(t.Context(), func(tx *metadata.Tx) error { return tx.MovePrimary(t.Context(), p.primary.Name(), replicaRegion) })
	if !errors.As(err, &waits) || waits.ID != second.MaterialID {
		t.Errorf("MovePrimary = %v, want that %s is pending", err, second.MaterialID)
	}
	p.imports(t, p.replica, second, metadata.KnownAgain)
	p.wants(t, "while it waits", both(is(first, "current", second, "pending"), is(first, "current", second, "pending")))
	e, err := p.View().Key(t.Context(), replicaRegion, p.replica.ID)
	if err != nil || e.Material(second.MaterialID).Description != "the second" {
		t.Errorf("in the replica it is %+v, %v, want it described as in the primary key", e.Material(second.MaterialID), err)
	}
	p.change(t, func(tx *metadata.Tx) error { return tx.MovePrimary(t.Context(), p.primary.Name(), replicaRegion) })
}

// TestPendingMaterialGoesFromReplicas: what is deleted from a replica is gone there
// alone, from the primary key everywhere, and nobody is rotated to it any more.
func TestPendingMaterialGoesFromReplicas(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	first, second := p.first, like(p.first, 1)
	p.imports(t, p.replica, first, metadata.FirstOrKnown)
	p.imports(t, p.primary, second, metadata.NewMaterial)
	p.imports(t, p.replica, second, metadata.FirstOrKnown)
	if err := p.requestRotation(t, p.primary); err != nil {
		t.Fatal(err)
	}
	c := claimed(uuid.New(), noon)
	d := due(t, p.ClaimOnDemand, c)
	if len(d) != 1 || d[0].Region != p.primary.Region {
		t.Fatalf("due are %+v, want the primary key", d)
	}
	p.drops(t, p.replica, second)
	p.wants(t, "after it was deleted there", both(is(first, "current", second, "pending"), is(first, "current")))
	if e := key(t, p.Store, p.primary.ID); e.Rotation.RequestedAt != nil {
		t.Error("a rotation is asked for still")
	}
	err := p.try(t.Context(), func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], nil, nil) })
	if !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("RotateKey to what the replica has not = %v, want ErrClaim", err)
	}
	p.imports(t, p.replica, second, metadata.FirstOrKnown)
	p.drops(t, p.primary, second)
	p.wants(t, "after it was deleted", both(is(first, "current"), is(first, "current")))
	p.wantState(t, p.primary, metadata.Enabled)
	p.wantState(t, p.replica, metadata.Enabled)
}

// TestRelatedKeysRotateAtOnce: both are rotated to what both have, and each loses its
// material by itself.
func TestRelatedKeysRotateAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	first, second, expiry := p.first, like(p.first, 1), noon.Add(time.Hour)
	p.imports(t, p.replica, first, metadata.FirstOrKnown)
	p.imports(t, p.primary, second, metadata.NewMaterial)
	expiring := second
	expiring.ExpiresAt = &expiry
	p.imports(t, p.replica, expiring, metadata.FirstOrKnown)
	if err := p.requestRotation(t, p.primary); err != nil {
		t.Fatal(err)
	}
	if got := due(t, p.ClaimOnDemand, claimed(uuid.New(), expiry)); len(got) != 0 {
		t.Error("due is what has expired in the replica")
	}
	c := claimed(uuid.New(), noon)
	d := due(t, p.ClaimOnDemand, c)
	if len(d) != 1 {
		t.Fatalf("due are %+v, want the primary key", d)
	}
	p.change(t, func(tx *metadata.Tx) error { return tx.RotateKey(t.Context(), c, &d[0], nil, nil) })
	p.wants(t, "after the rotation", both(is(first, "old", second, "current"), is(first, "old", second, "current")))
	p.drops(t, p.primary, first)
	p.wants(t, "after the primary lost one", both(is(first, "old absent", second, "current"), is(first, "old", second, "current")))
	p.wantState(t, p.primary, metadata.PendingImport)
	p.wantState(t, p.replica, metadata.Enabled)
}
