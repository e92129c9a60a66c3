package metadata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"kmsgate/metadata/audit"
)

// outboxRow is a record that was put into the outbox.
type outboxRow struct {
	id     uuid.UUID
	record Record
}

const insertOutbox = `INSERT INTO audit_outbox (id, stream, record) VALUES (@id, @stream, @record)`

// outboxInsert puts the records of a change into the outbox, in the change's own
// transaction.
func (w *writer) outboxInsert(ctx context.Context, tx pgx.Tx, events ...[]byte) ([]outboxRow, error) {
	var batch pgx.Batch
	rows := make([]outboxRow, 0, len(events))
	stream := uuid.UUID(w.current())
	for _, event := range events {
		if len(event) > audit.MaxRecordBytes {
			return nil, fmt.Errorf("audit record of %d bytes, more than %d", len(event), audit.MaxRecordBytes)
		}
		row := outboxRow{id: uuid.New(), record: Record{Event: event}}
		batch.Queue(insertOutbox, pgx.StrictNamedArgs{"id": row.id, "stream": stream, "record": event})
		rows = append(rows, row)
	}
	return rows, wrap(tx.SendBatch(ctx, &batch).Close(), "audit outbox")
}

// committed hands over the records of a change that has been committed, and does
// not wait. A record for which there is no room, and one whose change nobody
// reports because its commit got lost, is found again in the outbox.
func (w *writer) committed(rows ...outboxRow) {
	now := w.cfg.clock()
	for _, r := range rows {
		w.queue.addOutbox(&item{records: [][]byte{r.record.Event}, uses: r.record.Uses, outbox: r.id, queued: now})
	}
}

// keeper does the writer's work that nobody waits for. It belongs to one
// goroutine at a time: newWriter's, then run's, then close's.
type keeper struct {
	*writer
	partitioned time.Time              // the month whose partitions are there
	strays      map[uuid.UUID]struct{} // own outbox rows that were not in the queue last time
	pending     *fold                  // cut off and not yet written
}

// run works at its intervals until ctx ends.
func (k *keeper) run(ctx context.Context) {
	sweep, fold := time.NewTicker(k.cfg.sweepEvery), time.NewTicker(k.cfg.foldEvery)
	defer sweep.Stop()
	defer fold.Stop()
	k.log(ctx, "audit sweep", k.sweep(ctx))
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			k.log(ctx, "audit sweep", k.sweep(ctx))
		case <-fold.C:
			k.log(ctx, "use counts", k.fold(ctx))
		}
	}
}

func (k *keeper) log(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		k.cfg.logger.WarnContext(ctx, "audit housekeeping failed, to be tried again", "work", what, "error", err)
	}
}

// sweep makes the partitions, picks up own outbox rows that got lost and takes
// up the streams of runs that died.
func (k *keeper) sweep(ctx context.Context) error {
	if err := k.ensurePartitions(ctx); err != nil {
		return err
	}
	if err := k.sweepStrays(ctx); err != nil {
		return err
	}
	dead, err := k.selectOthers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, stream := range dead {
		errs = append(errs, k.takeUp(ctx, stream))
	}
	return errors.Join(errs...)
}

const sweepRows = 256 // outbox rows that are taken at once

const selectOutbox = `
SELECT id, record
FROM audit_outbox
WHERE stream = @stream AND id <> ALL (@but::uuid[])
ORDER BY id
LIMIT @limit`

// outboxOf reads outbox rows of a stream but for those named.
func (k *keeper) outboxOf(ctx context.Context, stream audit.StreamID, but []uuid.UUID) ([]*item, error) {
	rows, err := k.cfg.pool.Query(ctx, selectOutbox, pgx.StrictNamedArgs{
		"stream": uuid.UUID(stream), "but": append([]uuid.UUID{}, but...), "limit": sweepRows, // nil would be NULL
	})
	if err != nil {
		return nil, wrap(err, "audit outbox")
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*item, error) {
		it := &item{queued: k.cfg.clock(), done: make(chan error, 1)}
		it.records = make([][]byte, 1)
		err := row.Scan(&it.outbox, &it.records[0])
		return it, err
	})
	if err != nil {
		return nil, wrap(err, "audit outbox")
	}
	for _, it := range items {
		if it.uses, err = audit.UsesOf(it.records[0]); err != nil {
			k.log(ctx, "uses of an outbox record", err)
		}
	}
	return items, nil
}

// sweepStrays queues own outbox rows that were not in the queue the last time
// either: a row that has just been committed is on its way there.
func (k *keeper) sweepStrays(ctx context.Context) error {
	items, err := k.outboxOf(ctx, k.current(), k.queue.held())
	if err != nil {
		return err
	}
	strays := make(map[uuid.UUID]struct{})
	for _, it := range items {
		if _, again := k.strays[it.outbox]; !again {
			strays[it.outbox] = struct{}{}
			continue
		}
		k.queue.addOutbox(it)
	}
	k.strays = strays
	return nil
}

const selectOtherStreams = `
(SELECT id FROM audit_streams WHERE NOT ended AND id <> @current LIMIT @limit)
UNION
(SELECT DISTINCT stream FROM audit_outbox WHERE stream <> @current LIMIT @limit)`

// selectOthers are streams of other runs, living ones too, that have something
// left to do.
func (k *keeper) selectOthers(ctx context.Context) ([]audit.StreamID, error) {
	rows, err := k.cfg.pool.Query(ctx, selectOtherStreams, pgx.StrictNamedArgs{
		"current": uuid.UUID(k.current()), "limit": sweepRows,
	})
	if err != nil {
		return nil, wrap(err, "audit streams")
	}
	streams, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (audit.StreamID, error) {
		var id uuid.UUID
		err := row.Scan(&id)
		return audit.StreamID(id), err
	})
	return streams, wrap(err, "audit streams")
}

// takeUp finishes a stream if it is dead: its outbox goes into our chain, its
// uses are counted to the end, and it is marked. While it works it holds the
// stream's lock, so that it is the only one; if it fails, the lock goes and
// whoever comes next does the rest.
func (k *keeper) takeUp(ctx context.Context, stream audit.StreamID) error {
	conn, err := k.cfg.pool.Acquire(ctx)
	if err != nil {
		return wrap(err, "take up audit stream %v", stream)
	}
	defer conn.Release()
	locked, err := tryLockStream(ctx, conn, stream)
	if err != nil || !locked {
		return err
	}
	defer k.unlock(ctx, conn, stream)
	if err := k.takeOutbox(ctx, stream); err != nil {
		return err
	}
	if err := k.foldStored(ctx, stream); err != nil {
		return err
	}
	return endStream(ctx, k.cfg.pool, stream)
}

// unlock gives a lock back with its connection, or closes the connection.
func (k *keeper) unlock(ctx context.Context, conn *pgxpool.Conn, stream audit.StreamID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if unlockStream(ctx, conn, stream) != nil {
		_ = conn.Conn().Close(ctx) // which gives up the lock
	}
}

// errBusy ends a round in which the queue took nothing.
var errBusy = errors.New("the audit queue is full")

// takeOutbox moves the whole outbox of a stream into our chain and waits for it.
func (k *keeper) takeOutbox(ctx context.Context, stream audit.StreamID) error {
	for {
		items, err := k.outboxOf(ctx, stream, nil)
		if err != nil || len(items) == 0 {
			return err
		}
		var queued []*item
		for _, it := range items {
			if k.queue.addOutbox(it) {
				queued = append(queued, it)
			}
		}
		if len(queued) == 0 {
			return errBusy
		}
		for _, it := range queued {
			select {
			case err := <-it.done:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
