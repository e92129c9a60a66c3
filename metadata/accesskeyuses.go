package metadata

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// AccessKeyUse is the last use of an access key.
type AccessKeyUse struct {
	AccessKeyID string
	At          time.Time
	Region      string
	Service     string // its SigV4 name, such as kms
}

const selectAccessKeyUse = `
SELECT access_key, used_at, region, service
FROM access_key_uses
WHERE access_key = @id`

// AccessKeyUse returns the last use of an access key that was noted. ErrNotFound if
// none was.
func (s *Store) AccessKeyUse(ctx context.Context, id string) (u AccessKeyUse, err error) {
	err = s.pool.QueryRow(ctx, selectAccessKeyUse, pgx.StrictNamedArgs{"id": id}).
		Scan(&u.AccessKeyID, &u.At, &u.Region, &u.Service)
	return u, wrap(err, "last use of access key %s", id)
}

// Keys that are gone meanwhile are left out. Rows are written in the order of their
// keys, so that instances do not lock them crosswise.
const upsertAccessKeyUses = `
INSERT INTO access_key_uses AS u (access_key, used_at, region, service)
SELECT k.id, n.at, n.region, n.service
FROM unnest(@ids::text[], @times::timestamptz[], @regions::text[], @services::text[]) AS n (id, at, region, service)
JOIN access_keys k ON k.id = n.id
ORDER BY k.id
FOR KEY SHARE OF k
ON CONFLICT (access_key) DO UPDATE
SET used_at = excluded.used_at, region = excluded.region, service = excluded.service
WHERE excluded.used_at > u.used_at`

// NoteAccessKeyUses writes down the last uses of access keys, at most one of each;
// older ones than are known change nothing. It has no part in any decision: it is
// neither recorded nor told to other instances.
func (s *Store) NoteAccessKeyUses(ctx context.Context, uses []AccessKeyUse) error {
	uses = slices.SortedFunc(slices.Values(uses), func(a, b AccessKeyUse) int { return cmp.Compare(a.AccessKeyID, b.AccessKeyID) })
	n := len(uses)
	ids, regions, services := make([]string, n), make([]string, n), make([]string, n)
	times := make([]time.Time, n)
	for i, u := range uses {
		ids[i], times[i], regions[i], services[i] = u.AccessKeyID, u.At, u.Region, u.Service
	}
	args := pgx.StrictNamedArgs{"ids": ids, "times": times, "regions": regions, "services": services}
	_, err := s.pool.Exec(ctx, upsertAccessKeyUses, args)
	return wrap(err, "note uses of access keys")
}
