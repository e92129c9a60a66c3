package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Region is a region that keys can be in.
type Region struct {
	Name      string
	CreatedAt time.Time
}

const ensureRegion = `
INSERT INTO regions (name, created_at)
VALUES (@name, @createdAt)
ON CONFLICT (name) DO NOTHING`

// EnsureRegion adds a region unless it is there.
func (tx *Tx) EnsureRegion(ctx context.Context, r Region) error {
	_, err := tx.tx.Exec(ctx, ensureRegion, pgx.StrictNamedArgs{"name": r.Name, "createdAt": r.CreatedAt})
	return wrap(err, "ensure region %s", r.Name)
}

// KeyStoreType says what stands behind a key store, in AWS's spelling where it
// has one.
type KeyStoreType string

// Types of key stores.
const (
	DefaultKeyStore  KeyStoreType = "DEFAULT" // the gateway's own, one a region
	CloudHSMKeyStore KeyStoreType = "AWS_CLOUDHSM"
	ExternalKeyStore KeyStoreType = "EXTERNAL_KEY_STORE"
)

// KeyStoreState is a key store's ConnectionState in AWS's spelling.
type KeyStoreState string

// States of key stores.
const (
	Connected     KeyStoreState = "CONNECTED"
	Connecting    KeyStoreState = "CONNECTING"
	Disconnected  KeyStoreState = "DISCONNECTED"
	Disconnecting KeyStoreState = "DISCONNECTING"
	Failed        KeyStoreState = "FAILED"
)

// KeyStore is where materials of keys live: one or several tokens with service
// keys of its own.
type KeyStore struct {
	ID        string
	Region    string
	Account   string // empty for the default store
	Type      KeyStoreType
	State     KeyStoreState
	CreatedAt time.Time
}

const listKeyStores = `
SELECT id, region, COALESCE(account, '') AS account, type, state, created_at
FROM key_stores
WHERE region = @region AND id > @after
ORDER BY id
LIMIT @limit`

// KeyStores returns at most limit key stores of a region, of every account, in the
// order of their ids, beginning after the one given; empty means from the start.
func (s *Store) KeyStores(ctx context.Context, region, after string, limit int) ([]KeyStore, error) {
	return list(ctx, s, "list key stores", listKeyStores,
		pgx.StrictNamedArgs{"region": region, "after": after, "limit": limit}, pgx.RowToStructByName[KeyStore])
}

const ensureKeyStore = `
INSERT INTO key_stores (id, region, account, type, state, created_at)
VALUES (@id, @region, @account, @type, @state, @createdAt)
ON CONFLICT (id) DO NOTHING`

// EnsureKeyStore adds a key store unless there is one of that id. ErrExists if it
// is a default store and its region has another.
func (tx *Tx) EnsureKeyStore(ctx context.Context, k KeyStore) error {
	_, err := tx.tx.Exec(ctx, ensureKeyStore, pgx.StrictNamedArgs{
		"id": k.ID, "region": k.Region, "account": orNull(k.Account), "type": string(k.Type), "state": string(k.State),
		"createdAt": k.CreatedAt,
	})
	return wrap(err, "ensure key store %s", k.ID)
}
