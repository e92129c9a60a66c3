package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// Replicate brings new replicas their materials, as many as it claims at once: all
// that their primary keys have, each wrapped by the one token for the other. They are
// stored in one transaction, in which the replica comes into service. What was cut off
// before that is begun again, and leaves nothing: a material that is not stored is
// nowhere. What failed is tried again as soon as [again] says.
func (r *Reconciler) Replicate(ctx context.Context, now time.Time) (done int, err error) {
	c := r.claim(now)
	due, err := r.Store.ClaimKeys(ctx, metadata.DueReplication, c, r.stores(), atOnce)
	if err != nil {
		return 0, err
	}
	return each(due, metadata.ErrClaim, func(k *metadata.KeyName) error {
		waiting, err := r.replicate(ctx, c, *k)
		switch {
		case err == nil:
		case errors.Is(err, metadata.ErrClaim): // what it rested on has changed
			err = errors.Join(err, r.Store.ReleaseKey(ctx, c, *k))
		case !waiting.IsZero():
			err = errors.Join(err, r.Store.PostponeKey(ctx, c, *k, again(waiting, now)))
		}
		if err != nil {
			err = fmt.Errorf("replicate key %s: %w", arn.KeyARNOf(k.Region, k.Account, k.ID), err)
		}
		return err
	})
}

// soonest is when a replica is tried again that has only just been made.
const soonest = 5 * time.Second

// again is when a replica that could not be brought its materials is tried again: after
// as long as it has been waiting for them until now, but no later than if the process had
// died. It follows from the key alone, and so is the same for all instances.
func again(waiting, now time.Time) time.Time {
	return now.Add(min(max(now.Sub(waiting), soonest), claimFor))
}

// replicate brings a claimed replica its materials. It returns since when the replica
// has been waiting; zero if that could not be read.
func (r *Reconciler) replicate(ctx context.Context, c metadata.Claim, k metadata.KeyName) (waiting time.Time, err error) {
	replica, primary, err := r.withPrimary(ctx, k)
	if err != nil {
		return waiting, err
	}
	waiting = replica.CreatedAt
	var copies []metadata.Material
	if primary.Origin == keyspec.AWSKMS { // what is imported is never copied
		for i := range primary.Materials {
			copied, err := r.carry(ctx, c.Now, &primary.Materials[i], place{replica.Store, replica.Region})
			if err != nil {
				return waiting, err
			}
			copies = append(copies, copied)
		}
	}
	return waiting, r.commit(ctx, func(tx *metadata.Tx) ([]byte, error) {
		return synchronizedEvent(primary.Name(), k.Region, copies, c.Now), tx.FinishReplica(ctx, c, replica.Key, copies)
	})
}

// withPrimary reads a replica and its primary key from Postgres. ErrClaim if there is
// no such pair any more.
func (r *Reconciler) withPrimary(ctx context.Context, k metadata.KeyName) (replica, primary *metadata.KeyEntry, err error) {
	replica, err = r.Store.View().FreshKey(ctx, k.Region, k.ID)
	if err != nil {
		return nil, nil, gone(err)
	}
	i := slices.IndexFunc(replica.Related, func(other metadata.Relative) bool { return other.Role == metadata.Primary })
	if i < 0 {
		return nil, nil, fmt.Errorf("%w: no primary key", metadata.ErrClaim)
	}
	primary, err = r.Store.View().FreshKey(ctx, replica.Related[i].Region, k.ID)
	return replica, primary, gone(err)
}

// gone is ErrClaim for a key that is not there any more.
func gone(err error) error {
	if errors.Is(err, metadata.ErrNotFound) {
		return errors.Join(metadata.ErrClaim, err)
	}
	return err
}

// synchronizedEvent is the record of materials that were copied to a replica in a
// region (KMS Developer Guide, "SynchronizeMultiRegionKey").
func synchronizedEvent(primary metadata.KeyName, region string, copies []metadata.Material, at time.Time) []byte {
	from, to := arn.KeyARNOf(primary.Region, primary.Account, primary.ID), arn.KeyARNOf(region, primary.Account, primary.ID)
	ids := make([]string, 0, len(copies))
	for i := range copies {
		ids = append(ids, copies[i].MaterialID.String())
	}
	event := audit.Event{
		Identity: audit.Internal(primary.Account), Time: at, Source: "kms.amazonaws.com", Name: "SynchronizeMultiRegionKey",
		Region: primary.Region, SourceIP: "AWS Internal", UserAgent: "AWS Internal", EventID: uuid.NewString(), Type: audit.APICall,
		RequestParameters:   audit.Members{audit.String("keyArn", from)},
		ResponseElements:    audit.Members{audit.String("keyArn", to)},
		AdditionalEventData: audit.Members{audit.Strings("keyMaterialIds", ids)},
		Resources:           []audit.Resource{audit.KeyResource(primary.Account, from), audit.KeyResource(primary.Account, to)},
		RecipientAccount:    primary.Account,
	}
	return event.AppendJSON(nil)
}
