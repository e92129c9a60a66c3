package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// rotationBatch is how many keys are claimed at once to be rotated.
	rotationBatch = 256
	// maxWorn bounds the materials that are warned of at once.
	maxWorn = 1000
)

// Rotate rotates keys that are due, as many as it claims at once: those for which it
// was asked, then those whose time has come. It returns how many it has rotated. A
// key that it cannot rotate keeps no other from it: the errors are joined, and the
// key is due again after a while.
func (r *Reconciler) Rotate(ctx context.Context, now time.Time) (done int, err error) {
	onDemand, err := r.rotateAll(ctx, now, r.Store.ClaimOnDemand)
	automatic, otherErr := r.rotateAll(ctx, now, r.Store.ClaimAutomatic)
	return onDemand + automatic, errors.Join(err, otherErr)
}

// RotateWorn warns of current materials that have encrypted so often that random
// IVs might come to be the same, long before, and rotates those keys of them that
// are rotated by themselves. It returns how many it has rotated.
func (r *Reconciler) RotateWorn(ctx context.Context, now time.Time) (done int, err error) {
	return r.rotateWorn(ctx, now, metadata.WornAfter)
}

func (r *Reconciler) rotateWorn(ctx context.Context, now time.Time, after int64) (done int, err error) {
	worn, err := r.Store.WornMaterials(ctx, after, maxWorn)
	if err != nil {
		return 0, err
	}
	r.metrics.worn.Set(float64(len(worn)))
	for _, w := range worn {
		r.Logger.LogAttrs(ctx, slog.LevelWarn, "a key material has encrypted half as often as it may; its key must be rotated",
			slog.String("account", w.Account), slog.String("region", w.Region), slog.String("key", w.KeyID),
			slog.String("material", w.ID.String()), slog.Int64("encryptions", w.Encryptions))
	}
	if len(worn) == 0 {
		return 0, nil
	}
	return r.rotateAll(ctx, now, func(ctx context.Context, c metadata.Claim, stores []string, limit int) ([]metadata.DueRotation, error) {
		return r.Store.ClaimWorn(ctx, c, stores, limit, after)
	})
}

// claimer claims keys to be rotated.
type claimer func(context.Context, metadata.Claim, []string, int) ([]metadata.DueRotation, error)

// rotateAll rotates what claim finds. What it claimed and could not rotate is not
// found again before its time.
func (r *Reconciler) rotateAll(ctx context.Context, now time.Time, claim claimer) (done int, err error) {
	c := r.claim(now)
	due, err := claim(ctx, c, r.stores(), rotationBatch)
	if err != nil {
		return 0, err
	}
	return each(due, metadata.ErrClaim, func(d *metadata.DueRotation) error {
		if err := r.rotate(ctx, c, d); err != nil {
			return fmt.Errorf("rotate key %s: %w", d.ARN(), err)
		}
		return nil
	})
}

// rotate has the token make a material for a claimed key, if it needs one, has it
// brought to all replicas, and makes it the current one everywhere in one transaction.
// A crash before that leaves nothing: the material that is not stored is nowhere.
func (r *Reconciler) rotate(ctx context.Context, c metadata.Claim, d *metadata.DueRotation) error {
	var made *metadata.Material
	var copies []metadata.Material
	current := d.Pending
	if d.Pending == (hsm.MaterialID{}) {
		var err error
		if made, err = r.newMaterial(ctx, c.Now, d); err != nil {
			return err
		}
		if copies, err = r.toReplicas(ctx, d, made); err != nil {
			return err
		}
		current = made.MaterialID
	}
	next, event := nextRotation(d, c.Now), rotationEvent(d, current, c.Now)
	err := r.commitTogether(ctx, d.Account, func(tx *metadata.Tx) ([]byte, error) {
		if err := tx.RotateKey(ctx, c, d, made, next, copies...); err != nil {
			return nil, err
		}
		for i := range copies {
			tx.AlsoRecord(synchronizedEvent(d.Name(), copies[i].Region, copies[i:i+1], c.Now))
		}
		return event, tx.QueueEvent(ctx, metadata.Event{
			Type: metadata.KeyRotated, Account: d.Account, Region: d.Region, KeyID: d.ID, At: c.Now,
			Detail: map[string]string{
				"key-origin": string(d.Origin), "rotation-type": string(d.Type),
				"previous-key-material-id": d.Current.String(), "current-key-material-id": current.String(),
			},
		})
	})
	if errors.Is(err, metadata.ErrClaim) { // what the rotation rested on has changed
		if err := r.Store.ReleaseKey(ctx, c, d.Name()); err != nil {
			return err
		}
	}
	return err
}

// commit makes a change, few at once: the others wait without a connection that
// requests need.
func (r *Reconciler) commit(ctx context.Context, change func(*metadata.Tx) ([]byte, error)) error {
	r.committing <- struct{}{}
	defer func() { <-r.committing }()
	return r.Store.Change(ctx, nil, change)
}

// newMaterial has the token make a material like the current one. None is made that
// lives in the token: a crash would leave an object that is nobody's.
func (r *Reconciler) newMaterial(ctx context.Context, now time.Time, d *metadata.DueRotation) (*metadata.Material, error) {
	token, on := r.Tokens[d.Store], hsm.Call{Account: d.Account, Class: hsm.Background}
	id, err := token.Random(ctx, on, len(hsm.MaterialID{}))
	if err != nil {
		return nil, err
	}
	made, err := token.Generate(ctx, on, hsm.Key{
		Store: d.Store, Region: d.Region, Account: d.Account, KeyID: d.ID, MaterialID: hsm.MaterialID(id),
		Spec: d.Spec, Usage: d.Usage, Origin: d.Origin,
	})
	if err == nil && made.Residency != hsm.Wrapped { // the store was made resident since
		err = errors.Join(
			fmt.Errorf("%w: the token keeps the new material itself", hsm.ErrUnsupported),
			token.Destroy(ctx, on, &made),
		)
	}
	if err != nil {
		return nil, err
	}
	return &metadata.Material{Key: made, Current: true, CreatedAt: now, RotatedAt: &now, RotationType: d.Type}, nil
}

// toReplicas are copies of a new material of a primary key's for all of its replicas.
func (r *Reconciler) toReplicas(ctx context.Context, d *metadata.DueRotation, made *metadata.Material) (copies []metadata.Material, err error) {
	if d.MultiRegionRole != metadata.Primary {
		return nil, nil
	}
	key, err := r.Store.View().FreshKey(ctx, d.Region, d.ID)
	if err != nil {
		return nil, err
	}
	for _, related := range key.Related {
		if related.Role != metadata.Replica {
			continue
		}
		copied, err := r.carry(ctx, made.CreatedAt, made, place{related.Store, related.Region})
		if err != nil {
			return nil, fmt.Errorf("to the replica in %s: %w", related.Region, err)
		}
		copies = append(copies, copied)
	}
	return copies, nil
}

// nextRotation is when a key is rotated by itself after this: a rotation on demand,
// or one before its time, moves nothing; nil if it is not.
func nextRotation(d *metadata.DueRotation, now time.Time) *time.Time {
	if d.Rotation.NextAt == nil || d.Type == metadata.OnDemandRotation || d.Rotation.NextAt.After(now) {
		return d.Rotation.NextAt
	}
	next := d.Rotation.Next(*d.Rotation.NextAt)
	if !next.After(now) { // it was overdue for long
		next = d.Rotation.Next(now)
	}
	return &next
}

// rotationEvent is the record of a rotation.
func rotationEvent(d *metadata.DueRotation, current hsm.MaterialID, now time.Time) []byte {
	return eventOf(metadata.KeyName{Region: d.Region, Account: d.Account, ID: d.ID}, "RotateKey", now,
		audit.String("rotationType", string(d.Type)), audit.String("keyOrigin", string(d.Origin)),
		audit.String("previousKeyMaterialId", d.Current.String()), audit.String("currentKeyMaterialId", current.String()))
}
