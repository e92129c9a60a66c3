package reconcile

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// The region of replicas, and its key store.
const (
	otherRegion = "eu-west-1"
	otherStore  = "other"
)

// relatedKeys makes a primary key and its replica.
func (f *fixture) relatedKeys(t *testing.T) (primary, replica metadata.KeyName) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(
			tx.EnsureRegion(t.Context(), metadata.Region{Name: otherRegion, CreatedAt: noon}),
			tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
				ID: otherStore, Region: otherRegion, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: noon,
			}))
	})
	id := "mrk-" + strings.ReplaceAll(uuid.NewString(), "-", "")
	primary = f.createKey(t, func(k *metadata.Key) { k.ID, k.MultiRegionRole = id, metadata.Primary })
	replica = f.createKey(t, func(k *metadata.Key) {
		k.Region, k.Store, k.ID, k.MultiRegionRole = otherRegion, otherStore, id, metadata.Replica
	})
	return primary, replica
}

// move makes the replica the primary key.
func (f *fixture) move(t *testing.T, primary, replica metadata.KeyName) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error { return tx.MovePrimary(t.Context(), primary, replica.Region) })
}

// wantState wants a key to be in a state.
func (f *fixture) wantState(t *testing.T, k metadata.KeyName, role metadata.MultiRegionRole, want metadata.State) {
	t.Helper()
	if e := f.key(t, k); e.State != want || e.MultiRegionRole != role {
		t.Errorf("in %s the %s is %s, want the %s to be %s", k.Region, e.MultiRegionRole, e.State, role, want)
	}
}

// finishes runs the job and wants it to finish the moves of so many keys.
func finishes(t *testing.T, r *Reconciler, at time.Time, want int) {
	t.Helper()
	if done, err := r.FinishMoves(t.Context(), at); err != nil || done != want {
		t.Errorf("FinishMoves at %v = %d, %v, want %d", at, done, err, want)
	}
}

// TestMovesAreFinishedAfterACrash ends the process after each step: both keys are used
// all the time, and managed again when another instance has seen to each.
func TestMovesAreFinishedAfterACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	primary, replica := f.relatedKeys(t)
	f.move(t, primary, replica)
	f.wantState(t, primary, metadata.Replica, metadata.Updating)
	f.wantState(t, replica, metadata.Primary, metadata.Updating)
	f.encrypts(t, primary)

	here := f.process(t, nil)
	finishes(t, here, noon, 1) // of the other key another process has the token
	f.wantState(t, primary, metadata.Replica, metadata.Enabled)
	f.wantState(t, replica, metadata.Primary, metadata.Updating)
	there, after := f.process(t, nil), f.process(t, nil)
	for _, r := range []*Reconciler{there, after} {
		r.Tokens = map[string]hsm.Token{otherStore: f.token}
	}
	due, err := there.Store.ClaimKeys(t.Context(), metadata.DueMove, there.claim(noon), there.stores(), atOnce)
	if err != nil || len(due) != 1 {
		t.Fatalf("claimed %v, %v, want the primary key", due, err)
	}
	finishes(t, after, noon.Add(claimFor-time.Second), 0) // it was claimed by one that died
	finishes(t, after, noon.Add(claimFor), 1)
	f.wantState(t, replica, metadata.Primary, metadata.Enabled)
	err = f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), tx.FinishMove(t.Context(), replica, there.claim(noon))
	})
	if !errors.Is(err, metadata.ErrClaim) {
		t.Errorf("FinishMove of one that was thought dead = %v, want ErrClaim", err)
	}
	finishes(t, after, noon.Add(2*claimFor), 0)
	if events := f.events(t, primaryMoved); len(events) != 2 {
		t.Errorf("the records are %+v, want one for each key", events)
	}
	// While the job has one of them, it moves back: the job begins again.
	f.move(t, replica, primary)
	if due, err = here.Store.ClaimKeys(t.Context(), metadata.DueMove, here.claim(noon), here.stores(), atOnce); err != nil || len(due) != 1 {
		t.Fatalf("claimed %v, %v, want the primary key", due, err)
	}
	f.move(t, primary, replica)
	finishes(t, here, noon, 1)
	f.wantState(t, primary, metadata.Replica, metadata.Enabled)
}

// TestPrimaryWaitsForItsReplicas: its window begins when the last replica is deleted,
// and not when its deletion is cancelled or only scheduled.
func TestPrimaryWaitsForItsReplicas(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	primary, replica := f.relatedKeys(t)
	r := f.process(t, nil)
	r.Tokens[otherStore] = f.token
	f.schedule(t, primary, 10)
	f.wantState(t, primary, metadata.Primary, metadata.PendingReplicaDeletion)
	deletes(t, r, noon.AddDate(5, 0, 0), 0)
	f.schedule(t, replica, 7)
	deletes(t, r, noon.Add(7*day-time.Second), 0)
	if e := f.key(t, primary); e.DeletionAt != nil || e.DeletionWindow != 10 {
		t.Errorf("it is deleted at %v, %d days after its replica; want 10 days after", e.DeletionAt, e.DeletionWindow)
	}
	// The process dies when the replica is gone for its callers: the window has begun.
	died := f.process(t, nil)
	died.Tokens = map[string]hsm.Token{otherStore: f.token}
	claim := died.claim(noon.Add(8 * day))
	if due, err := died.Store.ClaimKeys(t.Context(), metadata.DueDeletion, claim, died.stores(), atOnce); err != nil || len(due) != 1 {
		t.Fatalf("claimed %v, %v, want the replica", due, err)
	}
	if err := died.beginDeletion(t.Context(), replica, claim); err != nil {
		t.Fatal(err)
	}
	f.wantState(t, primary, metadata.Primary, metadata.PendingDeletion)
	if e := f.key(t, primary); !e.DeletionAt.Equal(noon.Add(18 * day)) {
		t.Errorf("it is deleted at %v, want 10 days after its replica", e.DeletionAt)
	}
	if events := f.events(t, windowBegun); len(events) != 1 || events[0].ServiceEventDetails["keyId"] != primary.ID {
		t.Errorf("the records of the window are %+v, want one", events)
	}
	deletes(t, r, claim.Until, 1)
	f.wantDeleted(t, replica)
	deletes(t, r, noon.Add(18*day), 1)
	f.wantInToken(t, primary, false)
	if _, err := f.store.DeletedKey(t.Context(), primary); err != nil {
		t.Errorf("DeletedKey of the primary key = %v", err)
	}
}
