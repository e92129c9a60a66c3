package metadata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"kmsgate/metadata/audit"
)

const (
	appendTimeout = 15 * time.Second // for one statement; longer than the server's own limit
	firstBackoff  = 20 * time.Millisecond
	longestPause  = time.Second // between attempts while Postgres is away
)

// appender writes the chain. It belongs to one goroutine at a time: newWriter's,
// then run's, then close's.
type appender struct {
	*writer
	encoder *audit.Encoder

	conn    *pgx.Conn // holds the lock of the stream; nil when it is lost
	backend uint32    // process id of the newest connection
	head    audit.Head
	opening []byte // the stream's first record, until it is stored

	// unknown is a batch that was sent and not answered. Its records stay
	// together until the next connection has found out what became of it.
	unknown *audit.Batch
	// over is set when the stream cannot go on: the head that was found instead.
	over    *audit.Head
	failing bool // the newest attempt failed
}

func newAppender(w *writer) *appender { return &appender{writer: w, encoder: audit.NewEncoder()} }

// run stores what the queue holds until it is closed and empty, or ctx ends.
func (a *appender) run(ctx context.Context) {
	for {
		batch := a.queue.next(ctx, a.cfg.batchRecords, a.cfg.batchBytes)
		if batch == nil {
			break
		}
		a.store(ctx, batch)
	}
	a.queue.fail(fmt.Errorf("audit record: %w: %w", ErrUnavailable, errClosing))
}

// store tries until every record of a batch has been answered or ctx ends.
func (a *appender) store(ctx context.Context, batch []*item) {
	wait := firstBackoff
	for len(batch) > 0 {
		rest, err := a.attempt(ctx, batch)
		a.report(ctx, err)
		switch {
		case err == nil:
			wait = firstBackoff
		case !pause(ctx, wait):
			a.queue.finish(fmt.Errorf("audit record: %w: %w", ErrUnavailable, err), rest...)
			return
		default:
			wait = min(2*wait, longestPause)
		}
		if a.unknown == nil {
			rest = a.queue.wanted(rest)
		}
		batch = rest
	}
}

// report logs when the log stops being writable and when it is again.
func (a *appender) report(ctx context.Context, err error) {
	switch {
	case err != nil && !a.failing:
		a.cfg.logger.WarnContext(ctx, "audit log cannot be written", "error", err)
	case err == nil && a.failing:
		a.cfg.logger.InfoContext(ctx, "audit log can be written again", "stream", a.head.Stream.String())
	}
	a.failing = err != nil
}

// attempt sends a batch once and returns those of its records that have no
// answer yet. The batch may be empty if the stream has yet to be opened.
func (a *appender) attempt(ctx context.Context, items []*item) (rest []*item, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if a.conn == nil {
		stored, err := a.reconnect(ctx)
		if err != nil {
			return items, err
		}
		if stored {
			a.stored(a.unknown, items, 0)
			return nil, nil
		}
		a.unknown = nil
		if items = a.queue.wanted(items); len(items) == 0 {
			return nil, nil
		}
	}
	if a.over != nil {
		if err := a.startStream(ctx, *a.over, &a.head); err != nil {
			return items, a.check(err)
		}
	}
	batch := a.seal(items)
	sent := a.cfg.clock()
	moved, err := a.send(ctx, &batch, items)
	switch {
	case err != nil:
		return a.failed(ctx, &batch, items, err)
	case !moved:
		return a.refused(ctx, items)
	}
	a.stored(&batch, items, a.cfg.clock().Sub(sent))
	return nil, nil
}

func (a *appender) seal(items []*item) audit.Batch {
	records := make([][]byte, 0, len(items)+1)
	if a.opening != nil {
		records = append(records, a.opening)
	}
	for _, it := range items {
		records = append(records, it.records...)
	}
	return a.encoder.Seal(a.head, records)
}

// appendBatch is one statement, so that it is one round trip and has one
// snapshot: the versions it compares are those committed when it began. The
// head moves only from where this writer left it; if it does not move, nothing
// else happens. A batch whose outbox rows are not all there would tell of a
// change that another stream tells of already: its count of 0 breaks a
// constraint, which undoes the statement.
const appendBatch = `
WITH moved AS (
    UPDATE audit_streams
    SET number = @number, seq = @seq, hash = @hash
    WHERE id = @stream AND number = @number_before AND hash = @hash_before AND NOT ended
      AND NOT EXISTS (
        SELECT FROM unnest(@accounts::text[], @versions::bigint[]) AS seen (account, version)
        LEFT JOIN accounts AS a ON a.id = seen.account
        WHERE a.version IS DISTINCT FROM seen.version)
    RETURNING id
), taken AS (
    DELETE FROM audit_outbox
    WHERE id = ANY (@outbox::uuid[]) AND EXISTS (SELECT FROM moved)
    RETURNING id
), refused AS (` + insertRefusals + `
)
INSERT INTO audit_batches (month, stream, number, first_seq, count, hash_before, hash, records)
SELECT @month::date, moved.id, @number, @first_seq,
       CASE WHEN (SELECT count(*) FROM taken) = cardinality(@outbox::uuid[]) THEN @count::integer ELSE 0 END,
       @hash_before, @hash, @records
FROM moved`

// appendBatch undoes itself by the constraint constraintCount. The same code
// without a constraint says that there is no partition for the month.
const (
	codeCheckViolation = "23514"
	constraintCount    = "audit_batches_count_check"
)

// send reports whether the head moved.
func (a *appender) send(ctx context.Context, b *audit.Batch, items []*item) (moved bool, err error) {
	outbox := make([]uuid.UUID, 0, len(items))
	for _, it := range items {
		if it.outbox != uuid.Nil {
			outbox = append(outbox, it.outbox)
		}
	}
	accounts, versions := a.uncovered(items)
	after := b.Head()
	args := pgx.StrictNamedArgs{
		"stream": uuid.UUID(b.Stream), "number": b.Number, "number_before": a.head.Number, "seq": after.Seq,
		"hash": b.Hash[:], "hash_before": b.HashBefore[:], "accounts": accounts, "versions": versions,
		"outbox": outbox, "month": monthOf(a.cfg.clock()), "first_seq": b.FirstSeq, "count": b.Count,
		"records": b.Records,
	}
	addRefusals(args, items)
	tag, err := a.conn.Exec(ctx, appendBatch, args)
	return tag.RowsAffected() == 1, err
}

// uncovered are the account versions that the database has to confirm.
func (a *appender) uncovered(items []*item) (accounts []string, versions []int64) {
	type version struct {
		account string
		version int64
	}
	asked := make(map[version]struct{})
	accounts, versions = []string{}, []int64{}
	for _, it := range items {
		if len(it.seen) == 0 || a.cfg.covered(it.seen) {
			continue
		}
		for _, s := range it.seen {
			v := version{s.account, s.version}
			if _, ok := asked[v]; !ok {
				asked[v] = struct{}{}
				accounts, versions = append(accounts, s.account), append(versions, s.version)
			}
		}
	}
	return accounts, versions
}

// stored notes that a batch is durable and answers its callers.
func (a *appender) stored(b *audit.Batch, items []*item, took time.Duration) {
	a.head, a.opening, a.unknown = b.Head(), nil, nil
	stats := BatchStats{Records: int(b.Count), StoredBytes: len(b.Records), Commit: took}
	if len(items) > 0 {
		stats.Lag = a.cfg.clock().Sub(items[0].queued)
	}
	a.uses.add(items, b.Number)
	a.queue.finish(nil, items...)
	a.cfg.observe(stats)
}

// failed deals with an error of the statement.
func (a *appender) failed(ctx context.Context, b *audit.Batch, items []*item, err error) ([]*item, error) {
	if commitIsUnknown(err) || a.conn.IsClosed() {
		a.unknown = b // if it is known all the same, settling it costs nothing
		a.disconnect()
		return items, fmt.Errorf("audit batch: %w", err)
	}
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != codeCheckViolation {
		return items, a.check(fmt.Errorf("audit batch: %w", err))
	}
	switch server.ConstraintName {
	case constraintCount:
		return a.dropVanished(ctx, items)
	case "": // no partition for the month
		return items, a.check(createPartition(ctx, a.conn, monthOf(a.cfg.clock())))
	}
	return items, fmt.Errorf("audit batch: %w", err)
}

const selectOutboxThere = `SELECT id FROM audit_outbox WHERE id = ANY (@outbox::uuid[])`

// dropVanished answers for outbox rows that another writer has moved into its
// chain.
func (a *appender) dropVanished(ctx context.Context, items []*item) ([]*item, error) {
	ids := make([]uuid.UUID, len(items))
	for i, it := range items {
		ids[i] = it.outbox
	}
	rows, err := a.conn.Query(ctx, selectOutboxThere, pgx.StrictNamedArgs{"outbox": ids})
	if err != nil {
		return items, a.check(fmt.Errorf("audit outbox: %w", err))
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return items, a.check(fmt.Errorf("audit outbox: %w", err))
	}
	found := make(map[uuid.UUID]bool, len(there)+1)
	found[uuid.Nil] = true // records that are not of the outbox
	for _, id := range there {
		found[id] = true
	}
	return a.split(items, nil, func(it *item) bool { return found[it.outbox] }), nil
}

// refused finds out why the head did not move: it is not where it was left, or
// accounts of the batch moved.
func (a *appender) refused(ctx context.Context, items []*item) ([]*item, error) {
	found, ended, err := selectHead(ctx, a.conn, a.head.Stream)
	if err != nil {
		return items, a.check(err)
	}
	if ended || found != a.head {
		a.over = &found
		return items, nil
	}
	return a.dropStale(ctx, items)
}

func (a *appender) dropStale(ctx context.Context, items []*item) ([]*item, error) {
	accounts, _ := a.uncovered(items)
	rows, err := a.conn.Query(ctx, selectSeen, pgx.StrictNamedArgs{"accounts": accounts})
	if err != nil {
		return items, a.check(fmt.Errorf("account versions: %w", err))
	}
	var id string
	var version int64
	now := make(map[string]int64, len(accounts))
	_, err = pgx.ForEachRow(rows, []any{&id, &version}, func() error {
		now[id] = version
		return nil
	})
	if err != nil {
		return items, a.check(fmt.Errorf("account versions: %w", err))
	}
	stands := func(it *item) bool {
		if a.cfg.covered(it.seen) {
			return true
		}
		for _, s := range it.seen {
			if now[s.account] != s.version {
				return false
			}
		}
		return true
	}
	return a.split(items, ErrStale, stands), nil
}

// split answers the items that are not to be kept and returns the others.
func (a *appender) split(items []*item, answer error, keep func(*item) bool) (kept []*item) {
	for _, it := range items {
		if keep(it) {
			kept = append(kept, it)
		} else {
			a.queue.finish(answer, it)
		}
	}
	return kept
}

// check drops the connection if an error has broken it.
func (a *appender) check(err error) error {
	if err != nil && a.conn.IsClosed() {
		a.disconnect()
	}
	return err
}
