package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
)

// keyIn makes a key in a store, and uses it.
func (f *fixture) keyIn(t *testing.T, store string) metadata.KeyName {
	t.Helper()
	k := f.createKey(t, func(k *metadata.Key) { k.Store = store })
	f.encrypts(t, k)
	return k
}

// process is an instance on a token that stands for the real one; nil is that itself.
func (f *fixture) process(t *testing.T, token hsm.Token) *Reconciler {
	t.Helper()
	r, _ := f.instance(t)
	if token != nil {
		r.Tokens = map[string]hsm.Token{testStore: token, residentStore: token, farStore: token}
	}
	return r
}

// encrypts uses a key that must work.
func (f *fixture) encrypts(t *testing.T, k metadata.KeyName) {
	t.Helper()
	if _, err := f.token.Encrypt(t.Context(), hsm.Call{}, &f.key(t, k).Current().Key, []byte("p"), nil); err != nil {
		t.Errorf("Encrypt with key %s: %v", k.ID, err)
	}
}

// wantInToken checks whether a key has an object in the token.
func (f *fixture) wantInToken(t *testing.T, k metadata.KeyName, want bool) {
	t.Helper()
	there := false
	err := f.token.Residents(t.Context(), hsm.Call{}, func(r pkcs11.Resident) error {
		there = there || r.Label == "kms/"+k.ID
		return nil
	})
	if err != nil || there != want {
		t.Errorf("key %s has an object in the token: %t, %v; want %t", k.ID, there, err, want)
	}
}

// eventsOf are the records about the end of a key, oldest first.
func (f *fixture) eventsOf(t *testing.T, k metadata.KeyName) (events []serviceEvent) {
	t.Helper()
	for _, name := range []string{deletionBegun, deletionDone} {
		for _, e := range f.events(t, name) {
			if e.ServiceEventDetails["keyId"] == k.ID {
				events = append(events, e)
			}
		}
	}
	return events
}

// cutOff is a token whose process dies at a call to destroy a key: before the token
// has done it or after, as after says.
type cutOff struct {
	hsm.Token
	die   context.CancelFunc
	after bool
	calls atomic.Int64
}

// Destroy destroys the key, unless the process dies before.
func (c *cutOff) Destroy(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	c.calls.Add(1)
	if !c.after {
		c.die()
		return ctx.Err()
	}
	err := c.Token.Destroy(ctx, on, k)
	c.die()
	return err
}

// schedule has a key be deleted after so many days.
func (f *fixture) schedule(t *testing.T, k metadata.KeyName, days int32) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		_, err := tx.ScheduleDeletion(t.Context(), k, noon.Add(time.Duration(days)*day), days)
		return err
	})
}

// deletes runs the job and wants it to delete so many keys.
func deletes(t *testing.T, r *Reconciler, at time.Time, want int) {
	t.Helper()
	if done, err := r.Delete(t.Context(), at); err != nil || done != want {
		t.Errorf("Delete at %v = %d, %v, want %d", at, done, err, want)
	}
}

// wantDeleted wants a key to be gone, its material erased, and its end recorded once.
func (f *fixture) wantDeleted(t *testing.T, k metadata.KeyName) {
	t.Helper()
	if _, err := f.database.Open(t, nil).View().Key(t.Context(), k.Region, k.ID); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Key(%s) = %v, want ErrNotFound", k.ID, err)
	}
	entry, err := f.store.DeletedKey(t.Context(), k)
	if err != nil {
		t.Errorf("DeletedKey: %v", err)
		return
	}
	m := entry.Materials[0]
	if m.Residency != hsm.Absent || m.Blob != nil || m.Binding != nil || m.CheckValue != nil {
		t.Errorf("key %s has the material %+v, want nothing of it", k.ID, m)
	}
	events := f.eventsOf(t, k)
	if len(events) != 2 || events[0].EventName != deletionBegun || events[1].EventName != deletionDone {
		t.Errorf("key %s has the events %+v, want one of its end begun and one of its end", k.ID, events)
		return
	}
	if got := fmt.Sprint(events[1].ServiceEventDetails["keyMaterialIds"]); got != "["+m.MaterialID.String()+"]" {
		t.Errorf("the record names the materials %s, want %s", got, m.MaterialID)
	}
}

func TestKeysAreDeletedWhenTheirTimeHasCome(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := f.process(t, nil)
	week, month := f.keyIn(t, testStore), f.keyIn(t, residentStore)
	kept, disabled := f.keyIn(t, residentStore), f.keyIn(t, testStore)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.SetKeyState(t.Context(), disabled.Region, disabled.Account, disabled.ID, metadata.Disabling)
	})
	f.schedule(t, week, 7)
	f.schedule(t, disabled, 7)
	f.schedule(t, month, 30)
	deletes(t, r, noon.Add(7*day-time.Second), 0)
	f.encrypts(t, week) // the token has everything still
	deletes(t, r, noon.Add(7*day), 2)
	f.wantDeleted(t, week)
	f.wantDeleted(t, disabled)
	f.wantInToken(t, month, true)
	deletes(t, r, noon.Add(30*day), 1)
	f.wantDeleted(t, month)
	deletes(t, r, noon.AddDate(10, 0, 0), 0)
	f.wantInToken(t, month, false)
	f.wantInToken(t, kept, true)
	f.encrypts(t, kept)
}

// TestDeletionGoesOnAfterACrash ends the process after each step. Another instance
// finds the work when the claim has run out, and not before, and finishes it.
func TestDeletionGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	due := noon.Add(7 * day)
	for _, store := range []string{testStore, residentStore} {
		for name, crash := range map[string]func(*testing.T, *fixture, metadata.KeyName){
			"claimed": func(t *testing.T, f *fixture, _ metadata.KeyName) {
				r := f.process(t, nil)
				if _, err := r.Store.ClaimKeys(t.Context(), metadata.DueDeletion, r.claim(due), r.stores(), atOnce); err != nil {
					t.Fatal(err)
				}
			},
			"taken from its callers": func(t *testing.T, f *fixture, k metadata.KeyName) {
				f.dieAtDestroy(t, due, false)
				if _, err := f.store.View().Key(t.Context(), k.Region, k.ID); !errors.Is(err, metadata.ErrNotFound) {
					t.Errorf("Key = %v, want ErrNotFound already", err)
				}
			},
			"destroyed in the token": func(t *testing.T, f *fixture, k metadata.KeyName) {
				f.dieAtDestroy(t, due, true)
				f.wantInToken(t, k, false)
			},
		} {
			t.Run(store+" "+name, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t)
				k := f.keyIn(t, store)
				f.schedule(t, k, 7)
				crash(t, f, k)
				other := f.process(t, nil)
				deletes(t, other, due.Add(claimFor-time.Second), 0)
				deletes(t, other, due.Add(claimFor), 1)
				f.wantDeleted(t, k)
				f.wantInToken(t, k, false)
				deletes(t, other, due.Add(2*claimFor), 0)
			})
		}
	}
}

// dieAtDestroy runs the job in a process that dies when it has the token destroy a key.
func (f *fixture) dieAtDestroy(t *testing.T, at time.Time, after bool) {
	t.Helper()
	ctx, die := context.WithCancel(t.Context())
	defer die()
	token := &cutOff{Token: f.token, die: die, after: after}
	done, err := f.process(t, token).Delete(ctx, at)
	if err == nil || done != 0 || token.calls.Load() != 1 {
		t.Errorf("Delete of a process that dies = %d, %v after %d calls, want an error after one", done, err, token.calls.Load())
	}
}

func TestTwoInstancesDeleteEachKeyOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var keys []metadata.KeyName
	for i := range 40 {
		k := f.keyIn(t, []string{testStore, residentStore}[i%2])
		f.schedule(t, k, 7)
		keys = append(keys, k)
	}
	instances := [2]*Reconciler{f.process(t, nil), f.process(t, nil)}
	var done [2]int
	var both sync.WaitGroup
	for i, r := range instances {
		both.Go(func() {
			for {
				n, err := r.Delete(t.Context(), noon.Add(7*day))
				if err != nil {
					t.Error(err)
				}
				if n == 0 || err != nil {
					return
				}
				done[i] += n
			}
		})
	}
	both.Wait()
	if done[0]+done[1] != len(keys) {
		t.Errorf("deleted %d and %d keys, want %d together", done[0], done[1], len(keys))
	}
	for _, k := range keys {
		f.wantDeleted(t, k)
	}
}

// TestCancellationAndDeletionDoNotBothSucceed cancels deletions while the job runs: a
// key is deleted, or it is there with its material.
func TestCancellationAndDeletionDoNotBothSucceed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	due := noon.Add(7 * day)
	cancelled := map[metadata.KeyName]bool{}
	for i := range 24 {
		k := f.keyIn(t, []string{testStore, residentStore}[i%2])
		f.schedule(t, k, 7)
		cancelled[k] = false
	}
	r := f.process(t, nil)
	var job sync.WaitGroup
	job.Go(func() {
		for range 3 {
			if _, err := r.Delete(t.Context(), due); err != nil {
				t.Error(err)
			}
		}
	})
	for k := range cancelled {
		err := f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) { return []byte(`{}`), tx.CancelDeletion(t.Context(), k) })
		if err != nil && !errors.Is(err, metadata.ErrState) {
			t.Error(err)
		}
		cancelled[k] = err == nil
	}
	job.Wait()
	deletes(t, r, due.Add(claimFor), 0)
	for k, is := range cancelled {
		if !is {
			f.wantDeleted(t, k)
			continue
		}
		f.encrypts(t, k)
		if events := f.eventsOf(t, k); len(events) > 0 {
			t.Errorf("a key whose deletion was cancelled has the events %+v", events)
		}
	}
}

// TestKeyIsOnlyDestroyedByItsOwnRow has somebody with access to the database name another
// key's object in a row whose deletion is due: nothing is destroyed by that row.
func TestKeyIsOnlyDestroyedByItsOwnRow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	doomed, victim := f.keyIn(t, residentStore), f.keyIn(t, residentStore)
	entry, err := f.store.View().Key(t.Context(), victim.Region, victim.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.schedule(t, doomed, 7)
	r := f.process(t, forging{f.token, entry.Current().Blob})
	due := noon.Add(7 * day)
	if done, err := r.Delete(t.Context(), due); !errors.Is(err, hsm.ErrBinding) || done != 0 {
		t.Errorf("Delete by a changed row = %d, %v, want ErrBinding", done, err)
	}
	f.encrypts(t, victim)
	f.wantInToken(t, doomed, true)
	deletes(t, f.process(t, nil), due.Add(claimFor), 1) // once its row is what it was
	f.wantDeleted(t, doomed)
	f.wantInToken(t, doomed, false)
	f.encrypts(t, victim)
}

// forging asks the token to destroy keys by rows with another key's CKA_ID.
type forging struct {
	hsm.Token
	id []byte
}

// Destroy asks by a changed row.
func (f forging) Destroy(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	changed := *k
	changed.Blob = f.id
	return f.Token.Destroy(ctx, on, &changed)
}
