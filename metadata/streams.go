package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"kmsgate/metadata/audit"
)

// AuditLog reads the audit log. Reading starts no stream and disturbs no
// writer. Safe for concurrent use.
type AuditLog struct {
	pool  *pgxpool.Pool
	clock func() time.Time
}

// OpenAuditLog connects for reading alone; Store.AuditLog is for who has a
// store. The caller closes it.
func OpenAuditLog(ctx context.Context, cfg Config) (*AuditLog, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &AuditLog{pool: pool, clock: cfg.Clock}, nil
}

// Close closes the connections of OpenAuditLog.
func (l *AuditLog) Close() { l.pool.Close() }

// AuditLog is the log of this store. It is not to be closed.
func (s *Store) AuditLog() *AuditLog { return &AuditLog{pool: s.pool, clock: s.clock} }

// AuditStream is a stream of the log as the database has it.
type AuditStream struct {
	Head     audit.Head
	Instance string
	Previous audit.StreamID // zero: none
	Started  time.Time
	Ended    bool
}

const selectStreams = `
SELECT id, number, seq, hash, instance, previous, started_at, ended
FROM audit_streams
WHERE @id::uuid IS NULL OR id = @id
ORDER BY started_at, id`

// Streams lists all streams, the oldest first: one for every run of a process.
func (l *AuditLog) Streams(ctx context.Context) ([]AuditStream, error) {
	return l.streams(ctx, uuid.NullUUID{})
}

func (l *AuditLog) streams(ctx context.Context, id uuid.NullUUID) ([]AuditStream, error) {
	rows, err := l.pool.Query(ctx, selectStreams, pgx.StrictNamedArgs{"id": id})
	if err != nil {
		return nil, wrap(err, "audit streams")
	}
	streams, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditStream, error) {
		var s AuditStream
		var id uuid.UUID
		var previous uuid.NullUUID
		var hash []byte
		err := row.Scan(&id, &s.Head.Number, &s.Head.Seq, &hash, &s.Instance, &previous, &s.Started, &s.Ended)
		s.Head.Stream, s.Previous = audit.StreamID(id), audit.StreamID(previous.UUID)
		copy(s.Head.Hash[:], hash)
		return s, err
	})
	return streams, wrap(err, "audit streams")
}

// batchRange names some batches of a stream.
type batchRange struct {
	stream audit.StreamID
	after  int64 // number
	months []time.Time
	limit  int
}

// The months are named because the primary key begins with them.
const selectBatchRange = `
SELECT number, first_seq, count, hash_before, hash, records
FROM audit_batches
WHERE month = ANY (@months::date[]) AND stream = @stream AND number > @after
ORDER BY number
LIMIT @limit`

func selectBatches(ctx context.Context, pool *pgxpool.Pool, r batchRange) ([]audit.Batch, error) {
	rows, err := pool.Query(ctx, selectBatchRange, pgx.StrictNamedArgs{
		"stream": uuid.UUID(r.stream), "after": r.after, "months": r.months, "limit": r.limit,
	})
	if err != nil {
		return nil, wrap(err, "audit batches of %v", r.stream)
	}
	batches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (audit.Batch, error) {
		b := audit.Batch{Stream: r.stream}
		var before, hash []byte
		err := row.Scan(&b.Number, &b.FirstSeq, &b.Count, &before, &hash, &b.Records)
		copy(b.HashBefore[:], before)
		copy(b.Hash[:], hash)
		return b, err
	})
	return batches, wrap(err, "audit batches of %v", r.stream)
}

// nextMonth is a time in the month after t: another instance's clock may be
// ahead.
func nextMonth(t time.Time) time.Time { return monthOf(t).AddDate(0, 1, 0) }

// verifyBatches are read at once by Verify.
const verifyBatches = 64

// Verify checks a stream from its first batch to the head that the database
// shows when it begins. ErrNotFound if there is no such stream.
func (l *AuditLog) Verify(ctx context.Context, stream audit.StreamID) (audit.Report, error) {
	found, err := l.streams(ctx, uuid.NullUUID{UUID: uuid.UUID(stream), Valid: true})
	if err != nil {
		return audit.Report{}, err
	}
	if len(found) == 0 {
		return audit.Report{}, fmt.Errorf("audit stream %v: %w", stream, ErrNotFound)
	}
	report, err := audit.Verify(stream, l.batches(ctx, found[0]))
	if err == nil && report.Head != found[0].Head {
		report.Faults = append(report.Faults, audit.Fault{
			Number: found[0].Head.Number, Problem: audit.HeadWrong,
			Detail: fmt.Sprintf("the batches end at number %d, sequence %d, hash %v; the head is at %d, %d, %v",
				report.Head.Number, report.Head.Seq, report.Head.Hash,
				found[0].Head.Number, found[0].Head.Seq, found[0].Head.Hash),
		})
	}
	return report, err
}

// batches are those of a stream up to its head.
func (l *AuditLog) batches(ctx context.Context, s AuditStream) iter.Seq2[audit.Batch, error] {
	r := batchRange{
		stream: s.Head.Stream, months: monthsBetween(s.Started, nextMonth(l.clock())), limit: verifyBatches,
	}
	return func(yield func(audit.Batch, error) bool) {
		for r.after < s.Head.Number {
			batches, err := selectBatches(ctx, l.pool, r)
			if err != nil {
				yield(audit.Batch{}, err)
				return
			}
			if len(batches) == 0 {
				return
			}
			for _, b := range batches {
				if b.Number > s.Head.Number || !yield(b, nil) {
					return
				}
				r.after = b.Number
			}
		}
	}
}

// StoredRecord is a record with its place in the log.
type StoredRecord struct {
	Stream audit.StreamID
	Seq    int64  // in the stream; 0 for a record that is still in the outbox
	Event  []byte // exact bytes, a JSON object
}

const selectWholeOutbox = `
SELECT stream, record
FROM audit_outbox
ORDER BY stream, id
LIMIT @limit`

// Outbox are records of changes that are durable and not in a stream yet, at
// most limit.
func (l *AuditLog) Outbox(ctx context.Context, limit int) ([]StoredRecord, error) {
	rows, err := l.pool.Query(ctx, selectWholeOutbox, pgx.StrictNamedArgs{"limit": limit})
	if err != nil {
		return nil, wrap(err, "audit outbox")
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (StoredRecord, error) {
		var r StoredRecord
		var stream uuid.UUID
		err := row.Scan(&stream, &r.Event)
		r.Stream = audit.StreamID(stream)
		return r, err
	})
	if err != nil {
		return nil, wrap(err, "audit outbox")
	}
	slices.SortStableFunc(records, func(a, b StoredRecord) int { return bytes.Compare(eventTime(a.Event), eventTime(b.Event)) })
	return records, nil
}

// eventTime is the text of a record's time, which sorts as the times do. Within
// a record of ours the first such member is the record's own: whatever comes
// before it has fixed names, and quotes in strings are escaped.
func eventTime(record []byte) []byte {
	_, rest, _ := bytes.Cut(record, []byte(`"eventTime":"`))
	text, _, _ := bytes.Cut(rest, []byte(`"`))
	return text
}

// errNoLimit is for callers that would read without bounds.
var errNoLimit = errors.New("audit log: limit is not positive")
