package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// MaxInlinePolicies is how many characters a principal's inline policies can have
// together, white space apart (IAM User Guide, "IAM and AWS STS quotas").
var MaxInlinePolicies = map[PrincipalKind]int{User: 2048, Group: 5120, Role: 10240}

// MaxInlineBytes is how many bytes they can have together, white space and all: each
// request of a user reads its own and those of all its groups. AWS tells no such limit.
const MaxInlineBytes = 64 << 10

const listPrincipalPolicies = `
SELECT policy_name
FROM principal_policies
WHERE account = @account AND kind = @kind AND name = @name AND policy_name > @after
ORDER BY policy_name
LIMIT @limit`

// ListPrincipalPolicies returns the names of at most limit inline policies of a
// principal in their order, beginning after the one given; empty means from the
// start. It is empty for a principal that the account does not have.
func (s *Store) ListPrincipalPolicies(ctx context.Context, account string, kind PrincipalKind, name, after string, limit int) ([]string, error) {
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "after": after, "limit": limit}
	return list(ctx, s, "list inline policies", listPrincipalPolicies, args, pgx.RowTo[string])
}

const selectPrincipalPolicy = `
SELECT document
FROM principal_policies
WHERE account = @account AND kind = @kind AND name = @name AND policy_name = @policy`

// PrincipalPolicy returns the document of an inline policy. ErrNotFound if the
// principal has none of that name.
func (s *Store) PrincipalPolicy(ctx context.Context, account string, kind PrincipalKind, name, policyName string) (document string, err error) {
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "policy": policyName}
	err = s.pool.QueryRow(ctx, selectPrincipalPolicy, args).Scan(&document)
	return document, wrap(err, "inline policy of %s %s", kind, name)
}

const upsertPrincipalPolicy = `
INSERT INTO principal_policies (account, kind, name, policy_name, document)
VALUES (@account, @kind, @name, @policy, @document)
ON CONFLICT (account, kind, name, policy_name) DO UPDATE SET document = excluded.document`

// White space is that of JSON.
const sumPrincipalPolicies = `
SELECT coalesce(sum(char_length(translate(document, E' \t\r\n', ''))), 0), coalesce(sum(octet_length(document)), 0)
FROM principal_policies
WHERE account = @account AND kind = @kind AND name = @name`

// PutPrincipalPolicy adds an inline policy to a principal or replaces it. The
// document must have been parsed before: one that does not compile makes the
// principal unusable. *LimitError if the principal would pass [MaxInlinePolicies] or
// [MaxInlineBytes]; ErrNotFound if the account has no such principal.
func (tx *Tx) PutPrincipalPolicy(ctx context.Context, account string, kind PrincipalKind, name, policyName, document string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		_, err := tx.tx.Exec(ctx, upsertPrincipalPolicy, pgx.StrictNamedArgs{
			"account": account, "kind": kind, "name": name, "policy": policyName, "document": document,
		})
		if err != nil {
			return err
		}
		var characters, bytes int
		args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
		if err := tx.tx.QueryRow(ctx, sumPrincipalPolicies, args).Scan(&characters, &bytes); err != nil {
			return err
		}
		switch {
		case characters > MaxInlinePolicies[kind]:
			return &LimitError{MaxInlinePolicies[kind]}
		case bytes > MaxInlineBytes:
			return &LimitError{MaxInlineBytes}
		}
		return nil
	}), "put inline policy of %s %s", kind, name)
}

const deletePrincipalPolicy = `
DELETE FROM principal_policies
WHERE account = @account AND kind = @kind AND name = @name AND policy_name = @policy`

// DeletePrincipalPolicy removes an inline policy. ErrNotFound if the principal has
// none of that name.
func (tx *Tx) DeletePrincipalPolicy(ctx context.Context, account string, kind PrincipalKind, name, policyName string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "policy": policyName}
		return tx.execOne(ctx, deletePrincipalPolicy, args)
	}), "delete inline policy of %s %s", kind, name)
}
