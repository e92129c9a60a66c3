package gateway

import (
	"strconv"
	"strings"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/session"
	"kmsgate/policy"
)

// callerFacts are about who calls. Of a web identity, which is nobody yet, there are
// only its claims and who vouches for it.
var callerFacts = map[string]func(*facts) []string{
	"aws:federatedprovider":     (*facts).federatedProvider,
	"aws:principalaccount":      func(f *facts) []string { return one(f.call.caller.Principal().Account) },
	"aws:principalarn":          (*facts).principalARN,
	"aws:principalisawsservice": func(*facts) []string { return one("false") },
	"aws:principaltype":         func(f *facts) []string { return one(principalTypes[f.call.caller.Kind]) },
	"aws:userid":                func(f *facts) []string { return one(f.call.caller.UserID) },
	"aws:username":              (*facts).userName,

	"aws:multifactorauthpresent": ofSession(func(s *session.Claims) string { return strconv.FormatBool(s.MFA) }),
	"aws:sourceidentity":         ofSession(func(s *session.Claims) string { return s.SourceIdentity }),
	"aws:tokenissuetime":         ofSession(func(s *session.Claims) string { return s.IssuedAt.UTC().Format(time.RFC3339) }),
}

// principalTypes are the values of aws:PrincipalType.
var principalTypes = map[policy.Kind]string{
	policy.AccountRoot: "Account", policy.User: "User", policy.RoleSession: "AssumedRole",
}

// ofSession is a fact of callers with temporary credentials.
func ofSession(property func(*session.Claims) string) func(*facts) []string {
	return func(f *facts) []string {
		if s := f.call.caller.Session; s != nil {
			return one(property(s))
		}
		return nil
	}
}

// principalARN is the caller's ARN, of a role's session that of the role.
func (f *facts) principalARN() []string {
	caller := &f.call.caller
	switch caller.Kind {
	case policy.RoleSession:
		return one(caller.Entry.ARN())
	case policy.WebIdentity:
		return nil
	}
	return one(caller.ARN)
}

func (f *facts) userName() []string {
	if f.call.caller.Kind != policy.User {
		return nil
	}
	return one(f.call.caller.Entry.Name)
}

// federatedProvider is the ARN of the provider that vouches, or vouched when the
// session was made, for a web identity.
func (f *facts) federatedProvider() []string {
	if f.call.caller.Kind == policy.WebIdentity {
		return one(f.call.caller.ARN)
	}
	return ofSession(func(s *session.Claims) string { return s.Provider })(f)
}

// claim is what the token of a web identity says: a key begins with the issuer. Its
// subject and audience stay known in the session that was made with it.
func (f *facts) claim(key string) []string {
	s := f.call.caller.Session
	if s == nil || s.Provider == "" {
		return f.call.claims[key]
	}
	provider, _ := arn.ParseIAM(s.Provider)
	switch issuer := strings.ToLower(provider.Name); key {
	case issuer + ":sub":
		return one(s.Subject)
	case issuer + ":aud":
		return one(s.Audience)
	}
	return nil
}

// iamFacts are about requests to IAM and STS.
var iamFacts = map[string]func(*facts) []string{
	"iam:permissionsboundary": (*facts).permissionsBoundary,
	"iam:policyarn":           func(f *facts) []string { return f.text("PolicyArn") },
	"sts:durationseconds":     (*facts).sessionSeconds,
	"sts:externalid":          func(f *facts) []string { return f.text("ExternalId") },
	"sts:rolesessionname":     func(f *facts) []string { return f.text("RoleSessionName") },
	"sts:sourceidentity":      func(f *facts) []string { return f.text("SourceIdentity") },
	"sts:transitivetagkeys":   func(f *facts) []string { return f.list("TransitiveTagKeys") },
}

// sessionSeconds is how long the session is to be, which a request need not say.
func (f *facts) sessionSeconds() []string {
	if _, asks := f.call.op.fields["DurationSeconds"]; !asks {
		return nil
	}
	if sent := f.number("DurationSeconds"); sent != nil {
		return sent
	}
	return one(strconv.Itoa(int(identity.DefaultSession / time.Second)))
}

// permissionsBoundary is the boundary that the request sets, or that the user or
// role has.
func (f *facts) permissionsBoundary() []string {
	if sent := f.text("PermissionsBoundary"); sent != nil || f.resource == nil || f.resource.entry == nil {
		return sent
	}
	return one(f.resource.entry.Boundary)
}
