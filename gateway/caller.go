package gateway

import (
	"errors"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/gateway/sigv4"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

// signer is whose credentials signed a request: a long-term access key, or those of
// a session.
type signer struct {
	key    *metadata.AccessKey // nil for a session
	claims *session.Claims     // nil for an access key
}

// forget clears the secret of a session, once it was used.
func (s *signer) forget() {
	if s.claims != nil {
		clear(s.claims.Secret)
		s.claims.Secret = nil
	}
}

// signerOf is the signer that a signature claims, if it is one and good. Of a
// session the call owns the claims, and clears their secret.
func (c *call) signerOf(s *sigv4.Signature) (signer, error) {
	if s.Token == "" {
		key, err := c.activeKey(s.AccessKeyID)
		return signer{key: key}, err
	}
	if !isAccessKeyID(s.AccessKeyID) {
		return signer{}, kmsapi.UnrecognizedClient()
	}
	claims, err := c.openSession(s.Token, s.AccessKeyID)
	return signer{claims: claims}, err
}

func (c *call) activeKey(id string) (*metadata.AccessKey, error) {
	if !isAccessKeyID(id) {
		return nil, kmsapi.UnrecognizedClient()
	}
	key, err := c.view.AccessKey(c.ctx, id)
	if errors.Is(err, metadata.ErrNotFound) || err == nil && key.Status != metadata.AccessKeyActive {
		return nil, kmsapi.UnrecognizedClient()
	}
	return key, err
}

// admitCaller makes the signer of a verified signature the caller, if the principal
// is there that the credentials were made for.
func (c *call) admitCaller(by signer) error {
	caller, err := c.callerOf(by)
	if err != nil {
		return err
	}
	c.signer = by
	c.setCaller(caller, recorded(caller))
	return nil
}

// setCaller notes who calls, and how the record says it.
func (c *call) setCaller(caller identity.Caller, recorded audit.UserIdentity) {
	c.caller, c.identity = caller, recorded
	c.event.Identity, c.event.RecipientAccount = recorded, caller.Account
}

// admitAgain is admitCaller for a call that is decided anew: the access key and the
// principal must still be good.
func (c *call) admitAgain() error {
	if c.op != nil && c.op.anonymous {
		return c.op.identify(c, c.in)
	}
	by := c.signer
	if by.key != nil {
		key, err := c.activeKey(by.key.ID)
		if err != nil {
			return err
		}
		if key.Account != by.key.Account || key.User != by.key.User {
			return kmsapi.UnrecognizedClient()
		}
		by.key = key
	}
	return c.admitCaller(by)
}

// callerOf is the principal that a signer signs for.
func (c *call) callerOf(by signer) (identity.Caller, error) {
	if by.claims == nil {
		if by.key.User == "" {
			return identity.Root(by.key.Account, by.key.ID), nil
		}
		entry, err := c.principal(by.key.Account, metadata.User, by.key.User)
		if err != nil {
			return identity.Caller{}, err
		}
		return userCaller(entry, by.key.ID), nil
	}
	caller, err := c.sessionCaller(by.claims)
	if err != nil {
		return identity.Caller{}, err
	}
	caller.Session = by.claims
	caller.SessionPolicies, err = c.sessionPolicies(by.claims)
	return caller, err
}

func userCaller(entry *metadata.PrincipalEntry, accessKeyID string) identity.Caller {
	return identity.Caller{
		Kind: policy.User, Account: entry.Account, ARN: entry.ARN(), UserID: entry.ID, AccessKeyID: accessKeyID, Entry: entry,
	}
}

// sessionCaller is the principal of a session. It must be the one that the session
// was made for, and not another of the same name.
func (c *call) sessionCaller(s *session.Claims) (identity.Caller, error) {
	kind, name := metadata.Role, s.RoleName
	switch {
	case s.RoleName != "":
	case s.UserName != "":
		kind, name = metadata.User, s.UserName
	default:
		return identity.Root(s.Account, s.AccessKeyID), nil
	}
	entry, err := c.principal(s.Account, kind, name)
	if err != nil {
		return identity.Caller{}, err
	}
	if entry.ID != s.PrincipalID || s.IssuedAt.Before(entry.RevokedBefore) {
		return identity.Caller{}, kmsapi.UnrecognizedClient()
	}
	if kind == metadata.User {
		return userCaller(entry, s.AccessKeyID), nil
	}
	return identity.Caller{
		Kind: policy.RoleSession, Account: entry.Account, ARN: arn.RoleSession(entry.Account, entry.Name, s.SessionName),
		UserID: entry.ID + ":" + s.SessionName, AccessKeyID: s.AccessKeyID, Entry: entry,
	}, nil
}

// principal is the user or role behind credentials.
func (c *call) principal(account string, kind metadata.PrincipalKind, name string) (*metadata.PrincipalEntry, error) {
	entry, err := c.view.Principal(c.ctx, account, kind, name)
	if errors.Is(err, metadata.ErrNotFound) {
		return nil, kmsapi.UnrecognizedClient()
	}
	return entry, err
}

// recordedTypes are the record's words for kinds of callers.
var recordedTypes = map[policy.Kind]audit.IdentityType{
	policy.AccountRoot: audit.Root, policy.User: audit.IAMUser, policy.RoleSession: audit.AssumedRole,
}

// recorded is a caller as the record has it.
func recorded(caller identity.Caller) audit.UserIdentity {
	u := audit.UserIdentity{
		Type: recordedTypes[caller.Kind], PrincipalID: caller.UserID, ARN: caller.ARN, Account: caller.Account, AccessKeyID: caller.AccessKeyID,
	}
	if caller.Kind == policy.User {
		u.UserName = caller.Entry.Name
	}
	s := caller.Session
	if s == nil {
		return u
	}
	u.Session = &audit.Session{Created: s.IssuedAt, MFA: s.MFA, FederatedProvider: s.Provider}
	if caller.Kind == policy.RoleSession {
		role := caller.Entry
		u.Session.Issuer = audit.Issuer{PrincipalID: role.ID, ARN: role.ARN(), Account: role.Account, UserName: role.Name}
	}
	return u
}
