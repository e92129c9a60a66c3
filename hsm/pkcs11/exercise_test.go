package pkcs11

import (
	"context"
	"testing"

	"kmsgate/hsm/hsmtest"
)

// exerciseT is *testing.T as the suite wants it.
type exerciseT struct{ *testing.T }

// Lacking logs what the token lacks.
func (t exerciseT) Lacking(format string, args ...any) { t.Logf("lacking: "+format, args...) }

func (t exerciseT) Run(name string, f func(hsmtest.T)) bool {
	return t.T.Run(name, func(t *testing.T) { f(exerciseT{t}) })
}

func TestExercise(t *testing.T) {
	const handles = 8
	cfg := configFor(newToken(t))
	cfg.MaxHandles, cfg.OwnerSessions = handles, 2
	e := open(t, cfg)
	for _, store := range []string{testStore, otherStore} {
		if _, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(store, 1)); err != nil {
			t.Fatal(err)
		}
	}
	hsmtest.Exercise(exerciseT{t}, func() hsmtest.Fixture {
		return hsmtest.Fixture{
			Token: e, Store: testStore, OtherStore: otherStore, Handles: handles,
			Rewrap: e.Rewrap,
			AddGeneration: func(ctx context.Context) error {
				_, err := e.CreateServiceKeys(ctx, serviceKeyRows(testStore, 2))
				return err
			},
			Close: func() {},
		}
	})
	t.Logf("%+v", e.Stats())
}
