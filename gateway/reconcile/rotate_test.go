package reconcile

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

const day = 24 * time.Hour

// rotated makes a key that is rotated every so many days from noon on.
func (f *fixture) rotated(t *testing.T, days int32) metadata.KeyName {
	t.Helper()
	return f.createKey(t, func(k *metadata.Key) {
		k.Rotation.PeriodDays = days
		k.Rotation.NextAt = new(k.Rotation.Next(noon))
	})
}

func (f *fixture) ask(t *testing.T, k metadata.KeyName, at time.Time) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error { return tx.RequestRotation(t.Context(), k.Region, k.Account, k.ID, at) })
}

// sealed is a plaintext under the key's current material.
func (f *fixture) sealed(t *testing.T, k metadata.KeyName) (hsm.MaterialID, hsm.Ciphertext) {
	t.Helper()
	m := f.key(t, k).Current()
	c, err := f.token.Encrypt(t.Context(), hsm.Call{Account: k.Account}, &m.Key, []byte(m.MaterialID.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.MaterialID, c
}

// wantOpens checks that the key's material still opens what it sealed.
func (f *fixture) wantOpens(t *testing.T, k metadata.KeyName, id hsm.MaterialID, c hsm.Ciphertext) {
	t.Helper()
	m := f.key(t, k).Material(id)
	if m == nil {
		t.Fatalf("key %s has no material %s any more", k.ID, id)
	}
	plaintext, err := f.token.Decrypt(t.Context(), hsm.Call{Account: k.Account}, &m.Key, c, nil)
	if err != nil || string(plaintext) != id.String() {
		t.Errorf("material %s opens %q, %v", id, plaintext, err)
	}
}

func mustRotate(t *testing.T, r *Reconciler, now time.Time, want int) {
	t.Helper()
	if done, err := r.Rotate(t.Context(), now); err != nil || done != want {
		t.Errorf("Rotate at %v = %d, %v; want %d", now, done, err, want)
	}
}

// TestTenYearsOfRotation: a key that is rotated every 90 days has 40 materials more
// after ten years, and every one of them opens what it sealed.
func TestTenYearsOfRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	k := f.rotated(t, 90)
	sealed := map[hsm.MaterialID]hsm.Ciphertext{}
	for n := range 40 {
		id, c := f.sealed(t, k)
		sealed[id] = c
		at := noon.Add(time.Duration(n+1) * 90 * day)
		mustRotate(t, r, at.Add(-time.Second), 0)
		mustRotate(t, r, at, 1)
		mustRotate(t, r, at, 0)
		if next := f.key(t, k).Rotation.NextAt; !next.Equal(at.Add(90 * day)) {
			t.Fatalf("the next rotation is at %v, want one 90 days after %v", next, at)
		}
	}
	if len(sealed) != 40 || len(f.key(t, k).Materials) != 41 {
		t.Errorf("%d materials encrypted, there are %d; want 40 and 41", len(sealed), len(f.key(t, k).Materials))
	}
	for id, c := range sealed {
		f.wantOpens(t, k, id, c)
	}
	events := f.events(t, "RotateKey")
	if len(events) != 40 {
		t.Fatalf("%d records, want 40", len(events))
	}
	last := events[39].ServiceEventDetails
	current := f.key(t, k).Current()
	if last["currentKeyMaterialId"] != current.MaterialID.String() || last["rotationType"] != "AUTOMATIC" ||
		last["keyId"] != k.ID || last["keyOrigin"] != "AWS_KMS" || events[39].EventType != "AwsServiceEvent" {
		t.Errorf("the last record is %v, want that of %s", events[39], current.MaterialID)
	}
	if previous := events[38].ServiceEventDetails["currentKeyMaterialId"]; last["previousKeyMaterialId"] != previous {
		t.Errorf("previousKeyMaterialId %v, want %v", last["previousKeyMaterialId"], previous)
	}
}

// TestRotationOnDemandMovesNoSchedule and is done once for each time it is asked for.
func TestRotationOnDemandMovesNoSchedule(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	k := f.rotated(t, 365)
	for n := range 3 {
		f.ask(t, k, noon)
		mustRotate(t, r, noon.Add(time.Duration(n)*time.Hour), 1)
		mustRotate(t, r, noon.Add(time.Duration(n)*time.Hour), 0)
	}
	got := f.key(t, k)
	if got.Rotation.OnDemand != 3 || got.Rotation.RequestedAt != nil || !got.Rotation.NextAt.Equal(noon.Add(365*day)) || len(got.Materials) != 4 {
		t.Errorf("rotation %+v, %d materials; want three on demand, the schedule as it was", got.Rotation, len(got.Materials))
	}
	for _, e := range f.events(t, "RotateKey") {
		if e.ServiceEventDetails["rotationType"] != "ON_DEMAND" {
			t.Errorf("record %v, want one of a rotation on demand", e)
		}
	}
}

// TestKeysThatAreNotEnabledWait: their rotation is done when they are enabled again,
// once, and the schedule goes on from there.
func TestKeysThatAreNotEnabledWait(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	k := f.rotated(t, 90)
	move := func(by metadata.Transition) {
		t.Helper()
		f.change(t, func(tx *metadata.Tx) error { return tx.SetKeyState(t.Context(), k.Region, k.Account, k.ID, by) })
	}
	move(metadata.Disabling)
	mustRotate(t, r, noon.Add(1000*day), 0)
	f.change(t, func(tx *metadata.Tx) error {
		_, err := tx.ScheduleDeletion(t.Context(), k, noon.Add(2000*day), 30)
		return err
	})
	mustRotate(t, r, noon.Add(1001*day), 0)
	f.change(t, func(tx *metadata.Tx) error { return tx.CancelDeletion(t.Context(), k) })
	mustRotate(t, r, noon.Add(1002*day), 0)
	move(metadata.Enabling)
	mustRotate(t, r, noon.Add(1003*day), 1)
	mustRotate(t, r, noon.Add(1003*day), 0)
	if next := f.key(t, k).Rotation.NextAt; !next.Equal(noon.Add(1093 * day)) {
		t.Errorf("the next rotation is at %v, want 90 days later", next)
	}
}

// TestInstancesShareTheRotations: of many due keys each is rotated once, however many
// instances work.
func TestInstancesShareTheRotations(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const keys = 150
	var names []metadata.KeyName
	for range keys {
		names = append(names, f.rotated(t, 90))
	}
	var working sync.WaitGroup
	done := make(chan int, 100)
	for range 3 {
		r, _ := f.instance(t)
		working.Go(func() {
			for {
				n, err := r.Rotate(t.Context(), noon.Add(90*day))
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
	if events := f.events(t, "RotateKey"); total != keys || len(events) != keys {
		t.Errorf("%d keys rotated, %d records; want %d", total, len(events), keys)
	}
	for _, k := range names {
		if got := f.key(t, k); len(got.Materials) != 2 || got.Current().RotatedAt == nil {
			t.Errorf("key %s has %d materials, want two", k.ID, len(got.Materials))
		}
	}
}

// brokenToken is the real token, beside which something happens after it has made a
// material.
type brokenToken struct {
	hsm.Token
	then func() error
}

func (b *brokenToken) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	if on.Class != hsm.Background {
		return k, errors.New("the call is not one of background work")
	}
	made, err := b.Token.Generate(ctx, on, k)
	return made, errors.Join(err, b.then())
}

// TestRotationSurvivesACrash at each of its steps: after the claim, and after the
// token has made the material. Another instance rotates the key once the claim has run
// out, and once only; the one that comes back too late changes nothing.
func TestRotationSurvivesACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	at := noon.Add(90 * day)
	for name, crash := range map[string]func(r *Reconciler, k metadata.KeyName){
		"claimed": func(r *Reconciler, _ metadata.KeyName) {
			if due, err := r.Store.ClaimAutomatic(t.Context(), r.claim(at), r.stores(), 10); err != nil || len(due) != 1 {
				t.Fatalf("due are %v, %v", due, err)
			}
		},
		"made": func(r *Reconciler, _ metadata.KeyName) {
			ctx, crash := context.WithCancel(t.Context())
			r.Tokens = map[string]hsm.Token{testStore: &brokenToken{f.token, func() error { crash(); return nil }}}
			if done, err := r.Rotate(ctx, at); err == nil || done != 0 {
				t.Fatalf("Rotate = %d, %v; want it to be cut off", done, err)
			}
		},
		"failed": func(r *Reconciler, _ metadata.KeyName) {
			r.Tokens = map[string]hsm.Token{testStore: &brokenToken{f.token, func() error { return hsm.ErrUnavailable }}}
			if done, err := r.Rotate(t.Context(), at); !errors.Is(err, hsm.ErrUnavailable) || done != 0 {
				t.Fatalf("Rotate = %d, %v; want ErrUnavailable", done, err)
			}
		},
		"disabled meanwhile": func(r *Reconciler, k metadata.KeyName) {
			r.Tokens = map[string]hsm.Token{testStore: &brokenToken{f.token, func() error {
				f.change(t, func(tx *metadata.Tx) error {
					return tx.SetKeyState(t.Context(), k.Region, k.Account, k.ID, metadata.Disabling)
				})
				return nil
			}}}
			mustRotate(t, r, at, 0)
			f.change(t, func(tx *metadata.Tx) error {
				return tx.SetKeyState(t.Context(), k.Region, k.Account, k.ID, metadata.Enabling)
			})
		},
		"too late": func(r *Reconciler, k metadata.KeyName) {
			other, _ := f.instance(t)
			r.Tokens = map[string]hsm.Token{testStore: &brokenToken{f.token, func() error {
				mustRotate(t, other, at.Add(claimFor), 1)
				return nil
			}}}
			mustRotate(t, r, at, 0)
			f.change(t, func(tx *metadata.Tx) error {
				return tx.SetRotation(t.Context(), k.Region, k.Account, k.ID, 90, &at)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := f.rotated(t, 90)
			first, c := f.sealed(t, k)
			r, _ := f.instance(t)
			crash(r, k)
			before := f.key(t, k)
			other, _ := f.instance(t)
			if name != "too late" && (len(before.Materials) != 1 || before.Current().MaterialID != first) {
				t.Errorf("the materials are %+v, want the first one", before.Materials)
			}
			mustRotate(t, other, at.Add(claimFor), 1)
			mustRotate(t, other, at.Add(2*claimFor), 0)
			got := f.key(t, k)
			if len(got.Materials) != len(before.Materials)+1 || got.Current().MaterialID == first {
				t.Errorf("the materials are %+v, want one more", got.Materials)
			}
			f.wantOpens(t, k, first, c)
			id, c := f.sealed(t, k)
			f.wantOpens(t, k, id, c)
		})
	}
}

// TestWornMaterialsAreReplaced if their keys are rotated by themselves; of the others
// somebody is told.
func TestWornMaterialsAreReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, log := f.instance(t)
	rotated, kept := f.rotated(t, 365), f.createKey(t, nil)
	worn := f.key(t, rotated).Current().MaterialID
	if done, err := r.RotateWorn(t.Context(), noon); err != nil || done != 0 || log.Len() > 0 {
		t.Errorf("RotateWorn = %d, %v, %s; want nothing", done, err, log)
	}
	f.database.Exec(t, `INSERT INTO material_uses (region, key_id, material_id, encryptions)
		SELECT region, key_id, id, $1::bigint FROM materials`, int64(metadata.WornAfter))
	if done, err := r.RotateWorn(t.Context(), noon); err != nil || done != 1 {
		t.Errorf("RotateWorn = %d, %v; want one", done, err)
	}
	got := f.key(t, rotated)
	if got.Current().MaterialID == worn || got.Current().RotationType != metadata.AutomaticRotation || !got.Rotation.NextAt.Equal(noon.Add(365*day)) {
		t.Errorf("rotation %+v, current %+v; want another material, the schedule as it was", got.Rotation, got.Current())
	}
	if n := len(f.key(t, kept).Materials); n != 1 {
		t.Errorf("the key that is not rotated has %d materials, want one", n)
	}
	for _, k := range []metadata.KeyName{rotated, kept} {
		if !strings.Contains(log.String(), k.ID) {
			t.Errorf("the log does not name %s: %s", k.ID, log)
		}
	}
	log.Reset()
	if done, err := r.RotateWorn(t.Context(), noon); err != nil || done != 0 || !bytes.Contains(log.Bytes(), []byte(kept.ID)) {
		t.Errorf("RotateWorn again = %d, %v, %s; want only the warning of %s", done, err, log, kept.ID)
	}
}

// TestOneKeyKeepsNoOtherFromItsRotation: the token cannot make the material of one.
func TestOneKeyKeepsNoOtherFromItsRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	names := []metadata.KeyName{f.rotated(t, 90), f.rotated(t, 90), f.rotated(t, 90)}
	calls := 0
	r.Tokens = map[string]hsm.Token{testStore: &brokenToken{f.token, func() error {
		if calls++; calls == 1 {
			return hsm.ErrBusy
		}
		return nil
	}}}
	at := noon.Add(90 * day)
	if done, err := r.Rotate(t.Context(), at); done != 2 || !errors.Is(err, hsm.ErrBusy) {
		t.Errorf("Rotate = %d, %v; want two, and ErrBusy", done, err)
	}
	mustRotate(t, r, at, 0)
	mustRotate(t, r, at.Add(claimFor), 1)
	if slices.ContainsFunc(names, func(k metadata.KeyName) bool { return len(f.key(t, k).Materials) != 2 }) {
		t.Error("a key was not rotated")
	}
}

// TestRotationMakesNothingThatLivesInTheToken: the store of a wrapped key was made
// resident since.
func TestRotationMakesNothingThatLivesInTheToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	k := f.rotated(t, 90)
	r.Tokens = map[string]hsm.Token{testStore: residing{f.token}}
	if done, err := r.Rotate(t.Context(), noon.Add(90*day)); !errors.Is(err, hsm.ErrUnsupported) || done != 0 {
		t.Errorf("Rotate = %d, %v; want ErrUnsupported", done, err)
	}
	f.wantInToken(t, k, false)
	if got := f.key(t, k); len(got.Materials) != 1 {
		t.Errorf("the materials are %+v, want the first one", got.Materials)
	}
}

// residing is a token whose keys live in it.
type residing struct{ hsm.Token }

// Generate makes a key that lives in the token.
func (r residing) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	k.Store = residentStore
	return r.Token.Generate(ctx, on, k)
}
