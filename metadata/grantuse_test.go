package metadata_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"kmsgate/metadata"
	"kmsgate/policy"
)

type pairs = map[string]string

// insertMany makes n grants to alice, whose ids are above first and which differ in
// their constraint: {"volume": "i"} with i from 1 on, as a subset or, if even, as equal.
func (f fixture) insertMany(t *testing.T, keyID string, first, n int) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		for i := 1; i <= n; i++ {
			g := newGrant(keyID, alice, first+i)
			g.Operations = []string{"Decrypt", "DescribeKey", "CreateGrant"}
			g.Constraints = policy.GrantConstraints{EncryptionContextSubset: pairs{"volume": fmt.Sprint(i)}}
			if i%2 == 0 {
				g.Constraints = policy.GrantConstraints{EncryptionContextEquals: pairs{"volume": fmt.Sprint(i)}}
			}
			if _, err := tx.InsertGrant(t.Context(), g, properties(g.ID), metadata.MaxGrants); err != nil {
				return err
			}
		}
		return nil
	})
}

// usable are the ends of the ids of the grants to alice for a use.
func usable(t *testing.T, s *metadata.Store, keyID string, use metadata.GrantUse) string {
	t.Helper()
	use.Grantee, use.GranteeID = alice, newGrant(keyID, alice, 0).GranteeID
	grants, err := s.View().Grants(t.Context(), region, keyID, use)
	if err != nil {
		t.Fatalf("Grants(%+v): %v", use, err)
	}
	return sortedIDs(grants)
}

// TestGrantsOfAGranteeWithMany asks for uses of a grantee whose grants are not kept.
func TestGrantsOfAGranteeWithMany(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, few := f.insertKey(t, account), f.insertKey(t, account)
	f.insertMany(t, id, 0, 101)
	f.insertMany(t, few, 0x2000, 100)
	free, source, former := newGrant(id, alice, 0x1000), newGrant(id, alice, 0x1001), newGrant(id, alice, 0x1002)
	free.Operations, free.Constraints = []string{"Encrypt"}, policy.GrantConstraints{}
	source.Operations = []string{"Encrypt"}
	former.Operations, former.GranteeID = []string{"Encrypt"}, "AIDAFORMER"
	for _, g := range []metadata.Grant{free, source, former} {
		f.insertGrant(t, g)
	}
	wide := pairs{"volume": "3"}
	for i := range 10 {
		wide[fmt.Sprint(i)] = "x"
	}
	more := maps.Clone(wide)
	more["volume"] = "4"
	for _, c := range []struct {
		use  metadata.GrantUse
		want string
	}{
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: pairs{"volume": "3"}}, "3"},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: pairs{"volume": "4"}}, "4"},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: pairs{"volume": "3", "a": "b"}}, "3"},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: pairs{"volume": "4", "a": "b"}}, ""},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: pairs{"Volume": "3"}}, ""},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: pairs{"volume": "200"}}, ""},
		{metadata.GrantUse{Operations: []string{"Decrypt"}}, ""},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: wide}, "3"},
		{metadata.GrantUse{Operations: []string{"Decrypt"}, Context: more}, ""},
		{metadata.GrantUse{Operations: []string{"CreateGrant"}, Context: pairs{"volume": "5"}}, "5"},
		{metadata.GrantUse{Operations: []string{"Encrypt"}, Context: pairs{"volume": "3"}}, "1000"},
		{metadata.GrantUse{Operations: []string{"Encrypt"}}, "1000"},
		{metadata.GrantUse{Operations: []string{"Sign"}}, ""},
		{metadata.GrantUse{Operations: []string{"CreateGrant", "Decrypt"}, Context: pairs{"volume": "6"}}, "6"},
		{metadata.GrantUse{Operations: []string{"CreateGrant", "Encrypt"}, Context: pairs{"volume": "6"}}, ""},
	} {
		if got := usable(t, f.Store, id, c.use); got != c.want {
			t.Errorf("Grants for %+v = %q, want %q", c.use, got, c.want)
		}
	}
	if got := usable(t, f.Store, id, metadata.GrantUse{Operations: []string{"DescribeKey"}, AnyContext: true}); got == "" || strings.Contains(got, " ") {
		t.Errorf("Grants for DescribeKey = %q, want one", got)
	}
	if got := usable(t, f.Store, id, metadata.GrantUse{Operations: []string{"Encrypt"}, SourceARN: source.Constraints.SourceARN}); got != "1000" && got != "1001" {
		t.Errorf("Grants for a source = %q, want 1000 or 1001", got)
	}
	if got := strings.Fields(usable(t, f.Store, few, metadata.GrantUse{Operations: []string{"Decrypt"}})); len(got) != 100 {
		t.Errorf("%d grants of a grantee with few, want all of 100", len(got))
	}
	if _, bytes, _, _ := f.CacheSize(); bytes > 400_000 {
		t.Errorf("the cache has %d bytes, want those of the few grants only", bytes)
	}
}

// TestGrantsThatAllowTheSameAreReadOnce has a grantee with many grants that are all
// alike: one of them is there as long as any is.
func TestGrantsThatAllowTheSameAreReadOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	var last metadata.Grant
	for n := range 3 {
		last = newGrant(id, alice, n+1)
		last.Operations, last.Constraints = []string{"Encrypt", "Decrypt"}, policy.GrantConstraints{}
		if n == 1 {
			last.Operations = []string{"Decrypt", "Encrypt"}
		}
		f.insertGrant(t, last)
	}
	for n := 1; n <= 3; n++ {
		if got, want := grantIDs(t, f.Store, id, alice), fmt.Sprint(n); got != want {
			t.Errorf("Grants = %q, want %s", got, want)
		}
		f.change(t, func(tx *metadata.Tx) error {
			return tx.DeleteGrant(t.Context(), region, account, id, newGrant(id, alice, n).ID)
		})
	}
	if got := grantIDs(t, f.Store, id, alice); got != "" {
		t.Errorf("Grants = %q, want none", got)
	}
}

// TestUsesOfManyGrantsAreDecidedOnFreshData shows that grants that are read every
// time make a decision stale too.
func TestUsesOfManyGrantsAreDecidedOnFreshData(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.insertMany(t, id, 0, 150)
	s := f.unleased(t)
	v := s.View()
	use := metadata.GrantUse{
		Grantee: alice, GranteeID: newGrant(id, alice, 0).GranteeID, Operations: []string{"Decrypt"}, Context: pairs{"volume": "7"},
	}
	if grants, err := v.Grants(t.Context(), region, id, use); err != nil || idsOf(grants) != "7" {
		t.Fatalf("Grants = %v, %v, want 7", grants, err)
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DeleteGrant(t.Context(), region, account, id, newGrant(id, alice, 7).ID)
	})
	if err := record(s, t, v); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record of a decision by a grant that ended = %v, want ErrStale", err)
	}
	if got := usable(t, s, id, use); got != "" {
		t.Errorf("Grants = %q, want none", got)
	}
}

// TestManyGrantsAreNotRead asks Postgres which rows it looks at, on a key with many
// grants: to others, and to one grantee. It knows nothing of the table yet.
func TestManyGrantsAreNotRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	conn := connect(t, f)
	f.insertMany(t, id, 0, 500)
	_, err := conn.Exec(t.Context(), `
		INSERT INTO grants (account, region, key_id, id, grantee, issuing_account, operations, pairs, filed, effect, properties, created_at)
		SELECT account, region, key_id, md5(n || id) || md5(id), 'arn:aws:iam::111122223333:user/u' || n, issuing_account,
		       operations, pairs, md5(n || filed), effect, properties, created_at
		FROM grants, generate_series(1, 10) AS n WHERE key_id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	f.insertGrant(t, newGrant(id, bob, 0xffff))
	filed := metadata.FiledUnder(region, id, alice, newGrant(id, alice, 0).GranteeID, pairs{"volume": "8"})
	for index, explained := range map[string]struct {
		sql  string
		args pgx.NamedArgs
	}{
		"grants_by_grantee": {metadata.SelectGrants, pgx.NamedArgs{"region": region, "keyID": id, "grantee": bob, "limit": 101}},
		"grants_filed": {metadata.SelectFiledGrant, pgx.NamedArgs{
			"region": region, "keyID": id, "grantee": alice, "granteeID": newGrant(id, alice, 0).GranteeID,
			"operations": []string{"Decrypt"}, "sourceARN": "", "filed": []string{"none", filed},
		}},
	} {
		rows, err := conn.Query(t.Context(), "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) "+explained.sql, explained.args)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", index, err)
		}
		text := strings.Join(plan, "\n")
		if !strings.Contains(text, index) || strings.Contains(text, "Rows Removed") || manyRows.MatchString(text) {
			t.Errorf("reads more than the grant that it finds:\n%s", text)
		}
	}
}

// manyRows is a step of a plan that has more rows than were asked for.
var manyRows = regexp.MustCompile(`rows=([3-9]|\d\d)`)
