package metadata

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// MaxKeys is how many keys of customers an account can have in a region (KMS
// Developer Guide, "Quotas").
const MaxKeys = 100_000

// A part that another transaction holds is passed over; if all are held, there is
// one more from now on.
const countKey = `
WITH free AS (
	SELECT account, region, part
	FROM key_counts
	WHERE account = @account AND region = @region
	LIMIT 1
	FOR UPDATE SKIP LOCKED
), counted AS (
	UPDATE key_counts c SET keys = c.keys + @by
	FROM free f
	WHERE c.account = f.account AND c.region = f.region AND c.part = f.part
	RETURNING c.part
)
INSERT INTO key_counts (account, region, part, keys)
SELECT @account, @region, @part, @by
WHERE NOT EXISTS (SELECT FROM counted)`

// countArgs are the arguments of countKey for one key more, or less.
func countArgs(account, region string, by int) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"account": account, "region": region, "part": uuid.New(), "by": by}
}

// uncountKey counts a key out that has been deleted; service is whose it was, empty
// for a customer's, and those of services are not counted.
func (tx *Tx) uncountKey(ctx context.Context, account, region, service string) error {
	if service != "" {
		return nil
	}
	_, err := tx.tx.Exec(ctx, countKey, countArgs(account, region, -1))
	return wrap(err, "count keys of %s", account)
}

// nearLimit is how far from their limit keys are counted one change after the other.
// It is more than the changes that can be under way at once: each has a connection
// to Postgres.
const nearLimit = 1000

const sumKeys = `
SELECT coalesce(sum(keys), 0)::bigint
FROM key_counts
WHERE account = @account AND region = @region`

const lockKeyCount = `SELECT pg_advisory_xact_lock(@key)`

// LimitKeys returns ErrLimit if the account has more than limit keys of customers in
// the region, those of this change counted. Changes of one account wait for each
// other only where the limit is near.
func (tx *Tx) LimitKeys(ctx context.Context, account, region string, limit int) error {
	n, err := tx.sumKeys(ctx, account, region)
	if err == nil && n > int64(limit)-nearLimit {
		key := exclusiveKey("keys of " + account + " in " + region)
		if _, err := tx.tx.Exec(ctx, lockKeyCount, pgx.StrictNamedArgs{"key": key}); err != nil {
			return wrap(err, "count keys of %s", account)
		}
		n, err = tx.sumKeys(ctx, account, region)
	}
	if err == nil && n > int64(limit) {
		err = fmt.Errorf("%d keys: %w", n, ErrLimit)
	}
	return wrap(err, "count keys of %s", account)
}

func (tx *Tx) sumKeys(ctx context.Context, account, region string) (n int64, err error) {
	err = tx.tx.QueryRow(ctx, sumKeys, pgx.StrictNamedArgs{"account": account, "region": region}).Scan(&n)
	return n, err
}

// KeyCount is how many keys of customers an account has in a region, those that were
// deleted apart.
func (s *Store) KeyCount(ctx context.Context, account, region string) (n int64, err error) {
	err = s.pool.QueryRow(ctx, sumKeys, pgx.StrictNamedArgs{"account": account, "region": region}).Scan(&n)
	return n, wrap(err, "count keys of %s", account)
}
