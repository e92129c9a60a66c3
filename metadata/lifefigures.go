package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// LifeFigures are what operators should know of the keys of a region.
type LifeFigures struct {
	Region string
	// PendingDeletions are the keys that wait for the end of their window; NextDeletion
	// is when the first of them is deleted, nil if there is none.
	PendingDeletions int64
	NextDeletion     *time.Time
	// ExpiringMaterials are the imported materials that are there and expire;
	// NextExpiry is when the first of them does, nil if there is none.
	ExpiringMaterials int64
	NextExpiry        *time.Time
	// OverdueRotations are the keys whose rotation should have been made by then.
	OverdueRotations int64
}

const selectLifeFigures = `
SELECT r.name AS region, d.pending_deletions, d.next_deletion, e.expiring_materials, e.next_expiry, o.overdue_rotations
FROM regions r
CROSS JOIN LATERAL (
	SELECT count(*) AS pending_deletions, min(k.deletion_at) AS next_deletion
	FROM keys k
	WHERE k.region = r.name AND k.state = 'PendingDeletion') d
CROSS JOIN LATERAL (
	SELECT count(*) AS expiring_materials, min(m.expires_at) AS next_expiry
	FROM materials m
	WHERE m.region = r.name AND m.expires_at IS NOT NULL AND m.residency <> 'absent') e
CROSS JOIN LATERAL (
	SELECT count(*) AS overdue_rotations
	FROM keys k
	WHERE k.region = r.name AND k.next_rotation_at <= @overdue AND k.state = 'Enabled') o
ORDER BY r.name`

// LifeFigures counts the keys of every region that something is due for. A rotation
// that should have been made before overdue is late.
func (s *Store) LifeFigures(ctx context.Context, overdue time.Time) ([]LifeFigures, error) {
	return list(ctx, s, "figures of keys", selectLifeFigures, pgx.StrictNamedArgs{"overdue": overdue}, pgx.RowToStructByName[LifeFigures])
}
