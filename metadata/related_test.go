package metadata_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"kmsgate/metadata"
	"kmsgate/policy"
)

// relatedRegions are the regions of related keys, each with its key store.
var relatedRegions = map[string]string{region: keyStore, "eu-west-3": "third", "us-east-1": "first"}

// addRegions makes the regions of related keys.
func (f fixture) addRegions(t *testing.T) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		for name, store := range relatedRegions {
			err := errors.Join(
				tx.EnsureRegion(t.Context(), metadata.Region{Name: name, CreatedAt: noon}),
				tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
					ID: store, Region: name, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: noon,
				}))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// insertRelated adds related keys, the first of them the primary, and returns their id.
func (f fixture) insertRelated(ctx context.Context, regions ...string) (id string, err error) {
	id = "mrk-" + strings.ReplaceAll(uuid.NewString(), "-", "")
	return id, f.try(ctx, func(tx *metadata.Tx) error {
		for i, in := range regions {
			k, m := newKey(account)
			k.ID, k.Region, k.Store, k.MultiRegionRole = id, in, relatedRegions[in], metadata.Replica
			if i == 0 {
				k.MultiRegionRole = metadata.Primary
			}
			m.KeyID, m.Region, m.Store = k.ID, k.Region, k.Store
			if err := tx.InsertKey(ctx, k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestPrimaryMovesWithItsRotation: whoever is the primary key has the rotation, and
// every replica shows it.
func TestPrimaryMovesWithItsRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.addRegions(t)
	id, err := f.insertRelated(ctx, region, "us-east-1", "eu-west-3")
	if err != nil {
		t.Fatal(err)
	}
	next := noon.Add(90 * day)
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(tx.SetRotation(ctx, region, account, id, 90, &next), tx.RequestRotation(ctx, region, account, id, noon))
	})
	// A claim to rotate the primary key falls when it is not the primary any more.
	claim := claimOf(uuid.New(), noon)
	due, err := f.ClaimOnDemand(ctx, claim, slices.Collect(maps.Values(relatedRegions)), 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("ClaimOnDemand = %+v, %v, want the key", due, err)
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.MovePrimary(ctx, named(account, id), "us-east-1") })
	err = f.try(ctx, func(tx *metadata.Tx) error { return tx.RotateKey(ctx, claim, &due[0], nil, nil) })
	if !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("RotateKey of what was the primary key = %v, want ErrClaim", err)
	}
	want := metadata.Rotation{PeriodDays: 90, NextAt: &next, RequestedAt: &noon}
	for in, role := range map[string]metadata.MultiRegionRole{region: metadata.Replica, "us-east-1": metadata.Primary, "eu-west-3": metadata.Replica} {
		e, err := f.View().Key(ctx, in, id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, e.Rotation); e.MultiRegionRole != role || diff != "" {
			t.Errorf("in %s: %s with the rotation (-want +got):\n%s", in, e.MultiRegionRole, diff)
		}
	}
	err = f.try(ctx, func(tx *metadata.Tx) error { return tx.SetRotation(ctx, region, account, id, 0, nil) })
	if !errors.Is(err, metadata.ErrState) {
		t.Errorf("SetRotation of a replica = %v, want ErrState", err)
	}
	err = f.try(ctx, func(tx *metadata.Tx) error { return tx.MovePrimary(ctx, named(account, id), "us-east-1") })
	if !errors.Is(err, metadata.ErrState) {
		t.Errorf("MovePrimary of a replica = %v, want ErrState", err)
	}
	err = f.try(ctx, func(tx *metadata.Tx) error {
		return tx.MovePrimary(ctx, metadata.KeyName{Region: "us-east-1", Account: account, ID: id}, "ap-south-1")
	})
	if !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("MovePrimary to where no key is = %v, want ErrNotFound", err)
	}
}

// relative is what one of several related keys must be.
type relative struct {
	role   metadata.MultiRegionRole
	state  metadata.State
	due    time.Time // in state PendingDeletion
	window int32     // in both pending states
}

// relatives are related keys on their way and what they must be.
type relatives struct {
	f      fixture
	ctx    context.Context
	id     string
	holder uuid.UUID
	now    time.Time
	are    map[string]*relative // by region
	days   int32                // between rotations
	next   time.Time
	asked  bool // for a rotation on demand
}

// TestRandomWalksOfRelatedKeys takes related keys through random sequences of changes,
// on Postgres and in a model, and wants both to allow the same and to come to the same.
func TestRandomWalksOfRelatedKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addRegions(t)
	ctx := context.WithoutCancel(t.Context())
	holder := uuid.New()
	rapid.Check(t, func(rt *rapid.T) {
		regions := rapid.Permutation(slices.Sorted(maps.Keys(relatedRegions))).Draw(rt, "regions")
		regions = regions[:rapid.IntRange(1, len(regions)).Draw(rt, "keys")]
		id, err := f.insertRelated(ctx, regions...)
		if err != nil {
			rt.Fatal(err)
		}
		w := &relatives{f: f, ctx: ctx, id: id, holder: holder, now: noon, are: map[string]*relative{}}
		for i, in := range regions {
			w.are[in] = &relative{role: metadata.Replica, state: metadata.Enabled}
			if i == 0 {
				w.are[in].role = metadata.Primary
			}
		}
		at := func(what func(*rapid.T, string)) func(*rapid.T) {
			return func(rt *rapid.T) { what(rt, rapid.SampledFrom(regions).Draw(rt, "region")) }
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":         w.compare,
			"enable":   at(func(rt *rapid.T, in string) { w.set(rt, in, "enable", metadata.Enabling) }),
			"disable":  at(func(rt *rapid.T, in string) { w.set(rt, in, "disable", metadata.Disabling) }),
			"schedule": at(w.schedule),
			"cancel":   at(w.cancel),
			"move": at(func(rt *rapid.T, in string) {
				w.move(rt, in, rapid.SampledFrom(slices.Sorted(maps.Keys(relatedRegions))).Draw(rt, "to"))
			}),
			"finish": w.finish,
			"rotate": at(w.rotate),
			"ask":    at(w.ask),
			"wait":   func(rt *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "days")) * day) },
			"delete": w.delete,
		})
	})
}

func (w *relatives) name(in string) metadata.KeyName {
	return metadata.KeyName{Region: in, Account: account, ID: w.id}
}

// primary is the primary key.
func (w *relatives) primary() *relative {
	for _, r := range w.are {
		if r.role == metadata.Primary {
			return r
		}
	}
	return nil
}

// replicas counts those that are not deleted.
func (w *relatives) replicas() (n int) {
	for _, r := range w.are {
		if r.role == metadata.Replica && r.state != metadata.Deleted {
			n++
		}
	}
	return n
}

// did compares what became of a change with whether it is allowed.
func (w *relatives) did(rt *rapid.T, what, in string, err error, allowed bool) bool {
	if allowed != (err == nil) || !allowed && !errors.Is(err, metadata.ErrState) && !errors.Is(err, metadata.ErrNotFound) && !errors.Is(err, metadata.ErrExists) {
		rt.Fatalf("%s in %s: %+v: %v, allowed %t", what, in, *w.are[in], err, allowed)
	}
	return allowed
}

func (w *relatives) set(rt *rapid.T, in, what string, way metadata.Transition) {
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.SetKeyState(w.ctx, in, account, w.id, way) })
	to, allowed := leads[what][w.are[in].state]
	if w.did(rt, what, in, err, allowed) {
		w.are[in].state = to
	}
}

func (w *relatives) schedule(rt *rapid.T, in string) {
	window, r := rapid.Int32Range(7, 30).Draw(rt, "window"), w.are[in]
	due := w.now.Add(time.Duration(window) * day)
	var state metadata.State
	err := w.f.try(w.ctx, func(tx *metadata.Tx) (err error) {
		state, err = tx.ScheduleDeletion(w.ctx, w.name(in), due, window)
		return err
	})
	if !w.did(rt, "schedule", in, err, r.state == metadata.Enabled || r.state == metadata.Disabled) {
		return
	}
	*r = relative{role: r.role, state: metadata.PendingDeletion, due: due, window: window}
	if r.role == metadata.Primary && w.replicas() > 0 {
		r.state, r.due = metadata.PendingReplicaDeletion, time.Time{}
	}
	if state != r.state {
		rt.Fatalf("ScheduleDeletion says %s, want %s", state, r.state)
	}
}

func (w *relatives) cancel(rt *rapid.T, in string) {
	r := w.are[in]
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.CancelDeletion(w.ctx, w.name(in)) })
	if w.did(rt, "cancel", in, err, r.state == metadata.PendingDeletion || r.state == metadata.PendingReplicaDeletion) {
		*r = relative{role: r.role, state: metadata.Disabled}
	}
}

func (w *relatives) move(rt *rapid.T, in, to string) {
	from, into := w.are[in], w.are[to]
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.MovePrimary(w.ctx, w.name(in), to) })
	usable := func(r *relative) bool { return r.state == metadata.Enabled || r.state == metadata.Updating }
	allowed := from.role == metadata.Primary && usable(from) && in != to && into != nil && usable(into)
	if w.did(rt, "move to "+to, in, err, allowed) {
		*from, *into = relative{role: metadata.Replica, state: metadata.Updating}, relative{role: metadata.Primary, state: metadata.Updating}
	}
}

// finish does what the job does. The keys of earlier walks may be due as well.
func (w *relatives) finish(rt *rapid.T) {
	for _, k := range w.claimed(rt, metadata.DueMove) {
		claim := claimOf(w.holder, w.now)
		err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.FinishMove(w.ctx, k, claim) })
		if err != nil || w.are[k.Region].state != metadata.Updating {
			rt.Fatalf("FinishMove in %s: %+v: %v", k.Region, *w.are[k.Region], err)
		}
		w.are[k.Region].state = metadata.Enabled
	}
	for in, r := range w.are {
		if r.state == metadata.Updating {
			rt.Fatalf("the key in %s was not claimed", in)
		}
	}
}

// claimed claims this walk's keys that are due.
func (w *relatives) claimed(rt *rapid.T, due metadata.Due) []metadata.KeyName {
	stores := slices.Sorted(maps.Values(relatedRegions))
	keys, err := w.f.ClaimKeys(w.ctx, due, claimOf(w.holder, w.now), stores, 100_000)
	if err != nil {
		rt.Fatal(err)
	}
	keys = slices.DeleteFunc(keys, func(k metadata.KeyName) bool { return k.ID != w.id })
	slices.SortFunc(keys, func(a, b metadata.KeyName) int { return strings.Compare(a.Region, b.Region) })
	return keys
}

// rotatable tells whether the rotation of the key in a region can be changed.
func (w *relatives) rotatable(in string) bool {
	r := w.are[in]
	return r.role == metadata.Primary && (r.state == metadata.Enabled || r.state == metadata.Updating)
}

func (w *relatives) rotate(rt *rapid.T, in string) {
	days := rapid.Int32Range(90, 2560).Draw(rt, "days")
	next := w.now.Add(time.Duration(days) * day)
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.SetRotation(w.ctx, in, account, w.id, days, &next) })
	if w.did(rt, "set rotation", in, err, w.rotatable(in)) {
		w.days, w.next = days, next
	}
}

func (w *relatives) ask(rt *rapid.T, in string) {
	err := w.f.try(w.ctx, func(tx *metadata.Tx) error { return tx.RequestRotation(w.ctx, in, account, w.id, w.now) })
	if w.did(rt, "request rotation", in, err, w.rotatable(in) && !w.asked) {
		w.asked = true
	}
}

// delete does what the job does.
func (w *relatives) delete(rt *rapid.T) {
	for _, k := range w.claimed(rt, metadata.DueDeletion) {
		r := w.are[k.Region]
		if r.state != metadata.PendingDeletion || w.now.Before(r.due) {
			rt.Fatalf("claimed in %s: %+v, now %v", k.Region, *r, w.now)
		}
		var released metadata.KeyName
		err := w.f.try(w.ctx, func(tx *metadata.Tx) (err error) {
			if err = tx.BeginDeletion(w.ctx, k, claimOf(w.holder, w.now)); err == nil {
				released, _, err = tx.ReleasePrimary(w.ctx, k, w.now)
			}
			return err
		})
		if err != nil {
			rt.Fatal(err)
		}
		r.state = metadata.Deleted
		primary := w.primary()
		waits := primary.state == metadata.PendingReplicaDeletion && w.replicas() == 0
		if waits {
			primary.state, primary.due = metadata.PendingDeletion, w.now.Add(time.Duration(primary.window)*day)
		}
		if waits != (released != metadata.KeyName{}) || waits && w.are[released.Region] != primary {
			rt.Fatalf("ReleasePrimary = %v, want one: %t", released, waits)
		}
	}
	for in, r := range w.are {
		if r.state == metadata.PendingDeletion && !w.now.Before(r.due) {
			rt.Fatalf("the key in %s was not claimed: %+v", in, *r)
		}
	}
}

// compare holds Postgres against the model.
func (w *relatives) compare(rt *rapid.T) {
	var related []metadata.Relative
	for _, in := range slices.Sorted(maps.Keys(w.are)) {
		if r := w.are[in]; r.state != metadata.Deleted {
			related = append(related, metadata.Relative{Region: in, Role: r.role, State: r.state, Store: relatedRegions[in]})
		}
	}
	for in, r := range w.are {
		e, err := w.f.View().Key(w.ctx, in, w.id)
		if r.state == metadata.Deleted {
			if !errors.Is(err, metadata.ErrNotFound) {
				rt.Fatalf("Key of a deleted key = %v, want ErrNotFound", err)
			}
			continue
		}
		if err != nil {
			rt.Fatal(err)
		}
		got := relative{role: e.MultiRegionRole, state: e.State, window: e.DeletionWindow}
		if e.DeletionAt != nil {
			got.due = e.DeletionAt.In(r.due.Location())
		}
		if got != *r {
			rt.Fatalf("in %s: %+v, want %+v", in, got, *r)
		}
		if diff := cmp.Diff(related, e.Related); diff != "" {
			rt.Fatalf("in %s: related keys (-want +got):\n%s", in, diff)
		}
		if e.Rotation.PeriodDays != w.days || (e.Rotation.NextAt != nil) != (w.days > 0) || (e.Rotation.RequestedAt != nil) != w.asked {
			rt.Fatalf("in %s: the rotation %+v, want every %d days, asked for %t", in, e.Rotation, w.days, w.asked)
		}
		if w.days > 0 && !e.Rotation.NextAt.Equal(w.next) {
			rt.Fatalf("in %s: the next rotation %v, want %v", in, e.Rotation.NextAt, w.next)
		}
	}
}

// TestPrimaryWaitsForTheLastReplica deletes replicas one after the other.
func TestPrimaryWaitsForTheLastReplica(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addRegions(t)
	id, err := f.insertRelated(t.Context(), region, "us-east-1", "eu-west-3")
	if err != nil {
		t.Fatal(err)
	}
	w := &relatives{f: f, ctx: t.Context(), id: id}
	for _, in := range []string{region, "us-east-1", "eu-west-3"} {
		f.change(t, func(tx *metadata.Tx) error {
			_, err := tx.ScheduleDeletion(t.Context(), w.name(in), noon.Add(7*day), 7)
			return err
		})
	}
	claim := claimOf(uuid.New(), noon.Add(7*day))
	due, err := f.ClaimKeys(t.Context(), metadata.DueDeletion, claim, slices.Sorted(maps.Values(relatedRegions)), 10)
	if err != nil || len(due) != 2 {
		t.Fatalf("claimed %v, %v, want the replicas", due, err)
	}
	for i, k := range due {
		var released metadata.KeyName
		var at time.Time
		f.change(t, func(tx *metadata.Tx) (err error) {
			if err = tx.BeginDeletion(t.Context(), k, claim); err == nil {
				released, at, err = tx.ReleasePrimary(t.Context(), k, claim.Now)
			}
			return err
		})
		last := i == len(due)-1
		if last != (released == w.name(region)) || last != at.Equal(noon.Add(14*day)) {
			t.Errorf("after replica %d: released %v at %v, want the primary key after the last, a week later", i+1, released, at)
		}
	}
}
