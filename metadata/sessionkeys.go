package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// SessionKey is a key that session tokens are sealed under, itself sealed.
type SessionKey struct {
	ID        int32
	Store     string // key store whose token sealed it
	Sealed    []byte // hsm.Token's Open opens it
	CreatedAt time.Time
	ExpiresAt time.Time // of the last session that it can have sealed
}

// maxSessionKeys bounds what SessionKeys returns: far more than one a day makes.
const maxSessionKeys = 1000

const listSessionKeys = `
SELECT id, store, sealed, created_at, expires_at
FROM session_keys
ORDER BY id DESC
LIMIT @limit`

// SessionKeys returns the session keys, the newest first.
func (s *Store) SessionKeys(ctx context.Context) ([]SessionKey, error) {
	return list(ctx, s, "list session keys", listSessionKeys,
		pgx.StrictNamedArgs{"limit": maxSessionKeys}, pgx.RowToStructByName[SessionKey])
}

const insertSessionKey = `
INSERT INTO session_keys (id, store, sealed, created_at, expires_at)
VALUES (@id, @store, @sealed, @createdAt, @expiresAt)`

// InsertSessionKey adds a session key. ErrExists if there is one of that id:
// another instance made one.
func (tx *Tx) InsertSessionKey(ctx context.Context, k SessionKey) error {
	_, err := tx.tx.Exec(ctx, insertSessionKey, pgx.StrictNamedArgs{
		"id": k.ID, "store": k.Store, "sealed": k.Sealed, "createdAt": k.CreatedAt, "expiresAt": k.ExpiresAt,
	})
	return wrap(err, "insert session key %d", k.ID)
}

// The newest one stays, so that no id is given twice.
const deleteSessionKeys = `
DELETE FROM session_keys
WHERE expires_at < @now AND id < (SELECT max(id) FROM session_keys)`

// DeleteSessionKeys deletes the session keys that no session can be alive of at
// the time now, except the newest, and returns how many.
func (tx *Tx) DeleteSessionKeys(ctx context.Context, now time.Time) (int64, error) {
	tag, err := tx.tx.Exec(ctx, deleteSessionKeys, pgx.StrictNamedArgs{"now": now})
	return tag.RowsAffected(), wrap(err, "delete session keys")
}
