package metadata

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
)

// maxPrincipals is how many principals of a kind an account can have (IAM User
// Guide, "IAM and AWS STS quotas").
var maxPrincipals = map[PrincipalKind]int{User: 5000, Group: 300, Role: 1000}

const listPrincipals = `
SELECT ` + principalColumns + `
FROM principals p
WHERE p.account = @account AND p.kind = @kind AND starts_with(p.path, @pathPrefix) AND p.name > @after
ORDER BY p.name
LIMIT @limit`

// ListPrincipals returns at most limit principals of a kind whose path begins with
// pathPrefix, in the order of their names, beginning after the one given; empty
// means from the start.
func (s *Store) ListPrincipals(ctx context.Context, account string, kind PrincipalKind, pathPrefix, after string, limit int) ([]Principal, error) {
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "pathPrefix": pathPrefix, "after": after, "limit": limit}
	return list(ctx, s, "list principals", listPrincipals, args, rowToPrincipal)
}

func rowToPrincipal(row pgx.CollectableRow) (p Principal, err error) {
	err = scanPrincipal(row, &p)
	return p, err
}

const selectPrincipalIDs = `
SELECT asked.arn, p.id
FROM unnest(@arns::text[], @accounts::text[], @kinds::text[], @paths::text[], @names::text[]) AS asked (arn, account, kind, path, name)
JOIN principals p ON p.account = asked.account AND p.kind = asked.kind AND p.name = asked.name
WHERE asked.path IS NULL OR p.path = asked.path`

// PrincipalIDs returns the unique ids of the users and roles with these ARNs, of
// whichever account, and under the ARN of a role session that of its role; those
// that do not exist are not in it. It reads from Postgres.
func (s *Store) PrincipalIDs(ctx context.Context, arns []string) (map[string]string, error) {
	var asked, accounts, kinds, names []string
	var paths []*string
	for _, a := range arns {
		parsed, ok := arn.ParseIAM(a)
		kind, path, name := boundName(parsed)
		if !ok || kind == "" {
			continue
		}
		asked, accounts, kinds = append(asked, a), append(accounts, parsed.Account), append(kinds, string(kind))
		paths, names = append(paths, path), append(names, name)
	}
	ids := make(map[string]string, len(asked))
	if len(asked) == 0 {
		return ids, nil
	}
	args := pgx.StrictNamedArgs{"arns": asked, "accounts": accounts, "kinds": kinds, "paths": paths, "names": names}
	rows, err := s.pool.Query(ctx, selectPrincipalIDs, args)
	if err != nil {
		return nil, wrap(err, "ids of principals")
	}
	var a, id string
	_, err = pgx.ForEachRow(rows, []any{&a, &id}, func() error {
		ids[a] = id
		return nil
	})
	return ids, wrap(err, "ids of principals")
}

// boundName is what to look for to find the principal of an ARN; kind is empty for
// an ARN that has no unique id, path nil where the ARN does not tell it.
func boundName(a arn.IAM) (kind PrincipalKind, path *string, name string) {
	switch a.Kind {
	case "user":
		return User, &a.Path, a.Name
	case "role":
		return Role, &a.Path, a.Name
	case "assumed-role":
		role, _, _ := strings.Cut(a.Name, "/")
		return Role, nil, role
	}
	return "", nil, ""
}

const insertPrincipal = `
INSERT INTO principals (account, kind, name, path, id, created_at, boundary, description, trust, trust_bindings, max_session)
VALUES (@account, @kind, @name, @path, @id, @createdAt, @boundary, @description, @trust, @bindings, @maxSession)`

const countPrincipals = `
SELECT count(*)
FROM principals
WHERE account = @account AND kind = @kind`

// InsertPrincipal adds a user, a group or a role with its tags, whose keys must
// differ; p.RevokedBefore is not read. ErrExists if the account has one of that
// kind and name, whatever the letter case; ErrNotFound if the boundary, or the
// account, is not there; *LimitError for more than [MaxTags] tags or more principals
// of that kind than an account can have.
func (tx *Tx) InsertPrincipal(ctx context.Context, p Principal, tags []Tag) error {
	return wrap(tx.insertPrincipal(ctx, p, tags), "insert %s %s", p.Kind, p.Name)
}

func (tx *Tx) insertPrincipal(ctx context.Context, p Principal, tags []Tag) error {
	if len(tags) > MaxTags {
		return &LimitError{MaxTags}
	}
	if p.Boundary != "" {
		if err := tx.lockManagedPolicy(ctx, p.Account, p.Boundary); err != nil {
			return err
		}
	}
	if err := tx.lockAccount(ctx, p.Account); err != nil { // last, as every change does
		return err
	}
	bindings := p.TrustBindings
	if bindings == nil {
		bindings = map[string]string{}
	}
	_, err := tx.tx.Exec(ctx, insertPrincipal, pgx.StrictNamedArgs{
		"account": p.Account, "kind": p.Kind, "name": p.Name, "path": p.Path, "id": p.ID, "createdAt": p.CreatedAt,
		"boundary": orNull(p.Boundary), "description": p.Description, "trust": orNull(p.Trust), "bindings": bindings,
		"maxSession": orNull(int32(p.MaxSession / time.Second)),
	})
	if err != nil {
		return err
	}
	counted := pgx.StrictNamedArgs{"account": p.Account, "kind": p.Kind}
	if err := tx.limited(ctx, countPrincipals, counted, maxPrincipals[p.Kind]); err != nil {
		return err
	}
	if len(tags) > 0 {
		if _, err := tx.tx.Exec(ctx, insertPrincipalTags, principalTagArgs(p.Account, p.Kind, p.Name, tags)); err != nil {
			return err
		}
	}
	tx.touch(p.Account, target{Kind: kindPrincipal, ID: principalID(p.Kind, p.Name)})
	return nil
}

const selectDependants = `
SELECT
	EXISTS (SELECT FROM access_keys WHERE account = @account AND user_kind = @kind AND user_name = @name),
	EXISTS (SELECT FROM group_members
	        WHERE account = @account AND (user_kind = @kind AND user_name = @name OR kind = @kind AND name = @name)),
	EXISTS (SELECT FROM principal_policies WHERE account = @account AND kind = @kind AND name = @name),
	EXISTS (SELECT FROM policy_attachments WHERE account = @account AND kind = @kind AND name = @name)`

const deletePrincipal = `
WITH untagged AS (
	DELETE FROM principal_tags WHERE account = @account AND kind = @kind AND name = @name
)
DELETE FROM principals
WHERE account = @account AND kind = @kind AND name = @name`

// DeletePrincipal removes a principal with its tags. *InUseError if it still has
// access keys, members or groups, or policies; ErrNotFound if the account has no
// such principal.
func (tx *Tx) DeletePrincipal(ctx context.Context, account string, kind PrincipalKind, name string) error {
	return wrap(tx.deletePrincipal(ctx, account, kind, name), "delete %s %s", kind, name)
}

func (tx *Tx) deletePrincipal(ctx context.Context, account string, kind PrincipalKind, name string) error {
	if err := tx.lockPrincipal(ctx, account, kind, name); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
	var has [4]bool
	if err := tx.tx.QueryRow(ctx, selectDependants, args).Scan(&has[0], &has[1], &has[2], &has[3]); err != nil {
		return err
	}
	for i, dependant := range []Dependant{AccessKeys, Memberships, InlinePolicies, AttachedPolicies} {
		if has[i] {
			return &InUseError{dependant}
		}
	}
	if err := tx.lockAccount(ctx, account); err != nil {
		return err
	}
	_, err := tx.tx.Exec(ctx, deletePrincipal, args)
	tx.touch(account, target{Kind: kindPrincipal, ID: principalID(kind, name)})
	return err
}

const lockPrincipal = `
SELECT id
FROM principals
WHERE account = @account AND kind = @kind AND name = @name
FOR UPDATE`

// lockPrincipal locks a principal's row until the transaction ends: whatever
// changes what hangs on it does so first, which makes counts of that exact.
func (tx *Tx) lockPrincipal(ctx context.Context, account string, kind PrincipalKind, name string) error {
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
	return tx.tx.QueryRow(ctx, lockPrincipal, args).Scan(nil)
}

// changePrincipal runs change while the row of a principal is locked, and notes it.
// ErrNotFound if the account has no such principal.
func (tx *Tx) changePrincipal(ctx context.Context, account string, kind PrincipalKind, name string, change func() error) error {
	if err := tx.lockPrincipal(ctx, account, kind, name); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return tx.touchPrincipal(ctx, account, kind, name)
}

// execOne runs a statement that must concern a row; ErrNotFound if it does not.
func (tx *Tx) execOne(ctx context.Context, sql string, args pgx.StrictNamedArgs) error {
	tag, err := tx.tx.Exec(ctx, sql, args)
	if err == nil && tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	return err
}

// limited is a *LimitError if a count that is asked for passes a limit.
func (tx *Tx) limited(ctx context.Context, count string, args pgx.StrictNamedArgs, limit int) error {
	var n int
	if err := tx.tx.QueryRow(ctx, count, args).Scan(&n); err != nil {
		return err
	}
	if n > limit {
		return &LimitError{limit}
	}
	return nil
}

const lockAccount = `
SELECT id
FROM accounts
WHERE id = @account
FOR NO KEY UPDATE`

// lockAccount does the same for what is counted by account. Whoever makes something of
// a name waits for who is deleting one of that name, holding the account; so who
// deletes takes the account first.
func (tx *Tx) lockAccount(ctx context.Context, account string) error {
	return tx.tx.QueryRow(ctx, lockAccount, pgx.StrictNamedArgs{"account": account}).Scan(nil)
}

// insertOfAccount inserts one of the things that an account has at most limit of, as
// count counts them.
func (tx *Tx) insertOfAccount(ctx context.Context, account, insert string, args pgx.StrictNamedArgs, count string, limit int) error {
	if err := tx.lockAccount(ctx, account); err != nil {
		return err
	}
	if _, err := tx.tx.Exec(ctx, insert, args); err != nil {
		return err
	}
	return tx.limited(ctx, count, pgx.StrictNamedArgs{"account": account}, limit)
}

const lockManagedPolicy = `
SELECT id
FROM managed_policies
WHERE account = @account AND name = @name AND path = @path
FOR KEY SHARE`

// lockManagedPolicy keeps a managed policy of an account, by ARN, from being deleted
// until the transaction ends. ErrNotFound if the account has no such policy.
func (tx *Tx) lockManagedPolicy(ctx context.Context, account, policyARN string) error {
	a, ok := arn.ParseIAM(policyARN)
	if !ok || a.Kind != "policy" || a.Account != account {
		return fmt.Errorf("managed policy %s: %w", policyARN, ErrNotFound)
	}
	args := pgx.StrictNamedArgs{"account": account, "name": a.Name, "path": a.Path}
	return tx.tx.QueryRow(ctx, lockManagedPolicy, args).Scan(nil)
}

const selectMembers = `
SELECT user_name
FROM group_members
WHERE account = @account AND name = @name`

// touchPrincipal notes a change of a principal whose row is locked; one of a group
// is one of all its members.
func (tx *Tx) touchPrincipal(ctx context.Context, account string, kind PrincipalKind, name string) error {
	tx.touch(account, target{Kind: kindPrincipal, ID: principalID(kind, name)})
	if kind != Group {
		return nil
	}
	rows, err := tx.tx.Query(ctx, selectMembers, pgx.StrictNamedArgs{"account": account, "name": name})
	if err != nil {
		return err
	}
	var member string
	_, err = pgx.ForEachRow(rows, []any{&member}, func() error {
		tx.touch(account, target{Kind: kindPrincipal, ID: principalID(User, member)})
		return nil
	})
	return err
}
