package metadata_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// insertPrimary makes a primary key with materials, the first of which is current, and
// a replica of it that lacks them.
func (f fixture) insertPrimary(t *testing.T, materials int) (primary, replica metadata.Key, made []metadata.Material) {
	t.Helper()
	f.addRegions(t)
	primary, m := newKey(account)
	primary.ID, primary.MultiRegionRole = "mrk-"+strings.ReplaceAll(uuid.NewString(), "-", ""), metadata.Primary
	for n := range materials {
		m.KeyID, m.Current = primary.ID, n == 0
		m.MaterialID = hsm.MaterialID{byte(n + 1)}
		made = append(made, m)
	}
	document := metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}
	replica = primary
	replica.Region, replica.Store, replica.MultiRegionRole = "us-east-1", relatedRegions["us-east-1"], metadata.Replica
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertKey(t.Context(), primary, made[0], document, nil) })
	for _, more := range made[1:] {
		_, err := connect(t, f).Exec(t.Context(), `
			INSERT INTO materials (account, region, key_id, id, residency, current, generation, blob, binding, created_at)
			SELECT account, region, key_id, $2, residency, false, generation, blob, binding, created_at
			FROM materials WHERE key_id = $1 AND current`, primary.ID, more.MaterialID[:])
		if err != nil {
			t.Fatal(err)
		}
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertReplica(t.Context(), primary.Name(), replica, document, nil)
	})
	return primary, replica, made
}

// TestFinishReplicaWantsAllMaterials of the primary key as it is now.
func TestFinishReplicaWantsAllMaterials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, replica, made := f.insertPrimary(t, 3)
	claim := claimOf(uuid.New(), noon)
	due, err := f.ClaimKeys(t.Context(), metadata.DueReplication, claim, []string{keyStore, replica.Store}, 10)
	if err != nil || len(due) != 1 || due[0] != replica.Name() {
		t.Fatalf("ClaimKeys = %v, %v; want the replica", due, err)
	}
	other := made[2]
	other.MaterialID = hsm.MaterialID{99}
	swapped := []metadata.Material{made[0], made[1], made[2]}
	swapped[0].Current, swapped[1].Current = false, true
	for name, copies := range map[string][]metadata.Material{
		"none": nil, "one too few": made[:2], "one too many": append(made[:3:3], other), "another": {made[0], made[1], other},
		"another current one": swapped,
	} {
		err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.FinishReplica(t.Context(), claim, replica, copies) })
		if !errors.Is(err, metadata.ErrClaim) {
			t.Errorf("FinishReplica with %s = %v, want ErrClaim", name, err)
		}
	}
	foreign := claimOf(uuid.New(), noon)
	if err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.FinishReplica(t.Context(), foreign, replica, made) }); !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("FinishReplica by another = %v, want ErrClaim", err)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.FinishReplica(t.Context(), claim, replica, made) })
	got, err := f.View().Key(t.Context(), replica.Region, replica.ID)
	if err != nil || got.State != metadata.Enabled || len(got.Materials) != 3 || got.Current().MaterialID != made[0].MaterialID {
		t.Errorf("the replica is %+v, %v", got, err)
	}
}

// TestInsertReplicaRefuses what is no primary key any more, and a second replica.
func TestInsertReplicaRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	primary, replica, _ := f.insertPrimary(t, 1)
	document := metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}
	insert := func(of metadata.KeyName, k metadata.Key, tags ...metadata.Tag) error {
		return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertReplica(t.Context(), of, k, document, tags) })
	}
	if err := insert(primary.Name(), replica); !errors.Is(err, metadata.ErrExists) {
		t.Errorf("a second replica: %v, want ErrExists", err)
	}
	third := replica
	third.Region, third.Store = "eu-west-3", "none"
	if err := insert(primary.Name(), third); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("a replica in no store: %v, want ErrNotFound", err)
	}
	if err := insert(replica.Name(), third); !errors.Is(err, metadata.ErrState) {
		t.Errorf("a replica of a replica: %v, want ErrState", err)
	}
	if err := insert(primary.Name(), third, make([]metadata.Tag, metadata.MaxTags+1)...); !errors.Is(err, metadata.ErrLimit) {
		t.Errorf("a replica with too many tags: %v, want ErrLimit", err)
	}
	f.disable(t, primary.ID)
	if err := insert(primary.Name(), third); !errors.Is(err, metadata.ErrState) {
		t.Errorf("a replica of a disabled key: %v, want ErrState", err)
	}
}

// TestWearIsThatOfAllRegions: a material that related keys share is worn by all of them.
func TestWearIsThatOfAllRegions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	primary, replica, made := f.insertPrimary(t, 1)
	claim, all := claimOf(uuid.New(), noon), []string{keyStore, replica.Store}
	due, err := f.ClaimKeys(t.Context(), metadata.DueReplication, claim, all, 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("ClaimKeys = %v, %v; want the replica", due, err)
	}
	next := noon.Add(90 * day)
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(
			tx.FinishReplica(t.Context(), claim, replica, made),
			tx.SetRotation(t.Context(), primary.Region, primary.Account, primary.ID, 90, &next),
		)
	})
	for in, encryptions := range map[string]int64{primary.Region: metadata.WornAfter / 2, replica.Region: metadata.WornAfter/2 - 1} {
		_, err := connect(t, f).Exec(t.Context(), "INSERT INTO material_uses (region, key_id, material_id, encryptions) VALUES ($1, $2, $3, $4)",
			in, primary.ID, made[0].MaterialID[:], encryptions)
		if err != nil {
			t.Fatal(err)
		}
	}
	claims := func(want int) {
		t.Helper()
		d, err := f.ClaimWorn(t.Context(), claimOf(uuid.New(), noon), all, 10, metadata.WornAfter)
		if err != nil || len(d) != want {
			t.Errorf("ClaimWorn = %+v, %v; want %d", d, err, want)
		}
	}
	claims(0)
	_, err = connect(t, f).Exec(t.Context(), "UPDATE material_uses SET encryptions = encryptions + 1 WHERE region = $1", replica.Region)
	if err != nil {
		t.Fatal(err)
	}
	claims(1)
	if worn, err := f.WornMaterials(t.Context(), metadata.WornAfter, 10); err != nil || len(worn) != 2 {
		t.Errorf("WornMaterials = %+v, %v; want that of both keys", worn, err)
	}
}
