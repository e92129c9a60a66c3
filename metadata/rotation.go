package metadata

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// MaxOnDemandRotations is how often a key can be rotated on demand (KMS Developer
// Guide, "Resource quotas").
const MaxOnDemandRotations = 25

// WornAfter is the number of encryptions after which a material is replaced, or
// warned of: half of what random IVs allow (NIST SP 800-38D, section 8.3: 2^32).
const WornAfter = 1 << 31

// Rotatable: rotation on demand, and changes of the schedule. Only enabled keys are
// rotated.
var Rotatable = Enabled.Set() | Updating.Set() | Unavailable.Set()

const setRotation = `
UPDATE keys SET rotation_period = @period, next_rotation_at = @next, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND multi_region_role IS DISTINCT FROM 'REPLICA'`

// SetRotation has a key rotated every so many days, 90 to 2560, beginning at a
// time; none and nil end that. The key must be [Rotatable], and no replica;
// *StateError with its state if it is not so, ErrNotFound if the account has no such
// key in the region.
func (tx *Tx) SetRotation(ctx context.Context, region, account, id string, days int32, next *time.Time) error {
	args := pgx.StrictNamedArgs{
		"region": region, "account": account, "id": id, "from": Rotatable.names(), "period": orNull(days), "next": next,
	}
	return tx.updateKey(ctx, "set rotation", region, account, id, setRotation, args)
}

// pendingIsThere is what the WHERE says of a material, p, that a key can be rotated to:
// all of its replicas have it as well.
const pendingIsThere = `p.pending AND p.residency <> 'absent' AND (p.expires_at IS NULL OR p.expires_at > @now) AND NOT EXISTS (
    SELECT FROM keys r
    WHERE r.account = p.account AND r.id = p.key_id AND r.multi_region_role = 'REPLICA' AND r.state <> 'Deleted' AND NOT EXISTS (
        SELECT FROM materials q
        WHERE q.account = r.account AND q.region = r.region AND q.key_id = r.id AND q.id = p.id
          AND q.pending AND q.residency <> 'absent' AND (q.expires_at IS NULL OR q.expires_at > @now)))`

const requestRotation = `
UPDATE keys SET on_demand_started_at = @at, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from)
  AND multi_region_role IS DISTINCT FROM 'REPLICA' AND on_demand_started_at IS NULL AND on_demand_rotations < @most
  AND (origin <> 'EXTERNAL' OR EXISTS (
      SELECT FROM materials p
      WHERE p.account = keys.account AND p.region = keys.region AND p.key_id = keys.id AND ` + pendingIsThere + `))`

// RequestRotation asks for a rotation on demand of a [Rotatable] key. *StateError
// if it is not, if it is a replica, if another is under way, if it had all that it can
// have, or if an imported key or one of its replicas has no material to be rotated to:
// with the key's state.
// ErrNotFound if the account has no such key in the region.
func (tx *Tx) RequestRotation(ctx context.Context, region, account, id string, at time.Time) error {
	args := pgx.StrictNamedArgs{
		"region": region, "account": account, "id": id, "from": Rotatable.names(), "at": at, "now": at, "most": MaxOnDemandRotations,
	}
	return tx.updateKey(ctx, "request rotation", region, account, id, requestRotation, args)
}

// DueRotation is a key that is due to be rotated, and what that rests on.
type DueRotation struct {
	Key
	Current hsm.MaterialID
	// Pending is the imported material that the key is rotated to; zero for a key
	// whose materials the token makes.
	Pending hsm.MaterialID
	// Type is what makes it due; on demand goes first.
	Type RotationType
	// Encryptions is how often the current material encrypted, as far as counted.
	Encryptions int64
}

// Only keys are claimed whose materials are wrapped, or that have one to be
// rotated to. Replicas are rotated with their primary key: not while one of them lacks
// its materials, and by whoever has the tokens of all. A claim changes nothing that a
// decision rests on: no version.
const claimRotations = `
WITH due AS (
    SELECT k.region, k.id, m.id AS current, p.id AS pending, coalesce(u.encryptions, 0) AS encryptions
    FROM keys k
    JOIN materials m ON m.region = k.region AND m.key_id = k.id AND m.current
    LEFT JOIN materials p ON p.region = k.region AND p.key_id = k.id AND ` + pendingIsThere + `
    LEFT JOIN material_uses u ON u.region = m.region AND u.key_id = m.key_id AND u.material_id = m.id
    WHERE k.state = 'Enabled' AND k.spec = @spec AND k.store = ANY (@stores)
      AND (k.claimed_until IS NULL OR k.claimed_until <= @now)
      AND (k.origin = 'AWS_KMS' AND m.residency = 'wrapped' OR k.origin = 'EXTERNAL' AND p.id IS NOT NULL)
      AND (k.multi_region_role IS NULL OR k.origin = 'EXTERNAL' OR k.multi_region_role = 'PRIMARY' AND NOT EXISTS (
          SELECT FROM keys r
          WHERE r.account = k.account AND r.id = k.id AND r.state <> 'Deleted' AND (r.state = 'Creating' OR r.store <> ALL (@stores))))
      AND %s
    ORDER BY %s, k.id
    LIMIT @limit
    FOR NO KEY UPDATE OF k SKIP LOCKED
)
UPDATE keys k SET claimed_by = @holder, claimed_until = @until
FROM due
WHERE k.region = due.region AND k.id = due.id
RETURNING k.region, k.id, k.account, k.store, k.spec, k.usage, k.origin, k.multi_region_role, k.rotation_period, k.next_rotation_at,
          k.on_demand_rotations, k.on_demand_started_at, due.current, due.pending, due.encryptions`

// Each finds its keys by an index of its own; uses are counted in no index.
var (
	claimOnDemand  = fmt.Sprintf(claimRotations, "k.on_demand_started_at IS NOT NULL", "k.on_demand_started_at")
	claimAutomatic = fmt.Sprintf(claimRotations, "k.next_rotation_at <= @now AND k.origin = 'AWS_KMS'", "k.next_rotation_at")
	claimWorn      = fmt.Sprintf(claimRotations, "k.next_rotation_at IS NOT NULL AND k.origin = 'AWS_KMS' AND (m.key_id, m.id) IN ("+wornMaterials+")", "k.next_rotation_at")
)

// wornMaterials have encrypted often in all regions together, where they are one
// material.
const wornMaterials = `SELECT w.key_id, w.material_id FROM material_uses w GROUP BY w.key_id, w.material_id HAVING sum(w.encryptions) >= @worn`

// ClaimOnDemand claims at most limit enabled keys of these stores for which a
// rotation on demand is asked, the oldest first.
func (s *Store) ClaimOnDemand(ctx context.Context, c Claim, stores []string, limit int) ([]DueRotation, error) {
	return s.claimRotations(ctx, OnDemandRotation, claimOnDemand, rotationArgs(c, stores, limit))
}

// ClaimAutomatic claims at most limit enabled keys of these stores whose next
// automatic rotation is due, the oldest first.
func (s *Store) ClaimAutomatic(ctx context.Context, c Claim, stores []string, limit int) ([]DueRotation, error) {
	return s.claimRotations(ctx, AutomaticRotation, claimAutomatic, rotationArgs(c, stores, limit))
}

// ClaimWorn claims at most limit enabled keys of these stores that are rotated by
// themselves and whose current material has encrypted at least so often. It looks at
// the uses of all materials.
func (s *Store) ClaimWorn(ctx context.Context, c Claim, stores []string, limit int, encryptions int64) ([]DueRotation, error) {
	args := rotationArgs(c, stores, limit)
	args["worn"] = encryptions
	return s.claimRotations(ctx, AutomaticRotation, claimWorn, args)
}

func rotationArgs(c Claim, stores []string, limit int) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"holder": c.Holder, "now": c.Now, "until": c.Until, "stores": stores, "limit": limit,
		"spec": string(keyspec.SymmetricDefault),
	}
}

func (s *Store) claimRotations(ctx context.Context, due RotationType, sql string, args pgx.StrictNamedArgs) ([]DueRotation, error) {
	return list(ctx, s, "claim keys to rotate", sql, args, func(row pgx.CollectableRow) (DueRotation, error) {
		r := keyRow{State: string(Enabled)}
		var current, pending []byte
		d := DueRotation{Type: due}
		err := row.Scan(&r.Region, &r.ID, &r.Account, &r.Store, &r.Spec, &r.Usage, &r.Origin, &r.MultiRegionRole, &r.RotationPeriod,
			&r.NextRotationAt, &r.OnDemandRotations, &r.OnDemandStartedAt, &current, &pending, &d.Encryptions)
		if err != nil {
			return d, err
		}
		d.Key, d.Current = r.key(), hsm.MaterialID(current)
		if len(pending) > 0 && d.Origin == keyspec.External {
			d.Pending = hsm.MaterialID(pending)
		}
		return d, nil
	})
}

// The key must be as it was when it was claimed, as far as the rotation rests on it.
const finishRotation = `
UPDATE keys k SET version = version + 1, claimed_by = NULL, claimed_until = NULL, next_rotation_at = @next,
       on_demand_rotations = on_demand_rotations + @onDemand,
       on_demand_started_at = CASE WHEN @onDemand = 1 THEN NULL ELSE on_demand_started_at END
WHERE region = @region AND account = @account AND id = @id AND state = 'Enabled'
  AND rotation_period IS NOT DISTINCT FROM @period AND next_rotation_at IS NOT DISTINCT FROM @nextSeen
  AND on_demand_started_at IS NOT DISTINCT FROM @requestedSeen AND ` + claimStands

const retireMaterial = `
UPDATE materials SET current = false
WHERE region = @region AND account = @account AND key_id = @id AND id = @current AND current`

const promoteMaterial = `
UPDATE materials p SET current = true, pending = false, rotated_at = @now, rotation_type = @type
WHERE region = @region AND account = @account AND key_id = @id AND id = @pending AND ` + pendingIsThere

const selectRotating = `
SELECT r.region, r.state
FROM keys r
WHERE r.account = @account AND r.id = @id AND r.multi_region_role = 'REPLICA' AND r.state <> 'Deleted'
  AND (r.state = 'Creating' OR EXISTS (
      SELECT FROM materials m WHERE m.account = r.account AND m.region = r.region AND m.key_id = r.id AND m.current))
ORDER BY r.region`

const raiseReplica = `
UPDATE keys SET version = version + 1
WHERE region = @region AND account = @account AND id = @id`

// RotateKey makes another material the key's current one: made, or the imported
// one that waits if made is nil. The one before stays and decrypts. next is when
// the key is rotated by itself again; nil if it is not. With a primary key all of its
// replicas are rotated, to the copies of what was made. ErrClaim if the claim does
// not stand any more, if what the key was claimed for has changed, or if a replica
// lacks the material.
func (tx *Tx) RotateKey(ctx context.Context, c Claim, d *DueRotation, made *Material, next *time.Time, copies ...Material) error {
	onDemand := 0
	if d.Type == OnDemandRotation {
		onDemand = 1
	}
	err := tx.lockRelated(ctx, d.Name())
	if err == nil {
		var batch pgx.Batch
		batch.Queue(finishRotation, with(d.Name().args(), pgx.StrictNamedArgs{
			"holder": c.Holder, "now": c.Now, "next": next, "onDemand": onDemand,
			"period": orNull(d.Rotation.PeriodDays), "nextSeen": d.Rotation.NextAt, "requestedSeen": d.Rotation.RequestedAt,
		}))
		tx.queueCurrent(&batch, c, d, d.Region, made)
		err = tx.eachOne(ctx, &batch)
	}
	switch {
	case err != nil:
	case made == nil:
		err = tx.promoteRelated(ctx, d, d.promotion(c))
	case d.MultiRegionRole != "":
		err = tx.rotateReplicas(ctx, c, d, copies)
	}
	return wrap(err, "rotate key %s", d.ID)
}

// queueCurrent adds what makes another material the current one of the key in a
// region.
func (tx *Tx) queueCurrent(batch *pgx.Batch, c Claim, d *DueRotation, region string, made *Material) {
	k := d.Key
	k.Region = region
	id := k.Name().args()
	batch.Queue(retireMaterial, with(id, pgx.StrictNamedArgs{"current": d.Current[:]}))
	if made == nil {
		batch.Queue(promoteMaterial, with(id, d.promotion(c)))
	} else {
		batch.Queue(insertMaterial, materialArgs(k, *made))
	}
	tx.touch(k.Account, target{kindKey, k.Region, k.ID})
}

// promotion are the arguments about the imported material that becomes current.
func (d *DueRotation) promotion(c Claim) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"pending": d.Pending[:], "now": c.Now, "type": string(d.Type)}
}

// rotateReplicas rotates all that have materials. Those that are to be deleted before
// they ever had some are passed over: should that be cancelled, all are copied.
func (tx *Tx) rotateReplicas(ctx context.Context, c Claim, d *DueRotation, copies []Material) error {
	rows, err := tx.tx.Query(ctx, selectRotating, pgx.StrictNamedArgs{"account": d.Account, "id": d.ID})
	if err != nil {
		return err
	}
	replicas, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Region, State string }])
	if err != nil {
		return err
	}
	for _, r := range replicas {
		i := slices.IndexFunc(copies, func(m Material) bool { return m.Region == r.Region })
		if State(r.State) == Creating || i < 0 {
			return fmt.Errorf("%w: the replica in %s lacks the new material", ErrClaim, r.Region)
		}
		var batch pgx.Batch
		tx.queueCurrent(&batch, c, d, r.Region, &copies[i])
		batch.Queue(raiseReplica, KeyName{r.Region, d.Account, d.ID}.args())
		if err := tx.eachOne(ctx, &batch); err != nil {
			return err
		}
	}
	return nil
}

// exactlyOne runs a statement that must change one row; ErrClaim if it does not.
func (tx *Tx) exactlyOne(ctx context.Context, sql string, id, more pgx.StrictNamedArgs) error {
	tag, err := tx.tx.Exec(ctx, sql, with(id, more))
	if err == nil && tag.RowsAffected() != 1 {
		err = ErrClaim
	}
	return err
}

// eachOne runs statements of which each must change one row; ErrClaim if one does
// not.
func (tx *Tx) eachOne(ctx context.Context, batch *pgx.Batch) (err error) {
	results := tx.tx.SendBatch(ctx, batch)
	defer func() {
		if e := results.Close(); err == nil { // of a claim that does not stand the rest says nothing
			err = e
		}
	}()
	for range batch.Len() {
		tag, err := results.Exec()
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return ErrClaim
		}
	}
	return nil
}

const selectWorn = `
SELECT m.account, m.region, m.key_id, m.id, u.encryptions
FROM material_uses u
JOIN materials m ON m.region = u.region AND m.key_id = u.key_id AND m.id = u.material_id
JOIN keys k ON k.region = m.region AND k.id = m.key_id
WHERE m.current AND m.residency <> 'absent' AND k.state <> 'Deleted' AND k.spec = @spec AND (m.key_id, m.id) IN (` + wornMaterials + `)
ORDER BY u.encryptions DESC
LIMIT @limit`

// WornMaterial is a current material of a symmetric key that has encrypted often: what
// a key pair encrypts has no IV.
type WornMaterial struct {
	Account, Region, KeyID string

	ID          hsm.MaterialID
	Encryptions int64
}

// WornMaterials returns at most limit current materials that have encrypted at
// least so often, those that did most first. It looks at the uses of all materials.
func (s *Store) WornMaterials(ctx context.Context, encryptions int64, limit int) ([]WornMaterial, error) {
	args := pgx.StrictNamedArgs{"worn": encryptions, "limit": limit, "spec": string(keyspec.SymmetricDefault)}
	return list(ctx, s, "list worn materials", selectWorn, args, func(row pgx.CollectableRow) (w WornMaterial, err error) {
		var id []byte
		if err = row.Scan(&w.Account, &w.Region, &w.KeyID, &id, &w.Encryptions); err == nil {
			w.ID = hsm.MaterialID(id)
		}
		return w, err
	})
}
