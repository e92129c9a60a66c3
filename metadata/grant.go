package metadata

import (
	"context"
	"time"

	"kmsgate/policy"
)

// Grant is a grant on a key.
type Grant struct {
	Account string // of the key
	Region  string
	KeyID   string

	ID                string // 64 hexadecimal digits
	Name              string // empty for none
	Grantee           string // ARN of a principal, or the name of a service
	GranteeID         string // unique id of a user or role, of a session that of its role
	GranteeIsService  bool
	Retiring          string // as Grantee; empty for none
	RetiringID        string
	RetiringIsService bool
	IssuingAccount    string // of the caller of CreateGrant
	Operations        []string
	Constraints       policy.GrantConstraints
	CreatedAt         time.Time

	// Compiled is what policy decides by.
	Compiled *policy.Grant
}

// Grants are the grants on a key to one grantee, by its ARN or service name, in no
// order; none is an answer too. They are of the cache and shared: nobody writes to
// them. A grant whose GranteeID is not the caller's is not the caller's.
func (v *View) Grants(ctx context.Context, region, keyID, grantee string) ([]*Grant, error) {
	return nil, nil
}
