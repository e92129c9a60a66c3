package metadata

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

const listPrincipalTags = `
SELECT key, value
FROM principal_tags
WHERE account = @account AND kind = @kind AND name = @name AND key > @after
ORDER BY key
LIMIT @limit`

// ListPrincipalTags returns at most limit tags of a principal in the order of their
// keys, beginning after the one given; empty means from the start. It is empty for
// a principal that the account does not have.
func (s *Store) ListPrincipalTags(ctx context.Context, account string, kind PrincipalKind, name, after string, limit int) ([]Tag, error) {
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "after": after, "limit": limit}
	return list(ctx, s, "list tags", listPrincipalTags, args, pgx.RowToStructByName[Tag])
}

const insertPrincipalTags = `
INSERT INTO principal_tags (account, kind, name, key, value)
SELECT @account, @kind, @name, t.key, t.value
FROM unnest(@keys::text[], @values::text[]) AS t (key, value)`

func principalTagArgs(account string, kind PrincipalKind, name string, tags []Tag) pgx.StrictNamedArgs {
	keys, values := make([]string, len(tags)), make([]string, len(tags))
	for i, t := range tags {
		keys[i], values[i] = t.Key, t.Value
	}
	return pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name, "keys": keys, "values": values}
}

const countPrincipalTags = `
SELECT count(*)
FROM principal_tags
WHERE account = @account AND kind = @kind AND name = @name`

// UpsertPrincipalTags adds tags to a principal and replaces those that it has, key
// and value. Keys that differ in letter case alone are one key, for conditions do not
// tell them apart; those of tags must differ in more. *LimitError if the principal would
// have more than [MaxTags]; ErrNotFound if the account has no such principal.
func (tx *Tx) UpsertPrincipalTags(ctx context.Context, account string, kind PrincipalKind, name string, tags []Tag) error {
	args := principalTagArgs(account, kind, name, tags)
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		if err := tx.deletePrincipalTags(ctx, account, kind, name, args["keys"].([]string)); err != nil {
			return err
		}
		if _, err := tx.tx.Exec(ctx, insertPrincipalTags, args); err != nil {
			return err
		}
		args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
		return tx.limited(ctx, countPrincipalTags, args, MaxTags)
	}), "tag %s %s", kind, name)
}

// DeletePrincipalTags removes tags by their keys, whatever the letter case; those it
// does not have are no error. ErrNotFound if the account has no such principal.
func (tx *Tx) DeletePrincipalTags(ctx context.Context, account string, kind PrincipalKind, name string, keys []string) error {
	return wrap(tx.changePrincipal(ctx, account, kind, name, func() error {
		return tx.deletePrincipalTags(ctx, account, kind, name, keys)
	}), "untag %s %s", kind, name)
}

const selectPrincipalTagKeys = `
SELECT key
FROM principal_tags
WHERE account = @account AND kind = @kind AND name = @name`

const deletePrincipalTags = `
DELETE FROM principal_tags
WHERE account = @account AND kind = @kind AND name = @name AND key = ANY (@keys)`

// deletePrincipalTags folds letter case as policy does, which Postgres need not know.
func (tx *Tx) deletePrincipalTags(ctx context.Context, account string, kind PrincipalKind, name string, keys []string) error {
	args := pgx.StrictNamedArgs{"account": account, "kind": kind, "name": name}
	rows, err := tx.tx.Query(ctx, selectPrincipalTagKeys, args)
	if err != nil {
		return err
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	args["keys"] = slices.DeleteFunc(there, func(key string) bool {
		return !slices.ContainsFunc(keys, func(asked string) bool { return strings.EqualFold(asked, key) })
	})
	_, err = tx.tx.Exec(ctx, deletePrincipalTags, args)
	return err
}
