package identity

import (
	"context"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/policy"
)

// GetSessionTokenRequest asks for temporary credentials of the caller's own (STS API
// Reference, "GetSessionToken").
type GetSessionTokenRequest struct {
	SessionRequest

	// Not honoured, and refused.
	SerialNumber *string `kms:"len=9..256"`
	TokenCode    *string `kms:"len=6..6,secret"`
}

// GetSessionTokenResponse is the session.
type GetSessionTokenResponse struct {
	Credentials Credentials
	TokenSize
}

const (
	defaultOwnSession  = 12 * time.Hour
	longestRootSession = time.Hour // longer ones are cut to it
)

// GetSessionToken makes a session of the caller, a user or an account's root. It
// needs no permission.
func GetSessionToken(ctx context.Context, r *Request, in *GetSessionTokenRequest) (*GetSessionTokenResponse, error) {
	if r.Caller.Session != nil {
		return nil, &kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: "Cannot call GetSessionToken with session credentials"}
	}
	duration := in.duration(defaultOwnSession)
	c := &session.Claims{Account: r.Caller.Account}
	if r.Caller.Kind == policy.User {
		c.UserName, c.PrincipalID = r.Caller.Entry.Name, r.Caller.Entry.ID
	} else {
		duration = min(duration, longestRootSession)
	}
	credentials, err := issue(ctx, r, c, &in.SessionRequest, duration)
	return &GetSessionTokenResponse{credentials, sizeOf(credentials)}, err
}
