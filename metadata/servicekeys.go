package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
)

// ServiceKeyState says how far a generation of a service key has come.
type ServiceKeyState string

// States of service keys.
const (
	ServiceKeyCreating   ServiceKeyState = "creating"   // its object may or may not be in the token
	ServiceKeyActive     ServiceKeyState = "active"     // new blobs, bindings and seals are made with it
	ServiceKeyRetired    ServiceKeyState = "retired"    // only opens what it made
	ServiceKeyDestroying ServiceKeyState = "destroying" // nothing is under it; its object may or may not be in the token
	ServiceKeyDestroyed  ServiceKeyState = "destroyed"  // its object is gone
)

// ServiceKey is a generation of a service key of a store and where it is.
type ServiceKey struct {
	hsm.ServiceKey
	State     ServiceKeyState
	Tokens    []string // serials of the tokens that hold it
	CreatedAt time.Time
	// Unused: it is retired, and no row names its generation or an older one. In a
	// restored backup it may be one that was destroyed since.
	Unused bool
}

// InToken tells whether the token must have the key, for the engine to use it.
func (k *ServiceKey) InToken() bool {
	return k.State == ServiceKeyActive || k.State == ServiceKeyRetired && !k.Unused
}

// maxServiceKeys bounds what ServiceKeys returns.
const maxServiceKeys = 1000

// listServiceKeys looks for the oldest generation in use once, however many are retired:
// every instance asks every second.
const listServiceKeys = `
SELECT o.store, o.kind, o.generation, o.cka_id, o.check_value, o.state, o.tokens, o.created_at,
       o.state = 'retired' AND o.kind <> 'sealing' AND o.generation < coalesce((` + oldestBound + `), o.generation + 1) AS unused
FROM service_keys o
WHERE o.store = @store
ORDER BY o.kind, o.generation
LIMIT @limit`

// ServiceKeys returns a store's service keys in the order of kind and generation,
// destroyed ones too.
func (s *Store) ServiceKeys(ctx context.Context, store string) ([]ServiceKey, error) {
	args := pgx.StrictNamedArgs{"store": store, "limit": maxServiceKeys}
	return list(ctx, s, "list service keys", listServiceKeys, args, func(row pgx.CollectableRow) (k ServiceKey, err error) {
		err = row.Scan(&k.Store, &k.Kind, &k.Generation, &k.ID, &k.CheckValue, &k.State, &k.Tokens, &k.CreatedAt, &k.Unused)
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

const retireServiceKey = `
UPDATE service_keys SET state = 'retired'
WHERE store = @store AND kind = @kind AND generation = @generation AND state = 'active'`

// RetireServiceKey makes an active key one that only opens what it made: the first
// step of a transaction that activates another. ErrNotFound unless it is active.
func (tx *Tx) RetireServiceKey(ctx context.Context, k hsm.ServiceKey) error {
	args := pgx.StrictNamedArgs{"store": k.Store, "kind": string(k.Kind), "generation": k.Generation}
	return wrap(tx.execOne(ctx, retireServiceKey, args), "retire %s key %d of %s", k.Kind, k.Generation, k.Store)
}

// lockGenerations waits for the transactions that have added rows under generations
// of the store, and keeps others from beginning; see 0005_generations.sql.
const lockGenerations = `SELECT pg_advisory_xact_lock(hashtextextended('kmsgate generations of ' || @store, 0))`

const destroyGeneration = `
UPDATE service_keys SET state = @to
WHERE store = @store AND kind IN ('domain', 'binding') AND generation = @generation AND state = ANY (@from)
  AND generation < (SELECT max(n.generation) FROM service_keys n WHERE n.store = @store AND n.kind = 'domain' AND n.state = 'active')`

// BeginDestroying takes a generation of a store's domain and binding keys out of use
// for good, a retired one that is older than the active one: from here on no row can
// name it. It may be done again. ErrInUse if a row of the store still names that
// generation or an older one, ErrNotFound if there is no such generation to destroy.
func (tx *Tx) BeginDestroying(ctx context.Context, store string, generation int32) error {
	if _, err := tx.tx.Exec(ctx, lockGenerations, pgx.StrictNamedArgs{"store": store}); err != nil {
		return wrap(err, "lock the generations of %s", store)
	}
	var used bool
	args := pgx.StrictNamedArgs{"store": store, "upTo": generation}
	if err := tx.tx.QueryRow(ctx, existsBound, args).Scan(&used); err != nil {
		return wrap(err, "look for rows of generation %d of %s", generation, store)
	}
	if used {
		return fmt.Errorf("destroy generation %d of %s: %w", generation, store, ErrInUse)
	}
	return tx.moveGeneration(ctx, store, generation, ServiceKeyDestroying, ServiceKeyRetired, ServiceKeyDestroying)
}

// FinishDestroying notes that the token has destroyed a generation's objects.
// ErrNotFound unless it is being destroyed.
func (tx *Tx) FinishDestroying(ctx context.Context, store string, generation int32) error {
	return tx.moveGeneration(ctx, store, generation, ServiceKeyDestroyed, ServiceKeyDestroying)
}

// moveGeneration moves the domain and the binding key of a generation together.
func (tx *Tx) moveGeneration(ctx context.Context, store string, generation int32, to ServiceKeyState, from ...ServiceKeyState) error {
	names := make([]string, 0, len(from))
	for _, s := range from {
		names = append(names, string(s))
	}
	tag, err := tx.tx.Exec(ctx, destroyGeneration, pgx.StrictNamedArgs{
		"store": store, "generation": generation, "to": string(to), "from": names,
	})
	if err == nil && tag.RowsAffected() != 2 {
		err = ErrNotFound
	}
	return wrap(err, "generation %d of %s becomes %s", generation, store, to)
}
