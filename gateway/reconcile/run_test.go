package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// newRunner is a Reconciler whose jobs are the test's.
func newRunner(fit func(context.Context) error) (*Reconciler, *prometheus.Registry) {
	registry := prometheus.NewRegistry()
	return New(Config{
		Logger: slog.New(slog.DiscardHandler), Clock: func() time.Time { return noon }, Metrics: registry, Fit: fit,
	}), registry
}

// count is a number of the test's job, with an outcome or without.
func count(t *testing.T, registry *prometheus.Registry, name, outcome string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := m.GetLabel() // job, outcome
			if family.GetName() == name && (outcome == "" || labels[len(labels)-1].GetValue() == outcome) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

const (
	runsName = "kmsgate_reconcile_runs_total"
	doneName = "kmsgate_reconcile_done_total"
)

func TestJobRunsUntilNothingIsDue(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	r, registry := newRunner(func(context.Context) error { return nil })
	left := 5
	j := job{"test", time.Hour, func(_ *Reconciler, _ context.Context, now time.Time) (int, error) {
		if !now.Equal(noon) {
			t.Errorf("the job runs at %v, want the clock's %v", now, noon)
		}
		if fail.Load() {
			return 1, errors.New("half done")
		}
		n := min(left, 2)
		left -= n
		return n, nil
	}}
	if err := r.work(t.Context(), j); err != nil {
		t.Error(err)
	}
	if left != 0 {
		t.Errorf("%d are left, want none", left)
	}
	fail.Store(true)
	if err := r.work(t.Context(), j); err != nil {
		t.Errorf("a job that fails was not begun: %v", err)
	}
	for outcome, want := range map[string]float64{outcomeOK: 4, outcomeFailed: 1, outcomeUnfit: 0} {
		if got := count(t, registry, runsName, outcome); got != want {
			t.Errorf("%v runs are %s, want %v", got, outcome, want)
		}
	}
	if got := count(t, registry, doneName, ""); got != 6 {
		t.Errorf("%v are done, want 6", got)
	}
}

func TestJobDoesNotBeginWhereTheInstanceIsNotFit(t *testing.T) {
	t.Parallel()
	unfit := errors.New("the clock is off")
	r, registry := newRunner(func(context.Context) error { return unfit })
	err := r.work(t.Context(), job{"test", time.Hour, func(*Reconciler, context.Context, time.Time) (int, error) {
		t.Error("the job runs")
		return 0, nil
	}})
	if !errors.Is(err, unfit) {
		t.Errorf("work = %v, want why it was not begun", err)
	}
	if got := count(t, registry, runsName, outcomeUnfit); got != 1 {
		t.Errorf("%v runs are unfit, want 1", got)
	}
}

func TestPanicOfAJobIsItsFailure(t *testing.T) {
	t.Parallel()
	r, registry := newRunner(func(context.Context) error { return nil })
	err := r.work(t.Context(), job{"test", time.Hour, func(*Reconciler, context.Context, time.Time) (int, error) { panic("secret") }})
	if err != nil {
		t.Errorf("work = %v, want the job to have begun", err)
	}
	if got := count(t, registry, runsName, outcomeFailed); got != 1 {
		t.Errorf("%v runs have failed, want 1", got)
	}
}

func TestJobsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	r, registry := newRunner(func(context.Context) error { return nil })
	ctx, stop := context.WithCancel(t.Context())
	began, ended := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(ended)
		r.repeat(ctx, job{"test", time.Millisecond, func(_ *Reconciler, ctx context.Context, _ time.Time) (int, error) {
			began <- struct{}{}
			if len(began) < 3 {
				return 0, nil
			}
			<-ctx.Done() // in the midst of its work
			return 0, ctx.Err()
		}})
	}()
	for len(began) < 3 {
		time.Sleep(time.Millisecond)
	}
	stop()
	<-ended
	if got := count(t, registry, runsName, outcomeFailed); got != 0 {
		t.Errorf("%v runs have failed, want none for having been stopped", got)
	}
}

// TestJobsAreWoken: a job whose time is far off begins at once, and again if it is
// woken while it works, however often.
func TestJobsAreWoken(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(func(context.Context) error { return nil })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	began := make(chan struct{}, 10)
	r.wake["test"] = make(chan struct{}, 1)
	var running sync.WaitGroup
	running.Go(func() {
		r.repeat(ctx, job{"test", 24 * time.Hour, func(*Reconciler, context.Context, time.Time) (int, error) {
			began <- struct{}{}
			return 0, nil
		}})
	})
	r.Wake("test")
	<-began
	for range 3 {
		r.Wake("test")
	}
	<-began
	stop()
	running.Wait()
	r.Wake("none")
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(func(context.Context) error { return errors.New("not fit") })
	ctx, stop := context.WithCancel(t.Context())
	stop()
	r.Run(ctx)
}
