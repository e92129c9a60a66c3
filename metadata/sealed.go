package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
)

// What is sealed under a store's sealing key says so at its beginning, see
// [hsm.SealedUnder]; the queries compare that.

const countSealed = `
SELECT (SELECT count(*) FROM access_keys WHERE starts_with(encode(sealed_secret, 'hex'), encode(@under, 'hex')))
     + (SELECT count(*) FROM session_keys WHERE starts_with(encode(sealed, 'hex'), encode(@under, 'hex')))`

// CountSealed counts the secrets of access keys and the session keys that are sealed
// under a generation of a store's sealing key.
func (s *Store) CountSealed(ctx context.Context, store string, generation int32) (n int64, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, patient); err != nil {
			return err
		}
		return tx.QueryRow(ctx, countSealed, pgx.StrictNamedArgs{"under": hsm.SealedBeginning(store, generation)}).Scan(&n)
	})
	return n, wrap(err, "count what is sealed under generation %d of %s", generation, store)
}

const listSealedAccessKeys = `
SELECT id, account, coalesce(user_name, '') AS user, principal, sealed_secret, status, created_at
FROM access_keys
WHERE starts_with(encode(sealed_secret, 'hex'), encode(@under, 'hex')) AND id > @after
ORDER BY id
LIMIT @limit`

// AccessKeysSealed returns at most limit access keys of all accounts whose secret is
// sealed under a generation of a store's sealing key, in the order of their ids,
// beginning after the one given.
func (s *Store) AccessKeysSealed(ctx context.Context, store string, generation int32, after string, limit int) ([]AccessKey, error) {
	args := pgx.StrictNamedArgs{"under": hsm.SealedBeginning(store, generation), "after": after, "limit": limit}
	return list(ctx, s, "list sealed access keys", listSealedAccessKeys, args, pgx.RowToStructByName[AccessKey])
}

const resealAccessKey = `
UPDATE access_keys SET sealed_secret = @is
WHERE id = @id AND account = @account AND sealed_secret = @was`

// ResealAccessKey stores the secret of an access key as it is sealed anew. ErrNotFound
// if the key is gone or was sealed by somebody else since it was read.
func (tx *Tx) ResealAccessKey(ctx context.Context, was AccessKey, is []byte) error {
	args := pgx.StrictNamedArgs{"id": was.ID, "account": was.Account, "was": was.SealedSecret, "is": is}
	err := tx.execOne(ctx, resealAccessKey, args)
	tx.touch(was.Account, target{Kind: kindAccessKey, ID: was.ID})
	return wrap(err, "reseal access key %s", was.ID)
}

const resealSessionKey = `UPDATE session_keys SET sealed = @is WHERE id = @id AND sealed = @was`

// ResealSessionKey stores a session key as it is sealed anew. ErrNotFound if it is gone
// or was sealed by somebody else since it was read.
func (tx *Tx) ResealSessionKey(ctx context.Context, was SessionKey, is []byte) error {
	err := tx.execOne(ctx, resealSessionKey, pgx.StrictNamedArgs{"id": was.ID, "was": was.Sealed, "is": is})
	return wrap(err, "reseal session key %d", was.ID)
}
