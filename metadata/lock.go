package metadata

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lockPause is how long Exclusively waits between tries.
const lockPause = 100 * time.Millisecond

// Exclusively runs fn while no other process that shares the database runs
// something of the same name; it waits for its turn until ctx ends. The lock is
// the session's: it ends with the process.
func (s *Store) Exclusively(ctx context.Context, name string, fn func(context.Context) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return wrap(err, "lock %s", name)
	}
	defer conn.Release()
	args := pgx.StrictNamedArgs{"key": exclusiveKey(name)}
	for {
		var mine bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(@key)`, args).Scan(&mine); err != nil {
			return wrap(err, "lock %s", name)
		}
		if mine {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w", name, ctx.Err())
		case <-time.After(lockPause):
		}
	}
	return errors.Join(fn(ctx), s.unlock(ctx, conn, name, args))
}

// unlock gives a lock back, with its connection if it must.
func (s *Store) unlock(ctx context.Context, conn *pgxpool.Conn, name string, args pgx.StrictNamedArgs) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock(@key)`, args); err != nil {
		return errors.Join(wrap(err, "unlock %s", name), conn.Conn().Close(ctx))
	}
	return nil
}

// exclusiveKey is the number that stands for a name among Postgres's advisory locks.
func exclusiveKey(name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("kmsgate " + name)) // never fails (package hash)
	return int64(h.Sum64())
}
