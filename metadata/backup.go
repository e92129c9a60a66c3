package metadata

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"kmsgate/metadata/migrations"
)

// Backup is a backup that was restored into a database of its own, for reading
// alone. Safe for concurrent use.
type Backup struct{ store *Store }

// OpenBackup connects to the database at url. It refuses a schema that is not this
// binary's, and a standby, which is no backup: what is destroyed in its primary goes
// with it. The caller closes it.
func OpenBackup(ctx context.Context, url string) (*Backup, error) {
	cfg, err := Config{URL: url, Instance: "backup", AllowUnsafeDurability: true}.validate()
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, cfg) // of no standby
	if err != nil {
		return nil, fmt.Errorf("the backup at that address: %w", err)
	}
	version, _, err := selectSchemaVersion(ctx, pool)
	if err == nil && version != migrations.Version {
		err = fmt.Errorf("the backup has schema %d and this binary knows %d: restore one that was made since the last kmsgate migrate", version, migrations.Version)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &Backup{&Store{pool: pool, clock: cfg.Clock}}, nil
}

// Close closes the connections.
func (b *Backup) Close() { b.store.pool.Close() }

// ServiceKeys returns the service keys of a store as they were, see [Store.ServiceKeys].
func (b *Backup) ServiceKeys(ctx context.Context, store string) ([]ServiceKey, error) {
	return b.store.ServiceKeys(ctx, store)
}

// Bound returns what was bound, see [Store.Bound].
func (b *Backup) Bound(ctx context.Context, kind BoundKind, store string, upTo int32, after BoundPlace, limit int) ([]Bound, error) {
	return b.store.Bound(ctx, kind, store, upTo, after, limit)
}

// CountBound counts what was bound, see [Store.CountBound].
func (b *Backup) CountBound(ctx context.Context, store string, upTo int32) (int64, error) {
	return b.store.CountBound(ctx, store, upTo)
}

// backupLock is the name of the lock by which two connections know that they are to
// one database.
const backupLock = "this is no backup"

// IsLive tells whether the backup is the database of s itself.
func (b *Backup) IsLive(ctx context.Context, s *Store) (live bool, err error) {
	err = s.Exclusively(ctx, backupLock, func(ctx context.Context) error {
		err := pgx.BeginFunc(ctx, b.store.pool, func(tx pgx.Tx) error {
			var free bool
			args := pgx.StrictNamedArgs{"key": exclusiveKey(backupLock)}
			err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(@key)`, args).Scan(&free)
			live = !free
			return err
		})
		return wrap(err, "lock in the backup")
	})
	return live, errors.Join(err, ctx.Err())
}
