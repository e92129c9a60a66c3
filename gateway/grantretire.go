package gateway

import (
	"errors"
	"slices"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

func completeRetireGrant(in *kmsapi.RetireGrantRequest) error {
	switch {
	case in.GrantToken != nil && (in.KeyID != nil || in.GrantID != nil), in.GrantToken == nil && (in.KeyID == nil || in.GrantID == nil):
		return kmsapi.GrantNamedTwice()
	case in.GrantToken == nil:
		return checkGrantID(*in.GrantID)
	}
	_, err := parseGrantToken(*in.GrantToken)
	return err
}

// findGrant finds the grant that a request names by a token or by key and id.
// Whoever names an id that no grant has may know so: it tells nothing of the key.
func (c *call) findGrant(t *target, in any, keyID string) (resource, error) {
	id := c.op.text(in, "GrantId")
	var r resource
	var err error
	if token := c.op.text(in, "GrantToken"); token != "" {
		named, parseErr := parseGrantToken(token)
		if parseErr != nil || named.key.Region != c.region {
			return resource{}, kmsapi.InvalidGrantToken()
		}
		id = named.id
		r, err = c.findKey(t, named.key.Account, named.key.ID)
	} else {
		r, err = c.resolve(t, keyID)
	}
	if err != nil {
		return resource{}, err
	}
	if r.key != nil {
		r.grant, err = c.gateway.store.Grant(c.ctx, r.key.Region, r.key.Account, r.key.ID, id)
	}
	if r.key == nil || errors.Is(err, metadata.ErrNotFound) {
		r.key, r.missing = nil, kmsapi.GrantNotFound(id)
		return r, nil
	}
	return r, err
}

// retirement is a grant to retire a grant: what policy is asked with about a caller
// who the grant says may end it.
func retirement(id string) []*policy.Grant {
	return []*policy.Grant{policy.NewGrant(id, []string{string(kmsapi.GrantRetireGrant)}, policy.GrantConstraints{})}
}

// askToRetire completes the question whether a grant may be retired: the grant
// itself says by whom, no key policy does, and policies of the caller's side can
// only forbid it or, in an account that may retire the grant, delegate it (KMS
// Developer Guide, "Retiring and revoking grants").
func (c *call) askToRetire(q *policy.Input, r *resource) {
	q.Owner = c.caller.Account
	g := r.grant
	if g == nil {
		q.Grants = retirement("")
		return
	}
	grantee := slices.Contains(g.Operations, string(kmsapi.GrantRetireGrant))
	caller := c.caller.Principal()
	for _, may := range []struct {
		principal, id string
		so            bool
	}{{g.Retiring, g.RetiringID, g.Retiring != ""}, {g.Grantee, g.GranteeID, grantee}} {
		switch {
		case !may.so || may.id != caller.ID: // the id is another's that had the name before
		case may.principal == caller.ARN:
			q.Grants = retirement(g.ID)
		case may.principal == caller.RoleARN:
			q.RoleGrants = retirement(g.ID)
		}
	}
	if root := arn.Root(c.caller.Account); c.caller.Account == g.IssuingAccount || g.Retiring == root || grantee && g.Grantee == root {
		q.AccountGrants = retirement(g.ID)
	}
}

func (c *call) retireGrant(*kmsapi.RetireGrantRequest) (work[kmsapi.Empty], error) {
	g := c.resources[0].grant
	c.event.AdditionalEventData = audit.Members{audit.String("grantId", g.ID)}
	return c.endGrant(g), nil
}
