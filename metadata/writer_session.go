package metadata

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"kmsgate/metadata/audit"
)

// The appender's connection holds an advisory lock named by its stream. Who gets
// the lock knows that nobody will append to the stream any more: the server
// gives it up only when the connection's process has ended, and nothing is
// appended on a connection that does not hold it. So a stream whose lock is free
// is dead, and an append whose answer was lost is settled.

const (
	relockAttempts = 100
	relockPause    = 20 * time.Millisecond
	closeTimeout   = time.Second
)

// lockKey is the advisory lock of a stream.
func lockKey(stream audit.StreamID) int64 { return int64(binary.BigEndian.Uint64(stream[:8])) }

const tryLock = `SELECT pg_try_advisory_lock(@key)`

func tryLockStream(ctx context.Context, db querier, stream audit.StreamID) (locked bool, err error) {
	err = db.QueryRow(ctx, tryLock, pgx.StrictNamedArgs{"key": lockKey(stream)}).Scan(&locked)
	if err != nil {
		return false, fmt.Errorf("lock audit stream %v: %w", stream, err)
	}
	return locked, nil
}

const unlock = `SELECT pg_advisory_unlock(@key)`

func unlockStream(ctx context.Context, db querier, stream audit.StreamID) error {
	var held bool
	if err := db.QueryRow(ctx, unlock, pgx.StrictNamedArgs{"key": lockKey(stream)}).Scan(&held); err != nil {
		return fmt.Errorf("unlock audit stream %v: %w", stream, err)
	}
	return nil
}

// querier is a connection, a transaction or a pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// connect makes a connection like those of a pool, outside of its limit.
func connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	cfg := pool.Config()
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if cfg.AfterConnect != nil {
		if err := cfg.AfterConnect(ctx, conn); err != nil {
			return nil, errors.Join(fmt.Errorf("connect: %w", err), conn.Close(ctx))
		}
	}
	return conn, nil
}

// disconnect gives up the connection, and with it the lock.
func (a *appender) disconnect() {
	if a.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = a.conn.Close(ctx) // it is broken, or nothing depends on it any more
	a.conn = nil
}

// begin connects for the first time, starts a stream and opens it.
func (a *appender) begin(ctx context.Context) (err error) {
	if a.conn, err = connect(ctx, a.cfg.pool); err != nil {
		return wrap(err, "audit stream")
	}
	a.backend = a.conn.PgConn().PID()
	found, err := selectNewestHead(ctx, a.conn, a.cfg.instance)
	if err != nil {
		return wrap(err, "audit stream")
	}
	if err := a.startStream(ctx, found, nil); err != nil {
		return wrap(err, "audit stream")
	}
	if _, err := a.attempt(ctx, nil); err != nil {
		return wrap(err, "audit stream")
	}
	if a.opening != nil {
		return fmt.Errorf("audit stream %v is not where it was just put", a.head.Stream)
	}
	return nil
}

const insertStream = `
WITH started AS (
    INSERT INTO audit_streams (id, instance, previous, number, seq, hash, started_at)
    VALUES (@id, @instance, @previous, 0, 0, @hash, @started_at)
    RETURNING id
)
INSERT INTO audit_folds (stream, number)
SELECT id, 0 FROM started`

// startStream begins a stream after the found head; left says where this run
// left its last stream, if it had one.
func (a *appender) startStream(ctx context.Context, found audit.Head, left *audit.Head) error {
	next := audit.Head{Stream: audit.StreamID(uuid.New())}
	now := a.cfg.clock()
	if locked, err := tryLockStream(ctx, a.conn, next.Stream); err != nil || !locked {
		return errors.Join(fmt.Errorf("audit stream %v: its lock is taken", next.Stream), err)
	}
	_, err := a.conn.Exec(ctx, insertStream, pgx.StrictNamedArgs{
		"id": uuid.UUID(next.Stream), "instance": a.cfg.instance, "hash": next.Hash[:], "started_at": now,
		"previous": uuid.NullUUID{UUID: uuid.UUID(found.Stream), Valid: found.Stream != audit.StreamID{}},
	})
	if err != nil {
		return fmt.Errorf("start audit stream: %w", err)
	}
	if left != nil {
		a.cfg.logger.WarnContext(ctx, "audit stream is not where it was left: going on in a new one",
			"stream", left.Stream.String(), "left", left.Number, "found", found.Number, "next", next.Stream.String())
		if err := unlockStream(ctx, a.conn, left.Stream); err != nil {
			return err
		}
	}
	event := audit.StreamStarted(next.Stream, a.cfg.instance, found, left, now, newEventID())
	a.head, a.opening, a.over = next, event.AppendJSON(nil), nil
	a.uses.begin(next.Stream)
	a.stream.Store(&next.Stream)
	return nil
}

// reconnect makes a new connection after one was lost, and settles what became
// of the stream and of the batch that was on its way: stored says that it is in.
func (a *appender) reconnect(ctx context.Context) (stored bool, err error) {
	conn, err := connect(ctx, a.cfg.pool)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			err = errors.Join(err, conn.Close(ctx))
		}
	}()
	locked, err := a.relock(ctx, conn)
	if err != nil {
		return false, err
	}
	found, ended, err := selectHead(ctx, conn, a.head.Stream)
	if err != nil {
		return false, err
	}
	stored = a.unknown != nil && found == a.unknown.Head()
	if !locked || ended || (!stored && found != a.head) {
		a.over = &found
	}
	a.conn, a.backend = conn, conn.PgConn().PID()
	return stored, nil
}

// endBackend ends the process of the connection that was lost, if it still
// holds the lock: it may not have noticed that nobody is there.
const endBackend = `
SELECT count(pg_terminate_backend(l.pid))
FROM pg_locks AS l
JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.pid = @pid
  AND l.classid = (@key::bigint >> 32 & 4294967295)::oid AND l.objid = (@key::bigint & 4294967295)::oid`

// relock takes the lock of the stream on a new connection. False means that
// another writer has taken the stream up.
func (a *appender) relock(ctx context.Context, conn *pgx.Conn) (bool, error) {
	strangers := 0
	for range relockAttempts {
		locked, err := tryLockStream(ctx, conn, a.head.Stream)
		if locked || err != nil {
			return locked, err
		}
		var ours int
		err = conn.QueryRow(ctx, endBackend, pgx.StrictNamedArgs{"pid": a.backend, "key": lockKey(a.head.Stream)}).Scan(&ours)
		if err != nil {
			return false, fmt.Errorf("lock audit stream %v: %w", a.head.Stream, err)
		}
		if ours == 0 {
			strangers++ // or it has just ended: look once more
		}
		if strangers > 1 {
			return false, nil
		}
		if !pause(ctx, relockPause) {
			return false, ctx.Err()
		}
	}
	return false, fmt.Errorf("audit stream %v: the lost connection keeps its lock", a.head.Stream)
}

// selectHeadForUpdate writes, so that its commit waits for everything that was
// committed before it to be durable, on standbys as well.
const selectHeadForUpdate = `
UPDATE audit_streams SET ended = ended
WHERE id = @id
RETURNING number, seq, hash, ended`

// selectHead reads where a stream is. A stream that is gone has no head: its
// Stream is zero.
func selectHead(ctx context.Context, db querier, stream audit.StreamID) (h audit.Head, ended bool, err error) {
	var hash []byte
	err = db.QueryRow(ctx, selectHeadForUpdate, pgx.StrictNamedArgs{"id": uuid.UUID(stream)}).
		Scan(&h.Number, &h.Seq, &hash, &ended)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return audit.Head{}, true, nil
	case err != nil:
		return h, false, fmt.Errorf("head of audit stream %v: %w", stream, err)
	}
	h.Stream = stream
	copy(h.Hash[:], hash)
	return h, ended, nil
}

// Streams of the same age, which only a coarse clock makes, are told apart by
// who has no successor.
const selectNewest = `
SELECT s.id, s.number, s.seq, s.hash
FROM audit_streams AS s
WHERE s.instance = @instance
ORDER BY s.started_at DESC, EXISTS (SELECT FROM audit_streams AS n WHERE n.previous = s.id), s.id
LIMIT 1`

// selectNewestHead reads the head of an instance's newest stream; zero if there
// is none.
func selectNewestHead(ctx context.Context, db querier, instance string) (h audit.Head, err error) {
	var id uuid.UUID
	var hash []byte
	err = db.QueryRow(ctx, selectNewest, pgx.StrictNamedArgs{"instance": instance}).Scan(&id, &h.Number, &h.Seq, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return audit.Head{}, nil
	}
	h.Stream = audit.StreamID(id)
	copy(h.Hash[:], hash)
	return h, err
}

// end stores the stream's last record and the uses that are still in memory.
func (a *appender) end(ctx context.Context) error {
	stream := a.head.Stream
	last := audit.StreamEnded(stream, a.cfg.instance, a.cfg.clock(), newEventID())
	it := &item{records: [][]byte{last.AppendJSON(nil)}, queued: a.cfg.clock(), done: make(chan error, 1)}
	a.store(ctx, []*item{it})
	if err := <-it.done; err != nil {
		return err
	}
	if err := insist(ctx, a.keep.fold); err != nil {
		return err
	}
	if a.head.Stream != stream {
		return nil // a new stream had to be started, and is left to the next run
	}
	return insist(ctx, func(ctx context.Context) error { return endStream(ctx, a.cfg.pool, stream) })
}

// lastAttempts is how often the last work of a writer is tried: a connection of
// the pool may have been lost without anybody noticing.
const lastAttempts = 6

// insist does something that can be repeated until Postgres takes it.
func insist(ctx context.Context, do func(context.Context) error) (err error) {
	wait := firstBackoff
	for range lastAttempts {
		if err = do(ctx); err == nil || !errors.Is(err, ErrUnavailable) || !pause(ctx, wait) {
			break
		}
		wait *= 2
	}
	return err
}

const updateEnded = `UPDATE audit_streams SET ended = true WHERE id = @id AND NOT ended`

// endStream marks a stream that nobody appends to and whose uses are counted.
func endStream(ctx context.Context, pool *pgxpool.Pool, stream audit.StreamID) error {
	if _, err := pool.Exec(ctx, updateEnded, pgx.StrictNamedArgs{"id": uuid.UUID(stream)}); err != nil {
		return wrap(err, "end audit stream %v", stream)
	}
	return nil
}
