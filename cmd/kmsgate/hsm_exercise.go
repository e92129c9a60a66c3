package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
)

// exerciseHandles is how many unwrapped keys the engine of an exercise caches:
// few, since the suite uses more keys than that at once.
const exerciseHandles = 32

// exerciseCleanup bounds the clearing up after an exercise.
const exerciseCleanup = time.Minute

// exercise is the stores of one run of the conformance suite, and their service keys.
type exercise struct {
	engine *pkcs11.Engine
	stores [2]string
	specs  []keyspec.Spec   // to be tried; nil: all
	rows   []hsm.ServiceKey // all that were made, or were to be
}

// exercise runs the conformance suite on keys of throw-away stores.
func (p *program) exercise(ctx context.Context, engine *pkcs11.Engine, specs []keyspec.Spec) error {
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // never fails (crypto/rand, since Go 1.24)
	name := "exercise-" + hex.EncodeToString(suffix[:])
	x := &exercise{engine: engine, specs: specs, stores: [2]string{name, "exercise-other-" + hex.EncodeToString(suffix[:])}}
	err := x.prepare(ctx)
	if err == nil {
		err = x.run(ctx, p)
	}
	return errors.Join(err, x.clear(ctx, p.stderr))
}

// run runs the suite, and prints how each part went.
func (x *exercise) run(ctx context.Context, p *program) error {
	fmt.Fprintf(p.stdout, "\nEXERCISE of key stores %s and %s\n", x.stores[0], x.stores[1])
	top := &exerciseRun{w: p.stdout, counts: map[string]int{}}
	hsmtest.Exercise(ctx, top, x.fixture)
	top.finish()
	c := top.counts
	fmt.Fprintf(p.stdout, "%d passed, %d failed, %d lacking\n", c[partPassed], c[partFailed], c[partLacking])
	if n := c[partFailed]; n > 0 {
		return fmt.Errorf("%d parts of the conformance suite failed", n)
	}
	return nil
}

func (x *exercise) prepare(ctx context.Context) error {
	for _, store := range x.stores {
		if err := x.addGeneration(ctx, store, 1); err != nil {
			return err
		}
	}
	return nil
}

// addGeneration makes one generation of a store's service keys.
func (x *exercise) addGeneration(ctx context.Context, store string, generation int32) error {
	for _, kind := range hsm.ServiceKeyKinds {
		row := hsm.ServiceKey{Store: store, Kind: kind, Generation: generation, ID: newCKAID()}
		x.rows = append(x.rows, row)
		if _, err := x.engine.CreateServiceKeys(ctx, []hsm.ServiceKey{row}); err != nil {
			return err
		}
	}
	return nil
}

func (x *exercise) fixture() hsmtest.Fixture {
	return hsmtest.Fixture{
		Token: x.engine, Store: x.stores[0], OtherStore: x.stores[1], Handles: exerciseHandles, Specs: x.specs,
		Rewrap:        x.engine.Rewrap,
		AddGeneration: func(ctx context.Context) error { return x.addGeneration(ctx, x.stores[0], 2) },
		Close:         func() {},
	}
}

// clear destroys the service keys, also after the exercise was interrupted, and says
// what is left in the token.
func (x *exercise) clear(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exerciseCleanup)
	defer cancel()
	left := 0
	say := func(label string, id []byte, problem error) {
		left++
		fmt.Fprintf(w, "LEFT in the token: label %s, CKA_ID %x: %v\n", label, id, problem)
	}
	for _, row := range x.rows {
		if err := x.engine.DestroyServiceKeys(ctx, []hsm.ServiceKey{row}); err != nil {
			say(fmt.Sprintf("kmsgate/%s/%s/%d", row.Store, row.Kind, row.Generation), row.ID, err)
		}
	}
	residents, err := x.remaining(ctx)
	for _, r := range residents {
		say(r.Label, r.ID, errors.New("it was made by a call that was cut off; destroy it with the HSM's own tool"))
	}
	if left > 0 {
		err = errors.Join(err, fmt.Errorf("%d objects of the exercise may be left in the token", left))
	}
	return err
}

// Calls that were cut off take away what they have made: how long that may last, and
// how often it is looked.
const (
	exercisePatience = 20 * time.Second
	exercisePoll     = 200 * time.Millisecond
)

// remaining are the keys of the suite that live in the token and stay there.
func (x *exercise) remaining(ctx context.Context) (residents []pkcs11.Resident, err error) {
	for range exercisePatience / exercisePoll {
		residents = nil
		err = x.engine.Residents(ctx, hsm.Call{Class: hsm.Background}, func(r pkcs11.Resident) error {
			if strings.Contains(r.Label, x.stores[0]) {
				residents = append(residents, r)
			}
			return nil
		})
		if err != nil || len(residents) == 0 {
			break
		}
		time.Sleep(exercisePoll)
	}
	return residents, err
}

// Outcomes of a part, as they are printed.
const (
	partPassed  = "pass"
	partFailed  = "FAIL"
	partLacking = "lacking"
)

// exerciseRun is one part of the suite, or all of it; it prints how it went.
type exerciseRun struct {
	w      io.Writer
	name   string
	counts map[string]int // of outcomes, by all parts

	mu      sync.Mutex // guards what follows
	failed  []string
	lacking []string
}

// Run runs a part to its end, or to its Fatalf.
func (r *exerciseRun) Run(name string, f func(hsmtest.T)) bool {
	part := &exerciseRun{w: r.w, name: name, counts: r.counts}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil { // the keys are still to be destroyed
				part.Errorf("panic: %v", p)
			}
		}()
		f(part)
	}()
	<-done
	part.finish()
	return len(part.failed) == 0
}

// finish prints how the part went, and what was said about it.
func (r *exerciseRun) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	outcome, said := partPassed, []string{""}
	switch {
	case len(r.failed) > 0:
		outcome, said = partFailed, r.failed
	case len(r.lacking) > 0:
		outcome, said = partLacking, r.lacking
	case r.name == "": // all parts have spoken for themselves
		return
	}
	r.counts[outcome]++
	name := r.name
	for _, word := range said {
		fmt.Fprintln(r.w, strings.TrimRight(fmt.Sprintf("%-8s %-50s %s", outcome, name, word), " "))
		outcome, name = "", ""
	}
}

func (r *exerciseRun) say(to *[]string, format string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*to = append(*to, fmt.Sprintf(format, args...))
}

// Errorf says that the part fails.
func (r *exerciseRun) Errorf(format string, args ...any) { r.say(&r.failed, format, args) }

// Fatalf says that the part fails, and ends it.
func (r *exerciseRun) Fatalf(format string, args ...any) {
	r.say(&r.failed, format, args)
	runtime.Goexit()
}

// Logf says nothing to people.
func (*exerciseRun) Logf(string, ...any) {}

// Lacking says what the token has no mechanism for.
func (r *exerciseRun) Lacking(format string, args ...any) { r.say(&r.lacking, format, args) }
