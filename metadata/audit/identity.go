package audit

import (
	"strconv"
	"time"
)

// IdentityType says what kind of caller a [UserIdentity] names.
type IdentityType string

// Kinds of callers (CloudTrail User Guide, "CloudTrail userIdentity element").
const (
	Root            IdentityType = "Root"            // the root of an account
	IAMUser         IdentityType = "IAMUser"         // a user
	AssumedRole     IdentityType = "AssumedRole"     // a session of a role
	AWSAccount      IdentityType = "AWSAccount"      // a principal of another account
	AWSService      IdentityType = "AWSService"      // the service itself
	WebIdentityUser IdentityType = "WebIdentityUser" // somebody whom an OIDC provider vouches for
	Unknown         IdentityType = "Unknown"         // a caller that was not authenticated
)

// UserIdentity is who made a request. Empty fields are left out; every field
// is cut to 256 bytes.
type UserIdentity struct {
	Type        IdentityType
	PrincipalID string
	ARN         string
	Account     string
	AccessKeyID string // for an unknown caller the one that it claims
	UserName    string
	Session     *Session // Optional. For temporary credentials.
	// IdentityProvider is the ARN of a WebIdentityUser's provider.
	IdentityProvider string
	InvokedBy        string
}

// Session is the session of temporary credentials.
type Session struct {
	Created time.Time
	MFA     bool
	Issuer  Issuer // Optional. For an AssumedRole.
	// FederatedProvider names who vouched for a web identity. Optional.
	FederatedProvider string
}

// Issuer is the role that a session was made from.
type Issuer struct {
	PrincipalID string
	ARN         string
	Account     string
	UserName    string // the role's name
}

// Internal is the identity of what the service does by itself for an account;
// account may be empty.
func Internal(account string) UserIdentity {
	return UserIdentity{Type: AWSService, Account: account, InvokedBy: internalCaller}
}

func (u *UserIdentity) appendJSON(b []byte) []byte {
	b = append(b, `{"type":`...)
	b = appendString(b, string(u.Type))
	b = appendIdentifier(b, "principalId", u.PrincipalID)
	b = appendIdentifier(b, "arn", u.ARN)
	b = appendIdentifier(b, "accountId", u.Account)
	b = appendIdentifier(b, "accessKeyId", u.AccessKeyID)
	b = appendIdentifier(b, "userName", u.UserName)
	b = appendIdentifier(b, "identityProvider", u.IdentityProvider)
	if u.Session != nil {
		b = append(b, `,"sessionContext":`...)
		b = u.Session.appendJSON(b)
	}
	b = appendIdentifier(b, "invokedBy", u.InvokedBy)
	return append(b, '}')
}

func (s *Session) appendJSON(b []byte) []byte {
	b = append(b, `{"sessionIssuer":{`...)
	if s.Issuer != (Issuer{}) {
		b = append(b, `"type":"Role"`...)
		b = appendIdentifier(b, "principalId", s.Issuer.PrincipalID)
		b = appendIdentifier(b, "arn", s.Issuer.ARN)
		b = appendIdentifier(b, "accountId", s.Issuer.Account)
		b = appendIdentifier(b, "userName", s.Issuer.UserName)
	}
	b = append(b, '}')
	if s.FederatedProvider != "" {
		b = append(b, `,"webIdFederationData":{"federatedProvider":`...)
		b = appendString(b, cut(s.FederatedProvider, maxIdentifierBytes))
		b = append(b, `,"attributes":{}}`...)
	}
	b = append(b, `,"attributes":{"creationDate":"`...)
	b = s.Created.UTC().AppendFormat(b, eventTimeLayout)
	b = append(b, `","mfaAuthenticated":"`...)
	b = strconv.AppendBool(b, s.MFA)
	return append(b, `"}}`...)
}

func appendIdentifier(b []byte, name, value string) []byte {
	return appendOptional(b, name, cut(value, maxIdentifierBytes))
}
