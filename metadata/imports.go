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

// ErrOtherMaterial: the key has had other material than what is brought in, or has had
// what is brought in as new.
var ErrOtherMaterial = errors.New("metadata: key has other material")

// PendingMaterialError: new material is brought in while another waits for a rotation.
type PendingMaterialError struct{ ID hsm.MaterialID } // of the one that waits

// Error names the material that waits.
func (e *PendingMaterialError) Error() string {
	return "metadata: material " + e.ID.String() + " is pending rotation"
}

// ImportKind says what material is brought in as.
type ImportKind string

// Kinds of imports.
const (
	FirstOrKnown ImportKind = ""      // the first that the key has, or one that it has had
	NewMaterial  ImportKind = "new"   // one that the key has not had
	KnownAgain   ImportKind = "known" // one that the key has had
)

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

const selectPlace = `
SELECT count(*) > 0, coalesce(bool_or(id = @id), false), (array_agg(id) FILTER (WHERE pending))[1], (` + selectFollows + `)
FROM materials
WHERE account = @account AND region = @region AND key_id = @keyID`

// place gives imported material its place: the key's first one is current at once, and
// further new ones wait, one at a time, until the key is rotated. A replica takes none
// but what its primary key has. The key's row is locked, and its related keys' are.
// ErrOtherMaterial or *PendingMaterialError if there is no place for it.
func (tx *Tx) place(ctx context.Context, m *Material, kind ImportKind) error {
	k := &m.Key
	var some, known bool
	var pending []byte
	var follows *bool // of a replica: its primary key has the material waiting
	args := pgx.StrictNamedArgs{"account": k.Account, "region": k.Region, "keyID": k.KeyID, "id": k.MaterialID[:]}
	if err := tx.tx.QueryRow(ctx, selectPlace, args).Scan(&some, &known, &pending, &follows); err != nil {
		return err
	}
	if known = known || orZero(follows); follows != nil && !known {
		return ErrOtherMaterial
	}
	m.Current, m.Pending = !some, some
	return taken(kind, some, known, pending)
}

// taken is nil if a key takes material: one that has some or none, that knows it or
// not, and has another one pending or none.
func taken(kind ImportKind, some, known bool, pending []byte) error {
	switch {
	case !some && kind == KnownAgain, some && known == (kind == NewMaterial):
		return ErrOtherMaterial
	case some && !known && len(pending) > 0:
		return &PendingMaterialError{hsm.MaterialID(pending)}
	}
	return nil
}

// Lapsed is the material that waits for a rotation and has expired by now: new material
// takes its place. Nil if there is none.
func (k *KeyEntry) Lapsed(now time.Time) *Material {
	for i := range k.Materials {
		if m := &k.Materials[i]; m.Pending && !m.Present(now) {
			return m
		}
	}
	return nil
}

// Takes is nil if the key takes material as what it is imported as, as far as the
// entry tells, and for a replica that of its primary key: [Tx.ImportMaterial] decides,
// once what has lapsed was dropped for new material. ErrOtherMaterial or
// *PendingMaterialError if not. primary is nil for other keys.
func (k *KeyEntry) Takes(id hsm.MaterialID, kind ImportKind, now time.Time, primary *KeyEntry) error {
	var lapsed *Material
	if kind == NewMaterial {
		lapsed = k.Lapsed(now)
	}
	m := k.Material(id)
	known := m != nil && m != lapsed
	if primary != nil && !known {
		m := primary.Material(id)
		if known = m != nil && m.Pending; !known {
			return ErrOtherMaterial
		}
	}
	var pending []byte
	for i := range k.Materials {
		if m := &k.Materials[i]; m.Pending && m != lapsed {
			pending = m.MaterialID[:]
		}
	}
	return taken(kind, len(k.Materials) > 0, known, pending)
}

const putMaterial = insertMaterial + `
ON CONFLICT (region, key_id, id) DO UPDATE
SET residency = excluded.residency, generation = excluded.generation, blob = excluded.blob, public_key = excluded.public_key,
    check_value = excluded.check_value, binding = excluded.binding, expires_at = excluded.expires_at,
    description = CASE WHEN excluded.description = '' THEN materials.description ELSE excluded.description END`

const enableIfWhole = `
UPDATE keys SET state = @to
WHERE account = @account AND region = @region AND id = @keyID AND state = ANY (@from) AND NOT EXISTS (
    SELECT FROM materials m
    WHERE m.account = keys.account AND m.region = keys.region AND m.key_id = keys.id AND NOT m.pending
      AND (m.residency = 'absent' OR m.expires_at <= @now))`

// ImportMaterial puts imported material in service: the first one of a key at once, any
// other new one when the key is rotated to it. Of material that the key has had, its
// place among the materials and, if m has none, its description stay what they are.
// The parameters that it came with are used up. A key that waits for material is
// enabled once it lacks none but the pending one. *StateError unless the key's state is
// [Importable]; ErrNotFound if the parameters are not there or have expired;
// ErrOtherMaterial if the material is not of the kind; *PendingMaterialError if it is
// new, and another waits.
func (tx *Tx) ImportMaterial(ctx context.Context, m Material, kind ImportKind, parameters uuid.UUID, now time.Time) error {
	k := &m.Key
	if err := tx.lockRelated(ctx, KeyName{k.Region, k.Account, k.KeyID}); err != nil {
		return err
	}
	if err := tx.raiseKey(ctx, "import", k.Region, k.Account, k.KeyID, Importable); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"account": k.Account, "region": k.Region, "keyID": k.KeyID}
	if err := tx.execOne(ctx, useImportParameters, with(args, pgx.StrictNamedArgs{"parameters": parameters, "now": now})); err != nil {
		return wrap(err, "import parameters of key %s", k.KeyID)
	}
	if err := tx.place(ctx, &m, kind); err != nil {
		return wrap(err, "import into key %s", k.KeyID)
	}
	if _, err := tx.tx.Exec(ctx, putMaterial, materialArgs(Key{Account: k.Account, Region: k.Region, ID: k.KeyID}, m)); err != nil {
		return wrap(err, "import into key %s", k.KeyID)
	}
	if err := tx.describeRelated(ctx, k); err != nil {
		return err
	}
	args["now"] = now
	_, err := tx.tx.Exec(ctx, enableIfWhole, with(args, Importing.args()))
	return wrap(err, "enable key %s", k.KeyID)
}

// isDropped is what the WHERE says of material that is erased.
const isDropped = `account = @account AND region = @region AND key_id = @keyID AND id = @id AND residency <> 'absent'
      AND (@expiredBy::timestamptz IS NULL OR expires_at <= @expiredBy)`

const dropPending = `
DELETE FROM materials
WHERE pending AND ` + isDropped

const withdrawRotation = `
UPDATE keys SET on_demand_started_at = NULL, version = version + 1
WHERE account = @account AND id = @id AND on_demand_started_at IS NOT NULL`

const dropMaterial = `
UPDATE materials
SET residency = 'absent', generation = NULL, blob = NULL, public_key = NULL, check_value = NULL, binding = NULL, expires_at = NULL
WHERE NOT pending AND ` + isDropped

const awaitImport = `
UPDATE keys SET state = @to
WHERE account = @account AND region = @region AND id = @keyID AND state = ANY (@from)`

// DropMaterial erases imported material. Its id stays, so that the same can come
// back, and the key waits for it, unless it is pending deletion. Of material that waits
// for a rotation nothing stays, with a primary key's neither in its replicas, and no key
// is rotated to it. With a time, only
// material that has expired by then is erased. ErrNotFound if there is none,
// *StateError if the key's state is not [Droppable].
func (tx *Tx) DropMaterial(ctx context.Context, region, account, keyID string, id hsm.MaterialID, expiredBy *time.Time) error {
	if err := tx.lockRelated(ctx, KeyName{region, account, keyID}); err != nil {
		return err
	}
	if err := tx.raiseKey(ctx, "erase material", region, account, keyID, Droppable); err != nil {
		return err
	}
	key := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID}
	args := with(key, pgx.StrictNamedArgs{"id": id[:], "expiredBy": expiredBy})
	tag, err := tx.tx.Exec(ctx, dropPending, args)
	switch {
	case err != nil:
	case tag.RowsAffected() > 0:
		if err = tx.dropReplicas(ctx, region, account, keyID, id); err == nil {
			_, err = tx.tx.Exec(ctx, withdrawRotation, pgx.StrictNamedArgs{"account": account, "id": keyID})
		}
	default:
		if err = tx.execOne(ctx, dropMaterial, args); err == nil {
			_, err = tx.tx.Exec(ctx, awaitImport, with(key, AwaitingImport.args()))
		}
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
