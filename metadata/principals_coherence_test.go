package metadata_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/metadata"
)

func TestNothingOfAnotherAccountsPrincipalsIsReached(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.insertPrincipals(t, newUser(account, "ann"), newGroup(account, "team"), newUser(stranger, "eve"))
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(
			tx.InsertMember(ctx, account, "team", "ann"), tx.InsertAccessKey(ctx, newUserKey("ann", accessKey)),
			tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", "p", allowAll),
			tx.UpsertPrincipalTags(ctx, account, metadata.User, "ann", []metadata.Tag{{Key: "k"}}),
		)
	})
	for name, change := range map[string]func(*metadata.Tx) error{
		"DeletePrincipal":     func(tx *metadata.Tx) error { return tx.DeletePrincipal(ctx, stranger, metadata.User, "ann") },
		"UpsertPrincipalTags": func(tx *metadata.Tx) error { return tx.UpsertPrincipalTags(ctx, stranger, metadata.User, "ann", nil) },
		"DeletePrincipalTags": func(tx *metadata.Tx) error { return tx.DeletePrincipalTags(ctx, stranger, metadata.User, "ann", nil) },
		"PutPrincipalPolicy": func(tx *metadata.Tx) error {
			return tx.PutPrincipalPolicy(ctx, stranger, metadata.User, "ann", "p", "{}")
		},
		"DeletePrincipalPolicy":  func(tx *metadata.Tx) error { return tx.DeletePrincipalPolicy(ctx, stranger, metadata.User, "ann", "p") },
		"InsertMember":           func(tx *metadata.Tx) error { return tx.InsertMember(ctx, account, "team", "eve") },
		"InsertMember elsewhere": func(tx *metadata.Tx) error { return tx.InsertMember(ctx, stranger, "team", "eve") },
		"DeleteMember":           func(tx *metadata.Tx) error { return tx.DeleteMember(ctx, stranger, "team", "ann") },
		"RoomForAccessKey":       func(tx *metadata.Tx) error { return tx.RoomForAccessKey(ctx, stranger, "ann") },
	} {
		if err := f.try(ctx, change); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("%s = %v, want ErrNotFound", name, err)
		}
	}
	if _, err := f.View().Principal(ctx, stranger, metadata.User, "ann"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Principal = %v, want ErrNotFound", err)
	}
	if _, err := f.PrincipalPolicy(ctx, stranger, metadata.User, "ann", "p"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("PrincipalPolicy = %v, want ErrNotFound", err)
	}
	members, err1 := f.ListMembers(ctx, stranger, "team", "", 10)
	groups, err2 := f.ListGroupsOf(ctx, stranger, "ann", "", 10)
	users, err3 := f.ListPrincipals(ctx, stranger, metadata.User, "/", "", 10)
	policies, err4 := f.ListPrincipalPolicies(ctx, stranger, metadata.User, "ann", "", 10)
	tags, err5 := f.ListPrincipalTags(ctx, stranger, metadata.User, "ann", "", 10)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil || len(members)+len(groups)+len(policies)+len(tags) != 0 || len(users) != 1 {
		t.Errorf("lists = %v %v %v %v %v, %v, want eve alone", members, groups, users, policies, tags, err)
	}
}

func TestPagesOfPrincipals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	var want []string
	f.insertPrincipals(t, newUser(account, "ann"), newGroup(account, "g0"))
	for i := range 7 {
		user, group := newUser(account, fmt.Sprint("u", i)), newGroup(account, fmt.Sprint("g", i+1))
		user.Path = "/team/"
		want = append(want, user.Name)
		f.insertPrincipals(t, user, group)
		f.change(t, func(tx *metadata.Tx) error {
			return errors.Join(
				tx.InsertMember(ctx, account, "g0", user.Name), tx.InsertMember(ctx, account, group.Name, "ann"),
				tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", user.Name, allowAll),
				tx.UpsertPrincipalTags(ctx, account, metadata.User, "ann", []metadata.Tag{{Key: user.Name}}),
			)
		})
	}
	names := func(found []metadata.Principal, err error) (names []string, _ error) {
		for _, p := range found {
			names = append(names, strings.Replace(p.Name, "g", "u", 1))
		}
		return names, err
	}
	for name, list := range map[string]func(after string, limit int) ([]string, error){
		"ListPrincipals": func(after string, limit int) ([]string, error) {
			return names(f.ListPrincipals(ctx, account, metadata.User, "/te", after, limit))
		},
		"ListMembers": func(after string, limit int) ([]string, error) {
			return names(f.ListMembers(ctx, account, "g0", after, limit))
		},
		"ListPrincipalPolicies": func(after string, limit int) ([]string, error) {
			return f.ListPrincipalPolicies(ctx, account, metadata.User, "ann", after, limit)
		},
		"ListPrincipalTags": func(after string, limit int) (keys []string, _ error) {
			tags, err := f.ListPrincipalTags(ctx, account, metadata.User, "ann", after, limit)
			for _, tag := range tags {
				keys = append(keys, tag.Key)
			}
			return keys, err
		},
	} {
		first, err1 := list("", 5)
		rest, err2 := list(first[len(first)-1], 5)
		if err := errors.Join(err1, err2); err != nil || !slices.Equal(append(first, rest...), want) {
			t.Errorf("%s = %v and %v, %v, want %v", name, first, rest, err, want)
		}
	}
	groups, err := f.ListGroupsOf(ctx, account, "ann", "g5", 10)
	if err != nil || len(groups) != 2 || groups[1].Name != "g7" || groups[1].Path != "/teams/" {
		t.Errorf("ListGroupsOf = %v, %v, want g6 and g7", groups, err)
	}
}

func TestChangesOfPrincipalsReachTheOtherStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	other := f.database.Open(t, nil)
	f.insertPrincipals(t, newUser(account, "ann"), newGroup(account, "team"), newUser(account, "idle"))
	eventually(t, "a lease", other.Leased)
	for _, step := range []struct {
		what   string
		change func(*metadata.Tx) error
		seen   func(*metadata.PrincipalEntry) bool
	}{
		{
			"a tag", func(tx *metadata.Tx) error {
				return tx.UpsertPrincipalTags(ctx, account, metadata.User, "ann", []metadata.Tag{{Key: "k"}})
			},
			func(e *metadata.PrincipalEntry) bool { return len(e.Tags) == 1 },
		},
		{
			"a tag removed", func(tx *metadata.Tx) error {
				return tx.DeletePrincipalTags(ctx, account, metadata.User, "ann", []string{"k"})
			},
			func(e *metadata.PrincipalEntry) bool { return len(e.Tags) == 0 },
		},
		{
			"an inline policy", func(tx *metadata.Tx) error {
				return tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", "p", allowAll)
			},
			func(e *metadata.PrincipalEntry) bool { return len(e.Policies) == 1 },
		},
		{
			"membership", func(tx *metadata.Tx) error { return tx.InsertMember(ctx, account, "team", "ann") },
			func(e *metadata.PrincipalEntry) bool { return len(e.Policies) == 1 },
		},
		{
			"a policy of the group", func(tx *metadata.Tx) error {
				return tx.PutPrincipalPolicy(ctx, account, metadata.Group, "team", "p", allowAll)
			},
			func(e *metadata.PrincipalEntry) bool { return len(e.Policies) == 2 },
		},
		{
			"the end of the own policy", func(tx *metadata.Tx) error {
				return tx.DeletePrincipalPolicy(ctx, account, metadata.User, "ann", "p")
			},
			func(e *metadata.PrincipalEntry) bool { return len(e.Policies) == 1 },
		},
		{
			"the end of membership", func(tx *metadata.Tx) error { return tx.DeleteMember(ctx, account, "team", "ann") },
			func(e *metadata.PrincipalEntry) bool { return len(e.Policies) == 0 },
		},
	} {
		principal(t, other, metadata.User, "ann") // cached
		f.change(t, step.change)
		if !step.seen(principal(t, f.Store, metadata.User, "ann")) {
			t.Errorf("%s does not hold at once", step.what)
		}
		eventually(t, step.what+" is seen", func() bool { return step.seen(principal(t, other, metadata.User, "ann")) })
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.DeletePrincipal(ctx, account, metadata.User, "ann") })
	eventually(t, "deletion is seen", func() bool {
		_, err := other.View().Principal(ctx, account, metadata.User, "ann")
		return errors.Is(err, metadata.ErrNotFound)
	})
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertAccessKey(ctx, newUserKey("idle", accessKey)) })
	active := func() bool {
		k, err := other.View().AccessKey(ctx, accessKey)
		return err == nil && k.Status == metadata.AccessKeyActive
	}
	eventually(t, "a key is seen", active)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetAccessKeyStatus(ctx, account, "idle", accessKey, metadata.AccessKeyInactive)
	})
	eventually(t, "its end is seen", func() bool { return !active() })
}

func TestUnleasedStoreDecidesOnNoStalePrincipal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.insertPrincipals(t, newUser(account, "ann"), newGroup(account, "team"))
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(tx.InsertMember(ctx, account, "team", "ann"), tx.PutPrincipalPolicy(ctx, account, metadata.Group, "team", "p", allowAll))
	})
	s := f.unleased(t)
	v := s.View()
	if _, err := v.Principal(ctx, account, metadata.User, "ann"); err != nil {
		t.Fatal(err)
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.DeletePrincipalPolicy(ctx, account, metadata.Group, "team", "p")
	})
	if err := record(s, t, v); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record of a decision on policies that are gone = %v, want ErrStale", err)
	}
	if e := principal(t, s, metadata.User, "ann"); len(e.Identity) != 0 {
		t.Errorf("after ErrStale the user has %d policies, want none", len(e.Identity))
	}
}

func TestChangeOfALargeGroupReachesAllItsUsers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	other := f.database.Open(t, nil)
	f.insertPrincipals(t, newGroup(account, "team"))
	_, err := connect(t, f).Exec(ctx, `
		WITH users AS (
			INSERT INTO principals (account, kind, name, path, id, created_at)
			SELECT $1, 'user', 'user-' || n, '/', 'AIDA' || n, now() FROM generate_series(1, 500) AS n RETURNING account, name
		)
		INSERT INTO group_members (account, name, user_name) SELECT account, 'team', name FROM users`, account)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a lease", other.Leased)
	for _, name := range []string{"user-1", "user-500"} {
		principal(t, other, metadata.User, name)
		principal(t, f.Store, metadata.User, name)
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.PutPrincipalPolicy(ctx, account, metadata.Group, "team", "p", allowAll)
	})
	for _, name := range []string{"user-1", "user-500"} {
		if e := principal(t, f.Store, metadata.User, name); len(e.Identity) != 1 {
			t.Errorf("%s has %d policies, want that of the group at once", name, len(e.Identity))
		}
		eventually(t, "the policy is seen", func() bool { return len(principal(t, other, metadata.User, name).Identity) == 1 })
	}
}

func TestLimitsHoldAgainstChangesAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.insertPrincipals(t, newUser(account, "ann"))
	large := allowAll + strings.Repeat("x", 900) // it is not compiled here
	var all sync.WaitGroup
	var keys, policies atomic.Int32
	for i := range 6 {
		all.Go(func() {
			err := f.try(ctx, func(tx *metadata.Tx) error {
				if err := tx.RoomForAccessKey(ctx, account, "ann"); err != nil {
					return err
				}
				return tx.InsertAccessKey(ctx, newUserKey("ann", fmt.Sprint("AKIAIOSFODNN7EXAMPL", i)))
			})
			if err == nil {
				keys.Add(1)
			} else if !errors.Is(err, metadata.ErrLimit) {
				t.Errorf("a key: %v", err)
			}
		})
		all.Go(func() {
			err := f.try(ctx, func(tx *metadata.Tx) error {
				return tx.PutPrincipalPolicy(ctx, account, metadata.User, "ann", fmt.Sprint(i), large)
			})
			if err == nil {
				policies.Add(1)
			} else if !errors.Is(err, metadata.ErrLimit) {
				t.Errorf("a policy: %v", err)
			}
		})
	}
	all.Wait()
	if keys.Load() != 2 || policies.Load() != 2 {
		t.Errorf("%d keys and %d policies were added, want 2 and 2", keys.Load(), policies.Load())
	}
}

// TestDeletingAndMakingAgainDoNotWaitForEachOther: who makes a thing whose name another
// change is freeing waits for that one only.
func TestDeletingAndMakingAgainDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	provider := metadata.Provider{Account: account, URL: "oidc.example.com"}
	for what, change := range map[string]struct{ insert, remove func(*metadata.Tx) error }{
		"a user": {
			func(tx *metadata.Tx) error { return tx.InsertPrincipal(ctx, newUser(account, "again"), nil) },
			func(tx *metadata.Tx) error { return tx.DeletePrincipal(ctx, account, metadata.User, "again") },
		},
		"a managed policy": {
			func(tx *metadata.Tx) error { return tx.InsertManagedPolicy(ctx, newManagedPolicy(account, "again")) },
			func(tx *metadata.Tx) error { return tx.DeleteManagedPolicy(ctx, account, "again") },
		},
		"a provider": {
			func(tx *metadata.Tx) error { return tx.InsertProvider(ctx, provider) },
			func(tx *metadata.Tx) error { return tx.DeleteProvider(ctx, account, provider.URL) },
		},
	} {
		f.change(t, change.insert)
		var runs atomic.Int32
		var again sync.WaitGroup
		err := f.try(ctx, func(tx *metadata.Tx) error {
			if err := change.remove(tx); err != nil || runs.Add(1) > 1 {
				return err
			}
			again.Go(func() {
				err := f.try(ctx, func(tx *metadata.Tx) error {
					runs.Add(1)
					return change.insert(tx)
				})
				if err != nil {
					t.Errorf("make %s again: %v", what, err)
				}
			})
			time.Sleep(300 * time.Millisecond) // time to come to where it must wait
			return nil
		})
		again.Wait()
		if err != nil || runs.Load() != 2 {
			t.Errorf("%s: %v, %d transactions, want 2", what, err, runs.Load())
		}
	}
}
