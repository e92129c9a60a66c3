package metadata

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/policy"
)

// MaxGrants is how many grants a key can have (KMS Developer Guide, "Quotas").
const MaxGrants = 50_000

// Grant is a grant on a key. It never changes.
type Grant struct {
	Account string // of the key
	Region  string
	KeyID   string

	ID                string // 64 hexadecimal digits
	Name              string // empty for none
	Grantee           string // ARN of a principal, or the name of a service
	GranteeID         string // unique id of a user or role, of a session that of its role
	GranteeIsService  bool
	Retiring          string // as Grantee; empty for none
	RetiringID        string
	RetiringIsService bool
	IssuingAccount    string // of the caller of CreateGrant
	Operations        []string
	Constraints       policy.GrantConstraints
	CreatedAt         time.Time

	// Compiled is what policy decides by.
	Compiled *policy.Grant
}

// size estimates the bytes that the grant takes, its compiled form included.
func (g *Grant) size() int {
	size := 1024 + len(g.Name) + len(g.Grantee) + len(g.Retiring) + 64*len(g.Operations) + len(g.Constraints.SourceARN)
	for _, context := range []map[string]string{g.Constraints.EncryptionContextEquals, g.Constraints.EncryptionContextSubset} {
		for k, v := range context {
			size += 64 + len(k) + len(v)
		}
	}
	return size
}

// grantRow is a grant as it is read; of a key without grants, its key alone.
type grantRow struct {
	Account        string
	Region         string
	KeyID          string
	AccountVersion int64 // of the key's account

	ID                      *string
	Name                    *string
	Grantee                 *string
	GranteeID               *string
	GranteeIsService        *bool
	Retiring                *string
	RetiringID              *string
	RetiringIsService       *bool
	IssuingAccount          *string
	Operations              []string
	EncryptionContextEquals map[string]string
	EncryptionContextSubset map[string]string
	SourceARN               *string
	CreatedAt               *time.Time
}

func (r *grantRow) grant() *Grant {
	g := &Grant{
		Account: r.Account, Region: r.Region, KeyID: r.KeyID,
		ID: orZero(r.ID), Name: orZero(r.Name),
		Grantee: orZero(r.Grantee), GranteeID: orZero(r.GranteeID), GranteeIsService: orZero(r.GranteeIsService),
		Retiring: orZero(r.Retiring), RetiringID: orZero(r.RetiringID), RetiringIsService: orZero(r.RetiringIsService),
		IssuingAccount: orZero(r.IssuingAccount), Operations: r.Operations, CreatedAt: orZero(r.CreatedAt),
		Constraints: policy.GrantConstraints{
			EncryptionContextEquals: r.EncryptionContextEquals, EncryptionContextSubset: r.EncryptionContextSubset,
			SourceARN: orZero(r.SourceARN),
		},
	}
	g.Compiled = policy.NewGrant(g.ID, g.Operations, g.Constraints)
	return g
}

const grantColumns = `
SELECT k.account, k.region, k.id AS key_id, a.version AS account_version,
       g.id, g.name, g.grantee, g.grantee_id, g.grantee_is_service, g.retiring, g.retiring_id, g.retiring_is_service,
       g.issuing_account, g.operations, g.encryption_context_equals, g.encryption_context_subset, g.source_arn, g.created_at
FROM keys k
JOIN accounts a ON a.id = k.account`

func grantsOf(rows []grantRow) []*Grant {
	grants := make([]*Grant, 0, len(rows))
	for i := range rows {
		grants = append(grants, rows[i].grant())
	}
	return grants
}

const selectGrant = grantColumns + `
JOIN grants g ON g.account = k.account AND g.region = k.region AND g.key_id = k.id
WHERE g.id = @id AND g.account = @account AND g.region = @region AND g.key_id = @keyID`

// Grant returns a grant on a key of an account; it reads from Postgres. ErrNotFound
// if the key does not have it.
func (s *Store) Grant(ctx context.Context, region, account, keyID, id string) (*Grant, error) {
	rows, err := list(ctx, s, "select grant", selectGrant,
		pgx.StrictNamedArgs{"region": region, "account": account, "keyID": keyID, "id": id}, pgx.RowToStructByName[grantRow])
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("grant %s: %w", id, ErrNotFound)
	}
	return rows[0].grant(), nil
}

const listGrants = grantColumns + `
JOIN grants g ON g.account = k.account AND g.region = k.region AND g.key_id = k.id
WHERE g.account = @account AND g.region = @region AND g.key_id = @keyID AND g.id > @after
ORDER BY g.id
LIMIT @limit`

// ListGrants returns at most limit grants on a key of an account, in the order of
// their ids, beginning after the one given; empty means from the start.
func (s *Store) ListGrants(ctx context.Context, region, account, keyID, after string, limit int) ([]*Grant, error) {
	return s.listGrants(ctx, listGrants,
		pgx.StrictNamedArgs{"region": region, "account": account, "keyID": keyID, "after": after, "limit": limit})
}

const listGrantsTo = grantColumns + `
JOIN grants g ON g.account = k.account AND g.region = k.region AND g.key_id = k.id
WHERE g.account = @account AND g.region = @region AND g.key_id = @keyID AND g.grantee = @grantee AND g.id > @after
ORDER BY g.id
LIMIT @limit`

// ListGrantsTo is ListGrants of the grants to one grantee, by its ARN or service name.
func (s *Store) ListGrantsTo(ctx context.Context, region, account, keyID, grantee, after string, limit int) ([]*Grant, error) {
	return s.listGrants(ctx, listGrantsTo, pgx.StrictNamedArgs{
		"region": region, "account": account, "keyID": keyID, "grantee": grantee, "after": after, "limit": limit,
	})
}

const listRetirableGrants = grantColumns + `
JOIN grants g ON g.account = k.account AND g.region = k.region AND g.key_id = k.id
WHERE g.region = @region AND g.retiring <> '' AND g.retiring = @retiring AND g.retiring_id = @retiringID AND g.id > @after
ORDER BY g.id
LIMIT @limit`

// ListRetirableGrants returns at most limit grants on keys of any account that a
// principal may retire, by its ARN and its unique id, which an account has none of;
// else as ListGrants.
func (s *Store) ListRetirableGrants(ctx context.Context, region, retiring, retiringID, after string, limit int) ([]*Grant, error) {
	return s.listGrants(ctx, listRetirableGrants, pgx.StrictNamedArgs{
		"region": region, "retiring": retiring, "retiringID": retiringID, "after": after, "limit": limit,
	})
}

func (s *Store) listGrants(ctx context.Context, sql string, args pgx.StrictNamedArgs) ([]*Grant, error) {
	rows, err := list(ctx, s, "list grants", sql, args, pgx.RowToStructByName[grantRow])
	return grantsOf(rows), err
}

const insertGrant = `
INSERT INTO grants (account, region, key_id, id, name, grantee, grantee_id, grantee_is_service, retiring, retiring_id, retiring_is_service,
                    issuing_account, operations, encryption_context_equals, encryption_context_subset, source_arn,
                    pairs, filed, effect, properties, created_at)
VALUES (@account, @region, @keyID, @id, @name, @grantee, @granteeID, @granteeIsService, @retiring, @retiringID, @retiringIsService,
        @issuingAccount, @operations, @equals, @subset, @sourceARN,
        @pairs, @filed, @effect, @properties, @createdAt)`

const selectNamedGrant = `
SELECT id
FROM grants
WHERE account = @account AND region = @region AND key_id = @keyID AND name = @name AND name <> '' AND properties = @properties`

// The count stands in the key's row: CreateGrant costs the same however many grants
// the key has.
const countGrant = `
UPDATE keys SET grants = grants + 1
WHERE account = @account AND region = @region AND id = @keyID AND grants < @limit`

// InsertGrant adds a grant to a key in a [Grantable] state and returns the id of the
// grant that there is: a named one that was made before with the same properties,
// a hash of all that it was made of, is not made again. g.Compiled is not read.
// ErrLimit if the key has limit grants; *StateError in another state; ErrNotFound if
// the account has no such key in the region.
func (tx *Tx) InsertGrant(ctx context.Context, g Grant, properties [32]byte, limit int) (id string, err error) {
	if err := tx.holdKey(ctx, g.Region, g.Account, g.KeyID, Grantable); err != nil {
		return "", wrap(err, "grant on key %s", g.KeyID)
	}
	of := pgx.StrictNamedArgs{"account": g.Account, "region": g.Region, "keyID": g.KeyID, "name": g.Name, "properties": properties[:]}
	rows, err := tx.tx.Query(ctx, selectNamedGrant, of)
	if err != nil {
		return "", wrap(err, "look for grant %s", g.Name)
	}
	made, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", wrap(err, "look for grant %s", g.Name)
	}
	if len(made) > 0 {
		return made[0], nil
	}
	on := pgx.StrictNamedArgs{"account": g.Account, "region": g.Region, "keyID": g.KeyID, "limit": limit}
	counted, err := tx.tx.Exec(ctx, countGrant, on)
	if err != nil {
		return "", wrap(err, "count grants on key %s", g.KeyID)
	}
	if counted.RowsAffected() == 0 {
		return "", fmt.Errorf("grant on key %s: %d grants: %w", g.KeyID, limit, ErrLimit)
	}
	args, err := grantArgs(g, properties)
	if err != nil {
		return "", err
	}
	if _, err := tx.tx.Exec(ctx, insertGrant, args); err != nil {
		return "", wrap(err, "grant on key %s", g.KeyID)
	}
	tx.touch(g.Account, target{kindGrants, g.Region, granteeOf(g.KeyID, g.Grantee)})
	return g.ID, nil
}

func grantArgs(g Grant, properties [32]byte) (pgx.StrictNamedArgs, error) {
	equals, err := jsonOrNull(g.Constraints.EncryptionContextEquals)
	if err != nil {
		return nil, err
	}
	subset, err := jsonOrNull(g.Constraints.EncryptionContextSubset)
	if err != nil {
		return nil, err
	}
	constraint, pairs := constrainedBy(g.Constraints)
	effect := effectOf(&g, constraint)
	return pgx.StrictNamedArgs{
		"pairs": pairs, "filed": filedUnder(g.Region, g.KeyID, g.Grantee, g.GranteeID, constraint), "effect": effect[:],
		"account": g.Account, "region": g.Region, "keyID": g.KeyID, "id": g.ID, "name": g.Name,
		"grantee": g.Grantee, "granteeID": g.GranteeID, "granteeIsService": g.GranteeIsService,
		"retiring": g.Retiring, "retiringID": g.RetiringID, "retiringIsService": g.RetiringIsService,
		"issuingAccount": g.IssuingAccount, "operations": slices.Clone(g.Operations), "equals": equals, "subset": subset,
		"sourceARN": g.Constraints.SourceARN, "properties": properties[:], "createdAt": g.CreatedAt,
	}, nil
}

// jsonOrNull is an encryption context for Postgres: NULL for none, which differs
// from an empty one.
func jsonOrNull(context map[string]string) (*string, error) {
	if context == nil {
		return nil, nil
	}
	b, err := json.Marshal(context)
	if err != nil {
		return nil, fmt.Errorf("encode encryption context: %w", err)
	}
	text := string(b)
	return &text, nil
}

const holdState = selectState + `
FOR NO KEY UPDATE`

// holdKey locks the row of a key in an allowed state until the transaction ends.
func (tx *Tx) holdKey(ctx context.Context, region, account, id string, allowed States) error {
	var state string
	args := pgx.StrictNamedArgs{"region": region, "account": account, "id": id}
	if err := tx.tx.QueryRow(ctx, holdState, args).Scan(&state); err != nil {
		return err
	}
	if !allowed.Has(State(state)) {
		return &StateError{State(state)}
	}
	return nil
}

const deleteGrant = `
WITH ended AS (
	DELETE FROM grants
	WHERE account = @account AND region = @region AND key_id = @keyID AND id = @id
	RETURNING grantee
), counted AS (
	UPDATE keys SET grants = grants - 1
	WHERE account = @account AND region = @region AND id = @keyID AND EXISTS (SELECT FROM ended)
)
SELECT grantee FROM ended`

// DeleteGrant ends a grant on a key of an account, in any state of the key.
// ErrNotFound if the key does not have it.
func (tx *Tx) DeleteGrant(ctx context.Context, region, account, keyID, id string) error {
	var grantee string
	args := pgx.StrictNamedArgs{"region": region, "account": account, "keyID": keyID, "id": id}
	if err := tx.tx.QueryRow(ctx, deleteGrant, args).Scan(&grantee); err != nil {
		return wrap(err, "delete grant %s", id)
	}
	tx.touch(account, target{kindGrants, region, granteeOf(keyID, grantee)})
	return nil
}
