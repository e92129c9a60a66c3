package metadata_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/policy"
)

const day = 24 * time.Hour

func named(owner, id string) metadata.KeyName {
	return metadata.KeyName{Region: region, Account: owner, ID: id}
}

// claimOf is a claim of five minutes.
func claimOf(holder uuid.UUID, now time.Time) metadata.Claim {
	return metadata.Claim{Holder: holder, Now: now, Until: now.Add(5 * time.Minute)}
}

// schedule has a key be deleted in a week.
func (f fixture) schedule(t *testing.T, id string) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		_, err := tx.ScheduleDeletion(t.Context(), named(account, id), noon.Add(7*day), 7)
		return err
	})
}

// claims claims keys and returns their ids.
func claims(t *testing.T, s *metadata.Store, due metadata.Due, c metadata.Claim, limit int) (ids []string) {
	t.Helper()
	keys, err := s.ClaimKeys(t.Context(), due, c, []string{keyStore}, limit)
	if err != nil {
		t.Fatalf("ClaimKeys: %v", err)
	}
	for _, k := range keys {
		if k.Region != region || k.Account != account {
			t.Errorf("ClaimKeys returned %+v, want a key of %s", k, account)
		}
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestDueKeysAreClaimedOnceAtATime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	var ids []string
	for range 3 {
		id := f.insertKey(t, account)
		f.schedule(t, id)
		ids = append(ids, id)
	}
	f.insertKey(t, account) // that nobody deletes
	slices.Sort(ids)
	due := noon.Add(7 * day)
	first, second := uuid.New(), uuid.New()
	if got := claims(t, f.Store, metadata.DueDeletion, claimOf(first, due.Add(-time.Second)), 10); got != nil {
		t.Errorf("before the time: claimed %v, want none", got)
	}
	if got, err := f.ClaimKeys(t.Context(), metadata.DueDeletion, claimOf(first, due), []string{"another"}, 10); err != nil || len(got) != 0 {
		t.Errorf("of another store: claimed %v, %v, want none", got, err)
	}
	some := claims(t, f.Store, metadata.DueDeletion, claimOf(first, due), 2)
	rest := claims(t, other, metadata.DueDeletion, claimOf(second, due), 10)
	all := slices.Sorted(slices.Values(slices.Concat(some, rest)))
	if len(some) != 2 || len(rest) != 1 || !slices.Equal(all, ids) {
		t.Errorf("claimed %v and %v, want all of %v once", some, rest, ids)
	}
	if got := claims(t, other, metadata.DueDeletion, claimOf(second, due.Add(5*time.Minute-time.Second)), 10); got != nil {
		t.Errorf("while the claims stand: claimed %v, want none", got)
	}
	if got := claims(t, other, metadata.DueDeletion, claimOf(second, due.Add(5*time.Minute)), 10); !slices.Equal(got, ids) {
		t.Errorf("when the claims have run out: claimed %v, want %v", got, ids)
	}
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.BeginDeletion(t.Context(), named(account, some[0]), claimOf(first, due))
	})
	if !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("BeginDeletion under a claim that another has taken = %v, want ErrClaim", err)
	}
	key(t, f.Store, some[0]) // is there still
}

func TestCancelledKeyIsNotDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.schedule(t, id)
	if got := key(t, f.Store, id); got.State != metadata.PendingDeletion || got.DeletionAt == nil || !got.DeletionAt.Equal(noon.Add(7*day)) {
		t.Errorf("State, DeletionAt = %s, %v, want PendingDeletion in a week", got.State, got.DeletionAt)
	}
	claim := claimOf(uuid.New(), noon.Add(7*day))
	if got := claims(t, f.Store, metadata.DueDeletion, claim, 1); !slices.Equal(got, []string{id}) {
		t.Fatalf("claimed %v, want %s", got, id)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.CancelDeletion(t.Context(), named(account, id)) })
	err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.BeginDeletion(t.Context(), named(account, id), claim) })
	if !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("BeginDeletion after CancelDeletion = %v, want ErrClaim", err)
	}
	// Scheduled anew, the old claim is worth nothing, due or not.
	f.schedule(t, id)
	err = f.try(t.Context(), func(tx *metadata.Tx) error { return tx.BeginDeletion(t.Context(), named(account, id), claim) })
	if !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("BeginDeletion after it was scheduled anew = %v, want ErrClaim", err)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.CancelDeletion(t.Context(), named(account, id)) })
	if got := key(t, f.Store, id); got.State != metadata.Disabled || got.DeletionAt != nil {
		t.Errorf("State, DeletionAt = %s, %v, want Disabled and none", got.State, got.DeletionAt)
	}
}

// TestDeletedKeyIsGone deletes a key with all that hangs on it, on one instance, and
// asks another for it.
func TestDeletedKeyIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	other := f.database.Open(t, nil)
	id, kept := f.insertKey(t, account, metadata.Tag{Key: "k", Value: "v"}), f.insertKey(t, account, metadata.Tag{Key: "k", Value: "v"})
	f.insertAlias(t, account, "alias/gone", id)
	f.insertAlias(t, account, "alias/kept", kept)
	for _, k := range []string{id, kept} {
		f.change(t, func(tx *metadata.Tx) error {
			_, err := tx.InsertGrant(ctx, metadata.Grant{
				Account: account, Region: region, KeyID: k, ID: strings.Repeat("a", 28) + strings.ReplaceAll(k, "-", "") + "bbbb", Grantee: "arn:aws:iam::" + account + ":root",
				IssuingAccount: account, Operations: []string{"Decrypt"}, CreatedAt: noon,
			}, [32]byte{1}, 10)
			return err
		})
	}
	eventually(t, "the other's lease", other.Leased)
	material := key(t, other, id).Materials[0].MaterialID
	f.schedule(t, id)
	claim := claimOf(uuid.New(), noon.Add(7*day))
	claims(t, f.Store, metadata.DueDeletion, claim, 1)
	f.change(t, func(tx *metadata.Tx) error { return tx.BeginDeletion(ctx, named(account, id), claim) })

	gone := func(s *metadata.Store) bool {
		_, keyErr := s.View().Key(ctx, region, id)
		_, aliasErr := s.View().Alias(ctx, account, region, "alias/gone")
		return errors.Is(keyErr, metadata.ErrNotFound) && errors.Is(aliasErr, metadata.ErrNotFound)
	}
	if !gone(f.Store) {
		t.Error("the key or its alias is there on the instance that deleted it")
	}
	eventually(t, "they are gone on another instance", func() bool { return gone(other) })
	if aliases, err := f.ListAliases(ctx, account, region, "", "", 10); err != nil || len(aliases) != 1 || aliases[0].KeyID != kept {
		t.Errorf("ListAliases = %+v, %v, want the other key's", aliases, err)
	}
	if grants, err := f.ListGrants(ctx, region, account, id, "", 10); err != nil || len(grants) != 0 {
		t.Errorf("ListGrants = %d, %v, want none", len(grants), err)
	}
	f.wantKeys(t, account, region, 1)
	if ids, err := f.ListKeys(ctx, account, region, "", 10); err != nil || !slices.Equal(ids, []string{kept}) {
		t.Errorf("ListKeys = %v, %v, want %s", ids, err, kept)
	}
	for name, change := range map[string]func(*metadata.Tx) error{
		"CancelDeletion": func(tx *metadata.Tx) error { return tx.CancelDeletion(ctx, named(account, id)) },
		"Enabling":       func(tx *metadata.Tx) error { return tx.SetKeyState(ctx, region, account, id, metadata.Enabling) },
	} {
		if err := f.try(ctx, change); !errors.Is(err, metadata.ErrState) {
			t.Errorf("%s of a deleted key = %v, want ErrState", name, err)
		}
	}
	f.wantErased(t, id, material, claim)
	if got := key(t, f.Store, kept); len(got.Tags) != 1 || len(got.Materials) != 1 || len(got.Materials[0].Blob) == 0 {
		t.Errorf("the other key is %+v, want it as it was", got)
	}
}

// wantErased finishes a deletion and wants nothing of the material to be left.
func (f fixture) wantErased(t *testing.T, id string, material hsm.MaterialID, claim metadata.Claim) {
	t.Helper()
	finish := func(c metadata.Claim, ids ...hsm.MaterialID) error {
		return f.try(t.Context(), func(tx *metadata.Tx) error { return tx.FinishDeletion(t.Context(), named(account, id), c, ids) })
	}
	if err := finish(claimOf(uuid.New(), claim.Now), material); !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("FinishDeletion under another's claim = %v, want ErrClaim", err)
	}
	if err := finish(claim); err == nil {
		t.Error("FinishDeletion that leaves a material = nil, want an error")
	}
	deleted, err := f.DeletedKey(t.Context(), named(account, id))
	if err != nil || len(deleted.Materials) != 1 || len(deleted.Materials[0].Blob) == 0 {
		t.Fatalf("DeletedKey = %+v, %v, want it with its material", deleted, err)
	}
	if err := finish(claim, material); err != nil {
		t.Fatalf("FinishDeletion: %v", err)
	}
	deleted, err = f.DeletedKey(t.Context(), named(account, id))
	if err != nil || len(deleted.Materials) != 1 {
		t.Fatalf("DeletedKey = %+v, %v, want its material's row", deleted, err)
	}
	if m := deleted.Materials[0]; m.Residency != hsm.Absent || m.Blob != nil || m.CheckValue != nil || m.Binding != nil || m.MaterialID != material {
		t.Errorf("the material is %+v, want nothing but its id", m)
	}
	if got := claims(t, f.Store, metadata.UnfinishedDeletion, claimOf(uuid.New(), claim.Until), 10); got != nil {
		t.Errorf("claimed %v, want nothing left to do", got)
	}
	if err := finish(claim, material); !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("FinishDeletion again = %v, want ErrClaim", err)
	}
	// The id is not used again.
	k, m := newKey(account)
	k.ID, m.KeyID = id, id
	err = f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
	})
	if !errors.Is(err, metadata.ErrExists) {
		t.Errorf("InsertKey with the id of a deleted key = %v, want ErrExists", err)
	}
}

// model is what a key is after a walk, by section "Key states" alone.
type model struct {
	state metadata.State
	due   time.Time // in state PendingDeletion
}

// TestRandomWalksOfStates takes keys through random sequences of changes, on Postgres
// and in a model, and wants both to allow the same and to come to the same.
func TestRandomWalksOfStates(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := context.WithoutCancel(t.Context())
	holder := uuid.New()
	rapid.Check(t, func(rt *rapid.T) {
		k, m := newKey(account)
		err := f.try(ctx, func(tx *metadata.Tx) error {
			return tx.InsertKey(ctx, k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
		})
		if err != nil {
			rt.Fatal(err)
		}
		w := &walk{f: f, ctx: ctx, name: named(account, k.ID), holder: holder, now: noon, is: model{state: metadata.Enabled}}
		rt.Repeat(map[string]func(*rapid.T){
			"":        w.compare,
			"enable":  func(rt *rapid.T) { w.set(rt, "enable", metadata.Enabling) },
			"disable": func(rt *rapid.T) { w.set(rt, "disable", metadata.Disabling) },
			"lose":    func(rt *rapid.T) { w.set(rt, "lose", metadata.Losing) },
			"recover": func(rt *rapid.T) { w.set(rt, "recover", metadata.Recovering) },
			"schedule": func(rt *rapid.T) {
				w.schedule(rt, rapid.Int32Range(7, 30).Draw(rt, "window"))
			},
			"cancel": w.cancel,
			"wait":   func(rt *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "days")) * day) },
			"delete": w.delete,
		})
	})
}

// walk is a key on its way and what it must be.
type walk struct {
	f      fixture
	ctx    context.Context
	name   metadata.KeyName
	holder uuid.UUID
	now    time.Time
	is     model
}

// leads is where each change leads from each state; where it leads nowhere it is refused.
var leads = map[string]map[metadata.State]metadata.State{
	"enable":   {"Enabled": "Enabled", "Disabled": "Enabled", "Unavailable": "Enabled"},
	"disable":  {"Enabled": "Disabled", "Disabled": "Disabled", "Unavailable": "Disabled"},
	"lose":     {"Enabled": "Unavailable"},
	"recover":  {"Unavailable": "Enabled"},
	"schedule": {"Enabled": "PendingDeletion", "Disabled": "PendingDeletion", "Unavailable": "PendingDeletion"},
	"cancel":   {"PendingDeletion": "Disabled"},
}

// did compares what became of a change with where it leads.
func (w *walk) did(rt *rapid.T, what string, err error) bool {
	to, allowed := leads[what][w.is.state]
	if allowed != (err == nil) || !allowed && !errors.Is(err, metadata.ErrState) {
		rt.Fatalf("%s in state %s = %v, allowed %t", what, w.is.state, err, allowed)
	}
	if allowed {
		w.is.state = to
	}
	return allowed
}

func (w *walk) set(rt *rapid.T, what string, way metadata.Transition) {
	w.did(rt, what, w.f.try(w.ctx, func(tx *metadata.Tx) error {
		return tx.SetKeyState(w.ctx, w.name.Region, w.name.Account, w.name.ID, way)
	}))
}

func (w *walk) schedule(rt *rapid.T, window int32) {
	at := w.now.Add(time.Duration(window) * day)
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error {
		_, err := tx.ScheduleDeletion(w.ctx, w.name, at, window)
		return err
	})
	if w.did(rt, "schedule", err) {
		w.is.due = at
	}
}

func (w *walk) cancel(rt *rapid.T) {
	w.did(rt, "cancel", w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.CancelDeletion(w.ctx, w.name) }))
}

// delete does what the job does. The keys of earlier walks may be due as well.
func (w *walk) delete(rt *rapid.T) {
	claim := claimOf(w.holder, w.now)
	claim.Until = w.now.Add(time.Microsecond) // the next step is another process
	due, err := w.f.ClaimKeys(w.ctx, metadata.DueDeletion, claim, []string{keyStore}, 1000)
	if err != nil {
		rt.Fatal(err)
	}
	isDue := w.is.state == metadata.PendingDeletion && !w.now.Before(w.is.due)
	if got := slices.Contains(due, w.name); got != isDue {
		rt.Fatalf("claimed %t in state %s, due %v, now %v", got, w.is.state, w.is.due, w.now)
	}
	claim.Until = w.now.Add(time.Minute)
	err = w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.BeginDeletion(w.ctx, w.name, claim) })
	if isDue != (err == nil) || !isDue && !errors.Is(err, metadata.ErrClaim) {
		rt.Fatalf("BeginDeletion in state %s, due %t = %v", w.is.state, isDue, err)
	}
	if isDue {
		w.is.state = metadata.Deleted
	}
}

// compare holds Postgres against the model.
func (w *walk) compare(rt *rapid.T) {
	e, err := w.f.View().Key(w.ctx, w.name.Region, w.name.ID)
	if w.is.state == metadata.Deleted {
		if !errors.Is(err, metadata.ErrNotFound) {
			rt.Fatalf("Key of a deleted key = %v, want ErrNotFound", err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	if e.State != w.is.state || (e.DeletionAt != nil) != (w.is.state == metadata.PendingDeletion) {
		rt.Fatalf("State %s, DeletionAt %v, want %s", e.State, e.DeletionAt, w.is.state)
	}
	if e.DeletionAt != nil && !e.DeletionAt.Equal(w.is.due) {
		rt.Fatalf("DeletionAt %v, want %v", e.DeletionAt, w.is.due)
	}
}
