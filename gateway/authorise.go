package gateway

import (
	"kmsgate/gateway/kmsapi"
	"kmsgate/policy"
)

// authorise decides each target in turn. Only a caller who is allowed to act
// on a target learns that it is missing.
func (c *call) authorise(in any) error {
	for i := range c.resources {
		r := &c.resources[i]
		q := c.question(r, in)
		if r.byCiphertext && r.key == nil {
			c.noteRefusal(r, q)
			return kmsapi.DeniedBlindly(c.caller.ARN, c.op.action(r.target), kmsapi.CiphertextTarget)
		}
		if d := policy.Authorize(q); !d.Allowed {
			c.noteRefusal(r, q)
			return c.denial(r, d)
		}
		r.authorised = true
		if r.missing != nil {
			return r.missing
		}
	}
	return nil
}

// question is what policy is asked about one target. Callers are account
// roots: they need no identity policies, and are what the account may do.
func (c *call) question(r *resource, in any) policy.Input {
	q := policy.Input{
		Caller:       c.caller.Principal(),
		Action:       c.op.action(r.target),
		Resource:     r.arn,
		Owner:        r.account,
		CrossAccount: r.target.foreign,
		Context:      c.facts(r, in),
	}
	if r.key != nil {
		q.KeyPolicy = r.key.Policy
		return q
	}
	// No key policy governs aliases and operations without a resource. A key of
	// the own account that does not exist is decided in the same way: whoever
	// may do this to every key of the account may know. Of another account's
	// policy we know nothing, and refuse.
	q.IdentityOnly = true
	return q
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
func (c *call) denial(r *resource, d policy.Decision) error {
	principal, action := c.caller.ARN, c.op.action(r.target)
	text, told := denials[d.Reason]
	switch {
	case !told && r.byCiphertext:
		return kmsapi.DeniedBlindly(principal, action, kmsapi.CiphertextTarget)
	case !told:
		return kmsapi.DeniedBlindly(principal, action, kmsapi.HiddenTarget)
	}
	target := kmsapi.ResourceTarget(r.arn)
	if r.byCiphertext {
		target = kmsapi.CiphertextTarget
	}
	if text.explicit {
		return kmsapi.DeniedExplicitly(principal, action, target, text.by)
	}
	return kmsapi.Denied(principal, action, target, text.by)
}
