package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
	"kmsgate/policy"
)

// MaxManagedPolicies is how many managed policies an account can have (IAM User
// Guide, "IAM and AWS STS quotas").
const MaxManagedPolicies = 1500

// ManagedPolicy is a policy of an account that can be attached to any number of
// its users, groups and roles. It has one version and never changes.
type ManagedPolicy struct {
	Account     string
	Name        string
	Path        string // "/" if it was made without one
	ID          string // unique, never given again: ANPA…
	Description string
	Document    string
	CreatedAt   time.Time
}

// ARN is the policy's ARN.
func (p *ManagedPolicy) ARN() string { return arn.Policy(p.Account, p.Path, p.Name) }

// ManagedPolicyEntry is a managed policy, compiled. Entries come from the cache
// and are shared: nobody writes to them.
type ManagedPolicyEntry struct {
	ManagedPolicy
	Policy *policy.Policy
}

// ManagedPolicy returns a managed policy by its name. ErrNotFound if the account
// has none of that name.
func (v *View) ManagedPolicy(ctx context.Context, account, name string) (*ManagedPolicyEntry, error) {
	e, err := v.read(ctx, managedPolicyKey(account, name))
	if err != nil {
		return nil, wrap(err, "managed policy of %s", account)
	}
	return e.(*ManagedPolicyEntry), nil
}

func managedPolicyKey(account, name string) cacheKey {
	return cacheKey{kind: kindManaged, account: account, id: name}
}

const selectManagedPolicy = `
SELECT p.account, p.name, p.path, p.id, p.description, p.document, p.created_at, a.version
FROM managed_policies p
JOIN accounts a ON a.id = p.account
WHERE p.account = @account AND p.name = @name`

func loadManagedPolicy(ctx context.Context, s *Store, key cacheKey) (loaded, error) {
	e := new(ManagedPolicyEntry)
	l := loaded{value: e, account: key.account}
	err := s.pool.QueryRow(ctx, selectManagedPolicy, pgx.StrictNamedArgs{"account": key.account, "name": key.id}).
		Scan(&e.Account, &e.Name, &e.Path, &e.ID, &e.Description, &e.Document, &e.CreatedAt, &l.version)
	if err != nil {
		return loaded{}, wrap(err, "select")
	}
	if e.Policy, err = policy.ParseIdentity(e.Document); err != nil {
		return loaded{}, fmt.Errorf("stored policy: %w", err)
	}
	l.size = 512 + compiledFactor*len(e.Document)
	return l, nil
}

// PolicyUse narrows a list of managed policies, or of who has one, down to a use.
type PolicyUse string

// Uses of managed policies, in IAM's spelling. The empty use is any.
const (
	AnyUse        PolicyUse = ""
	AsPermissions PolicyUse = "PermissionsPolicy"
	AsBoundary    PolicyUse = "PermissionsBoundary"
)

// CountedPolicy is a managed policy with the number of users, groups and roles
// that it is attached to, and of those that have it as their boundary.
type CountedPolicy struct {
	ManagedPolicy
	Attachments int
	Boundaries  int
}

// PolicyFilter narrows a list of managed policies.
type PolicyFilter struct {
	PathPrefix string // empty for all
	Use        PolicyUse
	Used       bool // only those that are attached to something, or somebody's boundary
}

// Paths and names have none of the characters of LIKE but the underscore;
// starts_with has none. A list does without documents, which may be large.
const listManagedPolicies = `
SELECT account, name, path, id, description, CASE WHEN @name = '' THEN '' ELSE document END AS document, created_at, attachments, boundaries
FROM (
	SELECT p.*,
		(SELECT count(*) FROM policy_attachments t WHERE t.account = p.account AND t.policy_name = p.name)::int AS attachments,
		(SELECT count(*) FROM principals o
		 WHERE o.account = p.account AND o.boundary = 'arn:aws:iam::' || p.account || ':policy' || p.path || p.name)::int AS boundaries
	FROM managed_policies p
	WHERE p.account = @account AND p.name > @after AND (@name = '' OR p.name = @name)
		AND starts_with(p.path, @prefix)
) AS counted
WHERE (NOT @used OR attachments + boundaries > 0)
	AND (@use <> 'PermissionsPolicy' OR attachments > 0)
	AND (@use <> 'PermissionsBoundary' OR boundaries > 0)
ORDER BY name
LIMIT @limit`

// ListManagedPolicies returns at most limit managed policies of an account, without
// their documents, in the order of their names, beginning after the one given; empty means from the start.
func (s *Store) ListManagedPolicies(ctx context.Context, account string, f PolicyFilter, after string, limit int) ([]CountedPolicy, error) {
	return list(ctx, s, "list managed policies", listManagedPolicies, pgx.StrictNamedArgs{
		"account": account, "name": "", "prefix": f.PathPrefix, "use": f.Use, "used": f.Used, "after": after, "limit": limit,
	}, pgx.RowToStructByName[CountedPolicy])
}

// CountedPolicy returns one managed policy with its counts. ErrNotFound if the
// account has none of that name.
func (s *Store) CountedPolicy(ctx context.Context, account, name string) (CountedPolicy, error) {
	const what = "count uses of managed policy"
	found, err := list(ctx, s, what, listManagedPolicies, pgx.StrictNamedArgs{
		"account": account, "name": name, "prefix": "", "use": "", "used": false, "after": "", "limit": 1,
	}, pgx.RowToStructByName[CountedPolicy])
	if err == nil && len(found) == 0 {
		err = wrap(ErrNotFound, what)
	}
	if err != nil {
		return CountedPolicy{}, err
	}
	return found[0], nil
}

const insertManagedPolicy = `
INSERT INTO managed_policies (account, name, path, id, description, document, created_at)
VALUES (@account, @name, @path, @id, @description, @document, @createdAt)`

const countManagedPolicies = `
SELECT count(*)
FROM managed_policies
WHERE account = @account`

// InsertManagedPolicy adds a managed policy; its document must have been parsed
// before. ErrExists if the account has one of that name, whatever the letter case;
// *LimitError if it has [MaxManagedPolicies]; ErrNotFound if there is no such account.
func (tx *Tx) InsertManagedPolicy(ctx context.Context, p ManagedPolicy) error {
	err := tx.insertOfAccount(ctx, p.Account, insertManagedPolicy, pgx.StrictNamedArgs{
		"account": p.Account, "name": p.Name, "path": p.Path, "id": p.ID, "description": p.Description,
		"document": p.Document, "createdAt": p.CreatedAt,
	}, countManagedPolicies, MaxManagedPolicies)
	tx.touch(p.Account, target{Kind: kindManaged, ID: p.Name})
	return wrap(err, "insert managed policy %s", p.Name)
}

const selectManagedPolicyForDelete = `
SELECT account, name, path, id, description, document, created_at
FROM managed_policies
WHERE account = @account AND name = @name
FOR UPDATE`

const countPolicyUses = `
SELECT (SELECT count(*) FROM policy_attachments WHERE account = @account AND policy_name = @name)
	+ (SELECT count(*) FROM principals WHERE account = @account AND boundary = @arn)`

const deleteManagedPolicy = `
DELETE FROM managed_policies
WHERE account = @account AND name = @name`

// DeleteManagedPolicy removes a managed policy. *InUseError if it is attached to
// something or somebody's boundary; ErrNotFound if the account has none of that name.
func (tx *Tx) DeleteManagedPolicy(ctx context.Context, account, name string) error {
	return wrap(tx.deleteManagedPolicy(ctx, account, name), "delete managed policy %s", name)
}

func (tx *Tx) deleteManagedPolicy(ctx context.Context, account, name string) error {
	args := pgx.StrictNamedArgs{"account": account, "name": name}
	rows, err := tx.tx.Query(ctx, selectManagedPolicyForDelete, args)
	if err != nil {
		return err
	}
	// From here on nobody takes it into use: that needs its row too.
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[ManagedPolicy])
	if err != nil {
		return err
	}
	var uses int
	if err := tx.tx.QueryRow(ctx, countPolicyUses, pgx.StrictNamedArgs{"account": account, "name": name, "arn": p.ARN()}).Scan(&uses); err != nil {
		return err
	}
	if uses > 0 {
		return &InUseError{Attachments}
	}
	if err := tx.lockAccount(ctx, account); err != nil {
		return err
	}
	tx.touch(account, target{Kind: kindManaged, ID: name})
	return tx.execOne(ctx, deleteManagedPolicy, args)
}
