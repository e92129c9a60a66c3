package gateway

import (
	"errors"
	"strings"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

// identifyWebIdentity makes the web identity the caller whose token the request has.
// The provider must be one of the account of the role that it asks for.
func identifyWebIdentity(c *call, in any) error {
	request := in.(*identity.AssumeRoleWithWebIdentityRequest)
	if c.roleless {
		c.event.RequestParameters = nil // the role is none that anybody asks for
	}
	role, ok := arn.ParseIAM(*request.RoleArn)
	if !ok || role.Kind != "role" {
		return &kmsapi.Error{Code: awsquery.ValidationError, Message: *request.RoleArn + " is invalid"}
	}
	token, err := identity.ParseIDToken(*request.WebIdentityToken)
	if err != nil {
		return err
	}
	provider, err := c.view.Provider(c.ctx, role.Account, token.Issuer())
	if errors.Is(err, metadata.ErrNotFound) {
		return identity.NoProvider(token)
	}
	if err != nil {
		return err
	}
	web, err := c.gateway.issuers.Verify(c.ctx, c.now, provider, token)
	if failed, ok := errors.AsType[*identity.IssuerError](err); ok {
		c.detail = failed.Error()
		return failed.Wire()
	}
	if err != nil {
		return err
	}
	c.admitWebIdentity(provider, web)
	if c.roleless {
		return noAssociation()
	}
	return nil
}

// admitWebIdentity makes a verified web identity the caller.
func (c *call) admitWebIdentity(p *metadata.Provider, w *identity.WebIdentity) {
	id := p.URL + ":" + w.Audience + ":" + w.Subject
	c.setCaller(
		identity.Caller{Kind: policy.WebIdentity, Account: p.Account, ARN: p.ARN(), UserID: id, Web: w},
		audit.UserIdentity{Type: audit.WebIdentityUser, PrincipalID: id, UserName: w.Subject, IdentityProvider: p.ARN()},
	)
	c.claims = make(map[string][]string, len(w.Claims))
	for name, values := range w.Claims {
		c.claims[strings.ToLower(p.URL)+":"+name] = values
	}
}
