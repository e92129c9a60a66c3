package metadata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"kmsgate/metadata/audit"
)

// Record is a finished audit record with the uses of keys that it tells of.
type Record struct {
	// Event is the record's exact bytes, at most audit.MaxRecordBytes. It must
	// not be written to afterwards.
	Event []byte
	// Uses is what audit.UsesOf would read from Event.
	Uses []audit.Use
	// Refusal is why the request was refused. Optional. Not for records of changes.
	Refusal *Refusal
}

// BatchStats describes a batch of audit records that was committed.
type BatchStats struct {
	Records     int
	StoredBytes int           // compressed
	Commit      time.Duration // the round trip that made it durable
	Lag         time.Duration // from the arrival of its oldest record to that
}

// writerConfig is what a writer needs. Zero limits and intervals mean the
// defaults.
type writerConfig struct {
	pool     *pgxpool.Pool // for everything but the chain, which has a connection of its own
	instance string
	clock    func() time.Time
	logger   *slog.Logger
	covered  func([]accountVersion) bool // whether a decision holds without asking the database
	observe  func(BatchStats)            // optional; called by the writer's goroutine

	queueRecords, queueBytes int           // beyond either, records are refused
	batchRecords, batchBytes int           // a batch ends at either
	sweepEvery, foldEvery    time.Duration // how often abandoned records are looked for and uses written
}

func (c writerConfig) withDefaults() writerConfig {
	c.queueRecords = cmp.Or(c.queueRecords, 8192)
	c.queueBytes = cmp.Or(c.queueBytes, 16<<20)
	c.batchRecords = cmp.Or(c.batchRecords, 1024)
	c.batchBytes = cmp.Or(c.batchBytes, 1<<20)
	c.sweepEvery = cmp.Or(c.sweepEvery, 3*time.Second)
	c.foldEvery = cmp.Or(c.foldEvery, 10*time.Second)
	if c.covered == nil {
		c.covered = func([]accountVersion) bool { return false }
	}
	if c.observe == nil {
		c.observe = func(BatchStats) {}
	}
	return c
}

// writer is the one place where this process's audit records enter the log.
//
// Records wait in a queue, from which the appender's goroutine moves whatever
// is there into the next batch of the stream while further ones gather. Records
// of changes are in the outbox already; they go the same way, and leave the
// outbox in the statement that stores their batch. The keeper's goroutine does
// what nobody waits for: it takes up the outbox of runs that died, makes the
// partitions and writes the uses of keys.
//
// Safe for concurrent use.
type writer struct {
	cfg    writerConfig
	queue  *queue
	stream atomic.Pointer[audit.StreamID] // the current one; set by the appender
	uses   *useCounter
	append *appender
	keep   *keeper

	abort    context.CancelFunc // ends the appender's work, finished or not
	stopKeep context.CancelFunc
	running  sync.WaitGroup // the appender
	keeping  sync.WaitGroup // the keeper
}

// newWriter starts a stream and returns when its first record is durable. ctx
// is for starting alone.
func newWriter(ctx context.Context, cfg writerConfig) (*writer, error) {
	cfg = cfg.withDefaults()
	w := &writer{cfg: cfg, queue: newQueue(cfg.queueRecords, cfg.queueBytes), uses: newUseCounter()}
	w.append = newAppender(w)
	w.keep = &keeper{writer: w}
	if err := w.keep.ensurePartitions(ctx); err != nil {
		return nil, err
	}
	if err := w.append.begin(ctx); err != nil {
		w.append.disconnect()
		return nil, err
	}
	appendCtx, abort := context.WithCancel(context.WithoutCancel(ctx))
	keepCtx, stopKeep := context.WithCancel(context.WithoutCancel(ctx))
	w.abort, w.stopKeep = abort, stopKeep
	w.running.Go(func() { w.append.run(appendCtx) })
	w.keeping.Go(func() { w.keep.run(keepCtx) })
	return w, nil
}

// record makes records durable, all or none, before it returns. ErrStale if an account of
// seen moved and nothing covers that; ErrUnavailable if the record cannot be
// made durable before ctx ends, or too many are waiting. In that case the
// record is dropped unless its batch is on its way already, so it may still
// appear in the log.
func (w *writer) record(ctx context.Context, seen []accountVersion, records ...Record) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("audit record: %w: %w", ErrUnavailable, err)
	}
	if len(records) == 0 {
		return nil
	}
	it := &item{seen: seen, queued: w.cfg.clock(), done: make(chan error, 1)}
	for _, r := range records {
		if len(r.Event) > audit.MaxRecordBytes {
			return fmt.Errorf("audit record of %d bytes, more than %d", len(r.Event), audit.MaxRecordBytes)
		}
		if it.size()+len(r.Event) > audit.MaxBatchBytes/2 {
			return fmt.Errorf("%d audit records at once are more than %d bytes", len(records), audit.MaxBatchBytes/2)
		}
		if r.Refusal != nil {
			if err := r.Refusal.check(); err != nil {
				return err
			}
			it.refusals = append(it.refusals, r.Refusal)
		}
		it.records, it.uses = append(it.records, r.Event), append(it.uses, r.Uses...)
	}
	if err := w.queue.add(it); err != nil {
		return err
	}
	select {
	case err := <-it.done:
		return err
	case <-ctx.Done():
	}
	w.queue.giveUp(it)
	select {
	case err := <-it.done: // it was just in time
		return err
	default:
		return fmt.Errorf("audit record: %w: %w", ErrUnavailable, ctx.Err())
	}
}

// close stores what is waiting, writes the uses and ends the stream. Records
// that come later are refused. When ctx ends first, what is left in the outbox
// and the uses are taken up by the next run.
func (w *writer) close(ctx context.Context) error {
	w.queue.close()
	w.stopKeep()
	w.keeping.Wait()
	stop := context.AfterFunc(ctx, w.abort)
	defer stop()
	w.running.Wait()
	defer w.abort()
	defer w.append.disconnect()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("close audit stream: %w", err)
	}
	if err := w.append.end(ctx); err != nil {
		return fmt.Errorf("close audit stream: %w", err)
	}
	return nil
}

// current is the stream that the process writes.
func (w *writer) current() audit.StreamID { return *w.stream.Load() }

// pause waits, and tells whether ctx is still there.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// newEventID names a record of the writer's own.
func newEventID() string { return uuid.NewString() }

// errClosing is the answer to records that come after close.
var errClosing = errors.New("the audit log is being closed")
