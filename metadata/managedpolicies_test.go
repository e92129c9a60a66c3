package metadata_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kmsgate/metadata"
)

func newManagedPolicy(owner, name string) metadata.ManagedPolicy {
	return metadata.ManagedPolicy{
		Account: owner, Name: name, Path: "/", ID: "ANPA" + owner + name, Description: "a policy", Document: allowAll, CreatedAt: noon,
	}
}

func (f fixture) insertManagedPolicies(t *testing.T, all ...metadata.ManagedPolicy) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		for _, p := range all {
			if err := tx.InsertManagedPolicy(t.Context(), p); err != nil {
				return err
			}
		}
		return nil
	})
}

func policyARN(owner, name string) string { return "arn:aws:iam::" + owner + ":policy/" + name }

func (f fixture) attach(t *testing.T, kind metadata.PrincipalKind, name, policy string) error {
	t.Helper()
	return f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.AttachPolicy(t.Context(), account, kind, name, policyARN(account, policy))
	})
}

func TestManagedPolicyIsReadBackWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := newManagedPolicy(account, "Readers")
	p.Path = "/teams/"
	f.insertManagedPolicies(t, p)
	got, err := f.View().ManagedPolicy(t.Context(), account, "Readers")
	if err != nil {
		t.Fatal(err)
	}
	want := &metadata.ManagedPolicyEntry{ManagedPolicy: p}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(metadata.ManagedPolicyEntry{}, "Policy")); diff != "" {
		t.Errorf("policy differs (-want +got):\n%s", diff)
	}
	if got.Policy == nil || got.ARN() != "arn:aws:iam::"+account+":policy/teams/Readers" {
		t.Errorf("Policy = %v, ARN() = %s", got.Policy, got.ARN())
	}
	counted, err := f.CountedPolicy(t.Context(), account, "Readers")
	if diff := cmp.Diff(metadata.CountedPolicy{ManagedPolicy: p}, counted); err != nil || diff != "" {
		t.Errorf("CountedPolicy: %v (-want +got):\n%s", err, diff)
	}
	for _, of := range []string{stranger, "999999999999"} {
		_, err1 := f.View().ManagedPolicy(t.Context(), of, "Readers")
		_, err2 := f.CountedPolicy(t.Context(), of, "Readers")
		if !errors.Is(err1, metadata.ErrNotFound) || !errors.Is(err2, metadata.ErrNotFound) {
			t.Errorf("by %s: %v, %v, want ErrNotFound", of, err1, err2)
		}
	}
}

func TestInsertManagedPolicyRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertManagedPolicies(t, newManagedPolicy(account, "there"), newManagedPolicy(stranger, "there"))
	sameLetters, sameID := newManagedPolicy(account, "THERE"), newManagedPolicy(account, "new")
	sameID.ID = newManagedPolicy(account, "there").ID
	for name, c := range map[string]struct {
		p    metadata.ManagedPolicy
		want error
	}{
		"a name that is taken":             {newManagedPolicy(account, "there"), metadata.ErrExists},
		"a name that differs by case only": {sameLetters, metadata.ErrExists},
		"an id that is taken":              {sameID, metadata.ErrExists},
		"an account that does not exist":   {newManagedPolicy("999999999999", "p"), metadata.ErrNotFound},
	} {
		err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertManagedPolicy(t.Context(), c.p) })
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestAttachedPoliciesHold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "u"), newRole(account, "r"), newGroup(account, "g"))
	f.insertManagedPolicies(t, newManagedPolicy(account, "p"), newManagedPolicy(stranger, "q"))
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertMember(t.Context(), account, "g", "u") })
	kinds := map[metadata.PrincipalKind]string{metadata.User: "u", metadata.Role: "r", metadata.Group: "g"}
	for kind, name := range kinds {
		principal(t, f.Store, kind, name) // cached
		for range 2 {
			if err := f.attach(t, kind, name, "p"); err != nil {
				t.Fatalf("attach to %s: %v", kind, err)
			}
		}
		for _, policy := range []string{"q", "none"} {
			if err := f.attach(t, kind, name, policy); !errors.Is(err, metadata.ErrNotFound) {
				t.Errorf("attach %s to %s: %v, want ErrNotFound", policy, kind, err)
			}
		}
		if err := f.attach(t, kind, "nobody", "p"); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("attach to a %s that does not exist: %v, want ErrNotFound", kind, err)
		}
	}
	for kind, want := range map[metadata.PrincipalKind]int{metadata.User: 2, metadata.Role: 1, metadata.Group: 1} {
		got := principal(t, f.Store, kind, kinds[kind])
		if len(got.Policies) != want || got.Policies[0].Name != policyARN(account, "p") || got.Policies[0].Of != got.ARN() {
			t.Errorf("%s has %+v, want %d policies", kind, got.Policies, want)
		}
		listed, err := f.AttachedPolicies(t.Context(), account, kind, kinds[kind], "/", "", 10)
		if err != nil || len(listed) != 1 || listed[0].Name != "p" {
			t.Errorf("AttachedPolicies of %s = %+v, %v", kind, listed, err)
		}
	}
	counted, err := f.CountedPolicy(t.Context(), account, "p")
	if err != nil || counted.Attachments != 3 {
		t.Errorf("CountedPolicy = %+v, %v, want 3 attachments", counted, err)
	}
	for kind, name := range kinds {
		detach := func(tx *metadata.Tx) error {
			return tx.DetachPolicy(t.Context(), account, kind, name, policyARN(account, "p"))
		}
		f.change(t, detach)
		if err := f.try(t.Context(), detach); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("detach from %s again: %v, want ErrNotFound", kind, err)
		}
	}
	for kind, name := range kinds {
		if got := principal(t, f.Store, kind, name).Policies; len(got) != 0 {
			t.Errorf("%s still has %+v", kind, got)
		}
	}
}

func TestAttachmentsAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "u"))
	for i := range metadata.MaxAttachments + 1 {
		name := fmt.Sprintf("p%02d", i)
		f.insertManagedPolicies(t, newManagedPolicy(account, name))
		err := f.attach(t, metadata.User, "u", name)
		if limit, ok := errors.AsType[*metadata.LimitError](err); i < metadata.MaxAttachments && err != nil ||
			i == metadata.MaxAttachments && (!ok || limit.Limit != metadata.MaxAttachments) {
			t.Fatalf("attachment %d: %v", i+1, err)
		}
	}
	first, err := f.AttachedPolicies(t.Context(), account, metadata.User, "u", "", "", 4)
	if err != nil || len(first) != 4 || first[3].Name != "p03" {
		t.Fatalf("first page = %+v, %v", first, err)
	}
	rest, err := f.AttachedPolicies(t.Context(), account, metadata.User, "u", "", "p03", 10)
	if err != nil || len(rest) != 6 || rest[0].Name != "p04" {
		t.Errorf("rest = %+v, %v", rest, err)
	}
}

func TestBoundaries(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "u"), newRole(account, "r"))
	f.insertManagedPolicies(t, newManagedPolicy(account, "p"), newManagedPolicy(stranger, "q"))
	for kind, name := range map[metadata.PrincipalKind]string{metadata.User: "u", metadata.Role: "r"} {
		set := func(arn string) error {
			return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.SetBoundary(t.Context(), account, kind, name, arn) })
		}
		for _, arn := range []string{policyARN(account, "none"), policyARN(stranger, "q"), policyARN(account, "path/p"), "p"} {
			if err := set(arn); !errors.Is(err, metadata.ErrNotFound) {
				t.Errorf("SetBoundary(%s) = %v, want ErrNotFound", arn, err)
			}
		}
		if err := set(policyARN(account, "p")); err != nil {
			t.Fatal(err)
		}
		if got := principal(t, f.Store, kind, name); got.Boundary != policyARN(account, "p") || got.BoundaryPolicy == nil || len(got.Policies) != 0 {
			t.Errorf("%s: boundary %q, %v, policies %v", kind, got.Boundary, got.BoundaryPolicy, got.Policies)
		}
	}
	counted, err := f.CountedPolicy(t.Context(), account, "p")
	if err != nil || counted.Boundaries != 2 || counted.Attachments != 0 {
		t.Errorf("CountedPolicy = %+v, %v, want 2 boundaries", counted, err)
	}
	remove := func(tx *metadata.Tx) error { return tx.DeleteBoundary(t.Context(), account, metadata.User, "u") }
	f.change(t, remove)
	if got := principal(t, f.Store, metadata.User, "u"); got.Boundary != "" || got.BoundaryPolicy != nil {
		t.Errorf("boundary %q is left", got.Boundary)
	}
	if err := f.try(t.Context(), remove); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("delete it again: %v, want ErrNotFound", err)
	}
}

func TestManagedPolicyInUseIsNotDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "u"))
	f.insertManagedPolicies(t, newManagedPolicy(account, "p"))
	remove := func(tx *metadata.Tx) error { return tx.DeleteManagedPolicy(t.Context(), account, "p") }
	wantInUse := func(by string) {
		t.Helper()
		if use, ok := errors.AsType[*metadata.InUseError](f.try(t.Context(), remove)); !ok || use.By != metadata.Attachments {
			t.Errorf("delete it as %s: %v, want InUseError", by, use)
		}
	}
	if err := f.attach(t, metadata.User, "u", "p"); err != nil {
		t.Fatal(err)
	}
	wantInUse("an attachment")
	f.change(t, func(tx *metadata.Tx) error {
		if err := tx.SetBoundary(t.Context(), account, metadata.User, "u", policyARN(account, "p")); err != nil {
			return err
		}
		return tx.DetachPolicy(t.Context(), account, metadata.User, "u", policyARN(account, "p"))
	})
	wantInUse("a boundary")
	f.change(t, func(tx *metadata.Tx) error { return tx.DeleteBoundary(t.Context(), account, metadata.User, "u") })
	if _, err := f.View().ManagedPolicy(t.Context(), account, "p"); err != nil {
		t.Fatal(err)
	}
	if err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.DeleteManagedPolicy(t.Context(), stranger, "p") }); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("delete it by another account: %v, want ErrNotFound", err)
	}
	f.change(t, remove)
	if _, err := f.View().ManagedPolicy(t.Context(), account, "p"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("after it was deleted: %v, want ErrNotFound", err)
	}
}

func TestManagedPoliciesAreListedByUse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "u"), newRole(account, "r"), newGroup(account, "g"))
	deep := newManagedPolicy(account, "d")
	deep.Path = "/deep/er/"
	f.insertManagedPolicies(t, newManagedPolicy(account, "a"), newManagedPolicy(account, "b"), newManagedPolicy(account, "c"), deep, newManagedPolicy(stranger, "z"))
	f.change(t, func(tx *metadata.Tx) error {
		for kind, name := range map[metadata.PrincipalKind]string{metadata.User: "u", metadata.Group: "g", metadata.Role: "r"} {
			if err := tx.AttachPolicy(t.Context(), account, kind, name, policyARN(account, "a")); err != nil {
				return err
			}
		}
		return tx.SetBoundary(t.Context(), account, metadata.Role, "r", policyARN(account, "b"))
	})
	for want, filter := range map[string]metadata.PolicyFilter{
		"a b c d": {},
		"a b":     {Used: true},
		"a":       {Use: metadata.AsPermissions},
		"b":       {Use: metadata.AsBoundary, Used: true},
		"d":       {PathPrefix: "/deep/"},
		"":        {PathPrefix: "/deep/er/d"},
	} {
		listed, err := f.ListManagedPolicies(t.Context(), account, filter, "", 10)
		var names []string
		for _, p := range listed {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%+v: %q, %v, want %q", filter, got, err, want)
		}
	}
	listed, err := f.ListManagedPolicies(t.Context(), account, metadata.PolicyFilter{}, "a", 2)
	for _, p := range listed {
		if p.Document != "" {
			t.Errorf("a list has the document of %s", p.Name)
		}
	}
	if err != nil || len(listed) != 2 || listed[0].Name != "b" || listed[1].Name != "c" {
		t.Errorf("page after a = %+v, %v", listed, err)
	}
}

func TestPolicyEntities(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := newManagedPolicy(account, "p")
	f.insertPrincipals(t, newUser(account, "u"), newUser(account, "v"), newRole(account, "r"), newGroup(account, "g"))
	f.insertManagedPolicies(t, p)
	f.change(t, func(tx *metadata.Tx) error {
		for kind, name := range map[metadata.PrincipalKind]string{metadata.User: "u", metadata.Group: "g", metadata.Role: "r"} {
			if err := tx.AttachPolicy(t.Context(), account, kind, name, p.ARN()); err != nil {
				return err
			}
		}
		return tx.SetBoundary(t.Context(), account, metadata.User, "v", p.ARN())
	})
	for _, c := range []struct {
		filter metadata.EntityFilter
		after  string
		limit  int
		want   string
	}{
		{metadata.EntityFilter{}, "", 10, "group/g role/r user/u user/v"},
		{metadata.EntityFilter{}, "group/g", 2, "role/r user/u"},
		{metadata.EntityFilter{Kind: metadata.User}, "", 10, "user/u user/v"},
		{metadata.EntityFilter{Use: metadata.AsBoundary}, "", 10, "user/v"},
		{metadata.EntityFilter{Use: metadata.AsPermissions}, "role/r", 10, "user/u"},
		{metadata.EntityFilter{PathPrefix: "/service/"}, "", 10, "role/r"},
	} {
		listed, err := f.PolicyEntities(t.Context(), &p, c.filter, c.after, c.limit)
		var places []string
		for _, e := range listed {
			places = append(places, e.Place())
		}
		if got := strings.Join(places, " "); err != nil || got != c.want {
			t.Errorf("%+v after %q: %q, %v, want %q", c.filter, c.after, got, err, c.want)
		}
	}
}

// A policy that becomes a boundary while it is deleted is one or the other.
func TestBoundaryAndDeletionExclude(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertPrincipals(t, newUser(account, "u"))
	for i := range 20 {
		name := fmt.Sprintf("p%d", i)
		f.insertManagedPolicies(t, newManagedPolicy(account, name))
		var set, removed error
		var both sync.WaitGroup
		both.Go(func() {
			set = f.try(t.Context(), func(tx *metadata.Tx) error {
				return tx.SetBoundary(t.Context(), account, metadata.User, "u", policyARN(account, name))
			})
		})
		both.Go(func() {
			removed = f.try(t.Context(), func(tx *metadata.Tx) error { return tx.DeleteManagedPolicy(t.Context(), account, name) })
		})
		both.Wait()
		switch {
		case set == nil && errors.Is(removed, metadata.ErrInUse), errors.Is(set, metadata.ErrNotFound) && removed == nil:
		default:
			t.Fatalf("SetBoundary = %v, DeleteManagedPolicy = %v, want one of them to hold", set, removed)
		}
		if got := principal(t, f.Store, metadata.User, "u"); (got.Boundary == policyARN(account, name)) != (set == nil) {
			t.Fatalf("boundary %q after SetBoundary = %v", got.Boundary, set)
		}
	}
}

func TestAttachmentReachesTheOtherStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	f.insertPrincipals(t, newUser(account, "u"), newGroup(account, "g"))
	f.insertManagedPolicies(t, newManagedPolicy(account, "p"))
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertMember(t.Context(), account, "g", "u") })
	has := func(n int) func() bool {
		return func() bool { return len(principal(t, other, metadata.User, "u").Policies) == n }
	}
	eventually(t, "a user without policies", has(0))
	if err := f.attach(t, metadata.Group, "g", "p"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the policy of the group", has(1))
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DetachPolicy(t.Context(), account, metadata.Group, "g", policyARN(account, "p"))
	})
	eventually(t, "none any more", has(0))
}
