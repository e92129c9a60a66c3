package metadata

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// KeyPolicy is a policy of a key as it is put. The document must have been parsed
// before: one that does not compile makes the key unusable.
type KeyPolicy struct {
	Document string
	// Bindings are the unique ids of the users and roles that the document names, by
	// the ARNs in it: see policy.Bind. Nil binds them to nobody.
	Bindings map[string]string
}

// bindings are what Postgres keeps; there it is never NULL.
func (p KeyPolicy) bindings() map[string]string {
	if p.Bindings == nil {
		return map[string]string{}
	}
	return p.Bindings
}

const updatePolicy = `
UPDATE policies SET document = @document, bindings = @bindings
WHERE account = @account AND region = @region AND key_id = @keyID AND name = 'default'`

// PutPolicy replaces a key's policy, in any state. ErrNotFound if the account has no
// such key in the region.
func (tx *Tx) PutPolicy(ctx context.Context, region, account, keyID string, p KeyPolicy) error {
	if err := tx.raiseKey(ctx, "put policy", region, account, keyID, present); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{
		"account": account, "region": region, "keyID": keyID, "document": p.Document, "bindings": p.bindings(),
	}
	_, err := tx.tx.Exec(ctx, updatePolicy, args)
	return wrap(err, "put policy of key %s", keyID)
}
