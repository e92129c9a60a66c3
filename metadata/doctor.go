package metadata

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/metadata/audit"
)

// What the operator's examination of an installation asks, across accounts.

// KeyMaterial is a key with one of its materials.
type KeyMaterial struct {
	Key      Key
	Material Material
}

// MaterialPlace is a place in the order of a store's materials; the zero value is
// before the first.
type MaterialPlace struct {
	KeyID      string
	MaterialID hsm.MaterialID
}

const listMaterials = `
SELECT k.id, k.account, k.store, k.spec, k.usage, k.origin, k.state, m.id, m.residency, m.current, m.generation, m.blob,
       m.public_key, m.check_value, m.binding
FROM materials m
JOIN keys k ON k.account = m.account AND k.region = m.region AND k.id = m.key_id
WHERE m.region = @region AND k.store = @store AND (m.key_id, m.id) > (@key, @material)
  AND m.residency IN ('wrapped', 'resident') AND k.state <> 'Deleted'
ORDER BY m.key_id, m.id
LIMIT @limit`

// ListMaterials returns at most limit materials that a key store's token holds or
// has wrapped, of all accounts, those of one key after each other, beginning
// behind a place.
func (s *Store) ListMaterials(ctx context.Context, region, store string, after MaterialPlace, limit int) ([]KeyMaterial, error) {
	args := pgx.StrictNamedArgs{
		"region": region, "store": store, "key": after.KeyID, "material": after.MaterialID[:], "limit": limit,
	}
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

const selectResidents = `
SELECT DISTINCT blob
FROM materials
WHERE region = ANY (SELECT name FROM regions) AND key_id = ANY (@keys) AND residency = 'resident'`

// Residents returns the CKA_IDs of the resident materials of these keys, whatever
// their regions and accounts.
func (s *Store) Residents(ctx context.Context, keyIDs []string) ([][]byte, error) {
	return list(ctx, s, "residents", selectResidents, pgx.StrictNamedArgs{"keys": keyIDs}, pgx.RowTo[[]byte])
}

// maxKeyStores bounds what AllKeyStores returns.
const maxKeyStores = 1000

const listAllKeyStores = `
SELECT id, region, COALESCE(account, '') AS account, type, state, created_at
FROM key_stores
ORDER BY id
LIMIT @limit`

// AllKeyStores returns the key stores of all regions and accounts.
func (s *Store) AllKeyStores(ctx context.Context) ([]KeyStore, error) {
	return list(ctx, s, "list all key stores", listAllKeyStores, pgx.StrictNamedArgs{"limit": maxKeyStores}, pgx.RowToStructByName[KeyStore])
}

// ServerFacts is what a Postgres server says of itself.
type ServerFacts struct {
	Version           string
	Fsync             string
	FullPageWrites    string
	SynchronousCommit string // of this store's sessions
}

const selectServerFacts = `
SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit')`

// ServerFacts asks the Postgres server.
func (s *Store) ServerFacts(ctx context.Context) (f ServerFacts, err error) {
	err = s.pool.QueryRow(ctx, selectServerFacts).Scan(&f.Version, &f.Fsync, &f.FullPageWrites, &f.SynchronousCommit)
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

// DeadRun is a run of a process that has ended and left something behind in the
// audit log that nobody has taken up yet.
type DeadRun struct {
	Stream   audit.StreamID
	Instance string    // empty if the stream is not known
	Started  time.Time // zero if the stream is not known
	Waiting  int64     // records of its changes without a place in the chain
}

// maxDeadRuns bounds what DeadRuns returns.
const maxDeadRuns = 1000

const selectUnfinished = `
SELECT u.id, COALESCE(s.instance, ''), s.started_at, (SELECT count(*) FROM audit_outbox o WHERE o.stream = u.id)
FROM (SELECT id FROM audit_streams WHERE NOT ended UNION SELECT stream FROM audit_outbox) u
LEFT JOIN audit_streams s ON s.id = u.id
WHERE @only::uuid[] IS NULL OR u.id = ANY (@only)
ORDER BY s.started_at, u.id
LIMIT @limit`

// selectLocks are the keys of this database's advisory locks, as lockKey has them.
const selectLocks = `
SELECT l.classid::bigint << 32 | l.objid::bigint
FROM pg_locks l
JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted`

// DeadRuns returns the runs that have left something behind, the oldest first. A
// writer that is just making a new connection may be among them.
func (l *AuditLog) DeadRuns(ctx context.Context) ([]DeadRun, error) {
	first, err := l.unfinished(ctx, nil)
	if err != nil {
		return nil, err
	}
	locked, err := l.locks(ctx)
	if err != nil {
		return nil, err
	}
	dead := slices.DeleteFunc(first, func(r DeadRun) bool { return locked[lockKey(r.Stream)] })
	return l.Left(ctx, dead) // a living one may have ended between the two queries
}

// Left returns those of some dead runs that are not taken up yet.
func (l *AuditLog) Left(ctx context.Context, runs []DeadRun) ([]DeadRun, error) {
	if len(runs) == 0 {
		return nil, nil
	}
	only := make([]uuid.UUID, 0, len(runs))
	for _, r := range runs {
		only = append(only, uuid.UUID(r.Stream))
	}
	return l.unfinished(ctx, only)
}

// unfinished are the streams with something left to do, all without only.
func (l *AuditLog) unfinished(ctx context.Context, only []uuid.UUID) ([]DeadRun, error) {
	rows, err := l.pool.Query(ctx, selectUnfinished, pgx.StrictNamedArgs{"only": only, "limit": maxDeadRuns})
	if err != nil {
		return nil, wrap(err, "unfinished runs")
	}
	runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r DeadRun, err error) {
		var id uuid.UUID
		var started *time.Time
		err = row.Scan(&id, &r.Instance, &started, &r.Waiting)
		r.Stream, r.Started = audit.StreamID(id), orZero(started)
		return r, err
	})
	return runs, wrap(err, "unfinished runs")
}

// locks are the keys of the advisory locks that somebody has.
func (l *AuditLog) locks(ctx context.Context) (map[int64]bool, error) {
	rows, err := l.pool.Query(ctx, selectLocks)
	if err != nil {
		return nil, wrap(err, "locks")
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	locked := make(map[int64]bool, len(keys))
	for _, k := range keys {
		locked[k] = true
	}
	return locked, wrap(err, "locks")
}
