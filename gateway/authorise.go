package gateway

import (
	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// authorise decides each target in turn. Only a caller who is allowed to act
// on a target learns that it is missing.
func (c *call) authorise(in any) error {
	for i := range c.resources {
		r := &c.resources[i]
		if r.target.kind == onTrust && c.caller.Kind == policy.AccountRoot {
			return identity.RootAssumesNothing()
		}
		q := c.question(r, in)
		if err := c.decideOn(r, &q); err != nil {
			return err
		}
		if !r.decision.Allowed {
			c.noteRefusal(r, q)
			return c.denial(r)
		}
		r.authorised = true
		if r.missing != nil {
			return r.missing
		}
	}
	return nil
}

// decideOn asks policy about one target: without grants first, for most requests
// need none, and nothing that grants do helps against a Deny. Nobody may act on the
// unknown key of a ciphertext.
func (c *call) decideOn(r *resource, q *policy.Input) error {
	if r.byCiphertext && r.key == nil {
		return nil
	}
	r.decision = policy.Authorize(*q)
	if c.unread != nil {
		return c.unread
	}
	if r.decision.Allowed || r.key == nil || !r.target.foreign || r.target.kind == onGrant || explicit[r.decision.Reason] {
		return nil
	}
	found, err := c.addGrants(q, r)
	if err == nil && found {
		r.decision = policy.Authorize(*q)
	}
	return err
}

// question is what policy is asked about one target.
func (c *call) question(r *resource, in any) policy.Input {
	q := policy.Input{
		Caller:       c.caller.Principal(),
		Action:       c.op.action(r.target),
		Resource:     r.arn,
		Owner:        r.account,
		CrossAccount: r.target.foreign || r.target.kind == onTrust,
		Session:      c.caller.SessionPolicies,
		Context:      c.facts(r, in),
	}
	if e := c.caller.Entry; e != nil {
		q.Identity, q.Boundary = e.Identity, e.BoundaryPolicy
	}
	switch {
	case r.target.kind == onGrant:
		c.askToRetire(&q, r)
	case r.key != nil:
		q.KeyPolicy = r.key.Policy
	case r.target.kind == onTrust && r.entry != nil:
		q.KeyPolicy = r.entry.TrustPolicy
	case r.target.kind == onTrust: // nothing trusts anybody
	default:
		// No policy of a resource governs aliases, what is of IAM, and operations
		// without a resource. A key of the own account that does not exist is
		// decided in the same way: whoever may do this to every key of the account
		// may know. Of another account's policy we know nothing, and refuse.
		q.IdentityOnly = true
	}
	return q
}

// addGrants adds the grants on a key that are the caller's to a question; found is
// false if there are none.
func (c *call) addGrants(q *policy.Input, r *resource) (found bool, err error) {
	account, use := arn.Root(c.caller.Account), c.grantUse(r)
	for _, grantee := range c.grantees() {
		use.Grantee, use.GranteeID = grantee, ""
		if grantee != account {
			use.GranteeID = c.caller.Entry.ID
		}
		grants, err := c.view.Grants(c.ctx, r.key.Region, r.key.ID, use)
		if err != nil {
			return false, err
		}
		for _, g := range grants {
			switch {
			case grantee == account:
				q.AccountGrants = append(q.AccountGrants, g.Compiled)
			case g.GranteeID != c.caller.Entry.ID: // of another that had the name before
			case grantee == c.caller.ARN:
				q.Grants = append(q.Grants, g.Compiled)
			default:
				q.RoleGrants = append(q.RoleGrants, g.Compiled)
			}
		}
	}
	q.Granted = c.granted(r)
	return len(q.Grants)+len(q.RoleGrants)+len(q.AccountGrants) > 0, nil
}

// grantees are the ARNs under which a grant may be the caller's.
func (c *call) grantees() []string {
	grantees := []string{arn.Root(c.caller.Account)}
	switch c.caller.Kind {
	case policy.User:
		grantees = append(grantees, c.caller.ARN)
	case policy.RoleSession:
		grantees = append(grantees, c.caller.ARN, c.caller.Entry.ARN())
	}
	return grantees
}

// grantUse is what grants are asked for.
func (c *call) grantUse(r *resource) metadata.GrantUse {
	f := &facts{call: c, resource: r, in: c.in}
	_, takesContext := c.op.fields[r.target.side+"EncryptionContext"]
	_, takesConstraint := c.op.fields["Constraints"]
	return metadata.GrantUse{
		Operations: append(f.list("Operations"), r.target.action), Context: f.constrained(),
		AnyContext: !takesContext && !takesConstraint,
	}
}

// granted is what the constraints of grants are held against.
func (c *call) granted(r *resource) policy.GrantContext {
	f := &facts{call: c, resource: r, in: c.in}
	return policy.GrantContext{EncryptionContext: f.context()}
}

// explicit are the refusals that no grant helps against.
var explicit = map[policy.Reason]bool{
	policy.Undecided: true, policy.KeyPolicyDenies: true, policy.IdentityDenies: true, policy.BoundaryDenies: true, policy.SessionDenies: true,
}

// denials are AWS's texts of a refusal by the rule that decided.
var denials = map[policy.Reason]struct {
	by       kmsapi.PolicyKind
	explicit bool
}{
	policy.KeyPolicyDenies:   {kmsapi.ResourceBasedPolicy, true},
	policy.IdentityDenies:    {kmsapi.IdentityBasedPolicy, true},
	policy.BoundaryDenies:    {kmsapi.PermissionsBoundary, true},
	policy.SessionDenies:     {kmsapi.SessionPolicy, true},
	policy.NoKeyPolicyAllows: {kmsapi.ResourceBasedPolicy, false},
	policy.NoIdentityAllows:  {kmsapi.IdentityBasedPolicy, false},
	policy.NoBoundaryAllows:  {kmsapi.PermissionsBoundary, false},
	policy.NoSessionAllows:   {kmsapi.SessionPolicy, false},
}

// denial is what the caller is told: it tells apart only what the caller may
// know. A rule without a text of its own is refused blindly.
func (c *call) denial(r *resource) error {
	principal, action := c.caller.ARN, c.op.action(r.target)
	text, told := denials[r.decision.Reason]
	switch {
	case r.target.kind == onTrust:
		return identity.NotTrusted(c.caller, action, r.arn)
	case !told && r.byCiphertext:
		return kmsapi.DeniedBlindly(principal, action, kmsapi.CiphertextTarget)
	case !told:
		return kmsapi.DeniedBlindly(principal, action, kmsapi.HiddenTarget)
	}
	target := kmsapi.ResourceTarget(r.shown())
	switch {
	case r.byCiphertext:
		target = kmsapi.CiphertextTarget
	case r.aliasARN != "" && text.by != kmsapi.ResourceBasedPolicy:
		target = kmsapi.ResourceTarget(r.aliasARN) // an alias of no key is refused in the same way
	}
	if text.explicit {
		return kmsapi.DeniedExplicitly(principal, action, target, text.by)
	}
	return kmsapi.Denied(principal, action, target, text.by)
}
