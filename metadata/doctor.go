package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
)

// KeyMaterial is a key with one of its materials.
type KeyMaterial struct {
	Key      Key
	Material Material
}

// MaterialPlace is a place in the order of a region's materials; the zero value
// is before the first.
type MaterialPlace struct {
	KeyID      string
	MaterialID hsm.MaterialID
}

const listMaterials = `
SELECT k.id, k.account, k.store, k.spec, k.usage, k.origin, k.state, m.id, m.residency, m.current, m.generation, m.blob,
       m.public_key, m.check_value, m.binding
FROM materials m
JOIN keys k ON k.account = m.account AND k.region = m.region AND k.id = m.key_id
WHERE m.region = @region AND (m.key_id, m.id) > (@key, @material) AND m.residency IN ('wrapped', 'resident')
ORDER BY m.key_id, m.id
LIMIT @limit`

// ListMaterials returns at most limit materials of a region that a token holds
// or has wrapped, of all accounts, in an order of their own, beginning behind a
// place. It is for the operator's examination of an installation.
func (s *Store) ListMaterials(ctx context.Context, region string, after MaterialPlace, limit int) ([]KeyMaterial, error) {
	args := pgx.StrictNamedArgs{"region": region, "key": after.KeyID, "material": after.MaterialID[:], "limit": limit}
	return list(ctx, s, "list materials", listMaterials, args, func(row pgx.CollectableRow) (KeyMaterial, error) {
		r := keyRow{Region: region}
		err := row.Scan(&r.ID, &r.Account, &r.Store, &r.Spec, &r.Usage, &r.Origin, &r.State, &r.MaterialID, &r.Residency,
			&r.Current, &r.Generation, &r.Blob, &r.PublicKey, &r.CheckValue, &r.Binding)
		if err != nil {
			return KeyMaterial{}, err
		}
		found := KeyMaterial{Key: r.key()}
		found.Material = r.material(&found.Key)
		return found, nil
	})
}

// ServerFacts is what the operator's examination asks of the Postgres server.
type ServerFacts struct {
	Version           string
	Fsync             string
	FullPageWrites    string
	SynchronousCommit string // of this store's sessions
	// ClockDifference is how far Postgres's clock is ahead of this host's, as
	// precisely as the round trip allows.
	ClockDifference time.Duration
	// Waiting is how many records of changes wait in the outbox for their place
	// in the audit log.
	Waiting int64
}

const selectServerFacts = `
SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), clock_timestamp(), (SELECT count(*) FROM audit_outbox)`

// ServerFacts asks the Postgres server.
func (s *Store) ServerFacts(ctx context.Context) (f ServerFacts, err error) {
	before := s.clock()
	var now time.Time
	err = s.pool.QueryRow(ctx, selectServerFacts).Scan(&f.Version, &f.Fsync, &f.FullPageWrites, &f.SynchronousCommit, &now, &f.Waiting)
	f.ClockDifference = now.Sub(before.Add(s.clock().Sub(before) / 2))
	return f, wrap(err, "server facts")
}

// LoginMark says that a token refused an instance's PIN.
type LoginMark struct {
	Serial    string // of the token
	Instance  string
	RefusedAt time.Time
}

const listLoginMarks = `
SELECT token_serial, instance, refused_at
FROM login_marks
ORDER BY token_serial, instance
LIMIT 1000`

// LoginMarks returns the marks of refused PINs.
func (s *Store) LoginMarks(ctx context.Context) ([]LoginMark, error) {
	return list(ctx, s, "list login marks", listLoginMarks, nil, pgx.RowToStructByPos[LoginMark])
}
