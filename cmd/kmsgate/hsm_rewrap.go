package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// boundBatch is how many rows are moved in one transaction with one audit record:
	// as many as a notice to the other instances has room for.
	boundBatch = 96
	// maxWorkers bounds the batches that are moved at once.
	maxWorkers = 64
	// maxFaults is how many rows that do not open are told one by one.
	maxFaults = 20
)

// mover moves the rows of a key store to a generation of its service keys.
type mover struct {
	*installation
	out     io.Writer // progress and faults
	region  regionConfig
	to      int32
	workers int

	moved    atomic.Int64
	faults   faultList
	progress *progress
}

// moveAll moves every row that names an older generation, until there is none. What
// changes while it is moved is read again. Rows that do not open stay where they are.
func (m *mover) moveAll(ctx context.Context) error {
	for {
		left, err := m.store.CountBound(ctx, m.region.Store, m.to-1)
		if err != nil || left == 0 {
			return err
		}
		before := m.moved.Load()
		m.faults = faultList{out: m.out}
		m.progress = newProgress(m.out, "moved", left)
		err = eachBound(ctx, m.store, m.region.Store, m.to-1, m.workers, m.move)
		m.progress.finish()
		switch {
		case err != nil:
			return fmt.Errorf("%w; run the command again, and it goes on where it was", err)
		case m.faults.count() > 0 && m.moved.Load() == before:
			return fmt.Errorf("%d rows do not open and name an older generation still: they are not what the HSM has made, or their "+
				"objects are missing. See to them with kmsgate doctor -config FILE -all, then run the command again", m.faults.count())
		}
	}
}

// move moves a batch, and stores what became of it if its rows are what they were.
func (m *mover) move(ctx context.Context, kind metadata.BoundKind, rows []metadata.Bound) error {
	moved := make([]metadata.Rebinding, 0, len(rows))
	for chunk := range slices.Chunk(rows, pkcs11.MaxBatch) {
		outcomes, err := patiently(ctx, func() ([]pkcs11.Batched, error) {
			return m.byStore[m.region.Store].RewrapAll(ctx, background, hsmKeys(chunk), m.to)
		})
		if err != nil {
			return err
		}
		for n, o := range outcomes {
			if o.Err != nil {
				m.faults.add(&chunk[n], o.Err)
				continue
			}
			moved = append(moved, metadata.Rebinding{Was: chunk[n], Is: o.Key})
		}
	}
	m.progress.add(int64(len(rows)))
	if len(moved) == 0 {
		return nil
	}
	if err := m.prove(ctx, moved); err != nil {
		return err
	}
	stored := 0
	now := time.Now()
	err := m.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		keys, err := tx.Rebind(ctx, kind, moved)
		stored = len(keys)
		return m.event(rows, keys, now), err
	})
	m.moved.Add(int64(stored))
	return err
}

// prove opens every row of a batch before any of them is stored: what the token has
// wrapped and does not open would take the place of what it does open.
func (m *mover) prove(ctx context.Context, moved []metadata.Rebinding) error {
	for chunk := range slices.Chunk(moved, pkcs11.MaxBatch) {
		keys := make([]hsm.Key, 0, len(chunk))
		for i := range chunk {
			keys = append(keys, chunk[i].Is)
		}
		proved, err := patiently(ctx, func() ([]pkcs11.Batched, error) {
			return m.byStore[m.region.Store].ProveAll(ctx, background, keys)
		})
		for _, p := range proved {
			err = errors.Join(err, p.Err)
		}
		if err != nil {
			return fmt.Errorf("a batch of rows is not stored, because what the token has wrapped does not open: %w", err)
		}
	}
	return nil
}

// event is the record of a batch. It names each key once.
func (m *mover) event(rows []metadata.Bound, moved []metadata.KeyName, now time.Time) []byte {
	ids := make([]string, 0, len(moved))
	for _, k := range moved {
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	from := rows[0].Generation
	return generationEvent(rotateCommand, "RewrapKeys", m.region, m.to, now,
		audit.Int("fromGeneration", int64(from)), audit.Int("rows", int64(len(moved))), audit.Strings("keyIds", slices.Compact(ids)))
}

func hsmKeys(rows []metadata.Bound) []hsm.Key {
	keys := make([]hsm.Key, 0, len(rows))
	for i := range rows {
		keys = append(keys, rows[i].Key)
	}
	return keys
}

// boundLister is a database with rows under generations: this one, or a backup.
type boundLister interface {
	Bound(ctx context.Context, kind metadata.BoundKind, store string, upTo int32, after metadata.BoundPlace, limit int) ([]metadata.Bound, error)
}

// eachBound reads the rows of a key store up to a generation once, and has workers do
// something with them, batch by batch. A batch has rows of one kind.
func eachBound(ctx context.Context, from boundLister, store string, upTo int32, workers int,
	do func(context.Context, metadata.BoundKind, []metadata.Bound) error,
) error {
	working, ctx := errgroup.WithContext(ctx)
	working.SetLimit(workers)
	err := func() error {
		for _, kind := range metadata.BoundKinds {
			var place metadata.BoundPlace
			for {
				rows, err := from.Bound(ctx, kind, store, upTo, place, boundBatch)
				if err != nil {
					return err
				}
				if len(rows) == 0 {
					break
				}
				place = rows[len(rows)-1].Place()
				working.Go(func() error { return do(ctx, kind, rows) })
			}
		}
		return nil
	}()
	if failed := working.Wait(); failed != nil {
		return failed // it has ended the reading too
	}
	return err
}

// faultList counts rows that do not open, and tells the first of them.
type faultList struct {
	out io.Writer
	mu  sync.Mutex
	n   int
}

func (l *faultList) add(row *metadata.Bound, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; l.n <= maxFaults {
		fmt.Fprintf(l.out, "Key %s of account %s, generation %d: %v\n", row.KeyID, row.Account, row.Generation, err)
	}
}

func (l *faultList) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// progress says from time to time how far long work has come.
type progress struct {
	out   io.Writer
	verb  string
	total int64
	done  atomic.Int64
	began time.Time
	stop  chan struct{}
	ended chan struct{}
}

// progressEvery is how often it is said.
const progressEvery = 2 * time.Second

func newProgress(out io.Writer, verb string, total int64) *progress {
	p := &progress{out: out, verb: verb, total: total, began: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

func (p *progress) add(n int64) { p.done.Add(n) }

func (p *progress) run() {
	defer close(p.ended)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.say()
		}
	}
}

// finish says how far it came in the end.
func (p *progress) finish() {
	close(p.stop)
	<-p.ended
	p.say()
}

func (p *progress) say() {
	done := p.done.Load()
	rate := float64(done) / max(time.Since(p.began).Seconds(), 0.001)
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(max(p.total-done, 0))/rate) * time.Second).String()
	}
	fmt.Fprintf(p.out, "%s %d of %d rows, %.0f a second, %s left\n", p.verb, done, p.total, rate, left)
}
