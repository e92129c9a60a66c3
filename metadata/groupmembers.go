package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// MaxGroups is how many groups a user can be in (IAM User Guide, "IAM and AWS STS
// quotas").
const MaxGroups = 10

const listMembers = `
SELECT ` + principalColumns + `
FROM group_members m
JOIN principals p ON p.account = m.account AND p.kind = m.user_kind AND p.name = m.user_name
WHERE m.account = @account AND m.name = @group AND m.user_name > @after
ORDER BY m.user_name
LIMIT @limit`

// ListMembers returns at most limit users of a group in the order of their names,
// beginning after the one given; empty means from the start. It is empty for a
// group that the account does not have.
func (s *Store) ListMembers(ctx context.Context, account, group, after string, limit int) ([]Principal, error) {
	args := pgx.StrictNamedArgs{"account": account, "group": group, "after": after, "limit": limit}
	return list(ctx, s, "list members", listMembers, args, rowToPrincipal)
}

const listGroupsOf = `
SELECT ` + principalColumns + `
FROM group_members m
JOIN principals p ON p.account = m.account AND p.kind = m.kind AND p.name = m.name
WHERE m.account = @account AND m.user_name = @user AND m.name > @after
ORDER BY m.name
LIMIT @limit`

// ListGroupsOf returns at most limit groups that a user is in, as ListMembers does.
func (s *Store) ListGroupsOf(ctx context.Context, account, user, after string, limit int) ([]Principal, error) {
	args := pgx.StrictNamedArgs{"account": account, "user": user, "after": after, "limit": limit}
	return list(ctx, s, "list groups of a user", listGroupsOf, args, rowToPrincipal)
}

const insertMember = `
INSERT INTO group_members (account, name, user_name)
VALUES (@account, @group, @user)
ON CONFLICT DO NOTHING`

const countGroupsOf = `
SELECT count(*)
FROM group_members
WHERE account = @account AND user_name = @user`

// InsertMember adds a user to a group; one who is in it stays. *LimitError if the
// user would be in more than [MaxGroups]; ErrNotFound if the account has no such
// group or user.
func (tx *Tx) InsertMember(ctx context.Context, account, group, user string) error {
	return wrap(tx.changeMember(ctx, account, group, user, func() error {
		args := pgx.StrictNamedArgs{"account": account, "group": group, "user": user}
		if _, err := tx.tx.Exec(ctx, insertMember, args); err != nil {
			return err
		}
		return tx.limited(ctx, countGroupsOf, pgx.StrictNamedArgs{"account": account, "user": user}, MaxGroups)
	}), "add to group %s", group)
}

const deleteMember = `
DELETE FROM group_members
WHERE account = @account AND name = @group AND user_name = @user`

// DeleteMember takes a user out of a group; one who is not in it is no error.
// ErrNotFound if the account has no such group or user.
func (tx *Tx) DeleteMember(ctx context.Context, account, group, user string) error {
	return wrap(tx.changeMember(ctx, account, group, user, func() error {
		args := pgx.StrictNamedArgs{"account": account, "group": group, "user": user}
		_, err := tx.tx.Exec(ctx, deleteMember, args)
		return err
	}), "remove from group %s", group)
}

// changeMember runs change while the rows of the group and of the user are locked,
// always in this order.
func (tx *Tx) changeMember(ctx context.Context, account, group, user string, change func() error) error {
	if err := tx.lockPrincipal(ctx, account, Group, group); err != nil {
		return wrap(err, "group %s", group)
	}
	return wrap(tx.changePrincipal(ctx, account, User, user, change), "user %s", user)
}
