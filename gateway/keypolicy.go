package gateway

import (
	"context"
	"maps"
	"slices"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/policy"
)

const (
	// policyName is the only name a key policy can have.
	policyName = "default"
)

func (c *call) getKeyPolicy(in *kmsapi.GetKeyPolicyRequest) (work[kmsapi.GetKeyPolicyResponse], error) {
	key := c.key(0)
	if kmsapi.Or(in.PolicyName, policyName) != policyName {
		return work[kmsapi.GetKeyPolicyResponse]{}, kmsapi.NoSuchPolicy()
	}
	return work[kmsapi.GetKeyPolicyResponse]{do: func(ctx context.Context) (*kmsapi.GetKeyPolicyResponse, error) {
		document, err := c.shownPolicy(ctx, key)
		if err != nil {
			return nil, err
		}
		return &kmsapi.GetKeyPolicyResponse{Policy: document, PolicyName: policyName}, nil
	}}, nil
}

// shownPolicy is a key's policy as it is shown: a user or role that was deleted since
// by its unique id, for the ARN may be another's by now.
func (c *call) shownPolicy(ctx context.Context, key *metadata.KeyEntry) (string, error) {
	document, err := policy.Format(key.PolicyDocument)
	if err != nil || len(key.PolicyBindings) == 0 {
		return document, err
	}
	now, err := c.gateway.store.PrincipalIDs(ctx, slices.Collect(maps.Keys(key.PolicyBindings)))
	if err != nil {
		return "", err
	}
	gone := map[string]string{}
	for name, id := range key.PolicyBindings {
		if now[name] != id {
			gone[name] = id
		}
	}
	return policy.ShowPrincipals(document, gone)
}

func (c *call) listKeyPolicies(in *kmsapi.ListKeyPoliciesRequest) (work[kmsapi.ListKeyPoliciesResponse], error) {
	if _, err := c.page(in.Limit, in.Marker, 100, c.key(0).ID); err != nil {
		return work[kmsapi.ListKeyPoliciesResponse]{}, err
	}
	return work[kmsapi.ListKeyPoliciesResponse]{do: func(context.Context) (*kmsapi.ListKeyPoliciesResponse, error) {
		return &kmsapi.ListKeyPoliciesResponse{PolicyNames: []string{policyName}}, nil
	}}, nil
}

func (c *call) putKeyPolicy(in *kmsapi.PutKeyPolicyRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	if kmsapi.Or(in.PolicyName, policyName) != policyName {
		return work[kmsapi.Empty]{}, kmsapi.NoSuchPolicy()
	}
	bound, err := c.checkPolicy(*in.Policy, key.ARN(), kmsapi.Or(in.BypassPolicyLockoutSafetyCheck, false), c.facts(&c.resources[0], in))
	if err != nil {
		return work[kmsapi.Empty]{}, err
	}
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		return nil, tx.PutPolicy(ctx, key.Region, key.Account, key.ID, bound)
	}}, nil
}

// checkPolicy refuses a document that cannot become a key policy: too large,
// malformed, naming principals that are not known here, or locking its author
// out (unless bypass), by the conditions that hold for this request.
func (c *call) checkPolicy(document, keyARN string, bypass bool, facts policy.Context) (metadata.KeyPolicy, error) {
	if len(document) > policy.MaxDocumentBytes {
		return metadata.KeyPolicy{}, kmsapi.PolicyTooLarge()
	}
	parsed, err := policy.Parse(document)
	if err != nil {
		return metadata.KeyPolicy{}, malformedPolicy(err)
	}
	ids, err := c.bindPolicy(parsed.Principals())
	if err != nil {
		return metadata.KeyPolicy{}, err
	}
	if !bypass && !parsed.Bind(ids).AllowsAlone(policy.Input{
		Caller: c.caller.Principal(), Action: "kms:PutKeyPolicy", Resource: keyARN, Context: facts,
	}) {
		return metadata.KeyPolicy{}, kmsapi.PolicyLockout()
	}
	return metadata.KeyPolicy{Document: document, Bindings: ids}, nil
}

// bindPolicy finds the unique ids of the users and roles that a key policy names, and
// refuses principals that do not exist here.
func (c *call) bindPolicy(mentions []policy.Mention) (map[string]string, error) {
	var accounts, named []string
	for _, m := range mentions {
		switch m.Kind {
		case policy.AccountRoot:
			accounts = append(accounts, m.Account)
		case policy.User, policy.Role, policy.RoleSession:
			named = append(named, m.ARN)
		case policy.Service:
		default:
			return nil, kmsapi.PolicyPrincipals()
		}
	}
	known, err := c.gateway.store.AccountsExist(c.ctx, accounts)
	if err != nil {
		return nil, err
	}
	ids, err := c.gateway.store.PrincipalIDs(c.ctx, named)
	if err != nil {
		return nil, err
	}
	missing := func(name string) bool { return ids[name] == "" }
	if !known || slices.ContainsFunc(named, missing) {
		return nil, kmsapi.PolicyPrincipals()
	}
	return ids, nil
}
