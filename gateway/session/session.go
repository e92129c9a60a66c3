// Package session has the tokens of temporary credentials: what a session is, and
// how it is sealed into a token that any instance opens without asking anybody.
// It is pure; where the keys come from and whether the principal still exists is
// for others to say.
package session

import (
	"errors"
	"maps"
	"slices"
	"time"

	"kmsgate/gateway/kmsapi"
)

// Claims are what a token says of its session. Times are kept to the microsecond.
type Claims struct {
	AccessKeyID string        // ASIA…
	Secret      kmsapi.Secret // the secret access key; the holder of Claims clears it
	IssuedAt    time.Time
	ExpiresAt   time.Time

	Account string
	// The session is one of a role if RoleName is not empty, of a user if UserName
	// is not (GetSessionToken), and else of the account's root.
	RoleName string
	UserName string
	// PrincipalID is the unique id of the role or user when the session was made.
	PrincipalID string
	SessionName string // of a role's session

	SourceIdentity string            // Optional.
	Tags           map[string]string // session tags: aws:PrincipalTag
	TransitiveTags []string          // keys of those that go on to sessions made from this one
	Policies       []string          // documents of session policies
	PolicyARNs     []string          // managed policies as session policies, of Account
	Chained        bool              // made with another role's session
	MFA            bool

	// Of a web identity.
	Provider string // ARN of the OIDC provider; empty for others
	Subject  string
	Audience string
}

// Errors of sealing and opening a token.
var (
	// ErrInvalid says that a token is none of ours, or not of this access key.
	ErrInvalid = errors.New("not a token of ours, or not of this access key")
	// ErrExpired says that a session is over.
	ErrExpired = errors.New("the session is over")
	// ErrTooLarge says that the policies and tags of a session do not fit into a token.
	ErrTooLarge = errors.New("the session does not fit into a token")
)

// Clone is a copy that shares nothing with c that anybody writes to.
func (c *Claims) Clone() *Claims {
	copied := *c
	copied.Secret = slices.Clone(c.Secret)
	copied.Tags = maps.Clone(c.Tags)
	copied.TransitiveTags = slices.Clone(c.TransitiveTags)
	copied.Policies, copied.PolicyARNs = slices.Clone(c.Policies), slices.Clone(c.PolicyARNs)
	return &copied
}
