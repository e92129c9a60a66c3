package metadata

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
)

// MaxAttachments is how many managed policies a user, group or role can have
// attached (IAM User Guide, "IAM and AWS STS quotas").
const MaxAttachments = 10

const attachPolicy = `
INSERT INTO policy_attachments (account, kind, name, policy_name)
VALUES (@account, @kind, @name, @policyName)
ON CONFLICT DO NOTHING`

const countAttachments = `
SELECT count(*)
FROM policy_attachments
WHERE account = @account AND kind = @kind AND name = @name`

// AttachPolicy attaches a managed policy, by ARN, to a user, group or role of the
// same account; one that is attached already stays so. *LimitError if it would have
// more than [MaxAttachments]; ErrNotFound if the account has no such policy, or
// nothing to attach it to.
func (tx *Tx) AttachPolicy(ctx context.Context, account string, kind PrincipalKind, name, policyARN string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		if err := tx.lockManagedPolicy(ctx, account, policyARN); err != nil {
			return err
		}
		if _, err := tx.tx.Exec(ctx, attachPolicy, attachmentArgs(account, kind, name, policyARN)); err != nil {
			return err
		}
		args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
		return tx.limited(ctx, countAttachments, args, MaxAttachments)
	}), "attach policy to %s %s", kind, name)
}

func attachmentArgs(account string, kind PrincipalKind, name, policyARN string) pgx.StrictNamedArgs {
	a, _ := arn.ParseIAM(policyARN)
	return pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "policyName": a.Name}
}

const detachPolicy = `
DELETE FROM policy_attachments
WHERE account = @account AND kind = @kind AND name = @name AND policy_name = @policyName`

// DetachPolicy takes a managed policy, by ARN, from a user, group or role.
// ErrNotFound if it is not attached to it.
func (tx *Tx) DetachPolicy(ctx context.Context, account string, kind PrincipalKind, name, policyARN string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		if err := tx.lockManagedPolicy(ctx, account, policyARN); err != nil {
			return err
		}
		return tx.execOne(ctx, detachPolicy, attachmentArgs(account, kind, name, policyARN))
	}), "detach policy from %s %s", kind, name)
}

const listAttachments = `
SELECT p.account, p.name, p.path, p.id, p.description, p.document, p.created_at
FROM policy_attachments t
JOIN managed_policies p ON p.account = t.account AND p.name = t.policy_name
WHERE t.account = @account AND t.kind = @kind AND t.name = @name AND t.policy_name > @after
	AND starts_with(p.path, @prefix)
ORDER BY t.policy_name
LIMIT @limit`

// AttachedPolicies returns at most limit managed policies of a user, group or
// role whose paths begin with prefix, in the order of their names, beginning after
// the one given; empty means from the start.
func (s *Store) AttachedPolicies(ctx context.Context, account string, kind PrincipalKind, name, prefix, after string, limit int) ([]ManagedPolicy, error) {
	return list(ctx, s, "list attached policies", listAttachments, pgx.StrictNamedArgs{
		"account": account, "kind": kind, "name": name, "prefix": prefix, "after": after, "limit": limit,
	}, pgx.RowToStructByName[ManagedPolicy])
}

// PolicyEntity is a user, group or role that uses a managed policy.
type PolicyEntity struct {
	Kind PrincipalKind
	Name string
	ID   string
}

// Place is where it stands in the order of [Store.PolicyEntities].
func (e *PolicyEntity) Place() string { return string(e.Kind) + "/" + e.Name }

// EntityFilter narrows a list of those that use a managed policy.
type EntityFilter struct {
	Kind       PrincipalKind // empty for all
	PathPrefix string        // empty for all
	Use        PolicyUse
}

const listPolicyEntities = `
SELECT o.kind, o.name, o.id
FROM principals o
WHERE o.account = @account AND (@kind = '' OR o.kind = @kind) AND starts_with(o.path, @prefix)
	AND (o.kind, o.name) > (@afterKind, @afterName)
	AND (@use <> 'PermissionsBoundary' AND EXISTS (
			SELECT FROM policy_attachments t
			WHERE t.account = o.account AND t.kind = o.kind AND t.name = o.name AND t.policy_name = @policyName)
		OR @use <> 'PermissionsPolicy' AND o.boundary = @arn)
ORDER BY o.kind, o.name
LIMIT @limit`

// PolicyEntities returns at most limit groups, roles and users, in this order and
// each by name, that use a managed policy, beginning after the one at the place
// given; empty means from the start.
func (s *Store) PolicyEntities(ctx context.Context, p *ManagedPolicy, f EntityFilter, after string, limit int) ([]PolicyEntity, error) {
	kind, name, _ := strings.Cut(after, "/")
	return list(ctx, s, "list entities of policy", listPolicyEntities, pgx.StrictNamedArgs{
		"account": p.Account, "policyName": p.Name, "arn": p.ARN(), "kind": f.Kind, "prefix": f.PathPrefix,
		"use": f.Use, "afterKind": kind, "afterName": name, "limit": limit,
	}, pgx.RowToStructByName[PolicyEntity])
}

const updateBoundary = `
UPDATE principals SET boundary = @arn
WHERE account = @account AND kind = @kind AND name = @name`

// SetBoundary makes a managed policy of the same account, by ARN, the permissions
// boundary of a user or role. ErrNotFound if the account has no such policy, or no
// such user or role.
func (tx *Tx) SetBoundary(ctx context.Context, account string, kind PrincipalKind, name, policyARN string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		if err := tx.lockManagedPolicy(ctx, account, policyARN); err != nil {
			return err
		}
		args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "arn": policyARN}
		return tx.execOne(ctx, updateBoundary, args)
	}), "set permissions boundary of %s %s", kind, name)
}

const deleteBoundary = `
UPDATE principals SET boundary = NULL
WHERE account = @account AND kind = @kind AND name = @name AND boundary IS NOT NULL`

// DeleteBoundary takes the permissions boundary from a user or role. ErrNotFound
// if it has none, or there is no such user or role.
func (tx *Tx) DeleteBoundary(ctx context.Context, account string, kind PrincipalKind, name string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
		return tx.execOne(ctx, deleteBoundary, args)
	}), "delete permissions boundary of %s %s", kind, name)
}
