package reconcile

import (
	"context"
	"time"

	"kmsgate/metadata"
)

// primaryMoved is the service event of a key that can be managed again after the
// primary key has moved. AWS has none.
const primaryMoved = "UpdatePrimaryRegionFinished"

// FinishMoves enables keys again that have become primary keys, or were ones before:
// the roles were exchanged in one transaction, and nothing is left to be done that
// could fail. Each of the two is enabled by itself.
func (r *Reconciler) FinishMoves(ctx context.Context, now time.Time) (done int, err error) {
	claim := r.claim(now)
	due, err := r.Store.ClaimKeys(ctx, metadata.DueMove, claim, r.stores(), atOnce)
	if err != nil {
		return 0, err
	}
	return each(due, metadata.ErrClaim, func(k *metadata.KeyName) error {
		return r.commit(ctx, func(tx *metadata.Tx) ([]byte, error) {
			return eventOf(*k, primaryMoved, now), tx.FinishMove(ctx, *k, claim)
		})
	})
}
