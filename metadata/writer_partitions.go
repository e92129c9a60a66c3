package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// monthOf is the first day of the month that a batch is filed under.
func monthOf(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// monthsBetween are the months from a time to another, both included.
func monthsBetween(from, to time.Time) (months []time.Time) {
	for m := monthOf(from); !m.After(to); m = m.AddDate(0, 1, 0) {
		months = append(months, m)
	}
	return months
}

// partitionLock keeps instances from making the same partition at once.
const partitionLock = 0x6b6d_7361_7564_6974 // "kmsaudit"

// attachPartition makes a table like the parent and then attaches it: CREATE
// TABLE ... PARTITION OF would lock the parent against writers, and they would
// queue behind it if somebody was reading.
const attachPartition = `
CREATE TABLE %[1]s (LIKE audit_batches INCLUDING ALL);
ALTER TABLE audit_batches ATTACH PARTITION %[1]s FOR VALUES FROM ('%[2]s') TO ('%[3]s')`

// createPartition makes the partition of a month if there is none. Safe to run
// on several instances at once.
func createPartition(ctx context.Context, db interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}, month time.Time,
) error {
	name := "audit_batches_" + month.Format("2006_01")
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(@key)", pgx.StrictNamedArgs{"key": int64(partitionLock)}); err != nil {
			return err
		}
		var there bool
		err := tx.QueryRow(ctx, "SELECT to_regclass(@name) IS NOT NULL", pgx.StrictNamedArgs{"name": name}).Scan(&there)
		if err != nil || there {
			return err
		}
		_, err = tx.Exec(ctx, fmt.Sprintf(attachPartition, name,
			month.Format(time.DateOnly), month.AddDate(0, 1, 0).Format(time.DateOnly)), pgx.QueryExecModeSimpleProtocol)
		return err
	})
	return wrap(err, "partition %s", name)
}

// ensurePartitions makes the partitions of this month and the next.
func (k *keeper) ensurePartitions(ctx context.Context) error {
	month := monthOf(k.cfg.clock())
	if month.Equal(k.partitioned) {
		return nil
	}
	for _, m := range []time.Time{month, month.AddDate(0, 1, 0)} {
		if err := createPartition(ctx, k.cfg.pool, m); err != nil {
			return err
		}
	}
	k.partitioned = month
	return nil
}
