package metadata

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const updateTrust = `
UPDATE principals SET trust = @trust, trust_bindings = @bindings
WHERE account = @account AND kind = 'role' AND name = @name`

// SetTrust replaces the trust policy of a role, which must have been parsed, and
// the unique ids that the users and roles in it are bound to. ErrNotFound if the
// account has no such role.
func (tx *Tx) SetTrust(ctx context.Context, account, name, document string, bindings map[string]string) error {
	if bindings == nil {
		bindings = map[string]string{}
	}
	return tx.changeRole(ctx, updateTrust, account, name, pgx.StrictNamedArgs{"trust": document, "bindings": bindings})
}

// RoleChange is what UpdateRole changes; nil leaves a member as it is.
type RoleChange struct {
	Description *string
	MaxSession  *time.Duration // 1 to 12 hours, whole seconds
}

const updateRole = `
UPDATE principals SET description = coalesce(@description, description), max_session = coalesce(@maxSession, max_session)
WHERE account = @account AND kind = 'role' AND name = @name`

// UpdateRole changes the description and the longest session of a role.
// ErrNotFound if the account has no such role.
func (tx *Tx) UpdateRole(ctx context.Context, account, name string, change RoleChange) error {
	var seconds *int64
	if change.MaxSession != nil {
		n := int64(*change.MaxSession / time.Second)
		seconds = &n
	}
	return tx.changeRole(ctx, updateRole, account, name, pgx.StrictNamedArgs{"description": change.Description, "maxSession": seconds})
}

const revokeSessions = `
UPDATE principals SET revoked_before = greatest(revoked_before, @before::timestamptz)
WHERE account = @account AND kind = 'role' AND name = @name`

// RevokeSessions makes sessions of a role that were issued before a time invalid.
// It never makes one valid again: of two times the later one holds. ErrNotFound if
// the account has no such role.
func (tx *Tx) RevokeSessions(ctx context.Context, account, name string, before time.Time) error {
	return tx.changeRole(ctx, revokeSessions, account, name, pgx.StrictNamedArgs{"before": before})
}

func (tx *Tx) changeRole(ctx context.Context, sql, account, name string, args pgx.StrictNamedArgs) error {
	return wrap(tx.changePrincipal(ctx, account, Role, name, func() error {
		args["account"], args["name"] = account, name
		return tx.execOne(ctx, sql, args)
	}), "change role %s", name)
}
