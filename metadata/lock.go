package metadata

import (
	"context"
	"errors"
	"hash/fnv"

	"github.com/jackc/pgx/v5"
)

// Exclusively runs fn while no other process that shares the database runs
// something of the same name; it waits for its turn until ctx ends. The lock is
// the session's: it ends with the process.
func (s *Store) Exclusively(ctx context.Context, name string, fn func(context.Context) error) (err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return wrap(err, "lock %s", name)
	}
	defer conn.Release()
	args := pgx.StrictNamedArgs{"key": exclusiveKey(name)}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(@key)`, args); err != nil {
		return wrap(err, "lock %s", name)
	}
	defer func() {
		_, unlock := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(@key)`, args)
		err = errors.Join(err, wrap(unlock, "unlock %s", name))
	}()
	return fn(ctx)
}

// exclusiveKey is the number that stands for a name among Postgres's advisory locks.
func exclusiveKey(name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("kmsgate " + name)) // never fails (package hash)
	return int64(h.Sum64())
}
