package metadata

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"kmsgate/metadata/audit"
)

// Writer is the audit writer without a store around it, for tests: its keeper
// works only when it is told to.
type Writer struct {
	w    *writer
	Pool *pgxpool.Pool
}

// WriterOptions are the parts of a writer's config that tests set; zero is the
// default.
type WriterOptions struct {
	Instance                 string
	Clock                    func() time.Time
	Covered                  func(account string, version int64) bool
	Observe                  func(BatchStats)
	Logger                   *slog.Logger
	QueueRecords, QueueBytes int
	BatchRecords             int
	Dial                     func(ctx context.Context, network, address string) (net.Conn, error)
	Keep                     bool // let the keeper work by itself
	SweepEvery, FoldEvery    time.Duration
}

// Seen is the version of an account that a record rests on.
type Seen = accountVersion

// Saw makes a Seen.
func Saw(account string, version int64) Seen { return Seen{account: account, version: version} }

// OpenWriter starts a writer on a database.
func OpenWriter(ctx context.Context, url string, o WriterOptions) (*Writer, error) {
	cfg, err := Config{URL: url, Instance: "x", AllowUnsafeDurability: true}.validate()
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if o.Dial != nil {
		pool.Close()
		parsed := pool.Config()
		parsed.ConnConfig.DialFunc = o.Dial
		if pool, err = pgxpool.NewWithConfig(ctx, parsed); err != nil {
			return nil, err
		}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w, err := newWriter(ctx, writerConfig{
		pool: pool, instance: o.Instance, clock: o.Clock, logger: o.Logger, observe: o.Observe,
		covered: func(seen []accountVersion) bool {
			for _, s := range seen {
				if o.Covered == nil || !o.Covered(s.account, s.version) {
					return false
				}
			}
			return true
		},
		queueRecords: o.QueueRecords, queueBytes: o.QueueBytes, batchRecords: o.BatchRecords,
		sweepEvery: o.SweepEvery, foldEvery: o.FoldEvery,
	})
	if err != nil {
		pool.Close()
		return nil, err
	}
	if !o.Keep {
		w.stopKeep()
		w.keeping.Wait()
	}
	return &Writer{w: w, Pool: pool}, nil
}

// Record makes a record durable.
func (w *Writer) Record(ctx context.Context, event []byte, uses []audit.Use, seen ...Seen) error {
	return w.w.record(ctx, seen, Record{Event: event, Uses: uses})
}

// Refuse makes the record of a refusal durable.
func (w *Writer) Refuse(ctx context.Context, event []byte, r *Refusal, seen ...Seen) error {
	return w.w.record(ctx, seen, Record{Event: event, Refusal: r})
}

// OutboxRow is a record in the outbox.
type OutboxRow = outboxRow

// InsertOutbox commits a record to the outbox, as a change does, and hands it
// over to nobody.
func (w *Writer) InsertOutbox(ctx context.Context, event []byte) (row OutboxRow, err error) {
	err = pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		rows, err := w.w.outboxInsert(ctx, tx, event)
		if err == nil {
			row = rows[0]
		}
		return err
	})
	return row, err
}

// Committed hands over what is in the outbox.
func (w *Writer) Committed(rows ...OutboxRow) { w.w.committed(rows...) }

// Sweep does the keeper's round.
func (w *Writer) Sweep(ctx context.Context) error { return w.w.keep.sweep(ctx) }

// Fold writes the uses.
func (w *Writer) Fold(ctx context.Context) error { return w.w.keep.fold(ctx) }

// Stream is the current stream.
func (w *Writer) Stream() audit.StreamID { return w.w.current() }

// Log reads the log.
func (w *Writer) Log() *AuditLog { return &AuditLog{pool: w.Pool, clock: w.w.cfg.clock} }

// Close ends the stream in order.
func (w *Writer) Close(ctx context.Context) error {
	defer w.Pool.Close()
	return w.w.close(ctx)
}

// Kill ends the writer as the end of its process would: nothing is finished. It
// returns when the server has noticed.
func (w *Writer) Kill() {
	w.w.queue.close()
	w.w.abort()
	w.w.running.Wait()
	w.w.stopKeep()
	w.w.keeping.Wait()
	w.w.append.disconnect()
	for ctx := context.Background(); pause(ctx, time.Millisecond); {
		var held bool
		err := w.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = $1)`,
			w.w.append.backend).Scan(&held)
		if err != nil || !held { // an error: it was closed before
			break
		}
	}
	w.Pool.Close()
}
