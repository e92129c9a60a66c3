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

// MaxAccessKeys is how many access keys a user can have, and an account's root by
// the API (IAM User Guide, "IAM and AWS STS quotas").
const MaxAccessKeys = 2

// AccessKey is what a caller signs with. It belongs to no region.
type AccessKey struct {
	ID           string // 16 to 32 of A-Z and 0-9
	Account      string
	User         string // name of the user who signs with it; empty for the account's root
	Principal    string // ARN of who signs with it
	SealedSecret []byte // under a store's sealing key; hsm.Token's Open opens it
	Status       AccessKeyStatus
	CreatedAt    time.Time
}

const selectAccessKey = `
SELECT k.id, k.account, coalesce(k.user_name, ''), k.principal, k.sealed_secret, k.status, k.created_at, a.version
FROM access_keys k
JOIN accounts a ON a.id = k.account
WHERE k.id = @id`

func loadAccessKey(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	k := new(AccessKey)
	l := loaded{value: k, size: 512}
	err := s.pool.QueryRow(ctx, selectAccessKey, pgx.StrictNamedArgs{"id": key.id}).
		Scan(&k.ID, &k.Account, &k.User, &k.Principal, &k.SealedSecret, &k.Status, &k.CreatedAt, &l.version)
	if err != nil {
		return loaded{}, wrap(err, "select")
	}
	l.account = k.Account
	return l, nil
}

const listAccessKeys = `
SELECT id, account, coalesce(user_name, '') AS user, principal, sealed_secret, status, created_at
FROM access_keys
WHERE account = @account AND user_name IS NOT DISTINCT FROM @user AND id > @after
ORDER BY id
LIMIT @limit`

// AccessKeysOf returns at most limit access keys of a user, or of the account's root
// for an empty name, in the order of their ids, beginning after the one given; empty
// means from the start.
func (s *Store) AccessKeysOf(ctx context.Context, account, user, after string, limit int) ([]AccessKey, error) {
	args := pgx.StrictNamedArgs{"account": account, "user": orNull(user), "after": after, "limit": limit}
	return list(ctx, s, "list access keys", listAccessKeys, args, pgx.RowToStructByName[AccessKey])
}

const insertAccessKey = `
INSERT INTO access_keys (id, account, user_name, principal, sealed_secret, status, created_at)
VALUES (@id, @account, @user, @principal, @sealedSecret, @status, @createdAt)`

// InsertAccessKey adds an access key. ErrExists if there is one of that id.
func (tx *Tx) InsertAccessKey(ctx context.Context, k AccessKey) error {
	_, err := tx.tx.Exec(ctx, insertAccessKey, pgx.StrictNamedArgs{
		"id": k.ID, "account": k.Account, "user": orNull(k.User), "principal": k.Principal, "sealedSecret": k.SealedSecret,
		"status": string(k.Status), "createdAt": k.CreatedAt,
	})
	if err != nil {
		return wrap(err, "insert access key %s", k.ID)
	}
	tx.touch(k.Account, target{Kind: kindAccessKey, ID: k.ID})
	return nil
}

const countAccessKeys = `
SELECT count(*)
FROM access_keys
WHERE account = @account AND user_name IS NOT DISTINCT FROM @user`

// RoomForAccessKey returns *LimitError if a user, or the account's root for an empty
// name, has [MaxAccessKeys], and ErrNotFound if the account has no such user. Nobody
// else can ask until the transaction ends.
func (tx *Tx) RoomForAccessKey(ctx context.Context, account, user string) error {
	lock := func() error { return tx.lockPrincipal(ctx, account, User, user) }
	if user == "" {
		lock = func() error { return tx.lockAccount(ctx, account) }
	}
	if err := lock(); err != nil {
		return wrap(err, "user %s", user)
	}
	var n int
	args := pgx.StrictNamedArgs{"account": account, "user": orNull(user)}
	err := tx.tx.QueryRow(ctx, countAccessKeys, args).Scan(&n)
	if err == nil && n >= MaxAccessKeys {
		err = &LimitError{MaxAccessKeys}
	}
	return wrap(err, "access keys of %s", user)
}

const updateAccessKey = `
UPDATE access_keys SET status = @status
WHERE id = @id AND account = @account AND user_name IS NOT DISTINCT FROM @user`

// SetAccessKeyStatus changes the status of an access key of a user, or of the
// account's root for an empty name. ErrNotFound if they have no such key.
func (tx *Tx) SetAccessKeyStatus(ctx context.Context, account, user, id string, status AccessKeyStatus) error {
	args := pgx.StrictNamedArgs{"account": account, "user": orNull(user), "id": id, "status": string(status)}
	err := tx.execOne(ctx, updateAccessKey, args)
	tx.touch(account, target{Kind: kindAccessKey, ID: id})
	return wrap(err, "set status of access key %s", id)
}

const deleteAccessKey = `
DELETE FROM access_keys
WHERE id = @id AND account = @account AND user_name IS NOT DISTINCT FROM @user`

// DeleteAccessKey removes an access key of a user, or of the account's root for an
// empty name. ErrNotFound if they have no such key.
func (tx *Tx) DeleteAccessKey(ctx context.Context, account, user, id string) error {
	err := tx.execOne(ctx, deleteAccessKey, pgx.StrictNamedArgs{"account": account, "user": orNull(user), "id": id})
	tx.touch(account, target{Kind: kindAccessKey, ID: id})
	return wrap(err, "delete access key %s", id)
}
