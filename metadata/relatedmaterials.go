package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
	"kmsgate/hsm"
)

// Imported material is never copied: each of several related keys gets its own, which
// must be the same. What is new is brought into the primary key first, waits there and
// in the replicas, and becomes current everywhere at once.

// expectMaterials has a new replica wait for all that its primary key has had.
const expectMaterials = `
INSERT INTO materials (account, region, key_id, id, residency, current, created_at, rotated_at, rotation_type, description)
SELECT m.account, @region, m.key_id, m.id, 'absent', m.current, m.created_at, m.rotated_at, m.rotation_type, m.description
FROM keys p
JOIN materials m ON m.account = p.account AND m.region = p.region AND m.key_id = p.id
WHERE p.account = @account AND p.id = @id AND p.multi_region_role = 'PRIMARY' AND p.state <> 'Deleted' AND NOT m.pending`

// selectFollows tells whether the primary key of a replica has a material waiting for a
// rotation; NULL for other keys.
const selectFollows = `
    SELECT EXISTS (
        SELECT FROM keys p
        JOIN materials q ON q.account = p.account AND q.region = p.region AND q.key_id = p.id
        WHERE p.account = r.account AND p.id = r.id AND p.multi_region_role = 'PRIMARY' AND p.state <> 'Deleted' AND q.pending AND q.id = @id)
    FROM keys r
    WHERE r.account = @account AND r.region = @region AND r.id = @keyID AND r.multi_region_role = 'REPLICA'`

// ofReplicas is what the WHERE says of the materials, m, of a key's replicas, r.
const ofReplicas = `r.account = @account AND r.id = @id AND r.multi_region_role = 'REPLICA' AND r.state <> 'Deleted'
  AND m.account = r.account AND m.region = r.region AND m.key_id = r.id`

const retireRelated = `
UPDATE materials m SET current = false
FROM keys r
WHERE m.current AND ` + ofReplicas

const promoteRelated = `
UPDATE materials m SET current = true, pending = false, rotated_at = @now, rotation_type = @type
FROM keys r
WHERE m.pending AND m.id = @pending AND ` + ofReplicas

// promoteRelated makes the material that waits current in all replicas of a key that is
// rotated to it. They have it: the rotation of the key itself says so.
func (tx *Tx) promoteRelated(ctx context.Context, d *DueRotation, to pgx.StrictNamedArgs) error {
	if d.MultiRegionRole == "" {
		return nil
	}
	key := pgx.StrictNamedArgs{"account": d.Account, "id": d.ID}
	if _, err := tx.tx.Exec(ctx, retireRelated, key); err != nil {
		return err
	}
	_, err := tx.tx.Exec(ctx, promoteRelated, with(key, to))
	return err
}

const dropReplicas = `
DELETE FROM materials m
USING keys p
WHERE p.region = @region AND p.account = @account AND p.id = @id AND p.multi_region_role = 'PRIMARY'
  AND m.account = p.account AND m.key_id = p.id AND m.id = @material AND m.pending`

// dropReplicas erases what waits in the replicas of a primary key.
func (tx *Tx) dropReplicas(ctx context.Context, region, account, id string, material hsm.MaterialID) error {
	args := with(KeyName{region, account, id}.args(), pgx.StrictNamedArgs{"material": material[:]})
	_, err := tx.tx.Exec(ctx, dropReplicas, args)
	return err
}

const describeRelated = `
UPDATE materials m SET description = q.description
FROM keys p
JOIN materials q ON q.account = p.account AND q.region = p.region AND q.key_id = p.id
WHERE p.account = @account AND p.id = @id AND p.multi_region_role = 'PRIMARY' AND p.state <> 'Deleted' AND q.id = @material
  AND m.account = p.account AND m.key_id = p.id AND m.id = q.id AND m.region <> p.region`

// describeRelated has a material be described in replicas as it is in the primary key.
func (tx *Tx) describeRelated(ctx context.Context, k *hsm.Key) error {
	if !arn.IsMultiRegion(k.KeyID) {
		return nil
	}
	args := pgx.StrictNamedArgs{"account": k.Account, "id": k.KeyID, "material": k.MaterialID[:]}
	_, err := tx.tx.Exec(ctx, describeRelated, args)
	return wrap(err, "describe material of related keys of %s", k.KeyID)
}

const selectStranded = `
SELECT m.id
FROM materials m
WHERE m.account = @account AND m.region = @region AND m.key_id = @id AND m.pending AND NOT EXISTS (
    SELECT FROM materials q
    WHERE q.account = m.account AND q.region = @to AND q.key_id = m.key_id AND q.id = m.id)`

// stranded refuses, with a *PendingMaterialError, to leave material in a primary key
// that waits for a rotation and that the key in a region, its successor, does not have.
func (tx *Tx) stranded(ctx context.Context, primary KeyName, region string) error {
	rows, err := tx.tx.Query(ctx, selectStranded, with(primary.args(), pgx.StrictNamedArgs{"to": region}))
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err == nil && len(ids) > 0 {
		err = &PendingMaterialError{hsm.MaterialID(ids[0])}
	}
	return err
}
