package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/pkcs11"
)

// exerciseHandles is how many unwrapped keys the engine of an exercise caches:
// few, since the suite uses more keys than that at once.
const exerciseHandles = 32

// exerciseCleanup bounds the clearing up after an exercise.
const exerciseCleanup = time.Minute

// exercise runs the conformance suite on keys of throw-away stores.
func (p *program) exercise(ctx context.Context, engine *pkcs11.Engine) error {
	x := &exercise{engine: engine}
	suffix := make([]byte, 4)
	_, _ = rand.Read(suffix) // never fails (crypto/rand, since Go 1.24)
	x.stores = [2]string{"exercise-" + hex.EncodeToString(suffix), "exercise-" + hex.EncodeToString(suffix) + "-other"}
	run := &exerciseRun{program: p, counts: &exerciseCounts{}}
	err := x.prepare(ctx)
	if err == nil {
		fmt.Fprintf(p.stdout, "\nEXERCISE of key stores %s and %s\n", x.stores[0], x.stores[1])
		hsmtest.Exercise(run, x.fixture)
		c := run.counts
		fmt.Fprintf(p.stdout, "%d passed, %d failed, %d lacking\n", c.passed, c.failed, c.lacking)
		if c.failed > 0 {
			err = fmt.Errorf("%d parts of the conformance suite failed", c.failed)
		}
	}
	return errors.Join(err, x.clear(ctx))
}

// exercise is the stores of one run and their service keys.
type exercise struct {
	engine *pkcs11.Engine
	stores [2]string
	rows   []hsm.ServiceKey // all that were made
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
		Token: x.engine, Store: x.stores[0], OtherStore: x.stores[1], Handles: exerciseHandles, Rewrap: x.engine.Rewrap,
		AddGeneration: func(ctx context.Context) error { return x.addGeneration(ctx, x.stores[0], 2) },
		Close:         func() {},
	}
}

// clear destroys what the exercise made, also after it was interrupted, and says
// what is left.
func (x *exercise) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exerciseCleanup)
	defer cancel()
	var errs []error
	for _, row := range x.rows {
		if err := x.engine.DestroyServiceKeys(ctx, []hsm.ServiceKey{row}); err != nil {
			errs = append(errs, fmt.Errorf("the %s key of %s, generation %d, may be left in the token (CKA_ID %x): %w",
				row.Kind, row.Store, row.Generation, row.ID, err))
		}
	}
	return errors.Join(errs...)
}

// exerciseCounts are the outcomes of the suite's parts.
type exerciseCounts struct{ passed, failed, lacking int }

// exerciseRun is one part of the suite; it prints how it went. It is used by the
// part's own goroutines.
type exerciseRun struct {
	program *program
	counts  *exerciseCounts
	name    string
	words   chan string // what was said about the part; nil above the parts
	failed  bool
	lacks   bool
}

// Run runs a part to its end, or to its Fatalf.
func (r *exerciseRun) Run(name string, f func(hsmtest.T)) bool {
	part := &exerciseRun{program: r.program, counts: r.counts, name: strings.TrimPrefix(r.name+"/"+name, "/"), words: make(chan string, 1)}
	done := make(chan struct{})
	said := make(chan []string)
	go func() {
		var all []string
		for word := range part.words {
			all = append(all, word)
		}
		said <- all
	}()
	go func() {
		defer close(done)
		f(part)
	}()
	<-done
	close(part.words)
	part.report(<-said)
	return !part.failed
}

// Markers in front of what a part has said.
const (
	saidFailed  = "F"
	saidLacking = "L"
	saidLog     = " "
)

// report prints how the part went, and what is wrong.
func (r *exerciseRun) report(said []string) {
	for _, word := range said {
		r.failed = r.failed || strings.HasPrefix(word, saidFailed)
		r.lacks = r.lacks || strings.HasPrefix(word, saidLacking)
	}
	outcome := "pass"
	switch {
	case r.failed:
		outcome = "FAIL"
		r.counts.failed++
	case r.lacks:
		outcome = "lacking"
		r.counts.lacking++
	default:
		r.counts.passed++
	}
	fmt.Fprintf(r.program.stdout, "%-8s %s\n", outcome, r.name)
	for _, word := range said {
		if !strings.HasPrefix(word, saidLog) {
			fmt.Fprintf(r.program.stdout, "%-8s   %s\n", "", word[1:])
		}
	}
}

func (r *exerciseRun) say(marker, format string, args []any) {
	r.words <- marker + fmt.Sprintf(format, args...)
}

// Errorf says that the part fails.
func (r *exerciseRun) Errorf(format string, args ...any) { r.say(saidFailed, format, args) }

// Fatalf says that the part fails, and ends it.
func (r *exerciseRun) Fatalf(format string, args ...any) {
	r.say(saidFailed, format, args)
	runtime.Goexit()
}

// Logf says something that is only of interest with a failure.
func (r *exerciseRun) Logf(format string, args ...any) { r.say(saidLog, format, args) }

// Lacking says what the token has no mechanism for.
func (r *exerciseRun) Lacking(format string, args ...any) { r.say(saidLacking, format, args) }
