package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// MaxAliases is how many aliases a key can have (KMS Developer Guide, "Quotas").
const MaxAliases = 50

// Alias is a name for a key of the same account and region.
type Alias struct {
	Account   string
	Region    string
	Name      string // with "alias/", at most 256 characters
	KeyID     string
	CreatedAt time.Time
	UpdatedAt time.Time // when it was pointed at KeyID
}

const selectAlias = `
SELECT l.account, l.region, l.name, l.key_id, l.created_at, l.updated_at, a.version
FROM aliases l
JOIN accounts a ON a.id = l.account
WHERE l.account = @account AND l.region = @region AND l.name = @name`

func loadAlias(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	a := new(Alias)
	l := loaded{value: a, size: 256}
	args := pgx.StrictNamedArgs{"account": key.account, "region": key.region, "name": key.id}
	err := s.pool.QueryRow(ctx, selectAlias, args).
		Scan(&a.Account, &a.Region, &a.Name, &a.KeyID, &a.CreatedAt, &a.UpdatedAt, &l.version)
	if err != nil {
		return loaded{}, wrap(err, "select")
	}
	l.account = a.Account
	return l, nil
}

const listAliases = `
SELECT account, region, name, key_id, created_at, updated_at
FROM aliases
WHERE account = @account AND region = @region AND (@keyID = '' OR key_id = @keyID) AND name > @after
ORDER BY name
LIMIT @limit`

// ListAliases returns at most limit aliases of an account in a region in the order
// of their names, beginning after the one given; empty means from the start. A
// keyID that is not empty narrows them down to those of one key.
func (s *Store) ListAliases(ctx context.Context, account, region, keyID, after string, limit int) ([]Alias, error) {
	args := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID, "after": after, "limit": limit}
	return list(ctx, s, "list aliases", listAliases, args, pgx.RowToStructByName[Alias])
}

const insertAlias = `
INSERT INTO aliases (account, region, name, key_id, created_at, updated_at)
VALUES (@account, @region, @name, @keyID, @createdAt, @createdAt)`

// InsertAlias adds an alias for a key of the same account and region that is in a
// [Manageable] state; a.UpdatedAt is not read. ErrExists if the account has the
// alias in the region, ErrLimit if the key has limit aliases, *StateError or
// ErrNotFound for the key.
func (tx *Tx) InsertAlias(ctx context.Context, a Alias, limit int) error {
	return wrap(tx.pointAlias(ctx, a, limit, func() error {
		_, err := tx.tx.Exec(ctx, insertAlias, pgx.StrictNamedArgs{
			"account": a.Account, "region": a.Region, "name": a.Name, "keyID": a.KeyID, "createdAt": a.CreatedAt,
		})
		return err
	}), "insert alias")
}

const updateAlias = `
WITH before AS (
	SELECT account, region, name, key_id
	FROM aliases
	WHERE account = @account AND region = @region AND name = @name
	FOR UPDATE
)
UPDATE aliases l SET key_id = @keyID, updated_at = @updatedAt
FROM before b
WHERE l.account = b.account AND l.region = b.region AND l.name = b.name
RETURNING b.key_id`

// UpdateAlias points an alias at another key; a.CreatedAt is not read. ErrNotFound
// if the account has no such alias in the region; for the key as InsertAlias.
func (tx *Tx) UpdateAlias(ctx context.Context, a Alias, limit int) error {
	return wrap(tx.pointAlias(ctx, a, limit, func() error {
		var before string
		err := tx.tx.QueryRow(ctx, updateAlias, pgx.StrictNamedArgs{
			"account": a.Account, "region": a.Region, "name": a.Name, "keyID": a.KeyID, "updatedAt": a.UpdatedAt,
		}).Scan(&before)
		if err == nil {
			tx.touch(a.Account, target{kindKey, a.Region, before})
		}
		return err
	}), "update alias")
}

const countAliases = `
SELECT count(*)
FROM aliases
WHERE account = @account AND region = @region AND key_id = @keyID`

// pointAlias runs point while the row of the key that the alias is to name is
// locked, which makes the count of its aliases exact.
func (tx *Tx) pointAlias(ctx context.Context, a Alias, limit int, point func() error) error {
	if err := tx.raiseKey(ctx, "name", a.Region, a.Account, a.KeyID, Manageable); err != nil {
		return err
	}
	if err := point(); err != nil {
		return err
	}
	var n int
	args := pgx.StrictNamedArgs{"account": a.Account, "region": a.Region, "keyID": a.KeyID}
	if err := tx.tx.QueryRow(ctx, countAliases, args).Scan(&n); err != nil {
		return err
	}
	if n > limit {
		return fmt.Errorf("key %s: %d aliases: %w", a.KeyID, n, ErrLimit)
	}
	tx.touch(a.Account, target{kindAlias, a.Region, a.Name})
	return nil
}

const deleteAlias = `
DELETE FROM aliases
WHERE account = @account AND region = @region AND name = @name
RETURNING account, region, name, key_id, created_at, updated_at`

// DeleteAlias removes an alias and returns it, so that the caller can see whether
// it still named the key that was looked at. ErrNotFound if the account has no
// such alias in the region.
func (tx *Tx) DeleteAlias(ctx context.Context, account, region, name string) (Alias, error) {
	rows, err := tx.tx.Query(ctx, deleteAlias, pgx.StrictNamedArgs{"account": account, "region": region, "name": name})
	if err != nil {
		return Alias{}, wrap(err, "delete alias")
	}
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Alias])
	if err != nil {
		return Alias{}, wrap(err, "delete alias")
	}
	tx.touch(account, target{kindAlias, region, name})
	tx.touch(account, target{kindKey, region, a.KeyID})
	return a, nil
}
