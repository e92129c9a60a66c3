package gateway

import (
	"context"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata/audit"
)

// sts makes a handler of a function of package identity.
func sts[In, Out any](f func(context.Context, identity.Caller, *In) (*Out, error)) func(*call, *In) (work[Out], error) {
	return func(c *call, in *In) (work[Out], error) {
		return work[Out]{do: func(ctx context.Context) (*Out, error) { return f(ctx, c.caller, in) }}, nil
	}
}

// stsAssumes makes a handler of a function that makes a session of a role. The
// record says which; nothing of it is secret.
func stsAssumes[In any, Out any, P interface {
	*Out
	AssumedRole() *identity.Assumed
}](f func(context.Context, *identity.Request, *In) (*Out, error)) func(*call, *In) (work[Out], error) {
	return func(c *call, in *In) (work[Out], error) {
		r := c.iamRequest()
		return work[Out]{do: func(ctx context.Context) (*Out, error) {
			out, err := f(ctx, r, in)
			if err == nil {
				c.event.ResponseElements = assumedElements(P(out).AssumedRole())
			}
			return out, err
		}}, nil
	}
}

// assumedElements are the responseElements of a role that was assumed.
func assumedElements(a *identity.Assumed) audit.Members {
	members := audit.Members{
		credentialsElement(&a.Credentials),
		audit.Object("assumedRoleUser", audit.String("assumedRoleId", a.AssumedRoleUser.AssumedRoleID), audit.String("arn", a.AssumedRoleUser.Arn)),
	}
	if a.SourceIdentity != "" {
		members = append(members, audit.String("sourceIdentity", a.SourceIdentity))
	}
	return members
}

func credentialsElement(credentials *identity.Credentials) audit.Member {
	return audit.Object("credentials", audit.String("accessKeyId", credentials.AccessKeyID), audit.Date("expiration", credentials.Expiration))
}

// confine refuses what a session of a user or root may not do that they made of
// themselves (STS API Reference, "GetSessionToken"): IAM, and STS but for two
// operations.
func (c *call) confine() error {
	s := c.caller.Session
	switch {
	case s == nil, s.RoleName != "":
		return nil
	case c.service == serviceIAM:
		return kmsapi.UnrecognizedClient()
	case c.service == serviceSTS && c.op.name != "GetCallerIdentity" && c.op.name != "AssumeRole":
		return &kmsapi.Error{Code: kmsapi.AccessDeniedException, Message: "Cannot call " + c.op.name + " with session credentials"}
	}
	return nil
}

// getSessionToken is the handler of GetSessionToken.
func getSessionToken(c *call, in *identity.GetSessionTokenRequest) (work[identity.GetSessionTokenResponse], error) {
	r := c.iamRequest()
	return work[identity.GetSessionTokenResponse]{do: func(ctx context.Context) (*identity.GetSessionTokenResponse, error) {
		out, err := identity.GetSessionToken(ctx, r, in)
		if err == nil {
			c.event.ResponseElements = audit.Members{credentialsElement(&out.Credentials)}
		}
		return out, err
	}}, nil
}
