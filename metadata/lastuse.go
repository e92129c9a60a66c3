package metadata

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// KeyUse is the last successful cryptographic operation with a key.
type KeyUse struct {
	Operation string
	At        time.Time // to the second
	EventID   uuid.UUID // of its audit record, that of the key's account
	RequestID string
}

const selectLastUse = `
SELECT operation, used_at, event_id, request_id
FROM key_last_uses
WHERE region = @region AND key_id = @keyID`

// LastUse returns the last use of a key as far as the audit log has been counted:
// seconds behind, of an instance that died until another has taken up its log. The
// caller has seen whose key it is. ErrNotFound if it was not used.
func (s *Store) LastUse(ctx context.Context, region, keyID string) (u KeyUse, err error) {
	err = s.pool.QueryRow(ctx, selectLastUse, pgx.StrictNamedArgs{"region": region, "keyID": keyID}).
		Scan(&u.Operation, &u.At, &u.EventID, &u.RequestID)
	return u, wrap(err, "last use of key %s", keyID)
}
