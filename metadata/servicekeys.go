package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
)

// ServiceKeyState says how far a generation of a service key has come.
type ServiceKeyState string

// States of service keys.
const (
	ServiceKeyCreating  ServiceKeyState = "creating"  // its object may or may not be in the token
	ServiceKeyActive    ServiceKeyState = "active"    // new blobs, bindings and seals are made with it
	ServiceKeyRetired   ServiceKeyState = "retired"   // only opens what it made
	ServiceKeyDestroyed ServiceKeyState = "destroyed" // nothing is under it any more
)

// ServiceKey is a generation of a service key of a store and where it is.
type ServiceKey struct {
	hsm.ServiceKey
	State     ServiceKeyState
	Tokens    []string // serials of the tokens that hold it
	CreatedAt time.Time
}

// maxServiceKeys bounds what ServiceKeys returns.
const maxServiceKeys = 1000

const listServiceKeys = `
SELECT store, kind, generation, cka_id, check_value, state, tokens, created_at
FROM service_keys
WHERE store = @store AND state <> 'destroyed'
ORDER BY kind, generation
LIMIT @limit`

// ServiceKeys returns a store's service keys in the order of kind and generation,
// destroyed ones left out.
func (s *Store) ServiceKeys(ctx context.Context, store string) ([]ServiceKey, error) {
	args := pgx.StrictNamedArgs{"store": store, "limit": maxServiceKeys}
	return list(ctx, s, "list service keys", listServiceKeys, args, func(row pgx.CollectableRow) (k ServiceKey, err error) {
		err = row.Scan(&k.Store, &k.Kind, &k.Generation, &k.ID, &k.CheckValue, &k.State, &k.Tokens, &k.CreatedAt)
		return k, err
	})
}

const insertServiceKey = `
INSERT INTO service_keys (store, kind, generation, cka_id, state, created_at)
VALUES (@store, @kind, @generation, @ckaID, 'creating', @createdAt)`

// InsertServiceKey adds a service key that is about to be made in a token, so that
// a run that is cut off leaves its CKA_ID; k.CheckValue is not read. ErrExists if
// the store has that generation, or another key of that CKA_ID.
func (tx *Tx) InsertServiceKey(ctx context.Context, k hsm.ServiceKey, createdAt time.Time) error {
	_, err := tx.tx.Exec(ctx, insertServiceKey, pgx.StrictNamedArgs{
		"store": k.Store, "kind": string(k.Kind), "generation": k.Generation, "ckaID": k.ID, "createdAt": createdAt,
	})
	return wrap(err, "insert %s key %d of %s", k.Kind, k.Generation, k.Store)
}

const activateServiceKey = `
UPDATE service_keys SET state = 'active', check_value = @checkValue, tokens = @tokens
WHERE store = @store AND kind = @kind AND generation = @generation AND state = 'creating'`

// ActivateServiceKey notes that the key was made in the tokens with these serials,
// with k.CheckValue. ErrNotFound unless it is there and creating; ErrExists if
// another generation of the kind is active.
func (tx *Tx) ActivateServiceKey(ctx context.Context, k hsm.ServiceKey, tokens []string) error {
	tag, err := tx.tx.Exec(ctx, activateServiceKey, pgx.StrictNamedArgs{
		"store": k.Store, "kind": string(k.Kind), "generation": k.Generation, "checkValue": k.CheckValue, "tokens": tokens,
	})
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	return wrap(err, "activate %s key %d of %s", k.Kind, k.Generation, k.Store)
}
