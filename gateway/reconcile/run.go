package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
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

// jobs are all there are.
var jobs = []job{
	{"deletion", 10 * time.Second, (*Reconciler).Delete},
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

// each does something about all that is due, and returns for how much. An error that
// is lost says that there is nothing to be done any more; the others are joined, and
// keep nothing else from being done.
func each[T any](due []T, lost error, do func(*T) error) (done int, err error) {
	var failed []error
	for i := range due {
		switch err := do(&due[i]); {
		case err == nil:
			done++
		case !errors.Is(err, lost):
			failed = append(failed, err)
		}
	}
	return done, errors.Join(failed...)
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
	defer func() {
		if p := recover(); p != nil { // what it says may be anything: it is not logged
			r.Logger.Error("panic", "job", j.name, "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic with a %T", p)
		}
	}()
	return j.run(r, ctx, r.Clock())
}
