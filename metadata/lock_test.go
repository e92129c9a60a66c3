package metadata_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestExclusively(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var inside, most atomic.Int32
	errs := make(chan error, 3)
	for range 3 {
		go func() {
			errs <- f.Exclusively(t.Context(), "test", func(ctx context.Context) error {
				most.Store(max(most.Load(), inside.Add(1)))
				defer inside.Add(-1)
				return f.Ping(ctx)
			})
		}()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Errorf("Exclusively = %v", err)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d ran at once, want 1", most.Load())
	}
	want := errors.New("failed")
	if err := f.Exclusively(t.Context(), "test", func(context.Context) error { return want }); !errors.Is(err, want) {
		t.Errorf("Exclusively = %v, want %v", err, want)
	}
}
