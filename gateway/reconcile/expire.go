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

// materialExpired is the service event of expiry.
const materialExpired = "DeleteExpiredKeyMaterial"

// ExpireMaterial erases imported material whose time is over: its key waits for the
// same material then. Erasing is one transaction, which holds for one of several
// instances that try; nothing needs to be claimed for it.
func (r *Reconciler) ExpireMaterial(ctx context.Context, now time.Time) (done int, err error) {
	due, err := r.Store.ExpiredMaterials(ctx, now, atOnce)
	if err != nil {
		return 0, err
	}
	// What is not found another instance has expired first, or it was imported again.
	return each(due, metadata.ErrNotFound, func(m *metadata.ExpiredMaterial) error {
		if err := r.expire(ctx, m, now); err != nil {
			return fmt.Errorf("expire material %s of key %s: %w", m.ID, m.KeyID, err)
		}
		return nil
	})
}

// expire erases one material. Before, the token destroys the object of one that lives
// there. Of others it forgets what it has unwrapped, if it can be reached: what is kept
// elsewhere is not used, and goes when others need its place.
func (r *Reconciler) expire(ctx context.Context, m *metadata.ExpiredMaterial, now time.Time) error {
	doomed, err := r.doomed(ctx, m, now)
	if err != nil {
		return err
	}
	for _, k := range doomed {
		err := r.destroy(ctx, k)
		if err != nil && k.Residency == hsm.Resident {
			return err
		}
		if err != nil {
			r.Logger.Warn("expired material is still unwrapped in the token", "key", m.KeyID, "error", err)
		}
	}
	name := metadata.KeyName{Region: m.Region, Account: m.Account, ID: m.KeyID}
	return r.commit(ctx, func(tx *metadata.Tx) ([]byte, error) { return DropExpired(ctx, tx, name, m.ID, now) })
}

// DropExpired erases a material that has expired by now and returns the finished
// record of it. The token has destroyed what it had of the material. Errors are those
// of [metadata.Tx.DropMaterial].
func DropExpired(ctx context.Context, tx *metadata.Tx, key metadata.KeyName, id hsm.MaterialID, now time.Time) ([]byte, error) {
	if err := tx.DropMaterial(ctx, key.Region, key.Account, key.ID, id, &now); err != nil {
		return nil, err
	}
	event := eventOf(key, materialExpired, now, audit.String("keyMaterialId", id.String()))
	return event, tx.QueueEvent(ctx, metadata.Event{
		Type: metadata.MaterialExpired, Account: key.Account, Region: key.Region, KeyID: key.ID, At: now,
		Detail: map[string]string{"key-material-id": id.String()},
	})
}

// doomed are a material that has expired and, if it waits in a primary key, the same in
// its replicas, which goes with it; none if it was imported again.
func (r *Reconciler) doomed(ctx context.Context, expired *metadata.ExpiredMaterial, now time.Time) (keys []*hsm.Key, err error) {
	key, err := r.Store.View().FreshKey(ctx, expired.Region, expired.KeyID)
	if err != nil {
		return nil, err
	}
	m := key.Material(expired.ID)
	if m == nil || m.Residency == hsm.Absent || m.Present(now) {
		return nil, nil
	}
	keys = append(keys, &m.Key)
	if !m.Pending || key.MultiRegionRole != metadata.Primary {
		return keys, nil
	}
	for _, related := range key.Related {
		replica, err := r.Store.View().FreshKey(ctx, related.Region, expired.KeyID)
		switch {
		case errors.Is(err, metadata.ErrNotFound): // deleted meanwhile
			continue
		case err != nil:
			return nil, err
		}
		if same := replica.Material(expired.ID); replica.Region != key.Region && same != nil && same.Pending {
			keys = append(keys, &same.Key)
		}
	}
	return keys, nil
}

// ForgetImports deletes import parameters whose time is over: the pairs of which only
// blobs were kept.
func (r *Reconciler) ForgetImports(ctx context.Context, now time.Time) (done int, err error) {
	return r.Store.ForgetImportParameters(ctx, now, 64*atOnce)
}
