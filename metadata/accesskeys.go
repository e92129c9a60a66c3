package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// AccessKeyStatus says whether an access key may be used, in IAM's spelling.
type AccessKeyStatus string

// Statuses of access keys.
const (
	AccessKeyActive   AccessKeyStatus = "Active"
	AccessKeyInactive AccessKeyStatus = "Inactive"
)

// AccessKey is what a caller signs with. It belongs to no region.
type AccessKey struct {
	ID           string // 16 to 32 of A-Z and 0-9
	Account      string
	Principal    string // ARN of who signs with it
	SealedSecret []byte // under a store's sealing key; hsm.Token's Open opens it
	Status       AccessKeyStatus
	CreatedAt    time.Time
}

const selectAccessKey = `
SELECT k.id, k.account, k.principal, k.sealed_secret, k.status, k.created_at, a.version
FROM access_keys k
JOIN accounts a ON a.id = k.account
WHERE k.id = @id`

func loadAccessKey(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	k := new(AccessKey)
	l := loaded{value: k, size: 512}
	err := s.pool.QueryRow(ctx, selectAccessKey, pgx.StrictNamedArgs{"id": key.id}).
		Scan(&k.ID, &k.Account, &k.Principal, &k.SealedSecret, &k.Status, &k.CreatedAt, &l.version)
	if err != nil {
		return loaded{}, wrap(err, "select")
	}
	l.account = k.Account
	return l, nil
}

const listAccessKeys = `
SELECT id, account, principal, sealed_secret, status, created_at
FROM access_keys
WHERE account = @account AND id > @after
ORDER BY id
LIMIT @limit`

// AccessKeysOf returns at most limit access keys of an account, of whichever
// principal, in the order of their ids, beginning after the one given; empty means
// from the start.
func (s *Store) AccessKeysOf(ctx context.Context, account, after string, limit int) ([]AccessKey, error) {
	return list(ctx, s, "list access keys", listAccessKeys,
		pgx.StrictNamedArgs{"account": account, "after": after, "limit": limit}, pgx.RowToStructByName[AccessKey])
}

const insertAccessKey = `
INSERT INTO access_keys (id, account, principal, sealed_secret, status, created_at)
VALUES (@id, @account, @principal, @sealedSecret, @status, @createdAt)`

// InsertAccessKey adds an access key. ErrExists if there is one of that id.
func (tx *Tx) InsertAccessKey(ctx context.Context, k AccessKey) error {
	_, err := tx.tx.Exec(ctx, insertAccessKey, pgx.StrictNamedArgs{
		"id": k.ID, "account": k.Account, "principal": k.Principal, "sealedSecret": k.SealedSecret,
		"status": string(k.Status), "createdAt": k.CreatedAt,
	})
	if err != nil {
		return wrap(err, "insert access key %s", k.ID)
	}
	tx.touch(k.Account, target{Kind: kindAccessKey, ID: k.ID})
	return nil
}
