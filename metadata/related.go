package metadata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
)

const lockRelated = `
SELECT
FROM keys
WHERE account = @account AND id = @id
ORDER BY region
FOR NO KEY UPDATE`

// lockRelated locks a multi-Region key together with its related keys, in the order of
// their regions, so that of two changes that rest on what all of them are one sees
// what the other has done. Other keys have no others that they rest on.
func (tx *Tx) lockRelated(ctx context.Context, k KeyName) error {
	if !arn.IsMultiRegion(k.ID) {
		return nil
	}
	args := pgx.StrictNamedArgs{"account": k.Account, "id": k.ID}
	_, err := tx.tx.Exec(ctx, lockRelated, args)
	return wrap(err, "lock related keys of %s", k.ID)
}

const selectHasReplicas = `
SELECT EXISTS (
    SELECT FROM keys p
    JOIN keys r ON r.account = p.account AND r.id = p.id AND r.multi_region_role = 'REPLICA' AND r.state <> 'Deleted'
    WHERE p.region = @region AND p.account = @account AND p.id = @id AND p.multi_region_role = 'PRIMARY')`

// hasReplicas tells whether a key is a primary key with replicas, those that are
// pending deletion too. That stays so until the transaction ends.
func (tx *Tx) hasReplicas(ctx context.Context, k KeyName) (has bool, err error) {
	if !arn.IsMultiRegion(k.ID) {
		return false, nil
	}
	if err := tx.lockRelated(ctx, k); err != nil {
		return false, err
	}
	err = tx.tx.QueryRow(ctx, selectHasReplicas, k.args()).Scan(&has) // a snapshot of its own, after the locks
	return has, wrap(err, "replicas of key %s", k.ID)
}

const releasePrimary = `
UPDATE keys p SET state = @to, deletion_at = @now::timestamptz + make_interval(hours => 24 * deletion_window), version = version + 1
WHERE account = @account AND id = @id AND multi_region_role = 'PRIMARY' AND state = ANY (@from) AND NOT EXISTS (
    SELECT FROM keys r
    WHERE r.account = p.account AND r.id = p.id AND r.multi_region_role = 'REPLICA' AND r.state <> 'Deleted')
RETURNING region, deletion_at`

// ReleasePrimary begins the window of the primary key that waited for a replica's
// deletion, if that replica was the last. It returns the primary key and when it is
// deleted; both are zero if there is no such key.
func (tx *Tx) ReleasePrimary(ctx context.Context, replica KeyName, now time.Time) (KeyName, time.Time, error) {
	args := with(ReplicasGone.args(), pgx.StrictNamedArgs{"account": replica.Account, "id": replica.ID, "now": now})
	primary := KeyName{Account: replica.Account, ID: replica.ID}
	var at time.Time
	err := tx.tx.QueryRow(ctx, releasePrimary, args).Scan(&primary.Region, &at)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return KeyName{}, time.Time{}, nil
	case err != nil:
		return KeyName{}, time.Time{}, wrap(err, "release the primary key of %s", replica.ID)
	}
	tx.touch(primary.Account, target{kindKey, primary.Region, primary.ID})
	return primary, at, nil
}

const selectSchedule = `
SELECT rotation_period, next_rotation_at, on_demand_rotations, on_demand_started_at
FROM keys
WHERE region = @region AND account = @account AND id = @id`

const yieldPrimary = `
UPDATE keys SET multi_region_role = 'REPLICA', state = @to, version = version + 1, claimed_by = NULL, claimed_until = NULL,
                rotation_period = NULL, next_rotation_at = NULL, on_demand_rotations = 0, on_demand_started_at = NULL
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND multi_region_role = 'PRIMARY'`

const becomePrimary = `
UPDATE keys SET multi_region_role = 'PRIMARY', state = @to, version = version + 1, claimed_by = NULL, claimed_until = NULL,
                rotation_period = @period, next_rotation_at = @next, on_demand_rotations = @onDemand, on_demand_started_at = @requested
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND multi_region_role = 'REPLICA'`

// MovePrimary makes the replica in a region the primary key, and the primary key a
// replica. What the primary key's rotation rests on goes with its role, a rotation
// that was asked for too; claims to rotate it fall. Both keys are [Updating] until
// [Tx.FinishMove]. *StateError with a key's state if it is in one that [Moving] does
// not begin with, or not in its role any more; ErrNotFound if there is no such key,
// ErrExists if the primary key is in that region, *PendingMaterialError if imported
// material waits in the primary key and not there.
func (tx *Tx) MovePrimary(ctx context.Context, primary KeyName, region string) error {
	if region == primary.Region {
		return fmt.Errorf("move primary %s to its own region: %w", primary.ID, ErrExists)
	}
	if err := tx.lockRelated(ctx, primary); err != nil {
		return err
	}
	var period, onDemand *int32
	var next, requested *time.Time
	err := tx.tx.QueryRow(ctx, selectSchedule, primary.args()).Scan(&period, &next, &onDemand, &requested)
	if err == nil {
		err = tx.stranded(ctx, primary, region)
	}
	if err != nil {
		return wrap(err, "rotation of key %s", primary.ID)
	}
	const what = "move primary"
	err = tx.updateKey(ctx, what, primary.Region, primary.Account, primary.ID, yieldPrimary, primary.moving(Moving))
	if err != nil {
		return err
	}
	to := KeyName{Region: region, Account: primary.Account, ID: primary.ID}
	args := with(to.moving(Moving), pgx.StrictNamedArgs{"period": period, "next": next, "onDemand": onDemand, "requested": requested})
	return tx.updateKey(ctx, what, to.Region, to.Account, to.ID, becomePrimary, args)
}

const finishMove = `
UPDATE keys SET state = @to, claimed_by = NULL, claimed_until = NULL, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND ` + claimStands

// FinishMove enables one of the two keys of a move again. ErrClaim if the claim does
// not stand any more.
func (tx *Tx) FinishMove(ctx context.Context, k KeyName, c Claim) error {
	err := tx.exactlyOne(ctx, finishMove, k.moving(Moved), pgx.StrictNamedArgs{"holder": c.Holder, "now": c.Now})
	if err != nil {
		return wrap(err, "finish move of key %s", k.ID)
	}
	tx.touch(k.Account, target{kindKey, k.Region, k.ID})
	return nil
}
