package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kmsgate/metadata"
)

// A job is one kind of work that is due without anybody's asking.
type job struct {
	name string // metrics label
	// every is how late the work may be begun.
	every time.Duration
	// run does what is due at a time, as much as it can claim at once, and returns how
	// much that was. It may be called by several instances at once.
	run func(r *Reconciler, ctx context.Context, now time.Time) (done int, err error)
}

// Jobs that are woken by what a request has committed.
const (
	Moves    = "moves"    // of primary keys
	Replicas = "replicas" // that lack their materials
)

// jobs are all there are.
var jobs = []job{
	{"deletion", 10 * time.Second, (*Reconciler).Delete},
	{Moves, 5 * time.Second, (*Reconciler).FinishMoves},
	{Replicas, 5 * time.Second, (*Reconciler).Replicate},
	{"expiry", 10 * time.Second, (*Reconciler).ExpireMaterial},
	{"imports", 10 * time.Minute, (*Reconciler).ForgetImports},
	{"rotation", 5 * time.Second, (*Reconciler).Rotate},
	{"wear", 10 * time.Minute, (*Reconciler).RotateWorn},
	{"events", 2 * time.Second, (*Reconciler).SendEvents},
	{"watch", time.Minute, (*Reconciler).Watch},
}

// claimFor is how long claimed work is nobody else's. Work that was cut off is begun
// again so much later.
const claimFor = 5 * time.Minute

// atOnce is how much work is claimed at once.
const atOnce = 16

// claim is a claim of this process's, made now.
func (r *Reconciler) claim(now time.Time) metadata.Claim {
	return metadata.Claim{Holder: r.Holder, Now: now, Until: now.Add(claimFor)}
}

// workers is how much of what it claimed a job does at once: enough for all sessions
// of a token, while as much waits to be committed. How many of them the token serves,
// and when, is its own affair.
const workers = 64

// each does something about all that is due, several at once, and returns for how
// much. An error that is lost says that there is nothing to be done any more; the
// others are joined, and keep nothing else from being done. So does a panic.
func each[T any](due []T, lost error, do func(*T) error) (done int, err error) {
	outcomes := make([]error, len(due))
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(workers, len(due)) {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(due)); i = next.Add(1) - 1 {
				outcomes[i] = guarded(func() error { return do(&due[i]) })
			}
		})
	}
	running.Wait()
	var failed []error
	for _, err := range outcomes {
		switch {
		case err == nil:
			done++
		case !errors.Is(err, lost):
			failed = append(failed, err)
		}
	}
	return done, errors.Join(failed...)
}

// guarded makes a panic an error. What it says may be anything: it is not told.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic with a %T\n%s", p, debug.Stack())
		}
	}()
	return do()
}

// stores are the key stores whose tokens are here.
func (r *Reconciler) stores() []string {
	stores := make([]string, 0, len(r.Tokens))
	for store := range r.Tokens {
		stores = append(stores, store)
	}
	slices.Sort(stores)
	return stores
}

// Run does the jobs, each in its own time, until ctx ends, and returns when the last
// has come to an end. A job begins only while the instance is fit to serve.
func (r *Reconciler) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, j := range jobs {
		running.Go(func() { r.repeat(ctx, j) })
	}
	running.Wait()
}

// Wake has a job begin at once in this process: what it is there for has just been
// committed. A job that runs is begun again after it. It does not wait.
func (r *Reconciler) Wake(job string) {
	select {
	case r.wake[job] <- struct{}{}:
	default: // it is woken already
	}
}

// repeat does a job over and over. Instances that were started together do not ask
// together.
func (r *Reconciler) repeat(ctx context.Context, j job) {
	wait := time.NewTimer(rand.N(j.every))
	defer wait.Stop()
	for fit := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		case <-r.wake[j.name]:
		}
		err := r.work(ctx, j)
		if err != nil && fit { // once, not every time
			r.Logger.Warn("jobs are not begun", "job", j.name, "error", err)
		}
		fit = err == nil
		wait.Reset(j.every)
	}
}

// work does a job until nothing is due. The error is why it was not begun.
func (r *Reconciler) work(ctx context.Context, j job) error {
	for ctx.Err() == nil {
		if err := r.Fit(ctx); err != nil {
			r.metrics.unfit(j.name)
			return err
		}
		began := time.Now()
		done, err := r.attempt(ctx, j)
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		r.metrics.ran(j.name, done, time.Since(began), err)
		if err != nil {
			r.Logger.Error("job failed; it is begun again later", "job", j.name, "done", done, "error", err)
			return nil
		}
		if done == 0 {
			return nil
		}
	}
	return nil
}

// attempt runs a job once. A panic is the job's failure: the requests that the process
// serves have no part in it.
func (r *Reconciler) attempt(ctx context.Context, j job) (done int, err error) {
	err = guarded(func() (err error) {
		done, err = j.run(r, ctx, r.Clock())
		return err
	})
	return done, err
}
