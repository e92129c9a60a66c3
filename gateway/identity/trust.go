package identity

import (
	"context"
	"errors"
	"maps"
	"slices"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// maxTrust is how many characters a trust policy can have, white space apart (IAM
// User Guide, "IAM and AWS STS quotas").
const maxTrust = 2048

// bindTrust refuses what cannot be the trust policy of a role of the caller's
// account: too long, malformed, letting everybody of an identity provider in, or
// naming principals that do not exist. It returns the unique ids of the users and
// roles in it, by their ARNs.
func (r *Request) bindTrust(ctx context.Context, document string) (map[string]string, error) {
	if documentSize(document) > maxTrust {
		return nil, limitExceeded("ACLSizePerRole", maxTrust)
	}
	trust, err := policy.ParseTrust(document)
	if err != nil {
		return nil, malformedDocument(err)
	}
	if path, bad := trust.FederatedWithoutSubject(); bad {
		return nil, malformedPolicy(path + ": a web identity must be told by its subject, with a condition on <issuer>:sub")
	}
	var named []string
	for _, m := range trust.Principals() {
		named = append(named, m.ARN)
	}
	ids, err := r.Store.PrincipalIDs(ctx, named)
	if err != nil {
		return nil, err
	}
	for _, m := range trust.Principals() {
		known, err := r.knowsTrusted(ctx, m, ids)
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, malformedPolicy("Invalid principal in policy: \"" + trustedTypes[m.Kind] + "\":\"" + m.ARN + "\"")
		}
	}
	return ids, nil
}

// trustedTypes are the members of a Principal element as AWS prints them.
var trustedTypes = map[policy.Kind]string{
	policy.AccountRoot: "AWS", policy.User: "AWS", policy.Role: "AWS", policy.RoleSession: "AWS", policy.FederatedUser: "AWS",
	policy.WebIdentity: "FEDERATED", policy.Service: "SERVICE",
}

// knowsTrusted tells whether a principal that a trust policy names exists here.
func (r *Request) knowsTrusted(ctx context.Context, m policy.Mention, ids map[string]string) (bool, error) {
	switch m.Kind {
	case policy.AccountRoot:
		return r.Store.AccountsExist(ctx, []string{m.Account})
	case policy.User, policy.Role, policy.RoleSession:
		return ids[m.ARN] != "", nil
	case policy.WebIdentity:
		return r.knowsProvider(ctx, m.ARN)
	default: // services have no part here; federated users have no sessions
		return m.Kind == policy.Service, nil
	}
}

// knowsProvider tells whether an ARN is that of an OIDC provider of the caller's
// account.
func (r *Request) knowsProvider(ctx context.Context, provider string) (bool, error) {
	a, ok := arn.ParseIAM(provider)
	if !ok || a.Kind != "oidc-provider" || a.Account != r.Caller.Account {
		return false, nil
	}
	_, err := r.View.Provider(ctx, a.Account, a.Name)
	if errors.Is(err, metadata.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// markDeleted puts unique ids into the trust policies of roles for the users and
// roles that do not exist any more: an ARN may be another's by now.
func (r *Request) markDeleted(ctx context.Context, roles []metadata.Principal) error {
	var named []string
	for i := range roles {
		named = slices.AppendSeq(named, maps.Keys(roles[i].TrustBindings))
	}
	now, err := r.Store.PrincipalIDs(ctx, named)
	if err != nil {
		return err
	}
	for i := range roles {
		gone := maps.Clone(roles[i].TrustBindings)
		maps.DeleteFunc(gone, func(name, id string) bool { return now[name] == id })
		if len(gone) == 0 {
			continue
		}
		if roles[i].Trust, err = policy.ShowPrincipals(roles[i].Trust, gone); err != nil {
			return err
		}
	}
	return nil
}
