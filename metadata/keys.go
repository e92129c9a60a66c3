package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// keyRow is a key joined with one of its materials.
type keyRow struct {
	Region          string
	ID              string
	Account         string
	Store           string
	Spec            string
	Usage           string
	Origin          string
	MultiRegionRole *string
	State           string
	Service         string
	Description     string
	Version         int64
	CreatedAt       time.Time
	DeletionAt      *time.Time
	DeletionWindow  *int32

	RotationPeriod    *int32
	NextRotationAt    *time.Time
	OnDemandRotations int32
	OnDemandStartedAt *time.Time

	AccountVersion int64
	Policy         *string // with the first row alone, like the next four
	Bindings       *string // as Postgres prints them, which is the same for the same
	Tags           []Tag
	Aliases        []string
	Related        []Relative

	MaterialID        []byte // nil if the key has no material
	Residency         *string
	Current           *bool
	Generation        *int32
	Blob              []byte
	PublicKey         []byte
	CheckValue        []byte
	Binding           []byte
	MaterialCreatedAt *time.Time
	Pending           *bool
	RotatedAt         *time.Time
	RotationType      *string
	ExpiresAt         *time.Time
	MaterialText      *string
}

// What the key has but once comes with the first row alone: the policy may be larger
// than all the rest. A replica's rotation is that of its primary key, l, which alone
// has it.
const selectKey = `
SELECT k.region, k.id, k.account, k.store, k.spec, k.usage, k.origin, k.multi_region_role, k.state, k.service, k.description,
       k.version, k.created_at, k.deletion_at, k.deletion_window,
       coalesce(l.rotation_period, k.rotation_period) AS rotation_period,
       coalesce(l.next_rotation_at, k.next_rotation_at) AS next_rotation_at,
       coalesce(l.on_demand_rotations, k.on_demand_rotations) AS on_demand_rotations,
       coalesce(l.on_demand_started_at, k.on_demand_started_at) AS on_demand_started_at, a.version AS account_version,
       CASE WHEN row_number() OVER materials_first = 1 THEN p.document END AS policy,
       CASE WHEN row_number() OVER materials_first = 1 THEN p.bindings::text END AS bindings,
       CASE WHEN row_number() OVER materials_first = 1 THEN (
           SELECT json_agg(json_build_object('key', t.key, 'value', t.value) ORDER BY t.key)
           FROM tags t WHERE t.account = k.account AND t.region = k.region AND t.key_id = k.id) END AS tags,
       CASE WHEN row_number() OVER materials_first = 1 THEN (
           SELECT array_agg(n.name ORDER BY n.name)
           FROM aliases n WHERE n.account = k.account AND n.region = k.region AND n.key_id = k.id) END AS aliases,
       CASE WHEN k.multi_region_role IS NOT NULL AND row_number() OVER materials_first = 1 THEN (
           SELECT json_agg(json_build_object('region', r.region, 'role', r.multi_region_role, 'state', r.state, 'store', r.store) ORDER BY r.region)
           FROM keys r WHERE r.account = k.account AND r.id = k.id AND r.state <> 'Deleted') END AS related,
       m.id AS material_id, m.residency, m.current, m.generation, m.blob, m.public_key, m.check_value, m.binding,
       m.created_at AS material_created_at, m.pending, m.rotated_at, m.rotation_type, m.expires_at, m.description AS material_text
FROM keys k
JOIN accounts a ON a.id = k.account
LEFT JOIN keys l ON k.multi_region_role = 'REPLICA' AND l.account = k.account AND l.id = k.id AND l.multi_region_role = 'PRIMARY' AND l.state <> 'Deleted'
LEFT JOIN policies p ON p.account = k.account AND p.region = k.region AND p.key_id = k.id AND p.name = 'default'
LEFT JOIN materials m ON m.account = k.account AND m.region = k.region AND m.key_id = k.id
WHERE k.region = @region AND k.id = @id
WINDOW materials_first AS (ORDER BY m.current DESC, m.created_at DESC, m.id)
ORDER BY m.current DESC, m.created_at DESC, m.id`

func loadKey(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	entry, found, err := readKey(ctx, s, key.region, key.id)
	if err != nil {
		return loaded{}, err
	}
	if entry.State == Deleted { // its row keeps the id from being used again
		return loaded{}, ErrNotFound
	}
	if found[0].Policy == nil {
		return loaded{}, fmt.Errorf("key %s has no policy", key.id)
	}
	shared, err := s.cache.compile(*found[0].Policy, orZero(found[0].Bindings))
	if err != nil {
		return loaded{}, err
	}
	entry.PolicyDocument, entry.PolicyBindings, entry.Policy = shared.document, shared.bindings, shared.policy
	return loaded{entry, entry.Account, found[0].AccountVersion, entry.size(), shared}, nil
}

// readKey reads a key in any state, without its policy.
func readKey(ctx context.Context, s *Store, region, id string) (*KeyEntry, []keyRow, error) {
	found, err := list(ctx, s, "select key", selectKey, pgx.StrictNamedArgs{"region": region, "id": id}, pgx.RowToStructByName[keyRow])
	if err != nil {
		return nil, nil, err
	}
	if len(found) == 0 {
		return nil, nil, ErrNotFound
	}
	entry := &KeyEntry{Key: found[0].key(), Tags: found[0].Tags, Aliases: found[0].Aliases, Related: found[0].Related}
	for i := range found {
		if found[i].MaterialID != nil {
			entry.Materials = append(entry.Materials, found[i].material(&entry.Key))
		}
	}
	return entry, found, nil
}

func (r *keyRow) key() Key {
	return Key{
		Region: r.Region, ID: r.ID, Account: r.Account, Store: r.Store, Spec: keyspec.Spec(r.Spec),
		Usage: keyspec.Usage(r.Usage), Origin: keyspec.Origin(r.Origin),
		MultiRegionRole: MultiRegionRole(orZero(r.MultiRegionRole)), State: State(r.State),
		Service: r.Service, Description: r.Description,
		Version: r.Version, CreatedAt: r.CreatedAt, DeletionAt: r.DeletionAt, DeletionWindow: orZero(r.DeletionWindow),
		Rotation: Rotation{
			PeriodDays: orZero(r.RotationPeriod), NextAt: r.NextRotationAt,
			OnDemand: r.OnDemandRotations, RequestedAt: r.OnDemandStartedAt,
		},
	}
}

func (r *keyRow) material(k *Key) Material {
	return Material{
		Key: hsm.Key{
			Store: k.Store, Region: k.Region, Account: k.Account, KeyID: k.ID, MaterialID: hsm.MaterialID(r.MaterialID),
			Spec: k.Spec, Usage: k.Usage, Origin: k.Origin,
			Residency: hsm.Residency(orZero(r.Residency)), Generation: orZero(r.Generation), Blob: r.Blob,
			PublicKey: r.PublicKey, CheckValue: r.CheckValue, Binding: r.Binding,
		},
		Current: orZero(r.Current), CreatedAt: orZero(r.MaterialCreatedAt), Pending: orZero(r.Pending),
		RotatedAt: r.RotatedAt, RotationType: RotationType(orZero(r.RotationType)),
		ExpiresAt: r.ExpiresAt, Description: orZero(r.MaterialText),
	}
}

// orZero is what p points to, or the zero value.
func orZero[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// orNull is v for Postgres, NULL for the zero value.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

const listKeys = `
SELECT id
FROM keys
WHERE account = @account AND region = @region AND id > @after AND state <> 'Deleted'
ORDER BY id
LIMIT @limit`

// ListKeys returns the ids of at most limit keys of an account in a region, in
// the order of their ids, beginning after the one given; empty means from the start.
func (s *Store) ListKeys(ctx context.Context, account, region, after string, limit int) ([]string, error) {
	args := pgx.StrictNamedArgs{"account": account, "region": region, "after": after, "limit": limit}
	return list(ctx, s, "list keys", listKeys, args, pgx.RowTo[string])
}

// list runs a query for a page and collects its rows.
func list[T any](ctx context.Context, s *Store, what, sql string, args pgx.StrictNamedArgs, to pgx.RowToFunc[T]) ([]T, error) {
	rows, err := s.pool.Query(ctx, sql, args)
	if err != nil {
		return nil, wrap(err, "%s", what)
	}
	page, err := pgx.CollectRows(rows, to)
	return page, wrap(err, "%s", what)
}

const insertKey = `
INSERT INTO keys (region, id, account, store, spec, usage, origin, multi_region_role, state, service, description, version, created_at,
                  rotation_period, next_rotation_at)
VALUES (@region, @id, @account, @store, @spec, @usage, @origin, @role, @state, @service, @description, 1, @createdAt,
        @rotationPeriod, @nextRotationAt)`

const insertMaterial = `
INSERT INTO materials (account, region, key_id, id, residency, current, generation, blob, public_key, check_value, binding, created_at,
                       pending, rotated_at, rotation_type, expires_at, description)
VALUES (@account, @region, @keyID, @id, @residency, @current, @generation, @blob, @publicKey, @checkValue, @binding, @createdAt,
        @pending, @rotatedAt, @rotationType, @expiresAt, @description)`

const insertPolicy = `
INSERT INTO policies (account, region, key_id, name, document, bindings)
VALUES (@account, @region, @keyID, 'default', @document, @bindings)`

const insertTags = `
INSERT INTO tags (account, region, key_id, key, value)
SELECT @account, @region, @keyID, t.key, t.value
FROM unnest(@keys::text[], @values::text[]) AS t (key, value)`

// InsertKey adds a new key with its first material, its policy and its tags, in
// one round trip. m must be of k; it is the zero Material for a key that waits for
// its import. Nobody can have cached a key that was not
// there: it raises no version and notifies nobody. ErrExists if there is such a
// key; ErrNotFound if its account or store is not there; ErrLimit for more than
// [MaxTags] tags.
func (tx *Tx) InsertKey(ctx context.Context, k Key, m Material, p KeyPolicy, tags []Tag) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("insert key %s: %w", k.ID, ErrLimit)
	}
	var batch pgx.Batch
	batch.Queue(insertKey, pgx.StrictNamedArgs{
		"region": k.Region, "id": k.ID, "account": k.Account, "store": k.Store, "spec": string(k.Spec), "usage": string(k.Usage),
		"origin": string(k.Origin), "role": orNull(string(k.MultiRegionRole)), "state": string(k.State),
		"service": k.Service, "description": k.Description, "createdAt": k.CreatedAt,
		"rotationPeriod": orNull(k.Rotation.PeriodDays), "nextRotationAt": k.Rotation.NextAt,
	})
	if m.Residency != "" {
		batch.Queue(insertMaterial, materialArgs(k, m))
	}
	queueAround(&batch, &k, &p, tags)
	err := tx.tx.SendBatch(ctx, &batch).Close()
	if sqlState(err) == codeForeignKeyViolation {
		return fmt.Errorf("insert key %s: account or store: %w", k.ID, ErrNotFound)
	}
	return wrap(err, "insert key %s", k.ID)
}

// queueAround adds what hangs on a new key from the beginning.
func queueAround(batch *pgx.Batch, k *Key, p *KeyPolicy, tags []Tag) {
	batch.Queue(insertPolicy, pgx.StrictNamedArgs{
		"account": k.Account, "region": k.Region, "keyID": k.ID, "document": p.Document, "bindings": p.bindings(),
	})
	if k.Service == "" {
		batch.Queue(countKey, countArgs(k.Account, k.Region, 1))
	}
	if len(tags) > 0 {
		batch.Queue(insertTags, tagArgs(k.Region, k.Account, k.ID, tags))
	}
}

func materialArgs(k Key, m Material) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"account": k.Account, "region": k.Region, "keyID": k.ID, "id": m.MaterialID[:], "residency": string(m.Residency),
		"current": m.Current, "generation": orNull(m.Generation), "blob": m.Blob, "publicKey": m.PublicKey,
		"checkValue": m.CheckValue, "binding": m.Binding, "createdAt": m.CreatedAt,
		"pending": m.Pending, "rotatedAt": m.RotatedAt, "rotationType": orNull(string(m.RotationType)),
		"expiresAt": m.ExpiresAt, "description": m.Description,
	}
}

const setKeyState = `
UPDATE keys SET state = @to, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from)`

// SetKeyState moves a key from one state to another, but for those of its deletion;
// *StateError if it is in none of t.From, ErrNotFound if the account has no such key
// in the region.
func (tx *Tx) SetKeyState(ctx context.Context, region, account, id string, t Transition) error {
	args := KeyName{region, account, id}.moving(t)
	return tx.updateKey(ctx, "set state", region, account, id, setKeyState, args)
}

const setDescription = `
UPDATE keys SET description = @description, version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from)`

// SetDescription replaces a key's description, at most 8192 characters, in a
// [Manageable] state; *StateError in another, ErrNotFound if the account has no
// such key in the region.
func (tx *Tx) SetDescription(ctx context.Context, region, account, id, description string) error {
	args := pgx.StrictNamedArgs{
		"region": region, "account": account, "id": id, "from": Manageable.names(), "description": description,
	}
	return tx.updateKey(ctx, "set description", region, account, id, setDescription, args)
}

// updateKey runs an UPDATE of one key that names the states it is allowed in.
func (tx *Tx) updateKey(ctx context.Context, what, region, account, id, sql string, args pgx.StrictNamedArgs) error {
	tag, err := tx.tx.Exec(ctx, sql, args)
	if err != nil {
		return wrap(err, "%s of key %s", what, id)
	}
	if tag.RowsAffected() == 0 {
		return wrap(tx.whyNot(ctx, region, account, id), "%s of key %s", what, id)
	}
	tx.touch(account, target{kindKey, region, id})
	return nil
}

const selectState = `
SELECT state
FROM keys
WHERE region = @region AND account = @account AND id = @id`

// whyNot says why no key was in an allowed state.
func (tx *Tx) whyNot(ctx context.Context, region, account, id string) error {
	var state string
	args := pgx.StrictNamedArgs{"region": region, "account": account, "id": id}
	if err := tx.tx.QueryRow(ctx, selectState, args).Scan(&state); err != nil {
		return err
	}
	return &StateError{State(state)}
}

const raiseKey = `
UPDATE keys SET version = version + 1
WHERE region = @region AND account = @account AND id = @id AND state = ANY (@from)`

// raiseKey raises the version of a key for a change of what hangs on it. Until the
// transaction ends its row is locked.
func (tx *Tx) raiseKey(ctx context.Context, what, region, account, id string, allowed States) error {
	args := pgx.StrictNamedArgs{"region": region, "account": account, "id": id, "from": allowed.names()}
	return tx.updateKey(ctx, what, region, account, id, raiseKey, args)
}
