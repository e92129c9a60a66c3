package metadata_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kmsgate/metadata"
)

const (
	allowAll   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	trustAdmin = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"sts:AssumeRole"}]}`
)

func newUser(owner, name string) metadata.Principal {
	return metadata.Principal{
		Account: owner, Kind: metadata.User, Name: name, Path: "/", ID: "AIDA" + owner + name, CreatedAt: noon,
		TrustBindings: map[string]string{},
	}
}

func newGroup(owner, name string) metadata.Principal {
	p := newUser(owner, name)
	p.Kind, p.ID, p.Path = metadata.Group, "AGPA"+owner+name, "/teams/"
	return p
}

func newRole(owner, name string) metadata.Principal {
	p := newUser(owner, name)
	p.Kind, p.ID, p.Path = metadata.Role, "AROA"+owner+name, "/service/"
	p.Trust, p.MaxSession, p.Description = trustAdmin, time.Hour, "a role"
	return p
}

func (f fixture) insertPrincipals(t *testing.T, all ...metadata.Principal) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		for _, p := range all {
			if err := tx.InsertPrincipal(t.Context(), p, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// principal reads a principal through a new view of a store.
func principal(t *testing.T, s *metadata.Store, kind metadata.PrincipalKind, name string) *metadata.PrincipalEntry {
	t.Helper()
	e, err := s.View().Principal(t.Context(), account, kind, name)
	if err != nil {
		t.Fatalf("Principal(%s %s): %v", kind, name, err)
	}
	return e
}

func TestPrincipalIsReadBackWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	role := newRole(account, "Ci")
	tags := []metadata.Tag{{Key: "a", Value: ""}, {Key: "b", Value: "2"}}
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertPrincipal(t.Context(), role, tags) })
	f.change(t, func(tx *metadata.Tx) error {
		return tx.PutPrincipalPolicy(t.Context(), account, metadata.Role, "Ci", "all", allowAll)
	})
	got := principal(t, f.Store, metadata.Role, "Ci")
	want := &metadata.PrincipalEntry{
		Principal: role, Tags: tags, Policies: []metadata.NamedPolicy{{Name: "all", Of: role.ARN()}},
	}
	ignored := []cmp.Option{
		cmpopts.IgnoreFields(metadata.PrincipalEntry{}, "Identity", "TrustPolicy"), cmpopts.IgnoreFields(metadata.NamedPolicy{}, "Policy"),
	}
	if diff := cmp.Diff(want, got, ignored...); diff != "" {
		t.Errorf("role differs (-want +got):\n%s", diff)
	}
	if got.TrustPolicy == nil || len(got.Identity) != 1 || got.Identity[0] == nil || got.Identity[0] != got.Policies[0].Policy {
		t.Errorf("TrustPolicy = %v, Identity = %v, want both compiled", got.TrustPolicy, got.Identity)
	}
}

func TestInsertPrincipalRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "Ann"))
	unbounded, nobodys := newUser(account, "Bob"), newUser("999999999999", "Bob")
	unbounded.Boundary = "arn:aws:iam::" + account + ":policy/none"
	sameID := newUser(account, "Eve")
	sameID.ID = "AIDA" + account + "Ann"
	for name, c := range map[string]struct {
		p    metadata.Principal
		tags []metadata.Tag
		want error
	}{
		"a name that is taken":               {p: newUser(account, "Ann"), want: metadata.ErrExists},
		"a name that differs in letter case": {p: newUser(account, "aNN"), want: metadata.ErrExists},
		"an id that is taken":                {p: sameID, want: metadata.ErrExists},
		"a boundary that is not there":       {p: unbounded, want: metadata.ErrNotFound},
		"an account that is not there":       {p: nobodys, want: metadata.ErrNotFound},
		"too many tags":                      {p: newUser(account, "Bob"), tags: make([]metadata.Tag, 51), want: metadata.ErrLimit},
	} {
		err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertPrincipal(t.Context(), c.p, c.tags) })
		if !errors.Is(err, c.want) {
			t.Errorf("InsertPrincipal with %s = %v, want %v", name, err, c.want)
		}
	}
	f.insertPrincipals(t, newGroup(account, "Ann"), newUser(stranger, "Ann")) // names are of a kind and an account
}

func TestAnAccountHasBoundedPrincipals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := connect(t, f).Exec(t.Context(), `
		INSERT INTO principals (account, kind, name, path, id, created_at)
		SELECT $1, 'group', 'g' || n, '/', 'AGPA' || n, now() FROM generate_series(1, 299) AS n`, account)
	if err != nil {
		t.Fatal(err)
	}
	f.insertPrincipals(t, newGroup(account, "last"))
	err = f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertPrincipal(t.Context(), newGroup(account, "more"), nil) })
	if limit, ok := errors.AsType[*metadata.LimitError](err); !ok || limit.Limit != 300 {
		t.Errorf("a group more = %v, want a limit of 300", err)
	}
}

func TestUserHasThePoliciesOfItsGroups(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	ann, team := newUser(account, "ann"), newGroup(account, "team")
	f.insertPrincipals(t, ann, team)
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(
			tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", "own", allowAll),
			tx.PutPrincipalPolicy(ctx, account, metadata.Group, "team", "common", allowAll),
			tx.InsertMember(ctx, account, "team", "ann"),
			tx.InsertMember(ctx, account, "team", "ann"), // again: nothing
		)
	})
	if _, err := connect(t, f).Exec(ctx, `
		INSERT INTO managed_policies (account, name, path, id, document, created_at) VALUES ('`+account+`', 'wide', '/x/', 'ANPA1', '`+allowAll+`', now());
		INSERT INTO policy_attachments (account, kind, name, policy_name) VALUES ('`+account+`', 'group', 'team', 'wide');
		UPDATE principals SET boundary = 'arn:aws:iam::`+account+`:policy/x/wide' WHERE name = 'ann'`); err != nil {
		t.Fatal(err)
	}
	got := principal(t, f.Store, metadata.User, "ann")
	var names []string
	for _, p := range got.Policies {
		names = append(names, p.Of+" "+p.Name)
	}
	want := []string{ann.ARN() + " own", team.ARN() + " common", team.ARN() + " arn:aws:iam::" + account + ":policy/x/wide"}
	if !slices.Equal(names, want) || len(got.Identity) != 3 {
		t.Errorf("policies = %v, want %v", names, want)
	}
	if got.BoundaryPolicy == nil || got.TrustPolicy != nil {
		t.Errorf("BoundaryPolicy = %v, TrustPolicy = %v, want the first only", got.BoundaryPolicy, got.TrustPolicy)
	}
	if entry := principal(t, f.Store, metadata.Group, "team"); len(entry.Identity) != 2 {
		t.Errorf("the group has %d policies, want 2", len(entry.Identity))
	}
}

func TestDamagedPrincipalIsAnErrorAndNotAnAnswer(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"a policy":           `INSERT INTO principal_policies (account, kind, name, policy_name, document) VALUES ('` + account + `', 'role', 'r', 'p', '{')`,
		"a trust policy":     `UPDATE principals SET trust = '{' WHERE name = 'r'`,
		"a missing boundary": `UPDATE principals SET boundary = 'arn:aws:iam::` + account + `:policy/gone' WHERE name = 'r'`,
		"a boundary": `WITH m AS (INSERT INTO managed_policies (account, name, path, id, document, created_at)
			VALUES ('` + account + `', 'b', '/', 'ANPA2', '{', now()))
			UPDATE principals SET boundary = 'arn:aws:iam::` + account + `:policy/b' WHERE name = 'r'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.insertPrincipals(t, newRole(account, "r"))
			if _, err := connect(t, f).Exec(t.Context(), damage); err != nil {
				t.Fatal(err)
			}
			e, err := f.View().Principal(t.Context(), account, metadata.Role, "r")
			if e != nil || err == nil || errors.Is(err, metadata.ErrNotFound) {
				t.Errorf("Principal = %v, %v, want an error", e, err)
			}
		})
	}
}

func TestPrincipalIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	user, role := newUser(stranger, "ann"), newRole(account, "ci")
	f.insertPrincipals(t, user, role, newGroup(account, "team"))
	session := "arn:aws:sts::" + account + ":assumed-role/ci/build"
	got, err := f.PrincipalIDs(t.Context(), []string{
		user.ARN(), role.ARN(), session, user.ARN(),
		"arn:aws:iam::" + account + ":role/ci",          // another path
		"arn:aws:iam::" + account + ":user/ann",         // another account
		"arn:aws:iam::" + stranger + ":user/Ann",        // another letter case
		"arn:aws:iam::" + account + ":root",             // no principal of its own
		"arn:aws:iam::" + account + ":group/teams/team", // never calls
		"arn:aws:sts::" + account + ":assumed-role/gone/build", "nonsense",
	})
	want := map[string]string{user.ARN(): user.ID, role.ARN(): role.ID, session: role.ID}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("PrincipalIDs: %v (-want +got):\n%s", err, diff)
	}
	if got, err := f.PrincipalIDs(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("PrincipalIDs of none = %v, %v", got, err)
	}
}

func TestDeletePrincipalWantsItEmpty(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertPrincipal(ctx, newUser(account, "ann"), []metadata.Tag{{Key: "k", Value: "v"}})
	})
	f.insertPrincipals(t, newGroup(account, "team"))
	refused := func(kind metadata.PrincipalKind, name string, by metadata.Dependant) {
		t.Helper()
		err := f.try(ctx, func(tx *metadata.Tx) error { return tx.DeletePrincipal(ctx, account, kind, name) })
		if inUse, ok := errors.AsType[*metadata.InUseError](err); !ok || inUse.By != by || !errors.Is(err, metadata.ErrInUse) {
			t.Errorf("DeletePrincipal(%s) = %v, want in use by %s", name, err, by)
		}
	}
	key := newUserKey("ann", accessKey)
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(tx.InsertAccessKey(ctx, key), tx.InsertMember(ctx, account, "team", "ann"),
			tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", "p", allowAll))
	})
	if _, err := connect(t, f).Exec(ctx, `
		INSERT INTO managed_policies (account, name, path, id, document, created_at) VALUES ('`+account+`', 'wide', '/', 'ANPA1', '`+allowAll+`', now());
		INSERT INTO policy_attachments (account, kind, name, policy_name) VALUES ('`+account+`', 'user', 'ann', 'wide')`); err != nil {
		t.Fatal(err)
	}
	refused(metadata.User, "ann", metadata.AccessKeys)
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteAccessKey(ctx, account, "ann", accessKey) })
	refused(metadata.User, "ann", metadata.Memberships)
	refused(metadata.Group, "team", metadata.Memberships)
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteMember(ctx, account, "team", "ann") })
	refused(metadata.User, "ann", metadata.InlinePolicies)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DeletePrincipalPolicy(ctx, account, metadata.User, "ann", "p")
	})
	refused(metadata.User, "ann", metadata.AttachedPolicies)
	if _, err := connect(t, f).Exec(ctx, `DELETE FROM policy_attachments`); err != nil {
		t.Fatal(err)
	}
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(tx.DeletePrincipal(ctx, account, metadata.User, "ann"), tx.DeletePrincipal(ctx, account, metadata.Group, "team"))
	})
	if _, err := f.View().Principal(ctx, account, metadata.User, "ann"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Principal after DeletePrincipal = %v, want ErrNotFound", err)
	}
}

func TestLimitsOfPrincipals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.insertPrincipals(t, newUser(account, "ann"))
	within := func(what string, limit int, change func(*metadata.Tx) error) {
		t.Helper()
		err := f.try(ctx, change)
		got, ok := errors.AsType[*metadata.LimitError](err)
		if limit == 0 && err != nil || limit > 0 && (!ok || got.Limit != limit || !errors.Is(err, metadata.ErrLimit)) {
			t.Errorf("%s = %v, want a limit of %d", what, err, limit)
		}
	}
	put := func(name string, characters int) func(*metadata.Tx) error {
		document := `{"Statement": ` + "\n\t \r" + `["` + strings.Repeat("é", characters-18) + `"]}`
		return func(tx *metadata.Tx) error {
			return tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", name, document)
		}
	}
	within("a policy of 2000 characters", 0, put("a", 2000))
	within("48 more", 0, put("b", 48))
	within("one more", 2048, put("b", 49))
	within("another policy", 2048, put("c", 18))
	within("a smaller one", 0, put("a", 1000))
	spaced := func(name string) func(*metadata.Tx) error {
		return func(tx *metadata.Tx) error {
			return tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", name, strings.Repeat(" ", 30<<10)+allowAll)
		}
	}
	within("a policy of white space", 0, spaced("s1"))
	within("another one", 0, spaced("s2"))
	within("a third one", metadata.MaxInlineBytes, spaced("s3"))

	tags := func(n int) func(*metadata.Tx) error {
		var all []metadata.Tag
		for i := range n {
			all = append(all, metadata.Tag{Key: fmt.Sprint(i)})
		}
		return func(tx *metadata.Tx) error {
			return tx.UpsertPrincipalTags(ctx, account, metadata.User, "ann", all)
		}
	}
	within("50 tags", 0, tags(50))
	within("the same again", 0, tags(50))
	within("51 tags", 50, tags(51))

	for i := range 11 {
		f.insertPrincipals(t, newGroup(account, fmt.Sprint("g", i)))
		limit := 0
		if i == 10 {
			limit = metadata.MaxGroups
		}
		within("a group", limit, func(tx *metadata.Tx) error { return tx.InsertMember(ctx, account, fmt.Sprint("g", i), "ann") })
	}
	key := func(user, id string) func(*metadata.Tx) error {
		return func(tx *metadata.Tx) error {
			if err := tx.RoomForAccessKey(ctx, account, user); err != nil {
				return err
			}
			return tx.InsertAccessKey(ctx, newUserKey(user, id))
		}
	}
	for n, user := range []string{"", "ann"} {
		within("a key", 0, key(user, fmt.Sprint("AKIAIOSFODNN7EXAMPL", n)))
		within("a second key", 0, key(user, fmt.Sprint("AKIAIOSFODNN7EXAM2L", n)))
		within("a third key", 2, key(user, fmt.Sprint("AKIAIOSFODNN7EXAM3L", n)))
	}
}

func TestTagsOfPrincipalsAreToldApartByMoreThanLetterCase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertPrincipal(ctx, newUser(account, "ann"), []metadata.Tag{{Key: "Größe", Value: "1"}, {Key: "team", Value: "a"}})
	})
	want := func(tags ...metadata.Tag) {
		t.Helper()
		listed, err := f.ListPrincipalTags(ctx, account, metadata.User, "ann", "", 10)
		if err != nil || !slices.Equal(listed, tags) || !slices.Equal(principal(t, f.Store, metadata.User, "ann").Tags, tags) {
			t.Errorf("tags = %v, %v, want %v", listed, err, tags)
		}
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpsertPrincipalTags(ctx, account, metadata.User, "ann", []metadata.Tag{{Key: "GRÖßE", Value: "2"}, {Key: "Team", Value: "b"}})
	})
	want(metadata.Tag{Key: "GRÖßE", Value: "2"}, metadata.Tag{Key: "Team", Value: "b"})
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DeletePrincipalTags(ctx, account, metadata.User, "ann", []string{"größe", "none"})
	})
	want(metadata.Tag{Key: "Team", Value: "b"})
}
