package metadata

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MaxTags is how many tags a key can have (KMS Developer Guide, "Quotas").
const MaxTags = 50

// Tag is a tag of a key.
type Tag struct {
	Key   string // 1 to 128 characters
	Value string // at most 256 characters
}

const listTags = `
SELECT t.key, t.value
FROM tags t
WHERE t.account = @account AND t.region = @region AND t.key_id = @keyID AND t.key > @after
ORDER BY t.key
LIMIT @limit`

// ListTags returns at most limit tags of a key in the order of their keys,
// beginning after the one given; empty means from the start. It is empty for a
// key that the account does not have in the region.
func (s *Store) ListTags(ctx context.Context, region, account, keyID, after string, limit int) ([]Tag, error) {
	args := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID, "after": after, "limit": limit}
	return list(ctx, s, "list tags", listTags, args, pgx.RowToStructByName[Tag])
}

const upsertTags = insertTags + `
ON CONFLICT (region, key_id, key) DO UPDATE SET value = excluded.value`

const countTags = `
SELECT count(*)
FROM tags
WHERE account = @account AND region = @region AND key_id = @keyID`

// UpsertTags adds tags to a key in a [Manageable] state and replaces the values of
// those it has. The tags' keys must differ. ErrLimit if the key would have more
// than [MaxTags]; *StateError in another state; ErrNotFound if the account has no
// such key in the region.
func (tx *Tx) UpsertTags(ctx context.Context, region, account, keyID string, tags []Tag) error {
	const what = "tag"
	// The key's row stays locked, which makes the count exact.
	if err := tx.raiseKey(ctx, what, region, account, keyID, Manageable); err != nil {
		return err
	}
	if _, err := tx.tx.Exec(ctx, upsertTags, tagArgs(region, account, keyID, tags)); err != nil {
		return wrap(err, "%s key %s", what, keyID)
	}
	var n int
	args := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID}
	if err := tx.tx.QueryRow(ctx, countTags, args).Scan(&n); err != nil {
		return wrap(err, "%s key %s", what, keyID)
	}
	if n > MaxTags {
		return fmt.Errorf("%s key %s: %d tags: %w", what, keyID, n, ErrLimit)
	}
	return nil
}

const deleteTags = `
DELETE FROM tags
WHERE account = @account AND region = @region AND key_id = @keyID AND key = ANY (@keys)`

// DeleteTags removes tags by their keys from a key in a [Manageable] state; those
// it does not have are no error. Other errors as UpsertTags.
func (tx *Tx) DeleteTags(ctx context.Context, region, account, keyID string, keys []string) error {
	if err := tx.raiseKey(ctx, "untag", region, account, keyID, Manageable); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID, "keys": keys}
	_, err := tx.tx.Exec(ctx, deleteTags, args)
	return wrap(err, "untag key %s", keyID)
}

func tagArgs(region, account, keyID string, tags []Tag) pgx.StrictNamedArgs {
	keys, values := make([]string, 0, len(tags)), make([]string, 0, len(tags))
	for _, t := range tags {
		keys, values = append(keys, t.Key), append(values, t.Value)
	}
	return pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID, "keys": keys, "values": values}
}
