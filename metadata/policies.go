package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"
)

const updatePolicy = `
UPDATE policies SET document = @document
WHERE account = @account AND region = @region AND key_id = @keyID AND name = 'default'`

// PutPolicy replaces a key's policy, in any state. The document must have been
// parsed before: one that does not compile makes the key unusable. ErrNotFound if
// the account has no such key in the region.
func (tx *Tx) PutPolicy(ctx context.Context, region, account, keyID, document string) error {
	if err := tx.raiseKey(ctx, "put policy", region, account, keyID, present); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"account": account, "region": region, "keyID": keyID, "document": document}
	_, err := tx.tx.Exec(ctx, updatePolicy, args)
	return wrap(err, "put policy of key %s", keyID)
}
