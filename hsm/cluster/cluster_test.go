package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
	"kmsgate/softhsm"
)

type exerciseT struct{ *testing.T }

func (t exerciseT) Run(name string, f func(hsmtest.T)) bool {
	return t.T.Run(name, func(inner *testing.T) { f(exerciseT{inner}) })
}

func (t exerciseT) Lacking(format string, args ...any) { t.Logf("lacking: "+format, args...) }

// exercised are one spec of each kind; RSA keys take long.
var exercised = map[string][]keyspec.Spec{
	"wrapped":  {keyspec.SymmetricDefault, keyspec.HMAC256, keyspec.RSA2048, keyspec.ECCNISTP256},
	"resident": {keyspec.SymmetricDefault, keyspec.HMAC256, keyspec.ECCNISTP256},
}

func TestExercise(t *testing.T) {
	for name, specs := range exercised {
		t.Run(name, func(t *testing.T) {
			resident := name == "resident"
			f := newFixture(t, func(c *pkcs11.Config) {
				c.MaxHandles, c.OwnerSessions = 8, 2
				if resident {
					c.Resident = []string{testStore}
				}
			})
			hsmtest.Exercise(t.Context(), exerciseT{t}, func() hsmtest.Fixture {
				return hsmtest.Fixture{
					Token: f.Token, Store: testStore, OtherStore: otherStore, Handles: 16, Resident: resident, Specs: specs,
					AddGeneration: func(ctx context.Context) error { return f.addGeneration(ctx, testStore, 2, f.engines...) },
					Rewrap:        f.rewrap,
					Close:         func() {},
				}
			})
			for _, e := range f.engines {
				if s := e.Stats(); s.Hits == 0 || s.Poisoned != 0 {
					t.Errorf("after the exercise: %+v", s)
				}
			}
		})
	}
}

// rewrap asks the members one by one.
func (f *fixture) rewrap(ctx context.Context, on hsm.Call, k *hsm.Key, generation int32) (moved hsm.Key, err error) {
	for _, e := range f.engines {
		if moved, err = e.Rewrap(ctx, on, k, generation); !errors.Is(err, hsm.ErrMissing) {
			return moved, err
		}
	}
	return moved, err
}

// TestLoadGoesOnWithoutAMember takes one token away under load, and back.
func TestLoadGoesOnWithoutAMember(t *testing.T) {
	f := newFixture(t, nil)
	keys := make([]*hsm.Key, 8)
	for i := range keys {
		keys[i] = f.generate(t, fmt.Sprint(i))
	}
	var done atomic.Int64
	var stop atomic.Bool
	var load sync.WaitGroup
	for worker := range 8 {
		load.Go(func() {
			for n := worker; !stop.Load(); n++ {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if err := works(ctx, f, keys[n%len(keys)]); err != nil {
					t.Errorf("under load: %v", err)
				}
				cancel()
				done.Add(1)
			}
		})
	}
	defer load.Wait()
	defer stop.Store(true)
	more := func() {
		for before := done.Load(); done.Load() < before+200; {
			time.Sleep(time.Millisecond)
		}
	}
	more()
	f.shim.Remove(f.slots[1])
	wait(t, "the member to be taken out", func() bool { return len(f.Out()) == 1 })
	if out := f.Out()[0]; out.Name != "two" || out.Since.IsZero() || !errors.Is(out.Why, hsm.ErrUnavailable) {
		t.Errorf("Out = %+v", out)
	}
	more()
	must(t, f.Check(t.Context()))
	f.shim.PutBack()
	wait(t, "the member to be back", func() bool { return len(f.Out()) == 0 })
	was := f.engines[1].Stats()
	wait(t, "the member to be asked again", func() bool {
		now := f.engines[1].Stats()
		return now.Hits+now.Misses > was.Hits+was.Misses+100
	})
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

func TestCheckWantsOneMember(t *testing.T) {
	f := newFixture(t, nil)
	must(t, f.Check(t.Context()))
	f.shim.Remove(softhsm.AllSlots)
	if err := f.Check(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Check without tokens = %v, want %v", err, hsm.ErrUnavailable)
	}
	if err := works(t.Context(), f, newRow(t)); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Encrypt without tokens = %v, want %v", err, hsm.ErrUnavailable)
	}
	f.shim.PutBack()
	wait(t, "both members to be back", func() bool { return len(f.Out()) == 0 })
	must(t, f.Check(t.Context()))
	must(t, works(t.Context(), f, f.generate(t, "k")))
}

// newRow is a row that no token has made.
func newRow(t *testing.T) *hsm.Key {
	t.Helper()
	k := newKey("row", keyspec.SymmetricDefault, keyspec.EncryptDecrypt)
	k.Residency, k.Generation, k.Blob, k.Binding = hsm.Wrapped, 1, []byte("blob"), []byte("binding")
	return &k
}

// TestCallerFaultsAreNotRepeated: what is wrong with the data costs no member its calls.
func TestCallerFaultsAreNotRepeated(t *testing.T) {
	f := newFixture(t, nil)
	k := f.generate(t, "k")
	c, err := f.Encrypt(t.Context(), client, k, []byte("x"), nil)
	must(t, err)
	bad := hsm.Ciphertext{IV: c.IV, Data: slices.Clone(c.Data)}
	bad.Data[0] ^= 1
	moved := *k
	moved.Account = "444455556666"
	for name, try := range map[string]struct {
		do   func() error
		want error
	}{
		"ciphertext": {func() error { _, err := f.Decrypt(t.Context(), client, k, bad, nil); return err }, hsm.ErrInvalidCiphertext},
		"row":        {func() error { _, err := f.Encrypt(t.Context(), client, &moved, nil, nil); return err }, hsm.ErrBinding},
		"seal":       {func() error { _, err := f.Open(t.Context(), client, []byte("x"), nil); return err }, hsm.ErrInvalidCiphertext},
	} {
		for _, e := range f.engines { // whichever is asked has the key unwrapped, and proved
			must(t, works(t.Context(), e, k))
		}
		before := f.shim.Calls(softhsm.Decrypt) + f.shim.Calls(softhsm.Encrypt)
		if err := try.do(); !errors.Is(err, try.want) {
			t.Errorf("%s: %v, want %v", name, err, try.want)
		}
		if n := f.shim.Calls(softhsm.Decrypt) + f.shim.Calls(softhsm.Encrypt) - before; n > 1 {
			t.Errorf("%s: %d calls, want one at most", name, n)
		}
	}
	if out := f.Out(); len(out) > 0 {
		t.Errorf("Out = %+v", out)
	}
}

// TestCallerThatLeavesTakesNobodyOut: a context that is cancelled says nothing of tokens.
func TestCallerThatLeavesTakesNobodyOut(t *testing.T) {
	f := newFixture(t, nil)
	k := f.generate(t, "k")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Encrypt(ctx, client, k, nil, nil); err == nil {
		t.Error("Encrypt for a caller that has gone works")
	}
	if out := f.Out(); len(out) > 0 {
		t.Errorf("Out = %+v", out)
	}
}

// TestResidentKeysAreFoundWhereTheyLive by a cluster that has not made them.
func TestResidentKeysAreFoundWhereTheyLive(t *testing.T) {
	f := newFixture(t, func(c *pkcs11.Config) { c.Resident = []string{testStore} })
	for i, e := range f.engines {
		k, err := e.Generate(t.Context(), client, newKey(fmt.Sprint("resident-", i), keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
		must(t, err)
		must(t, works(t.Context(), f, &k))
		if other := f.engines[1-i]; !errors.Is(works(t.Context(), other, &k), hsm.ErrMissing) {
			t.Errorf("the other member has the key of member %d", i)
		}
		must(t, f.Destroy(t.Context(), client, &k))
		if err := works(t.Context(), f, &k); !errors.Is(err, hsm.ErrMissing) {
			t.Errorf("Encrypt under a key that is destroyed = %v, want %v", err, hsm.ErrMissing)
		}
	}
}

// TestResidentKeysOfAnAbsentMember are neither missing nor destroyed.
func TestResidentKeysOfAnAbsentMember(t *testing.T) {
	f := newFixture(t, func(c *pkcs11.Config) { c.Resident = []string{testStore} })
	make := func(e *pkcs11.Engine, id string) *hsm.Key {
		k, err := e.Generate(t.Context(), client, newKey(id, keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
		must(t, err)
		return &k
	}
	there, away, seen := make(f.engines[0], "there"), make(f.engines[1], "away"), make(f.engines[1], "seen")
	must(t, works(t.Context(), f, seen))
	f.shim.Remove(f.slots[1])
	for range 2 { // the second time the member is out already
		for _, k := range []*hsm.Key{away, seen} {
			if err := works(t.Context(), f, k); !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrMissing) {
				t.Errorf("Encrypt under the key %s of an absent member = %v, want %v", k.KeyID, err, hsm.ErrUnavailable)
			}
			if err := f.Destroy(t.Context(), client, k); !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("Destroy of the key %s of an absent member = %v, want %v", k.KeyID, err, hsm.ErrUnavailable)
			}
		}
		must(t, works(t.Context(), f, there))
	}
	must(t, f.Destroy(t.Context(), client, there)) // seen in the member that answers
	f.shim.PutBack()
	wait(t, "the member to be back", func() bool { return len(f.Out()) == 0 })
	for _, k := range []*hsm.Key{away, seen} {
		must(t, works(t.Context(), f, k))
		must(t, f.Destroy(t.Context(), client, k))
	}
}

// TestGenerationsOfSomeMembers: what one member alone has goes to it, and new keys to
// those that have the newest.
func TestGenerationsOfSomeMembers(t *testing.T) {
	f := newFixture(t, nil)
	old := f.generate(t, "old")
	sealed, err := f.Seal(t.Context(), client, testStore, []byte("secret"), nil)
	must(t, err)
	must(t, f.addGeneration(t.Context(), testStore, 2, f.engines[1]))
	for n := range 10 {
		k := f.generate(t, fmt.Sprint("new-", n))
		if k.Generation != 2 {
			t.Fatalf("a new key is under generation %d", k.Generation)
		}
		must(t, works(t.Context(), f, k))
		must(t, works(t.Context(), f, old))
		again, err := f.Seal(t.Context(), client, testStore, []byte("secret"), nil)
		must(t, err)
		for generation, value := range [][]byte{nil, sealed, again} {
			if value == nil {
				continue
			}
			if _, got, ok := hsm.SealedUnder(value); !ok || int(got) != generation {
				t.Errorf("SealedUnder = %d, %t, want %d", got, ok, generation)
			}
			if p, err := f.Open(t.Context(), client, value, nil); err != nil || string(p) != "secret" {
				t.Errorf("Open under generation %d = %q, %v", generation, p, err)
			}
		}
	}
	f.shim.Remove(f.slots[1])
	for range 2 {
		if _, err := f.Generate(t.Context(), client, newKey("none", keyspec.SymmetricDefault, keyspec.EncryptDecrypt)); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Generate without the newest generation = %v, want %v", err, hsm.ErrUnavailable)
		}
	}
	must(t, works(t.Context(), f, old))
	f.shim.PutBack()
	wait(t, "the member to be back", func() bool { return len(f.Out()) == 0 })
}
