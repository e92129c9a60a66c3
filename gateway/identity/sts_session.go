package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/metadata"
)

// Credentials are temporary credentials (STS API Reference, "Credentials").
type Credentials struct {
	AccessKeyID     string `xml:"AccessKeyId"`
	SecretAccessKey kmsapi.Secret
	SessionToken    string
	Expiration      time.Time
}

// AssumedRoleUser is a session of a role (STS API Reference, "AssumedRoleUser").
type AssumedRoleUser struct {
	AssumedRoleID string `xml:"AssumedRoleId"` // the role's unique id and the session's name
	Arn           string
}

// Assumed is what every operation answers that assumes a role.
type Assumed struct {
	Credentials     Credentials
	AssumedRoleUser AssumedRoleUser
	// PackedPolicySize is how much of the room for session policies and tags is
	// taken, in per cent; absent if there are none.
	PackedPolicySize int    `xml:",omitempty"`
	SourceIdentity   string `xml:",omitempty"`
	TokenSize
}

// TokenSize is how large the token of a session is.
type TokenSize struct {
	SessionTokenSize        int // characters
	SessionTokenUtilization int // of what a token can have, in per cent
}

func sizeOf(c Credentials) TokenSize {
	n := len(c.SessionToken)
	return TokenSize{n, (n*100 + session.MaxToken - 1) / session.MaxToken}
}

// SessionRequest is what every request for a session has.
type SessionRequest struct {
	// DurationSeconds is 3600 if absent, and 43200 for GetSessionToken.
	DurationSeconds *int32 `kms:"range=900..129600"`
	// MinimumSessionTokenSize is what the token is padded to, in characters.
	MinimumSessionTokenSize *int32 `kms:"range=0..4096"`
}

// duration is how long the session is to be.
func (r *SessionRequest) duration(otherwise time.Duration) time.Duration {
	if r.DurationSeconds == nil {
		return otherwise
	}
	return time.Duration(*r.DurationSeconds) * time.Second
}

// AssumedRole is the session that was made; of a response of any such operation.
func (a *Assumed) AssumedRole() *Assumed { return a }

// issue makes the credentials of a session, valid for the duration given. All but
// the times and the access key are in the claims.
func issue(ctx context.Context, r *Request, c *session.Claims, in *SessionRequest, duration time.Duration) (Credentials, error) {
	random, err := r.Token.Random(ctx, sealCall(c.Account), secretKeyBytes)
	if err != nil {
		return Credentials{}, err
	}
	defer clear(random)
	c.AccessKeyID = newID("ASIA")[:accessKeyIDLength]
	c.Secret = base64.StdEncoding.AppendEncode(nil, random)
	c.IssuedAt = r.Now
	c.ExpiresAt = r.Now.Add(duration).Truncate(time.Second).UTC()
	token, err := r.SealSession(ctx, c, int(kmsapi.Or(in.MinimumSessionTokenSize, 0)))
	if err != nil {
		clear(c.Secret)
		if errors.Is(err, session.ErrTooLarge) {
			err = packedPolicyTooLarge(session.PackedPercent(c))
		}
		return Credentials{}, err
	}
	return Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.Secret, SessionToken: token, Expiration: c.ExpiresAt}, nil
}

// DefaultSession is how long a session of a role is if the request does not say.
const DefaultSession = time.Hour

// assume makes a session of a role; the claims have what the request said of it.
func assume(ctx context.Context, r *Request, role *metadata.PrincipalEntry, c *session.Claims, in *SessionRequest) (Assumed, error) {
	duration := in.duration(DefaultSession)
	switch {
	case c.Chained && duration > longestChained:
		return Assumed{}, chainedTooLong()
	case duration > role.MaxSession:
		return Assumed{}, sessionTooLong()
	}
	c.Account, c.RoleName, c.PrincipalID = role.Account, role.Name, role.ID
	credentials, err := issue(ctx, r, c, in, duration)
	if err != nil {
		return Assumed{}, err
	}
	return Assumed{
		Credentials: credentials, PackedPolicySize: session.PackedPercent(c), SourceIdentity: c.SourceIdentity, TokenSize: sizeOf(credentials),
		AssumedRoleUser: AssumedRoleUser{role.ID + ":" + c.SessionName, arn.RoleSession(role.Account, role.Name, c.SessionName)},
	}, nil
}

// roleOf is the role that a request is on. It exists, or nobody would have been
// allowed to assume it.
func roleOf(ctx context.Context, r *Request) (*metadata.PrincipalEntry, error) {
	return r.View.Principal(ctx, r.Target.Account, metadata.Role, r.Target.Name)
}

// PolicyDescriptor names a managed policy (STS API Reference, "PolicyDescriptorType").
type PolicyDescriptor struct {
	ARN *string `xml:"arn" kms:"len=20..2048"`
}

// maxSessionPolicies is how many managed policies a session can be made with.
const maxSessionPolicies = 10

// restrict puts the session policies of a request into the claims: the managed ones
// must be of the role's account, and there.
func restrict(ctx context.Context, r *Request, c *session.Claims, document *string, managed []PolicyDescriptor) error {
	if document != nil {
		if err := checkDocument(*document); err != nil {
			return err
		}
		c.Policies = []string{*document}
	}
	if len(managed) > maxSessionPolicies {
		return validation("You can pass up to " + strconv.Itoa(maxSessionPolicies) + " managed policy ARNs.")
	}
	for _, p := range managed {
		name := kmsapi.Or(p.ARN, "")
		if err := findManaged(ctx, r, name); err != nil {
			return err
		}
		c.PolicyARNs = append(c.PolicyARNs, name)
	}
	return nil
}

// findManaged refuses a managed policy unless it is there, in the role's account.
func findManaged(ctx context.Context, r *Request, name string) error {
	missing := validation("The managed policy " + name + " is not one of the role's account.")
	a, ok := arn.ParseIAM(name)
	if !ok || a.Kind != "policy" || a.Account != r.Target.Account {
		return missing
	}
	entry, err := r.View.ManagedPolicy(ctx, a.Account, a.Name)
	if errors.Is(err, metadata.ErrNotFound) || err == nil && entry.ARN() != name {
		return missing
	}
	return err
}

// NoMFA refuses the code of a device: there is no multi-factor authentication here.
func NoMFA() *kmsapi.Error {
	return &kmsapi.Error{
		Code:    kmsapi.AccessDeniedException,
		Message: "MultiFactorAuthentication failed: multi-factor authentication is not supported here. Leave out SerialNumber and TokenCode.",
	}
}

// NoContexts refuses the contexts of trusted identities.
func NoContexts() *kmsapi.Error { return validation("ProvidedContexts is not supported here.") }

func validation(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.ValidationError, Message: text}
}

func chainedTooLong() *kmsapi.Error {
	return validation("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
}

func sessionTooLong() *kmsapi.Error {
	return validation("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
}

func packedPolicyTooLarge(percent int) *kmsapi.Error {
	text := "Packed policy consumes " + strconv.Itoa(percent) + "% of allotted space, please use smaller policy."
	return &kmsapi.Error{Code: awsquery.PackedPolicyTooLarge, Message: text}
}
