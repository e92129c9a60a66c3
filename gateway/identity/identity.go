// Package identity knows who calls and answers the questions about callers
// that clients put to STS. Its operations are plain functions of (context,
// caller, request); routing, authentication, rates and audit are the gateway's.
package identity

import (
	"context"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/session"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// Caller is an authenticated principal.
type Caller struct {
	Kind policy.Kind // AccountRoot, User, RoleSession, WebIdentity; zero before authentication
	// Account is the caller's account, 12 digits; empty before authentication. Of a
	// web identity it is that of the role that it asks for.
	Account string
	// ARN of the principal: the account root, a user, a role session, or the
	// provider of a web identity.
	ARN string
	// UserID as GetCallerIdentity says it: of the root the account id, of a user its
	// unique id, of a role session the role's and the session's name.
	UserID string
	// AccessKeyID that signed the request; empty for a web identity.
	AccessKeyID string
	// Entry of the user, or of the session's role; nil for the root and for web
	// identities.
	Entry *metadata.PrincipalEntry
	// Web is what the token of a web identity says; nil for others.
	Web *WebIdentity
	// Session is what the session token says; nil for long-term keys. Its secret is
	// not in it.
	Session *session.Claims
	// SessionPolicies are the session's, compiled; nil for none.
	SessionPolicies []*policy.Policy
}

// Root is the caller who signed with an access key of an account's root.
func Root(account, accessKeyID string) Caller {
	return Caller{Kind: policy.AccountRoot, Account: account, ARN: arn.Root(account), UserID: account, AccessKeyID: accessKeyID}
}

// Principal is the caller as policies see it.
func (c Caller) Principal() policy.Principal {
	p := policy.Principal{Kind: c.Kind, Account: c.Account, ARN: c.ARN}
	if c.Kind == policy.WebIdentity {
		p.Account = ""
	}
	if c.Entry != nil {
		p.ID = c.Entry.ID
	}
	if c.Kind == policy.RoleSession && c.Entry != nil {
		p.RoleARN = c.Entry.ARN()
	}
	return p
}

// GetCallerIdentityRequest has no members (STS API Reference, GetCallerIdentity).
type GetCallerIdentityRequest struct{}

// GetCallerIdentityResponse says who signed the request.
type GetCallerIdentityResponse struct {
	Arn     string
	UserID  string `xml:"UserId"`
	Account string
}

// GetCallerIdentity needs no permission: no policy can deny it.
func GetCallerIdentity(_ context.Context, c Caller, _ *GetCallerIdentityRequest) (*GetCallerIdentityResponse, error) {
	return &GetCallerIdentityResponse{Arn: c.ARN, UserID: c.UserID, Account: c.Account}, nil
}
