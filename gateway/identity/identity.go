// Package identity knows who calls and answers the questions about callers
// that clients put to STS. Its operations are plain functions of (context,
// caller, request); routing, authentication, rates and audit are the gateway's.
package identity

import (
	"context"

	"kmsgate/gateway/arn"
	"kmsgate/policy"
)

// Caller is an authenticated principal.
type Caller struct {
	// Account is the caller's account, 12 digits; empty before authentication.
	Account string
	// ARN of the principal: the account root, a user, or a role session.
	ARN string
	// UserID is the principal's unique id; for the root the account id.
	UserID string
	// AccessKeyID that signed the request.
	AccessKeyID string
}

// Root is the caller who signed with an access key of an account's root.
func Root(account, accessKeyID string) Caller {
	return Caller{Account: account, ARN: arn.Root(account), UserID: account, AccessKeyID: accessKeyID}
}

// Principal is the caller as policies see it.
func (c Caller) Principal() policy.Principal {
	return policy.Principal{Kind: policy.AccountRoot, Account: c.Account, ARN: c.ARN}
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
