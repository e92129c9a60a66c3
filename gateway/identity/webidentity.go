package identity

import (
	"context"
	"time"

	"github.com/go-jose/go-jose/v4"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/metadata"
)

// AssumeRoleWithWebIdentityRequest asks for a session of a role with a token of an
// OIDC provider (STS API Reference, "AssumeRoleWithWebIdentity"). Nobody signs it.
type AssumeRoleWithWebIdentityRequest struct {
	RoleArn          *string `kms:"required,len=20..2048"`
	RoleSessionName  *string `kms:"required,len=2..64,pattern=IAMName"`
	WebIdentityToken *string `kms:"required,len=4..20000,secret"`
	SessionRequest
	Policy     *string            `kms:"len=1..2048,pattern=Policy"`
	PolicyArns []PolicyDescriptor `xml:"PolicyArns>member"`
	// ProviderID is for tokens of OAuth 2.0, and refused.
	ProviderID *string `xml:"ProviderId" kms:"len=4..2048"`
}

// AssumeRoleWithWebIdentityResponse is the session, and what the token said.
type AssumeRoleWithWebIdentityResponse struct {
	Assumed
	SubjectFromWebIdentityToken string
	Audience                    string
	Provider                    string // the issuer's URL
}

// AssumeRoleWithWebIdentity makes a session of a role that trusts the caller, a web
// identity.
func AssumeRoleWithWebIdentity(ctx context.Context, r *Request, in *AssumeRoleWithWebIdentityRequest) (*AssumeRoleWithWebIdentityResponse, error) {
	role, err := roleOf(ctx, r)
	if err != nil {
		return nil, err
	}
	w := r.Caller.Web
	c := &session.Claims{SessionName: *in.RoleSessionName, Provider: w.Provider, Subject: w.Subject, Audience: w.Audience}
	if err := restrict(ctx, r, c, in.Policy, in.PolicyArns); err != nil {
		return nil, err
	}
	assumed, err := assume(ctx, r, role, c, &in.SessionRequest)
	return &AssumeRoleWithWebIdentityResponse{assumed, w.Subject, w.Audience, w.Issuer}, err
}

// NoProviderID refuses the name of a provider of OAuth 2.0.
func NoProviderID() *kmsapi.Error {
	return validation("ProviderId is for OAuth 2.0 access tokens, which are not supported here.")
}

// Verify returns who the token is of: one that the provider, which must be the
// token's, vouches for. Keys that were uploaded with the provider are the only ones;
// otherwise its issuer is asked.
func (i *Issuers) Verify(ctx context.Context, now time.Time, p *metadata.Provider, t *IDToken) (*WebIdentity, error) {
	keys, err := i.providerKeys(ctx, now, p, t)
	if err != nil {
		return nil, err
	}
	payload, ok := t.payload(keys)
	if !ok {
		return nil, invalidToken("The signature of the token is not valid")
	}
	return identityOf(now, p, t, payload)
}

func (i *Issuers) providerKeys(ctx context.Context, now time.Time, p *metadata.Provider, t *IDToken) ([]jose.JSONWebKey, error) {
	if p.JWKS == "" {
		return i.keys(ctx, now, p.Account, t)
	}
	all, err := parseKeys([]byte(p.JWKS))
	if err != nil {
		return nil, err // it was read when it was uploaded
	}
	keys := usable(all, t)
	if len(keys) == 0 {
		return nil, unknownKey()
	}
	return keys, nil
}
