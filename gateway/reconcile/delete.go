package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// Delete deletes keys whose window is over, and goes on with those whose deletion was
// cut off. A key is taken from its callers in one transaction, which a cancellation
// cannot follow; then the token destroys its materials; then their rows are erased
// together with the record that names them.
func (r *Reconciler) Delete(ctx context.Context, now time.Time) (done int, err error) {
	claim := r.claim(now)
	due, err := r.Store.ClaimKeys(ctx, metadata.DueDeletion, claim, r.stores(), atOnce)
	if err != nil {
		return 0, err
	}
	whole, wholeErr := each(due, metadata.ErrClaim, func(k *metadata.KeyName) error {
		if err := r.beginDeletion(ctx, *k, claim); err != nil {
			return err
		}
		return r.finishDeletion(ctx, *k, claim)
	})
	begun, err := r.Store.ClaimKeys(ctx, metadata.UnfinishedDeletion, claim, r.stores(), atOnce)
	rest, restErr := each(begun, metadata.ErrClaim, func(k *metadata.KeyName) error { return r.finishDeletion(ctx, *k, claim) })
	return whole + rest, errors.Join(wholeErr, err, restErr)
}

// Names of the service events of a deletion. AWS has only the last.
const (
	windowBegun   = "DeletionWindowStarted" // of a primary key whose last replica is deleted
	deletionBegun = "DeleteKeyStarted"
	deletionDone  = "DeleteKey"
)

// beginDeletion takes a key from its callers. With the last replica of a primary key
// that is to be deleted its window begins.
func (r *Reconciler) beginDeletion(ctx context.Context, k metadata.KeyName, claim metadata.Claim) error {
	return r.commit(ctx, func(tx *metadata.Tx) ([]byte, error) {
		if err := tx.BeginDeletion(ctx, k, claim); err != nil {
			return nil, err
		}
		primary, at, err := tx.ReleasePrimary(ctx, k, claim.Now)
		if primary != (metadata.KeyName{}) {
			tx.AlsoRecord(eventOf(primary, windowBegun, claim.Now, audit.Date("deletionDate", at)))
		}
		return eventOf(k, deletionBegun, claim.Now), err
	})
}

// finishDeletion destroys the materials of a key that nobody can use any more.
func (r *Reconciler) finishDeletion(ctx context.Context, k metadata.KeyName, claim metadata.Claim) error {
	key, err := r.Store.DeletedKey(ctx, k)
	if err != nil {
		return err
	}
	var destroyed []hsm.MaterialID
	var names []string
	for i := range key.Materials {
		m := &key.Materials[i]
		if m.Residency == hsm.Absent {
			continue
		}
		if err := r.destroy(ctx, &m.Key); err != nil {
			return fmt.Errorf("destroy material %s of key %s: %w", m.MaterialID, key.ID, err)
		}
		destroyed, names = append(destroyed, m.MaterialID), append(names, m.MaterialID.String())
	}
	return r.commit(ctx, func(tx *metadata.Tx) ([]byte, error) {
		if err := tx.FinishDeletion(ctx, k, claim, destroyed); err != nil {
			return nil, err
		}
		event := eventOf(k, deletionDone, claim.Now, audit.Strings("keyMaterialIds", names))
		return event, tx.QueueEvent(ctx, metadata.Event{
			Type: metadata.KeyDeleted, Account: k.Account, Region: k.Region, KeyID: k.ID, At: claim.Now,
		})
	})
}

// destroy has the token destroy a material that it holds or has wrapped.
func (r *Reconciler) destroy(ctx context.Context, k *hsm.Key) error {
	if k.Residency == hsm.External {
		return nil
	}
	token := r.Tokens[k.Store]
	if token == nil {
		return fmt.Errorf("%w: no token is configured for key store %s", hsm.ErrUnavailable, k.Store)
	}
	return token.Destroy(ctx, hsm.Call{Account: k.Account, Class: hsm.Background}, k)
}
