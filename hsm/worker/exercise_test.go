package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/hsm"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
)

// exerciseT is *testing.T as the suite wants it. It remembers what the token lacks.
type exerciseT struct {
	*testing.T
	name    string
	outcome *outcome
}

type outcome struct {
	mu    sync.Mutex
	parts map[string]string
}

func (o *outcome) note(part, word string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.parts[part] = word
}

func (t exerciseT) Run(name string, f func(hsmtest.T)) bool {
	t.outcome.note(name, "passed")
	return t.T.Run(name, func(inner *testing.T) { f(exerciseT{inner, name, t.outcome}) })
}

func (t exerciseT) Lacking(format string, args ...any) {
	t.outcome.note(t.name, "lacking")
	t.Logf("lacking: "+format, args...)
}

// engine is what an engine and a token in a worker have in common.
type engine interface {
	hsm.Token
	CreateServiceKeys(ctx context.Context, rows []hsm.ServiceKey) ([]hsm.ServiceKey, error)
	DestroyServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error
	RewrapAll(ctx context.Context, on hsm.Call, keys []hsm.Key, generation int32) ([]pkcs11.Batched, error)
	Close() error
}

const exerciseHandles = 8

// exercise runs the suite on one spec of each family, and returns what came of each part.
func exercise(t *testing.T, e engine) map[string]string {
	t.Helper()
	var rows []hsm.ServiceKey
	add := func(ctx context.Context, store string, generation int32) error {
		made, err := e.CreateServiceKeys(ctx, serviceKeyRows(store, generation))
		rows = append(rows, made...)
		return err
	}
	must(t, add(t.Context(), testStore, 1))
	must(t, add(t.Context(), otherStore, 1))
	o := &outcome{parts: map[string]string{}}
	hsmtest.Exercise(t.Context(), exerciseT{t, "", o}, func() hsmtest.Fixture {
		return hsmtest.Fixture{
			Token: e, Store: testStore, OtherStore: otherStore, Handles: exerciseHandles,
			Rewrap: func(ctx context.Context, on hsm.Call, k *hsm.Key, generation int32) (hsm.Key, error) {
				all, err := e.RewrapAll(ctx, on, []hsm.Key{*k}, generation)
				if err != nil {
					return hsm.Key{}, err
				}
				return all[0].Key, all[0].Err
			},
			AddGeneration: func(ctx context.Context) error { return add(ctx, testStore, 2) },
			Specs: []keyspec.Spec{
				keyspec.SymmetricDefault, keyspec.HMAC256, keyspec.RSA2048, keyspec.ECCNISTP256, keyspec.ECCSECGP256K1,
				keyspec.ECCNISTEdwards25519, keyspec.MLDSA44, keyspec.MLKEM512,
			},
			Close: func() {},
		}
	})
	must(t, e.DestroyServiceKeys(t.Context(), rows))
	return o.parts
}

// TestExercise has the suite say the same of a token in a worker as of its engine.
func TestExercise(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxHandles, cfg.OwnerSessions = exerciseHandles, 2
	token := openIn(t, New(workerArgs, nil), cfg)
	inWorker := exercise(t, token)
	if n := token.worker.Restarts(); n != 0 {
		t.Errorf("the worker was replaced %d times", n)
	}
	e, err := pkcs11.Open(t.Context(), cfg)
	must(t, err)
	here := exercise(t, e)
	must(t, e.Close())
	if diff := cmp.Diff(here, inWorker); diff != "" {
		t.Errorf("parts of the suite (-engine +worker):\n%s", diff)
	}
	words := slices.Sorted(maps.Values(here))
	if len(words) < 20 || words[len(words)-1] != "passed" {
		t.Errorf("the suite ran %v", here)
	}
}
