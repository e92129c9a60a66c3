package metadata_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kmsgate/metadata"
	"kmsgate/policy"
)

const (
	alice = "arn:aws:iam::" + account + ":user/alice"
	bob   = "arn:aws:iam::" + account + ":user/bob"
)

// newGrant is a grant that can be inserted; n tells it from others.
func newGrant(keyID, grantee string, n int) metadata.Grant {
	return metadata.Grant{
		Account: account, Region: region, KeyID: keyID, ID: fmt.Sprintf("%064x", n), Grantee: grantee, GranteeID: "AIDA" + grantee[len(grantee)-3:],
		IssuingAccount: account, Operations: []string{"Decrypt", "Encrypt"}, CreatedAt: noon,
		Constraints: policy.GrantConstraints{SourceARN: fmt.Sprintf("arn:aws:s3:::%d", n)}, // no two grants are alike
	}
}

// properties is what InsertGrant takes for a hash of what a grant was made of.
func properties(of string) [32]byte { return sha256.Sum256([]byte(of)) }

func (f fixture) insertGrant(t *testing.T, g metadata.Grant) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		_, err := tx.InsertGrant(t.Context(), g, properties(g.ID), metadata.MaxGrants)
		return err
	})
}

// grantIDs are the ends of the ids of the grants on a key to a grantee.
func grantIDs(t *testing.T, s *metadata.Store, keyID, grantee string) string {
	t.Helper()
	grants, err := s.View().Grants(t.Context(), region, keyID, metadata.GrantUse{Grantee: grantee})
	if err != nil {
		t.Fatalf("Grants(%s, %s): %v", keyID, grantee, err)
	}
	return sortedIDs(grants)
}

// sortedIDs are the ends of the ids of grants that come in no order.
func sortedIDs(grants []*metadata.Grant) string {
	ids := strings.Fields(idsOf(grants))
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

func idsOf(grants []*metadata.Grant) string {
	var ids []string
	for _, g := range grants {
		ids = append(ids, strings.TrimLeft(g.ID, "0"))
	}
	return strings.Join(ids, " ")
}

func TestGrantIsReadBackWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	full := newGrant(id, alice, 1)
	full.Name, full.Retiring, full.RetiringID, full.IssuingAccount = "a/name", bob, "AIDABOB", stranger
	full.Constraints = policy.GrantConstraints{
		EncryptionContextSubset: map[string]string{"a\x00b": "\u2028<&>", "": "empty"}, SourceARN: "arn:aws:s3:::bucket",
	}
	service := newGrant(id, "logs.example.com", 2)
	service.GranteeIsService, service.Retiring, service.RetiringIsService = true, "retire.example.com", true
	service.Constraints = policy.GrantConstraints{EncryptionContextEquals: map[string]string{}}
	for _, want := range []metadata.Grant{full, service} {
		f.insertGrant(t, want)
		got, err := f.View().Grants(t.Context(), region, id, metadata.GrantUse{Grantee: want.Grantee})
		if err != nil || len(got) != 1 {
			t.Fatalf("Grants = %v, %v, want one", got, err)
		}
		if diff := cmp.Diff(&want, got[0], cmpopts.IgnoreFields(metadata.Grant{}, "Compiled")); diff != "" {
			t.Errorf("grant differs (-want +got):\n%s", diff)
		}
		if got[0].Compiled == nil {
			t.Error("Compiled is nil")
		}
		one, err := f.Grant(t.Context(), region, account, id, want.ID)
		if diff := cmp.Diff(&want, one, cmpopts.IgnoreFields(metadata.Grant{}, "Compiled")); err != nil || diff != "" {
			t.Errorf("Grant: %v; grant differs (-want +got):\n%s", err, diff)
		}
	}
	for _, of := range [][2]string{{region, stranger}, {"eu-west-1", account}} {
		if _, err := f.Grant(t.Context(), of[0], of[1], id, full.ID); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("Grant of %v = %v, want ErrNotFound", of, err)
		}
	}
	if _, err := f.View().Grants(t.Context(), region, "no-such-key", metadata.GrantUse{Grantee: alice}); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Grants on no key = %v, want ErrNotFound", err)
	}
}

func TestGrantsOfAGranteeAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, second := f.insertKey(t, account), f.insertKey(t, account)
	f.insertGrant(t, newGrant(first, alice, 1))
	f.insertGrant(t, newGrant(first, bob, 2))
	f.insertGrant(t, newGrant(second, alice, 3))
	f.insertGrant(t, newGrant(first, alice, 4))
	for _, c := range []struct{ key, grantee, want string }{
		{first, alice, "1 4"}, {first, bob, "2"}, {second, alice, "3"}, {second, bob, ""}, {first, "arn:aws:iam::" + account + ":user/ALICE", ""},
	} {
		if got := grantIDs(t, f.Store, c.key, c.grantee); got != c.want {
			t.Errorf("Grants(%s) = %s, want %s", c.grantee, got, c.want)
		}
	}
}

func TestGrantsAreMadeOnceByNameAndProperties(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	insert := func(n int, name, of string) (made string) {
		g := newGrant(id, alice, n)
		g.Name = name
		f.change(t, func(tx *metadata.Tx) (err error) {
			made, err = tx.InsertGrant(t.Context(), g, properties(of), metadata.MaxGrants)
			return err
		})
		return strings.TrimLeft(made, "0")
	}
	for _, c := range []struct {
		n              int
		name, of, want string
	}{
		{1, "n", "x", "1"}, {2, "n", "x", "1"}, {3, "n", "y", "3"}, {4, "m", "x", "4"}, {5, "", "x", "5"}, {6, "", "x", "6"},
	} {
		if got := insert(c.n, c.name, c.of); got != c.want {
			t.Errorf("InsertGrant %d named %q of %s made %s, want %s", c.n, c.name, c.of, got, c.want)
		}
	}
	if got, want := grantIDs(t, f.Store, id, alice), "1 3 4 5 6"; got != want {
		t.Errorf("Grants = %s, want %s", got, want)
	}
}

func TestInsertGrantRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, disabled := f.insertKey(t, account), f.insertKey(t, account)
	f.disable(t, disabled)
	f.insertGrant(t, newGrant(id, alice, 1))
	strangers := newGrant(id, alice, 2)
	strangers.Account = stranger
	for name, c := range map[string]struct {
		g     metadata.Grant
		limit int
		want  error
	}{
		"a key of another account": {strangers, 10, metadata.ErrNotFound},
		"a disabled key":           {newGrant(disabled, alice, 2), 10, metadata.ErrState},
		"a key that has its fill":  {newGrant(id, bob, 2), 1, metadata.ErrLimit},
		"an id that is taken":      {newGrant(id, bob, 1), 10, metadata.ErrExists},
	} {
		err := f.try(t.Context(), func(tx *metadata.Tx) error {
			_, err := tx.InsertGrant(t.Context(), c.g, properties("x"), c.limit)
			return err
		})
		if !errors.Is(err, c.want) {
			t.Errorf("InsertGrant on %s = %v, want %v", name, err, c.want)
		}
	}
	for name, of := range map[string]struct{ account, key string }{
		"another account": {stranger, id}, "another key": {account, disabled},
	} {
		err := f.try(t.Context(), func(tx *metadata.Tx) error {
			return tx.DeleteGrant(t.Context(), region, of.account, of.key, newGrant(id, alice, 1).ID)
		})
		if !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("DeleteGrant of %s = %v, want ErrNotFound", name, err)
		}
	}
}

func TestGrantsAreListedInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, strangers := f.insertKey(t, account), f.insertKey(t, stranger)
	for n := 1; n <= 4; n++ {
		g := newGrant(id, []string{alice, bob}[n%2], n)
		g.Retiring, g.RetiringID = alice, "AIDAALICE"
		f.insertGrant(t, g)
	}
	foreign, recreated := newGrant(strangers, bob, 5), newGrant(strangers, bob, 6)
	foreign.Account, foreign.Retiring, foreign.RetiringID = stranger, alice, "AIDAALICE"
	recreated.Account, recreated.Retiring, recreated.RetiringID = stranger, alice, "AIDAFORMER"
	f.insertGrant(t, foreign)
	f.insertGrant(t, recreated)
	page := func(grants []*metadata.Grant, err error) string {
		if err != nil {
			t.Error(err)
		}
		return idsOf(grants)
	}
	ctx, second := t.Context(), newGrant(id, alice, 2).ID
	for _, c := range []struct{ got, want string }{
		{page(f.ListGrants(ctx, region, account, id, "", 3)), "1 2 3"},
		{page(f.ListGrants(ctx, region, account, id, second, 3)), "3 4"},
		{page(f.ListGrants(ctx, region, stranger, id, "", 3)), ""},
		{page(f.ListGrantsTo(ctx, region, account, id, alice, "", 10)), "2 4"},
		{page(f.ListGrantsTo(ctx, region, account, id, alice, second, 10)), "4"},
		{page(f.ListRetirableGrants(ctx, region, alice, "AIDAALICE", second, 10)), "3 4 5"},
		{page(f.ListRetirableGrants(ctx, region, bob, "AIDABOB", "", 10)), ""},
		{page(f.ListRetirableGrants(ctx, region, "", "", "", 10)), ""},
	} {
		if c.got != c.want {
			t.Errorf("listed %s, want %s", c.got, c.want)
		}
	}
}

func TestGrantsReachTheOtherStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	id := f.insertKey(t, account)
	eventually(t, "a lease", other.Leased)
	for _, s := range []*metadata.Store{f.Store, other} {
		if got := grantIDs(t, s, id, alice); got != "" {
			t.Fatalf("Grants = %s, want none", got)
		}
	}
	key(t, other, id)
	f.insertGrant(t, newGrant(id, alice, 1))
	if got := grantIDs(t, f.Store, id, alice); got != "1" {
		t.Errorf("Grants = %q where it was made, want 1 at once", got)
	}
	eventually(t, "the grant is seen", func() bool { return grantIDs(t, other, id, alice) == "1" })
	if !other.Caches(region, id) {
		t.Error("a grant drops the key from the cache")
	}
	f.insertGrant(t, newGrant(id, bob, 2))
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DeleteGrant(t.Context(), region, account, id, newGrant(id, alice, 1).ID)
	})
	if got := grantIDs(t, f.Store, id, alice); got != "" {
		t.Errorf("Grants = %q where it was ended, want none at once", got)
	}
	eventually(t, "its end is seen", func() bool { return grantIDs(t, other, id, alice) == "" })
}

// TestDecisionsByGrantsThatEndedAreStale shows that a decision does not outlive the
// grant it rests on, and that one without a grant is not kept once there is one.
func TestDecisionsByGrantsThatEndedAreStale(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	s := f.unleased(t)
	decide := func() *metadata.View {
		v := s.View()
		if _, err := v.Grants(t.Context(), region, id, metadata.GrantUse{Grantee: alice}); err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := decide()
	f.insertGrant(t, newGrant(id, alice, 1))
	if err := record(s, t, v); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record of a decision without the grant = %v, want ErrStale", err)
	}
	v = decide()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DeleteGrant(t.Context(), region, account, id, newGrant(id, alice, 1).ID)
	})
	if err := record(s, t, v); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record of a decision by the grant = %v, want ErrStale", err)
	}
}
