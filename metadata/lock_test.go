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

func TestExclusivelyWaitsAsLongAsItMay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	held, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- f.Exclusively(t.Context(), "test", func(context.Context) error {
			close(held)
			<-release
			return nil
		})
	}()
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { second <- f.Exclusively(ctx, "test", func(context.Context) error { return nil }) }()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("Exclusively that is cancelled while it waits = %v, want %v", err, context.Canceled)
	}
	third := make(chan error, 1)
	go func() { third <- f.Exclusively(t.Context(), "test", func(context.Context) error { return nil }) }()
	close(release)
	for _, done := range []chan error{first, third} {
		if err := <-done; err != nil {
			t.Errorf("Exclusively = %v", err)
		}
	}
}
