package metadata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// ErrOtherMaterial: the key has had other material than what is brought in.
var ErrOtherMaterial = errors.New("metadata: key has other material")

// ImportParameters are what GetParametersForImport made: a pair that material for
// one key can be wrapped to, for a while.
type ImportParameters struct {
	ID        uuid.UUID
	Algorithm keyspec.WrappingAlgorithm
	Wrapping  hsm.Key // of usage ImportWrapping; it names the key
	CreatedAt time.Time
	ExpiresAt time.Time
}

const insertImportParameters = `
INSERT INTO import_parameters (id, account, region, key_id, algorithm, material_id, spec, residency, generation, blob, public_key, binding,
                               created_at, expires_at)
VALUES (@id, @account, @region, @keyID, @algorithm, @materialID, @spec, @residency, @generation, @blob, @publicKey, @binding,
        @createdAt, @expiresAt)`

// InsertImportParameters adds parameters. Nobody caches them: it raises no version.
// ErrNotFound if the account has no such key in the region.
func (tx *Tx) InsertImportParameters(ctx context.Context, p ImportParameters) error {
	k := &p.Wrapping
	_, err := tx.tx.Exec(ctx, insertImportParameters, pgx.StrictNamedArgs{
		"id": p.ID, "account": k.Account, "region": k.Region, "keyID": k.KeyID, "algorithm": string(p.Algorithm),
		"materialID": k.MaterialID[:], "spec": string(k.Spec), "residency": string(k.Residency), "generation": k.Generation,
		"blob": k.Blob, "publicKey": k.PublicKey, "binding": k.Binding, "createdAt": p.CreatedAt, "expiresAt": p.ExpiresAt,
	})
	if sqlState(err) == codeForeignKeyViolation {
		return fmt.Errorf("insert import parameters of key %s: %w", k.KeyID, ErrNotFound)
	}
	return wrap(err, "insert import parameters of key %s", k.KeyID)
}

const selectImportParameters = `
SELECT p.algorithm, p.material_id, p.spec, p.residency, p.generation, p.blob, p.public_key, p.binding, p.created_at, p.expires_at, k.store
FROM import_parameters p
JOIN keys k ON k.account = p.account AND k.region = p.region AND k.id = p.key_id
WHERE p.id = @id AND p.account = @account AND p.region = @region AND p.key_id = @keyID`

// ImportParameters returns parameters of a key. ErrNotFound if there are none of
// that id: never, or not any more.
func (s *Store) ImportParameters(ctx context.Context, region, account, keyID string, id uuid.UUID) (ImportParameters, error) {
	rows, err := s.pool.Query(ctx, selectImportParameters, pgx.StrictNamedArgs{"id": id, "account": account, "region": region, "keyID": keyID})
	if err != nil {
		return ImportParameters{}, wrap(err, "import parameters of key %s", keyID)
	}
	p, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (p ImportParameters, err error) {
		k, materialID := &p.Wrapping, []byte(nil)
		err = row.Scan(&p.Algorithm, &materialID, &k.Spec, &k.Residency, &k.Generation, &k.Blob, &k.PublicKey, &k.Binding,
			&p.CreatedAt, &p.ExpiresAt, &k.Store)
		if err != nil {
			return p, err
		}
		p.ID, k.Region, k.Account, k.KeyID, k.MaterialID = id, region, account, keyID, hsm.MaterialID(materialID)
		k.Usage, k.Origin = keyspec.ImportWrapping, keyspec.AWSKMS
		return p, nil
	})
	return p, wrap(err, "import parameters of key %s", keyID)
}

const deleteExpiredParameters = `
DELETE FROM import_parameters
WHERE id IN (
    SELECT id FROM import_parameters WHERE expires_at <= @now ORDER BY expires_at LIMIT @limit FOR UPDATE SKIP LOCKED)`

// ForgetImportParameters deletes at most limit parameters that have expired, and
// tells how many: without them nothing of what was wrapped to their pairs opens.
func (s *Store) ForgetImportParameters(ctx context.Context, now time.Time, limit int) (int, error) {
	tag, err := s.pool.Exec(ctx, deleteExpiredParameters, pgx.StrictNamedArgs{"now": now, "limit": limit})
	return int(tag.RowsAffected()), wrap(err, "forget import parameters")
}

const useImportParameters = `
DELETE FROM import_parameters
WHERE id = @parameters AND account = @account AND region = @region AND key_id = @keyID AND expires_at > @now`

const selectOtherMaterial = `
SELECT EXISTS (
    SELECT FROM materials
    WHERE account = @account AND region = @region AND key_id = @keyID AND id <> @id AND NOT pending)`

const putMaterial = insertMaterial + `
ON CONFLICT (region, key_id, id) DO UPDATE
SET residency = excluded.residency, generation = excluded.generation, blob = excluded.blob, public_key = excluded.public_key,
    check_value = excluded.check_value, binding = excluded.binding, expires_at = excluded.expires_at,
    description = CASE WHEN excluded.description = '' THEN materials.description ELSE excluded.description END`

const enableIfWhole = `
UPDATE keys SET state = @to
WHERE account = @account AND region = @region AND id = @keyID AND state = ANY (@from) AND NOT EXISTS (
    SELECT FROM materials m
    WHERE m.account = keys.account AND m.region = keys.region AND m.key_id = keys.id AND m.residency = 'absent' AND NOT m.pending)`

// ImportMaterial puts imported material in service, for the first time or again: then
// its place among the materials and, if m has none, its description stay what they
// are. The parameters that it came with are used up. A key that waited for it is
// enabled. *StateError unless the key's state is [Importable]; ErrNotFound if the
// parameters are not there or have expired; ErrOtherMaterial if the key has had
// other material.
func (tx *Tx) ImportMaterial(ctx context.Context, m Material, parameters uuid.UUID, now time.Time) error {
	k := &m.Key
	if err := tx.raiseKey(ctx, "import", k.Region, k.Account, k.KeyID, Importable); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"account": k.Account, "region": k.Region, "keyID": k.KeyID}
	if err := tx.execOne(ctx, useImportParameters, with(args, pgx.StrictNamedArgs{"parameters": parameters, "now": now})); err != nil {
		return wrap(err, "import parameters of key %s", k.KeyID)
	}
	var other bool
	if err := tx.tx.QueryRow(ctx, selectOtherMaterial, with(args, pgx.StrictNamedArgs{"id": k.MaterialID[:]})).Scan(&other); err != nil {
		return wrap(err, "materials of key %s", k.KeyID)
	}
	if other {
		return fmt.Errorf("import into key %s: %w", k.KeyID, ErrOtherMaterial)
	}
	if _, err := tx.tx.Exec(ctx, putMaterial, materialArgs(Key{Account: k.Account, Region: k.Region, ID: k.KeyID}, m)); err != nil {
		return wrap(err, "import into key %s", k.KeyID)
	}
	_, err := tx.tx.Exec(ctx, enableIfWhole, with(args, Importing.args()))
	return wrap(err, "enable key %s", k.KeyID)
}

const dropMaterial = `
UPDATE materials
SET residency = 'absent', generation = NULL, blob = NULL, public_key = NULL, check_value = NULL, binding = NULL, expires_at = NULL
WHERE account = @account AND region = @region AND key_id = @keyID AND id = @id AND residency <> 'absent'
      AND (@expiredBy::timestamptz IS NULL OR expires_at <= @expiredBy)
RETURNING pending`

const awaitImport = `
UPDATE keys SET state = @to
WHERE account = @account AND region = @region AND id = @keyID AND state = ANY (@from)`

// DropMaterial erases imported material. Its id stays, so that only the same can
// come back, and the key waits for it, unless it is pending deletion. With a time,
// only material that has expired by then is erased. ErrNotFound if there is none,
// *StateError if the key's state is not [Droppable].
func (tx *Tx) DropMaterial(ctx context.Context, region, account, keyID string, id hsm.MaterialID, expiredBy *time.Time) error {
	if err := tx.raiseKey(ctx, "erase material", region, account, keyID, Droppable); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID}
	var pending bool
	err := tx.tx.QueryRow(ctx, dropMaterial, with(args, pgx.StrictNamedArgs{"id": id[:], "expiredBy": expiredBy})).Scan(&pending)
	if err == nil && !pending {
		_, err = tx.tx.Exec(ctx, awaitImport, with(args, AwaitingImport.args()))
	}
	return wrap(err, "erase material of key %s", keyID)
}

const listExpired = `
SELECT m.account, m.region, m.key_id, m.id, m.expires_at
FROM materials m
JOIN keys k ON k.account = m.account AND k.region = m.region AND k.id = m.key_id
WHERE m.expires_at <= @now AND m.residency <> 'absent' AND k.state = ANY (@from)
ORDER BY m.expires_at, m.region, m.key_id, m.id
LIMIT @limit`

// ExpiredMaterial is imported material whose time is over.
type ExpiredMaterial struct {
	Account, Region, KeyID string
	ID                     hsm.MaterialID
	ExpiredAt              time.Time
}

// ExpiredMaterials returns at most limit materials that have expired and are still
// there, the longest expired first.
func (s *Store) ExpiredMaterials(ctx context.Context, now time.Time, limit int) ([]ExpiredMaterial, error) {
	args := pgx.StrictNamedArgs{"now": now, "limit": limit, "from": Droppable.names()}
	return list(ctx, s, "list expired materials", listExpired, args, func(row pgx.CollectableRow) (m ExpiredMaterial, err error) {
		var id []byte
		if err = row.Scan(&m.Account, &m.Region, &m.KeyID, &id, &m.ExpiredAt); err == nil {
			m.ID = hsm.MaterialID(id)
		}
		return m, err
	})
}
