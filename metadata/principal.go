package metadata

import (
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/policy"
)

// PrincipalKind says whether a principal is a user, a group or a role.
type PrincipalKind string

// Kinds of principals. A group never calls.
const (
	User  PrincipalKind = "user"
	Group PrincipalKind = "group"
	Role  PrincipalKind = "role"
)

// Principal is a user, a group or a role of an account.
type Principal struct {
	Account   string
	Kind      PrincipalKind
	Name      string
	Path      string // "/" if it was made without one
	ID        string // unique, never given again: AIDA…, AGPA…, AROA…
	CreatedAt time.Time
	// Boundary is the ARN of the managed policy that is its permissions boundary;
	// empty for none, and for groups.
	Boundary string

	// Of roles only.
	Description   string
	Trust         string            // document: who may assume it
	TrustBindings map[string]string // ARN of each user and role in it, and its unique id
	MaxSession    time.Duration
	RevokedBefore time.Time // sessions issued before are not good any more; zero for none
}

// ARN is the principal's ARN.
func (p *Principal) ARN() string {
	switch p.Kind {
	case Group:
		return arn.Group(p.Account, p.Path, p.Name)
	case Role:
		return arn.Role(p.Account, p.Path, p.Name)
	default:
		return arn.User(p.Account, p.Path, p.Name)
	}
}

// NamedPolicy is a compiled policy of an identity and where it comes from.
type NamedPolicy struct {
	// Name of an inline policy, ARN of a managed one.
	Name string
	// Of is the ARN of the user, group or role that it belongs to.
	Of     string
	Policy *policy.Policy
}

// PrincipalEntry is all that a request needs to know of a user, a group or a role.
// Entries come from the cache and are shared: nobody writes to them.
type PrincipalEntry struct {
	Principal
	Tags []Tag
	// Policies are its inline and attached policies, and those of its groups.
	Policies []NamedPolicy
	// Identity are the same, compiled, in the same order: as policy.Input wants them.
	Identity []*policy.Policy
	// BoundaryPolicy is nil if there is no boundary.
	BoundaryPolicy *policy.Policy
	// TrustPolicy is a role's, bound; nil for all others.
	TrustPolicy *policy.Policy
}
