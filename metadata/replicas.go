package metadata

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

const holdPrimary = `
UPDATE keys SET version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND multi_region_role = 'PRIMARY'`

// What was deleted in that region has left its row there, which is the new key's from
// now on.
const insertReplica = `
INSERT INTO keys AS k (region, id, account, store, spec, usage, origin, multi_region_role, state, description, created_at)
VALUES (@region, @id, @account, @store, @spec, @usage, @origin, @role, @state, @description, @createdAt)
ON CONFLICT (region, id) DO UPDATE
SET store = @store, multi_region_role = @role, state = @state, description = @description, created_at = @createdAt, version = k.version + 1,
    deletion_at = NULL, deletion_window = NULL, on_demand_rotations = 0
WHERE k.account = @account AND k.state = 'Deleted' AND k.claimed_until IS NULL`

// What a deleted key's row keeps for the audit.
const (
	forgetErased  = `DELETE FROM materials WHERE account = @account AND region = @region AND key_id = @id AND residency = 'absent'`
	forgetLastUse = `DELETE FROM key_last_uses WHERE region = @region AND key_id = @id`
)

// InsertReplica adds a replica of a primary key in another region, with its policy and
// its tags, in state Creating; its materials come with [Tx.FinishReplica]. One that was
// deleted there before is forgotten. *StateError with the primary key's state if it is
// not [Replicable] or not the primary any more. ErrExists if there is such a key in the
// region, until nothing of it is left to be destroyed; ErrNotFound if the store is not
// there; ErrLimit for more than [MaxTags] tags.
func (tx *Tx) InsertReplica(ctx context.Context, primary KeyName, k Key, p KeyPolicy, tags []Tag) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("insert replica %s: %w", k.ID, ErrLimit)
	}
	if err := tx.lockRelated(ctx, primary); err != nil {
		return err
	}
	hold := with(primary.args(), pgx.StrictNamedArgs{"from": Replicable.names()})
	if err := tx.updateKey(ctx, "replicate", primary.Region, primary.Account, primary.ID, holdPrimary, hold); err != nil {
		return err
	}
	tag, err := tx.tx.Exec(ctx, insertReplica, pgx.StrictNamedArgs{
		"region": k.Region, "id": k.ID, "account": k.Account, "store": k.Store, "spec": string(k.Spec), "usage": string(k.Usage),
		"origin": string(k.Origin), "role": string(Replica), "state": string(Creating), "description": k.Description, "createdAt": k.CreatedAt,
	})
	switch {
	case sqlState(err) == codeForeignKeyViolation:
		return fmt.Errorf("insert replica %s: store: %w", k.ID, ErrNotFound)
	case err != nil:
		return wrap(err, "insert replica %s", k.ID)
	case tag.RowsAffected() == 0:
		return fmt.Errorf("insert replica %s: %w", k.ID, ErrExists)
	}
	var batch pgx.Batch
	batch.Queue(forgetErased, k.Name().args())
	batch.Queue(forgetLastUse, pgx.StrictNamedArgs{"region": k.Region, "id": k.ID})
	queueAround(&batch, &k, &p, tags)
	return wrap(tx.tx.SendBatch(ctx, &batch).Close(), "insert replica %s", k.ID)
}

const selectPrimaryMaterials = `
SELECT m.id, m.current
FROM keys p
JOIN materials m ON m.account = p.account AND m.region = p.region AND m.key_id = p.id
WHERE p.account = @account AND p.id = @id AND p.multi_region_role = 'PRIMARY' AND p.state <> 'Deleted' AND p.origin = 'AWS_KMS'`

const finishReplica = `
UPDATE keys SET state = @to, version = version + 1, claimed_by = NULL, claimed_until = NULL
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND ` + claimStands

// FinishReplica gives a replica that was claimed its materials, which are copies of all
// that its primary key has, and has it used from now on. One whose material is imported
// gets none and waits for its own, which must be the same. ErrClaim if the claim does not stand any more, if
// the replica is not [Creating], or if the primary key has other materials by now.
func (tx *Tx) FinishReplica(ctx context.Context, c Claim, k Key, copies []Material) error {
	if err := tx.lockRelated(ctx, k.Name()); err != nil {
		return err
	}
	way := Replicating
	if k.Origin == keyspec.External {
		way = ReplicatingImported
	} else if err := tx.sameMaterials(ctx, k.Name(), copies); err != nil {
		return wrap(err, "finish replica %s", k.ID)
	}
	err := tx.exactlyOne(ctx, finishReplica, k.Name().moving(way), pgx.StrictNamedArgs{"holder": c.Holder, "now": c.Now})
	if err != nil {
		return wrap(err, "finish replica %s", k.ID)
	}
	tx.touch(k.Account, target{kindKey, k.Region, k.ID})
	if k.Origin == keyspec.External {
		_, err := tx.tx.Exec(ctx, expectMaterials, k.Name().args())
		return wrap(err, "materials of replica %s", k.ID)
	}
	var batch pgx.Batch
	for _, m := range copies {
		batch.Queue(insertMaterial, materialArgs(k, m))
	}
	return wrap(tx.tx.SendBatch(ctx, &batch).Close(), "materials of replica %s", k.ID)
}

// sameMaterials returns ErrClaim unless copies are of the materials that the primary
// key has, at least one, and of its current one.
func (tx *Tx) sameMaterials(ctx context.Context, replica KeyName, copies []Material) error {
	copied := make(map[hsm.MaterialID]bool, len(copies))
	for i := range copies {
		copied[copies[i].MaterialID] = copies[i].Current
	}
	args := pgx.StrictNamedArgs{"account": replica.Account, "id": replica.ID}
	rows, err := tx.tx.Query(ctx, selectPrimaryMaterials, args)
	if err != nil {
		return err
	}
	var id []byte
	var current bool
	left := len(copied)
	same := left > 0
	_, err = pgx.ForEachRow(rows, []any{&id, &current}, func() error {
		is, there := copied[hsm.MaterialID(id)]
		same = same && there && is == current
		left--
		return nil
	})
	if err == nil && (!same || left != 0) {
		err = ErrClaim
	}
	return err
}
