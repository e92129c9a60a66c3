package gateway

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/reconcile"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// isPrimary tells whether a key is the primary of related multi-Region keys; key may
// be nil.
func isPrimary(key *metadata.KeyEntry) bool {
	return key != nil && key.MultiRegionRole == metadata.Primary
}

// related are the keys that are related to a multi-Region key, without itself.
func (c *call) related(key *metadata.KeyEntry) (keys []*metadata.KeyEntry, err error) {
	for _, r := range key.Related {
		if r.Region == key.Region {
			continue
		}
		k, err := c.view.Key(c.ctx, r.Region, key.ID)
		if errors.Is(err, metadata.ErrNotFound) { // deleted meanwhile
			err = metadata.ErrStale
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// updatePrimaryRegion exchanges the roles of the primary key and a replica. Both keys
// can be used all the time; they can be managed again once the job has seen to them.
func (c *call) updatePrimaryRegion(*kmsapi.UpdatePrimaryRegionRequest) (work[kmsapi.Empty], error) {
	primary, replica := c.key(0), c.key(1)
	switch {
	case !isPrimary(primary):
		return work[kmsapi.Empty]{}, kmsapi.NotPrimary(primary.ARN())
	case replica.Region == primary.Region:
		return work[kmsapi.Empty]{}, kmsapi.PrimaryAlready(primary.Region)
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		if err := tx.MovePrimary(ctx, primary.Name(), replica.Region); err != nil {
			return nil, moveRefused(replica, err)
		}
		tx.AlsoRecord(c.recordIn(replica))
		return nil, nil
	}
	return work[kmsapi.Empty]{commit: commit, wakes: reconcile.Moves}, nil
}

// moveRefused is what the caller hears if the primary key cannot move.
func moveRefused(to *metadata.KeyEntry, err error) error {
	if waits, ok := errors.AsType[*metadata.PendingMaterialError](err); ok {
		return kmsapi.PendingMaterialNotThere(to.ARN(), waits.ID.String())
	}
	return err
}

// recordIn is the call's record in the log of another region, about the key there.
func (c *call) recordIn(key *metadata.KeyEntry) []byte {
	event := c.event
	event.Region, event.EventID = key.Region, uuid.NewString()
	event.Resources = []audit.Resource{audit.KeyResource(key.Account, key.ARN())}
	return event.AppendJSON(nil)
}
