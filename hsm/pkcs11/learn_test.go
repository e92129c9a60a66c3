package pkcs11

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// rowsOf are the rows that a database would have.
type rowsOf struct {
	mu    sync.Mutex
	rows  []hsm.ServiceKey
	asked atomic.Int64
	fails error
}

func (r *rowsOf) set(rows ...hsm.ServiceKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = rows
}

func (r *rowsOf) find(_ context.Context, store string) ([]hsm.ServiceKey, error) {
	r.asked.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.rows), func(k hsm.ServiceKey) bool { return k.Store != store }), r.fails
}

// openBeside makes an engine that knows generation 1 of a store, and the rows of
// generation 2, whose keys are in the token.
func openBeside(t *testing.T) (e *Engine, rows *rowsOf, first, second []hsm.ServiceKey) {
	t.Helper()
	rows = &rowsOf{}
	cfg := configFor(newToken(t))
	maker, err := Open(t.Context(), cfg)
	must(t, err)
	first, err = maker.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1))
	must(t, err)
	second, err = maker.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 2)[:2])
	must(t, err)
	must(t, maker.Close())
	rows.set(first...)
	cfg.ServiceKeys, cfg.FindServiceKeys = first, rows.find
	return open(t, cfg), rows, first, second
}

func TestGenerationThatARowNamesIsLearned(t *testing.T) {
	e, rows, first, second := openBeside(t)
	k := generate(t, e, "k")
	c, err := e.Encrypt(t.Context(), client, k, []byte("hello"), nil)
	must(t, err)
	if k.Generation != 1 || rows.asked.Load() != 0 {
		t.Fatalf("generation %d after %d looks, want 1 after none", k.Generation, rows.asked.Load())
	}
	rows.set(slices.Concat(first, second)...)
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	moved, err := e.Rewrap(t.Context(), client, k, 2)
	must(t, err)
	rows.set(first...)
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	if _, err := e.Decrypt(t.Context(), client, &moved, c, nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Decrypt under a generation that has gone = %v, want %v", err, hsm.ErrUnavailable)
	}
	rows.set(slices.Concat(first, second)...)
	before := rows.asked.Load()
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if got, err := e.Decrypt(t.Context(), client, &moved, c, nil); err != nil || string(got) != "hello" {
				t.Errorf("Decrypt under a generation that is new = %q, %v", got, err)
			}
		})
	}
	calls.Wait()
	if n := rows.asked.Load() - before; n > 2 {
		t.Errorf("%d looks for twenty calls at once, want one or two", n)
	}
	if fresh := generate(t, e, "fresh"); fresh.Generation != 2 {
		t.Errorf("a new key has generation %d, want 2", fresh.Generation)
	}
}

func TestGenerationThatWasDestroyedOpensNothing(t *testing.T) {
	e, rows, first, second := openBeside(t)
	k := generate(t, e, "k")
	c, err := e.Encrypt(t.Context(), client, k, []byte("hello"), nil)
	must(t, err)
	rows.set(slices.Concat(first, second)...)
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	sealing := first[2]
	for _, row := range []hsm.ServiceKey{second[0], second[1], sealing} {
		if err := e.DestroyServiceKeys(t.Context(), []hsm.ServiceKey{row}); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("DestroyServiceKeys of the %s = %v, want %v", describe(&row), err, hsm.ErrUnsupported)
		}
	}
	moved, err := e.Rewrap(t.Context(), client, k, 2)
	must(t, err)
	handles := e.Stats().Handles
	rows.set(append(slices.Clone(second), sealing)...)
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	if n := e.Stats().Handles; n != handles-1 {
		t.Errorf("%d handles are cached after the generation has gone, want %d", n, handles-1)
	}
	for range 2 { // the second time they are not there
		must(t, e.DestroyServiceKeys(t.Context(), first[:2]))
	}
	if _, err := e.Decrypt(t.Context(), client, k, c, nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Decrypt with the old row = %v, want %v", err, hsm.ErrUnavailable)
	}
	if got, err := e.Decrypt(t.Context(), client, &moved, c, nil); err != nil || string(got) != "hello" {
		t.Errorf("Decrypt with the moved row = %q, %v", got, err)
	}
	must(t, e.Check(t.Context()))
	if err := e.LoadServiceKeys(t.Context(), first[:1]); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("LoadServiceKeys of a destroyed key = %v, want %v", err, hsm.ErrUnavailable)
	}
}

// TestRowsThatWereReadBeforeOpen: a call that has read its row before the row was moved
// finds the generation in service, although no row needs it any more.
func TestRowsThatWereReadBeforeOpen(t *testing.T) {
	e, rows, first, second := openBeside(t)
	k := generate(t, e, "k")
	spare := slices.Clone(first[:2])
	for i := range spare {
		spare[i].Spare = true
	}
	rows.set(slices.Concat(spare, first[2:], second)...)
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	encryptWorks(t, e, k)
	if fresh := generate(t, e, "fresh"); fresh.Generation != 2 {
		t.Errorf("a new key has generation %d, want 2", fresh.Generation)
	}
	rows.set(slices.Concat(first[2:], second)...) // it is being destroyed
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	rows.set(slices.Concat(spare, first[2:], second)...)
	must(t, e.LearnServiceKeys(t.Context(), testStore))
	if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Encrypt under a spare generation that was not in service = %v, want %v", err, hsm.ErrUnavailable)
	}
}

func TestWildGenerationsCostFewLooks(t *testing.T) {
	e, rows, _, _ := openBeside(t)
	k := generate(t, e, "k")
	const looks = 4
	for n := range int32(looks) { // one after the other, each waits for its own
		forged := *k
		forged.Generation = 100 + n
		if _, err := e.Encrypt(t.Context(), client, &forged, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Encrypt under generation %d = %v, want %v", forged.Generation, err, hsm.ErrUnavailable)
		}
	}
	if n := rows.asked.Load(); n > looks {
		t.Errorf("%d looks, want at most %d", n, looks)
	}
	before := rows.asked.Load()
	var calls sync.WaitGroup
	for n := range int32(200) {
		calls.Go(func() {
			forged := *k
			forged.Generation = 1000 + n
			_, _ = e.Encrypt(t.Context(), client, &forged, []byte("x"), nil) // the one before has shown how it fails
		})
	}
	calls.Wait()
	if n := rows.asked.Load() - before; n > 2 {
		t.Errorf("%d looks for 200 wild rows at once, want at most two", n)
	}
	forged := *k
	forged.Store, forged.Generation = "nowhere", 7
	before = rows.asked.Load()
	if _, err := e.Encrypt(t.Context(), client, &forged, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) || rows.asked.Load() != before {
		t.Errorf("Encrypt in a store that is not here = %v after %d looks, want %v after none", err, rows.asked.Load()-before, hsm.ErrUnavailable)
	}
	encryptWorks(t, e, k)
}

func TestLookThatFailsChangesNothing(t *testing.T) {
	e, rows, first, _ := openBeside(t)
	k := generate(t, e, "k")
	rows.fails = errors.New("no database")
	if err := e.LearnServiceKeys(t.Context(), testStore); !errors.Is(err, rows.fails) {
		t.Errorf("LearnServiceKeys = %v, want %v", err, rows.fails)
	}
	rows.fails = nil
	rows.set()
	if err := e.LearnServiceKeys(t.Context(), testStore); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("LearnServiceKeys of a database without rows = %v, want %v", err, hsm.ErrUnavailable)
	}
	lost := first[0]
	lost.Generation = 9
	rows.set(append(slices.Clone(first), lost)...)
	if err := e.LearnServiceKeys(t.Context(), testStore); !errors.Is(err, hsm.ErrWrongMaterial) {
		t.Errorf("LearnServiceKeys of a forged row = %v, want %v", err, hsm.ErrWrongMaterial)
	}
	encryptWorks(t, e, k)
}

func TestBatchSaysOfEachKeyWhatIsWrong(t *testing.T) {
	e := openWithKeys(t, nil)
	_, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 2))
	must(t, err)
	var keys []hsm.Key
	for _, k := range []*hsm.Key{
		makeKey(t, e, keyspec.SymmetricDefault, keyspec.EncryptDecrypt), makeKey(t, e, keyspec.ECCNISTP256, keyspec.SignVerify),
		makeKey(t, e, keyspec.ECCNISTEdwards25519, keyspec.SignVerify), makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC),
	} {
		keys = append(keys, *k)
	}
	keys[1].Blob = slices.Clone(keys[1].Blob)
	keys[1].Blob[3] ^= 1
	for name, batch := range map[string]func() ([]Batched, error){
		"RewrapAll": func() ([]Batched, error) { return e.RewrapAll(t.Context(), client, keys, 2) },
		"ProveAll":  func() ([]Batched, error) { return e.ProveAll(t.Context(), client, keys) },
	} {
		outcomes, err := batch()
		must(t, err)
		for i, o := range outcomes {
			if want := i == 1; errors.Is(o.Err, hsm.ErrBinding) != want || want != (o.Key.Blob == nil) || !want && o.Key.KeyID != keys[i].KeyID {
				t.Errorf("%s of %s = %+v", name, keys[i].Spec, o)
			}
		}
	}
	s := ownSession(t, e)
	if objects, err := e.module.findAll(s.handle, nil); err != nil || len(objects) != 9 {
		t.Errorf("the token has %d objects, %v, want six service keys, copies of the two binding keys, and a resident one", len(objects), err)
	}
}
