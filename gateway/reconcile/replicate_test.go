package reconcile

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// primary makes a primary key that is rotated every so many days; zero for never.
func (f *fixture) primary(t *testing.T, days int32) metadata.KeyName {
	t.Helper()
	return f.createKey(t, func(k *metadata.Key) {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		k.ID, k.MultiRegionRole = "mrk-"+hex.EncodeToString(id[:]), metadata.Primary
		if days > 0 {
			k.Rotation.PeriodDays = days
			k.Rotation.NextAt = new(k.Rotation.Next(noon))
		}
	})
}

// replica makes a replica of a key, which lacks its materials.
func (f *fixture) replica(t *testing.T, primary metadata.KeyName) metadata.KeyName {
	t.Helper()
	k := f.key(t, primary).Key
	k.Region, k.Store, k.CreatedAt = farRegion, farStore, noon
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertReplica(t.Context(), primary, k, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(k.Account)}, nil)
	})
	return k.Name()
}

func mustReplicate(t *testing.T, r *Reconciler, now time.Time, want int) {
	t.Helper()
	if done, err := r.Replicate(t.Context(), now); err != nil || done != want {
		t.Errorf("Replicate at %v = %d, %v; want %d", now, done, err, want)
	}
}

// wantKey checks a key's state, and how many materials it has.
func (f *fixture) wantKey(t *testing.T, k metadata.KeyName, state metadata.State, materials int) {
	t.Helper()
	if got := f.key(t, k); got.State != state || len(got.Materials) != materials {
		t.Errorf("the key in %s is %s and has %d materials, want %s and %d", k.Region, got.State, len(got.Materials), state, materials)
	}
}

// TestReplicasHaveAllMaterials of their primary key's, as they are there.
func TestReplicasHaveAllMaterials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	k := f.primary(t, 90)
	sealed := map[hsm.MaterialID]hsm.Ciphertext{}
	for n := range 3 {
		id, c := f.sealed(t, k)
		sealed[id] = c
		mustRotate(t, r, noon.Add(time.Duration(n+1)*90*day), 1)
	}
	replica := f.replica(t, k)
	f.wantKey(t, replica, metadata.Creating, 0)
	mustReplicate(t, r, noon, 1)
	mustReplicate(t, r, noon, 0)
	f.wantKey(t, replica, metadata.Enabled, 4)
	for id, c := range sealed {
		f.wantOpens(t, replica, id, c)
	}
	copied := f.key(t, replica).Materials
	for i, m := range f.key(t, k).Materials {
		c := copied[i]
		if c.MaterialID != m.MaterialID || c.Current != m.Current || !c.CreatedAt.Equal(m.CreatedAt) || c.RotationType != m.RotationType ||
			(c.RotatedAt == nil) != (m.RotatedAt == nil) || c.RotatedAt != nil && !c.RotatedAt.Equal(*m.RotatedAt) || c.Store != farStore {
			t.Errorf("copy %d is %+v of %+v", i, c, m)
		}
	}
	if events := f.events(t, "SynchronizeMultiRegionKey"); len(events) != 1 || events[0].EventType != "AwsApiCall" {
		t.Errorf("the records are %v, want one", events)
	}
}

// courier is the real token, beside which something happens after it has sent a key or
// received one.
type courier struct {
	hsm.Token
	sent, received func() error
}

func (c *courier) Send(ctx context.Context, on hsm.Call, k, to *hsm.Key) ([]byte, error) {
	parcel, err := c.Token.Send(ctx, on, k, to)
	if err == nil && c.sent != nil {
		err = c.sent()
	}
	return parcel, err
}

func (c *courier) Receive(ctx context.Context, on hsm.Call, through *hsm.Key, parcel []byte, k hsm.Key) (hsm.Key, error) {
	got, err := c.Token.Receive(ctx, on, through, parcel, k)
	if err == nil && c.received != nil {
		err = c.received()
	}
	return got, err
}

// crashes are the steps at which a process dies that brings a material to another
// token.
func (f *fixture) crashes(die func() error) map[string]*courier {
	return map[string]*courier{"sent": {Token: f.token, sent: die}, "received": {Token: f.token, received: die}}
}

// TestReplicationSurvivesACrash at each of its steps: nothing half-made is in service,
// and another instance does it once the claim has run out.
func TestReplicationSurvivesACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	crash := func(t *testing.T, name string, token hsm.Token, ctx context.Context, due time.Time) {
		t.Helper()
		k := f.primary(t, 0)
		replica := f.replica(t, k)
		dying := f.process(t, token)
		if done, err := dying.Replicate(ctx, noon); err == nil || done != 0 {
			t.Errorf("%s: Replicate = %d, %v; want it to be cut off", name, done, err)
		}
		f.wantKey(t, replica, metadata.Creating, 0)
		r, _ := f.instance(t)
		mustReplicate(t, r, due.Add(-time.Second), 0)
		mustReplicate(t, r, due, 1)
		f.wantKey(t, replica, metadata.Enabled, 1)
		id, c := f.sealed(t, k)
		f.wantOpens(t, replica, id, c)
	}
	for _, name := range []string{"sent", "received"} {
		ctx, die := context.WithCancel(t.Context())
		crash(t, name, f.crashes(func() error { die(); return nil })[name], ctx, noon.Add(claimFor))
		crash(t, name+", and failed", f.crashes(func() error { return hsm.ErrUnavailable })[name], t.Context(), noon.Add(soonest))
	}
	// Claimed, and nothing else.
	replica := f.replica(t, f.primary(t, 0))
	r, _ := f.instance(t)
	if due, err := r.Store.ClaimKeys(t.Context(), metadata.DueReplication, r.claim(noon), r.stores(), 10); err != nil || len(due) != 1 {
		t.Fatalf("due are %v, %v; want the replica", due, err)
	}
	other, _ := f.instance(t)
	mustReplicate(t, other, noon, 0)
	mustReplicate(t, other, noon.Add(claimFor), 1)
	f.wantKey(t, replica, metadata.Enabled, 1)
}

// TestReplicasThatFailAreTriedAgain, ever later, by any instance.
func TestReplicasThatFailAreTriedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	replica := f.replica(t, f.primary(t, 0))
	r := f.process(t, f.crashes(func() error { return hsm.ErrUnavailable })["sent"])
	other, _ := f.instance(t)
	now := noon
	for _, wait := range []time.Duration{5, 5, 10, 20, 40, 80, 160, 300, 300} {
		if done, err := r.Replicate(t.Context(), now); !errors.Is(err, hsm.ErrUnavailable) || done != 0 {
			t.Errorf("Replicate %v after it was asked for = %d, %v; want the token's error", now.Sub(noon), done, err)
		}
		now = now.Add(wait * time.Second)
		mustReplicate(t, other, now.Add(-time.Second), 0)
	}
	mustReplicate(t, other, now, 1)
	f.wantKey(t, replica, metadata.Enabled, 1)
}

// TestWhoComesTooLateReplicatesNothing: another has done it meanwhile, or nobody wants
// it any more.
func TestWhoComesTooLateReplicatesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, _ := f.instance(t)
	first := f.replica(t, f.primary(t, 0))
	late := f.process(t, &courier{Token: f.token, received: func() error {
		mustReplicate(t, other, noon.Add(claimFor), 1)
		return nil
	}})
	mustReplicate(t, late, noon, 0)
	f.wantKey(t, first, metadata.Enabled, 1)

	second := f.replica(t, f.primary(t, 0))
	late.Tokens[farStore] = &courier{Token: f.token, received: func() error {
		f.schedule(t, second, 7)
		return nil
	}}
	mustReplicate(t, late, noon, 0)
	f.wantKey(t, second, metadata.PendingDeletion, 0)
	// What was never there is waited for again.
	f.change(t, func(tx *metadata.Tx) error { return tx.CancelDeletion(t.Context(), second) })
	f.wantKey(t, second, metadata.Creating, 0)
	mustReplicate(t, other, noon, 1)
	f.wantKey(t, second, metadata.Enabled, 1)
	f.schedule(t, second, 7)
	f.change(t, func(tx *metadata.Tx) error { return tx.CancelDeletion(t.Context(), second) })
	f.wantKey(t, second, metadata.Disabled, 1)
}

// TestInstancesShareTheReplicas: each is made once, by an instance that has both tokens.
func TestInstancesShareTheReplicas(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const keys = 40
	for range keys {
		f.replica(t, f.primary(t, 0))
	}
	for _, store := range []string{testStore, farStore} {
		r, _ := f.instance(t)
		r.Tokens = map[string]hsm.Token{store: f.token}
		mustReplicate(t, r, noon, 0)
	}
	var working sync.WaitGroup
	done := make(chan int, 100)
	for range 2 {
		r, _ := f.instance(t)
		working.Go(func() {
			for {
				n, err := r.Replicate(t.Context(), noon)
				if err != nil {
					t.Error(err)
				}
				if done <- n; n == 0 {
					return
				}
			}
		})
	}
	working.Wait()
	close(done)
	total := 0
	for n := range done {
		total += n
	}
	if events := f.events(t, "SynchronizeMultiRegionKey"); total != keys || len(events) != keys {
		t.Errorf("%d replicas made, %d records; want %d", total, len(events), keys)
	}
}

// TestReplicasRotateWithTheirPrimaryKey: in one transaction, whatever their states, and
// never by themselves.
func TestReplicasRotateWithTheirPrimaryKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	k := f.primary(t, 90)
	replica := f.replica(t, k)
	at := noon.Add(90 * day)
	mustRotate(t, r, at, 0) // the replica lacks its material
	f.wantKey(t, k, metadata.Enabled, 1)
	mustReplicate(t, r, at, 1)
	alone, _ := f.instance(t)
	alone.Tokens = map[string]hsm.Token{testStore: f.token}
	mustRotate(t, alone, at, 0)

	f.rotatesTogether(t, r, k, replica, at)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetKeyState(t.Context(), replica.Region, replica.Account, replica.ID, metadata.Disabling)
	})
	f.rotatesTogether(t, r, k, replica, at.Add(90*day))
	f.schedule(t, replica, 7)
	f.rotatesTogether(t, r, k, replica, at.Add(180*day))
	if events := f.events(t, "SynchronizeMultiRegionKey"); len(events) != 4 {
		t.Errorf("%d records of copies, want 4", len(events))
	}
	if events := f.events(t, "RotateKey"); len(events) != 3 {
		t.Errorf("%d records of rotations, want 3", len(events))
	}
}

// rotatesTogether rotates a key, and wants its replica to have the same materials.
func (f *fixture) rotatesTogether(t *testing.T, r *Reconciler, k, replica metadata.KeyName, at time.Time) {
	t.Helper()
	mustRotate(t, r, at, 1)
	mustRotate(t, r, at, 0)
	here, there := f.key(t, k), f.key(t, replica)
	if len(here.Materials) != len(there.Materials) || here.Current().MaterialID != there.Current().MaterialID || there.Current().RotatedAt == nil {
		t.Errorf("%d materials here, %d there, the current ones %s and %s", len(here.Materials), len(there.Materials),
			here.Current().MaterialID, there.Current().MaterialID)
	}
	id, c := f.sealed(t, replica)
	f.wantOpens(t, k, id, c)
	id, c = f.sealed(t, k)
	f.wantOpens(t, replica, id, c)
}

// TestRotationOfReplicasSurvivesACrash: until all have the new material, all encrypt
// with the old one.
func TestRotationOfReplicasSurvivesACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	at := noon.Add(90 * day)
	for _, name := range []string{"sent", "received"} {
		k := f.primary(t, 90)
		replica := f.replica(t, k)
		r, _ := f.instance(t)
		mustReplicate(t, r, noon, 1)
		ctx, die := context.WithCancel(t.Context())
		dying := f.process(t, f.crashes(func() error { die(); return nil })[name])
		if done, err := dying.Rotate(ctx, at); err == nil || done != 0 {
			t.Errorf("%s: Rotate = %d, %v; want it to be cut off", name, done, err)
		}
		f.wantKey(t, k, metadata.Enabled, 1)
		f.wantKey(t, replica, metadata.Enabled, 1)
		mustRotate(t, r, at, 0)
		f.rotatesTogether(t, r, k, replica, at.Add(claimFor))
	}
}

// TestReplicaThatComesDuringARotation has it done again, with the replica.
func TestReplicaThatComesDuringARotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	at := noon.Add(90 * day)
	k := f.primary(t, 90)
	var replica metadata.KeyName
	var once sync.Once
	r := f.process(t, &brokenToken{f.token, func() error {
		once.Do(func() { replica = f.replica(t, k) })
		return nil
	}})
	mustRotate(t, r, at, 0)
	f.wantKey(t, k, metadata.Enabled, 1)
	r, _ = f.instance(t)
	mustRotate(t, r, at, 0)
	mustReplicate(t, r, at, 1)
	f.rotatesTogether(t, r, k, replica, at)
}

// TestPairsOfTransportAreUsedAgain for a while, and not when something did not arrive.
func TestPairsOfTransportAreUsedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	at := place{farStore, farRegion}
	pair := func(now time.Time) hsm.Key {
		t.Helper()
		k, err := r.transports.pair(t.Context(), now, f.token, at)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := pair(noon)
	if again := pair(noon.Add(pairFor - time.Second)); again.MaterialID != first.MaterialID {
		t.Error("another pair is made before the time of the first is over")
	}
	second := pair(noon.Add(pairFor))
	if second.MaterialID == first.MaterialID {
		t.Error("a pair is used for ever")
	}
	r.transports.forget(farStore, &first)
	if again := pair(noon.Add(pairFor)); again.MaterialID != second.MaterialID {
		t.Error("the failure of an old pair ends that of now")
	}
	r.transports.forget(farStore, &second)
	if again := pair(noon.Add(pairFor)); again.MaterialID == second.MaterialID {
		t.Error("a pair is used again that something did not arrive through")
	}
}

// TestPairOfOneStoreKeepsNoOtherWaiting: while a token is asked for a pair, and does
// not answer, others make theirs, and who waits for that one has a deadline.
func TestPairOfOneStoreKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	r.transports.turn(farStore) <- struct{}{} // somebody's who waits for the token
	if _, err := r.transports.pair(t.Context(), noon, f.token, place{testStore, testRegion}); err != nil {
		t.Errorf("a pair of another store: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.transports.pair(ctx, noon, f.token, place{farStore, farRegion}); !errors.Is(err, hsm.ErrBusy) {
		t.Errorf("a pair of the same store = %v, want %v", err, hsm.ErrBusy)
	}
}
