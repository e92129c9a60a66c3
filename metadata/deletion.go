package metadata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
)

const scheduleDeletion = `
UPDATE keys SET state = @to, deletion_at = @at, deletion_window = @window, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from)`

// ScheduleDeletion has a key be deleted at a time, after a window of so many days
// (7 to 30), and returns the state that it is in then: a primary key that has replicas
// waits until they are deleted, and its window begins when [Tx.ReleasePrimary] says so.
// *StateError in a state that [SchedulingDeletion] does not begin with, ErrNotFound if
// the account has no such key in the region.
func (tx *Tx) ScheduleDeletion(ctx context.Context, k KeyName, at time.Time, window int32) (State, error) {
	way, due := SchedulingDeletion, &at
	waits, err := tx.hasReplicas(ctx, k)
	switch {
	case err != nil:
		return "", err
	case waits:
		way, due = AwaitingReplicas, nil
	}
	args := with(k.moving(way), pgx.StrictNamedArgs{"at": due, "window": window})
	return way.To, tx.updateKey(ctx, "schedule deletion", k.Region, k.Account, k.ID, scheduleDeletion, args)
}

const cancelDeletion = `
UPDATE keys k SET state = CASE WHEN %s THEN @creating ELSE @to END,
                  deletion_at = NULL, deletion_window = NULL, claimed_by = NULL, claimed_until = NULL, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from)`

// lacksMaterials is what a statement says of a replica, k, that its materials have never
// reached: none were copied, and it does not know yet which it waits for.
const lacksMaterials = `k.multi_region_role = 'REPLICA' AND NOT EXISTS (
    SELECT FROM materials m WHERE m.account = k.account AND m.region = k.region AND m.key_id = k.id)`

// CancelDeletion undoes ScheduleDeletion; the key is disabled then, and a replica that
// has no materials waits for them again. A claim to delete it falls. Errors as of
// ScheduleDeletion, by [CancellingDeletion] and [ResumingReplication].
func (tx *Tx) CancelDeletion(ctx context.Context, k KeyName) error {
	args := with(k.moving(CancellingDeletion), pgx.StrictNamedArgs{"creating": string(ResumingReplication.To)})
	return tx.updateKey(ctx, "cancel deletion", k.Region, k.Account, k.ID, fmt.Sprintf(cancelDeletion, lacksMaterials), args)
}

const beginDeletion = `
UPDATE keys SET state = @to, grants = 0, version = version + 1,
                rotation_period = NULL, next_rotation_at = NULL, on_demand_started_at = NULL
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from) AND deletion_at <= @now AND ` + claimStands + `
RETURNING service`

// What hangs on a key, but for its materials.
const (
	dropAliases = `
DELETE FROM aliases
WHERE account = @account AND region = @region AND key_id = @id
RETURNING name`
	dropPolicies   = `DELETE FROM policies WHERE account = @account AND region = @region AND key_id = @id`
	dropGrants     = `DELETE FROM grants WHERE account = @account AND region = @region AND key_id = @id`
	dropTags       = `DELETE FROM tags WHERE account = @account AND region = @region AND key_id = @id`
	dropParameters = `DELETE FROM import_parameters WHERE account = @account AND region = @region AND key_id = @id`
)

// BeginDeletion takes a key that was claimed, and whose window is over, from all
// callers for good: with its policy, aliases, grants and tags. Its row stays, and
// keeps the id from being used again. ErrClaim if the claim does not stand any more,
// or if the deletion was cancelled: the key is not touched then. Of a replica,
// [Tx.ReleasePrimary] must follow.
func (tx *Tx) BeginDeletion(ctx context.Context, k KeyName, c Claim) error {
	if err := tx.lockRelated(ctx, k); err != nil {
		return err
	}
	args := with(k.moving(Deleting), pgx.StrictNamedArgs{"holder": c.Holder, "now": c.Now})
	var service string
	err := tx.tx.QueryRow(ctx, beginDeletion, args).Scan(&service)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("delete key %s: %w", k.ID, ErrClaim)
	case err != nil:
		return wrap(err, "delete key %s", k.ID)
	}
	if err := tx.uncountKey(ctx, k.Account, k.Region, service); err != nil {
		return err
	}
	tx.touch(k.Account, target{kindKey, k.Region, k.ID})
	rows, err := tx.tx.Query(ctx, dropAliases, k.args())
	if err != nil {
		return wrap(err, "delete aliases of key %s", k.ID)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return wrap(err, "delete aliases of key %s", k.ID)
	}
	for _, name := range names {
		tx.touch(k.Account, target{kindAlias, k.Region, name})
	}
	for _, sql := range []string{dropPolicies, dropGrants, dropTags, dropParameters} {
		if _, err := tx.tx.Exec(ctx, sql, k.args()); err != nil {
			return wrap(err, "delete what hangs on key %s", k.ID)
		}
	}
	return nil
}

// DeletedKey returns a key that BeginDeletion has taken from its callers, and its
// materials; it reads from Postgres. ErrNotFound if there is no such key, or if it is
// in another state.
func (s *Store) DeletedKey(ctx context.Context, k KeyName) (*KeyEntry, error) {
	entry, _, err := readKey(ctx, s, k.Region, k.ID)
	if err == nil && (entry.State != Deleted || entry.Account != k.Account) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, wrap(err, "deleted key %s", k.ID)
	}
	return entry, nil
}

const finishDeletion = `
UPDATE keys SET claimed_by = NULL, claimed_until = NULL, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = 'Deleted' AND ` + claimStands

const eraseMaterials = `
UPDATE materials SET residency = 'absent', blob = NULL, check_value = NULL, binding = NULL
WHERE account = @account AND region = @region AND key_id = @id AND id = ANY (@materials)`

const countMaterials = `
SELECT count(*)
FROM materials
WHERE account = @account AND region = @region AND key_id = @id AND residency <> 'absent'`

// FinishDeletion erases the materials of a deleted key, which the token has destroyed
// and which must be all that there are. Public keys stay, for the audit. ErrClaim if
// the claim does not stand any more.
func (tx *Tx) FinishDeletion(ctx context.Context, k KeyName, c Claim, destroyed []hsm.MaterialID) error {
	if err := tx.exactlyOne(ctx, finishDeletion, k.args(), pgx.StrictNamedArgs{"holder": c.Holder, "now": c.Now}); err != nil {
		return wrap(err, "finish deletion of key %s", k.ID)
	}
	tx.touch(k.Account, target{kindKey, k.Region, k.ID})
	ids := make([][]byte, 0, len(destroyed))
	for _, id := range destroyed {
		ids = append(ids, id[:])
	}
	if _, err := tx.tx.Exec(ctx, eraseMaterials, with(k.args(), pgx.StrictNamedArgs{"materials": ids})); err != nil {
		return wrap(err, "erase materials of key %s", k.ID)
	}
	var left int
	if err := tx.tx.QueryRow(ctx, countMaterials, k.args()).Scan(&left); err != nil {
		return wrap(err, "count materials of key %s", k.ID)
	}
	if left > 0 {
		return fmt.Errorf("finish deletion of key %s: %d materials are not destroyed", k.ID, left)
	}
	return nil
}
