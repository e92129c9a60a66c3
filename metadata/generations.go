package metadata

import (
	"context"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// Bound is what a generation of a store's domain and binding keys has wrapped and
// bound: a key's material or, where Parameters is set, the pair of an import.
type Bound struct {
	hsm.Key
	Parameters uuid.UUID
}

// BoundPlace is a place in the order of what is bound; the zero value is before the
// first.
type BoundPlace struct {
	Generation int32
	KeyID      string
	Row        []byte
}

// Place is the row's own place.
func (b *Bound) Place() BoundPlace {
	p := BoundPlace{Generation: b.Generation, KeyID: b.KeyID, Row: b.MaterialID[:]}
	if b.Parameters != uuid.Nil {
		p.Row = b.Parameters[:]
	}
	return p
}

// BoundKind is one of the tables that have rows under generations.
type BoundKind uint8

// Kinds of bound rows.
const (
	BoundMaterials BoundKind = iota
	BoundParameters
)

// BoundKinds are all kinds.
var BoundKinds = []BoundKind{BoundMaterials, BoundParameters}

// ofStore is what a query about a store's rows says of the region, which is the
// first column of the index by generation.
const ofStore = `region = (SELECT s.region FROM key_stores s WHERE s.id = @store)`

// listBound are the queries of the kinds. Materials of deleted keys are among them
// until they are erased.
var listBound = map[BoundKind]string{
	BoundMaterials: `
SELECT m.account, m.region, m.key_id, m.id, k.spec, k.usage, k.origin, m.residency, m.generation, m.blob, m.public_key, m.check_value, m.binding,
       NULL::uuid AS parameters
FROM materials m
JOIN keys k ON k.account = m.account AND k.region = m.region AND k.id = m.key_id
WHERE m.` + ofStore + ` AND k.store = @store AND m.residency IN ('wrapped', 'resident') AND m.generation <= @upTo
  AND (m.generation, m.key_id, m.id) > (@generation, @key, @row)
ORDER BY m.generation, m.key_id, m.id
LIMIT @limit`,
	BoundParameters: `
SELECT p.account, p.region, p.key_id, p.material_id, p.spec, @usage AS usage, @origin AS origin, p.residency, p.generation, p.blob, p.public_key,
       NULL::bytea AS check_value, p.binding, p.id AS parameters
FROM import_parameters p
JOIN keys k ON k.account = p.account AND k.region = p.region AND k.id = p.key_id
WHERE p.` + ofStore + ` AND k.store = @store AND p.generation <= @upTo
  AND (p.generation, p.key_id, uuid_send(p.id)) > (@generation, @key, @row)
ORDER BY p.generation, p.key_id, uuid_send(p.id)
LIMIT @limit`,
}

// Bound returns at most limit rows of a kind that name a generation of a store up to
// one, of all accounts, beginning behind a place: the oldest generation first, and
// the rows of one key after each other.
func (s *Store) Bound(ctx context.Context, kind BoundKind, store string, upTo int32, after BoundPlace, limit int) ([]Bound, error) {
	args := pgx.StrictNamedArgs{
		"store": store, "upTo": upTo, "generation": after.Generation, "key": after.KeyID, "row": slices.Concat([]byte{}, after.Row), "limit": limit,
	}
	if kind == BoundParameters {
		args["usage"], args["origin"] = string(keyspec.ImportWrapping), string(keyspec.AWSKMS)
	}
	return list(ctx, s, "list what is bound", listBound[kind], args, func(row pgx.CollectableRow) (b Bound, err error) {
		var id []byte
		var parameters uuid.NullUUID
		b.Store = store
		err = row.Scan(&b.Account, &b.Region, &b.KeyID, &id, &b.Spec, &b.Usage, &b.Origin, &b.Residency, &b.Generation, &b.Blob,
			&b.PublicKey, &b.CheckValue, &b.Binding, &parameters)
		if err == nil {
			b.MaterialID, b.Parameters = hsm.MaterialID(id), parameters.UUID
		}
		return b, err
	})
}

// boundRows are the rows of both kinds up to a generation.
const boundRows = `
SELECT FROM materials m
JOIN keys k ON k.account = m.account AND k.region = m.region AND k.id = m.key_id
WHERE m.` + ofStore + ` AND k.store = @store AND m.residency IN ('wrapped', 'resident') AND m.generation <= @upTo
UNION ALL
SELECT FROM import_parameters p
JOIN keys k ON k.account = p.account AND k.region = p.region AND k.id = p.key_id
WHERE p.` + ofStore + ` AND k.store = @store AND p.generation <= @upTo`

const (
	countBound  = `SELECT count(*) FROM (` + boundRows + `) AS rows`
	existsBound = `SELECT EXISTS (` + boundRows + `)`
)

// oldestBound is the oldest generation that a row names. Each kind has an end of its own
// index for it: the materials come in their order, and parameters live a day.
const oldestBound = `
SELECT least((
  SELECT m.generation FROM materials m
  JOIN keys k ON k.account = m.account AND k.region = m.region AND k.id = m.key_id
  WHERE m.` + ofStore + ` AND k.store = @store AND m.residency IN ('wrapped', 'resident')
  ORDER BY m.generation, m.key_id, m.id
  LIMIT 1), (
  SELECT min(p.generation) FROM import_parameters p
  JOIN keys k ON k.account = p.account AND k.region = p.region AND k.id = p.key_id
  WHERE p.` + ofStore + ` AND k.store = @store))`

// patient lets a statement of an operator's command count millions of rows.
const patient = `SET LOCAL statement_timeout = '5min'`

// CountBound counts the rows that name a generation of a store up to one.
func (s *Store) CountBound(ctx context.Context, store string, upTo int32) (n int64, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, patient); err != nil {
			return err
		}
		return tx.QueryRow(ctx, countBound, pgx.StrictNamedArgs{"store": store, "upTo": upTo}).Scan(&n)
	})
	return n, wrap(err, "count what is bound up to generation %d of %s", upTo, store)
}

// A rebinding is a row as it was read and as the token has moved it.
type Rebinding struct {
	Was Bound
	Is  hsm.Key
}

// rebind are the statements of the kinds. What has changed since it was read stays
// as it is.
var rebind = map[BoundKind]string{
	BoundMaterials: `
UPDATE materials t SET generation = c.generation, blob = c.blob, binding = c.binding
FROM ` + rebindings + `
WHERE t.region = c.region AND t.account = c.account AND t.key_id = c.key_id AND t.id = c.row AND t.residency IN ('wrapped', 'resident')
  AND t.generation = c.was_generation AND t.blob = c.was_blob AND t.binding = c.was_binding
RETURNING t.account, t.region, t.key_id`,
	BoundParameters: `
UPDATE import_parameters t SET generation = c.generation, blob = c.blob, binding = c.binding
FROM ` + rebindings + `
WHERE t.region = c.region AND t.account = c.account AND t.key_id = c.key_id AND t.id = encode(c.row, 'hex')::uuid
  AND t.generation = c.was_generation AND t.blob = c.was_blob AND t.binding = c.was_binding
RETURNING t.account, t.region, t.key_id`,
}

const rebindings = `unnest(@accounts::text[], @regions::text[], @keys::text[], @rows::bytea[], @wasGenerations::int[], @wasBlobs::bytea[],
    @wasBindings::bytea[], @generations::int[], @blobs::bytea[], @bindings::bytea[])
    AS c (account, region, key_id, row, was_generation, was_blob, was_binding, generation, blob, binding)`

// Rebind stores rows of one kind as the token has moved them to another generation,
// and returns of how many keys, by name and in their order. A row that is not any more
// what it was is left alone: read it again.
func (tx *Tx) Rebind(ctx context.Context, kind BoundKind, rows []Rebinding) ([]KeyName, error) {
	result, err := tx.tx.Query(ctx, rebind[kind], rebindArgs(rows))
	if err != nil {
		return nil, wrap(err, "rebind %d rows", len(rows))
	}
	moved, err := pgx.CollectRows(result, func(row pgx.CollectableRow) (k KeyName, err error) {
		err = row.Scan(&k.Account, &k.Region, &k.ID)
		return k, err
	})
	if err != nil {
		return nil, wrap(err, "rebind %d rows", len(rows))
	}
	if kind == BoundMaterials { // nobody caches the others
		for _, k := range moved {
			if t := (target{kindKey, k.Region, k.ID}); !slices.Contains(tx.touched[k.Account], t) {
				tx.touch(k.Account, t)
			}
		}
	}
	return moved, nil
}

func rebindArgs(rows []Rebinding) pgx.StrictNamedArgs {
	n := len(rows)
	accounts, regions, keys := make([]string, n), make([]string, n), make([]string, n)
	places, wasBlobs, wasBindings, blobs, bindings := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	was, is := make([]int32, n), make([]int32, n)
	for i := range rows {
		r := &rows[i]
		accounts[i], regions[i], keys[i], places[i] = r.Was.Account, r.Was.Region, r.Was.KeyID, r.Was.Place().Row
		was[i], wasBlobs[i], wasBindings[i] = r.Was.Generation, r.Was.Blob, r.Was.Binding
		is[i], blobs[i], bindings[i] = r.Is.Generation, r.Is.Blob, r.Is.Binding
	}
	return pgx.StrictNamedArgs{
		"accounts": accounts, "regions": regions, "keys": keys, "rows": places, "wasGenerations": was, "wasBlobs": wasBlobs,
		"wasBindings": wasBindings, "generations": is, "blobs": blobs, "bindings": bindings,
	}
}
