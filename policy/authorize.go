package policy

import "strings"

// Input is one question: may this caller take this action on this resource.
type Input struct {
	Caller Principal

	// Action is service and name, like kms:Decrypt.
	Action string

	// Resource is the ARN of the key, or, with IdentityOnly, of the alias or
	// other resource; "*" for an operation that has none.
	Resource string

	// Owner is the account that owns the resource; the caller's own account for
	// an operation that has none.
	Owner string

	// IdentityOnly is for operations that no key policy governs: those without
	// a resource, and the alias half of operations on aliases.
	IdentityOnly bool

	// KeyPolicy is the policy of the key. Nil allows nothing.
	KeyPolicy *Policy

	// Identity are the policies of the caller, its groups or its role. An
	// account's root needs none, it may do everything.
	Identity []*Policy

	// Boundary is the caller's permissions boundary. Optional.
	Boundary *Policy

	// Session are the policies that the session was made with. Optional.
	Session []*Policy

	// CrossAccount tells that the operation works on keys of other accounts.
	CrossAccount bool

	// Grants are the grants on the key whose grantee is the caller: by its own
	// ARN, or by its role's. Who the grantee of a grant is, is for the caller of
	// Authorize to find out.
	Grants []*Grant

	// AccountGrants are the grants on the key whose grantee is the caller's
	// account: IAM in that account decides who in it may use them.
	AccountGrants []*Grant

	// Granted is what grants' constraints are held against.
	Granted GrantContext

	// Context has the request's condition keys. Nil has none.
	Context Context
}

// Decision is the answer. The zero Decision refuses.
type Decision struct {
	Allowed bool
	Reason  Reason

	// The statement that decided: its document, its place there and its name.
	// Source is NoSource if it was the lack of a statement that decided.
	Source    Source
	Document  int // index in Input.Identity or Input.Session, else 0
	Statement int // index in the document
	Sid       string

	// Grant that allowed, if Reason is GrantAllows.
	Grant string
}

// Reason is the rule that decided.
type Reason uint8

// The reasons. "Denies" is an explicit Deny, "No…Allows" the lack of an Allow.
const (
	Undecided Reason = iota // refused: the Input is incomplete or contradicts itself

	KeyPolicyAllows // by name, by role or by "*"
	AccountAllows   // the key policy allows the account, and the identity's side the caller
	IdentityAllows  // an operation that no key policy governs
	BothSidesAllow  // key of another account: its policy and the identity's side
	GrantAllows     // a grant to the caller

	KeyPolicyDenies
	IdentityDenies
	BoundaryDenies
	SessionDenies

	NoKeyPolicyAllows
	NoIdentityAllows
	NoBoundaryAllows
	NoSessionAllows

	// Foreign refuses a resource of another account: its policy does not allow,
	// or denies, or the operation is for the own account only. Callers must not
	// be able to tell it from a key that does not exist.
	Foreign
)

var reasonNames = [...]string{
	"Undecided",
	"KeyPolicyAllows", "AccountAllows", "IdentityAllows", "BothSidesAllow", "GrantAllows",
	"KeyPolicyDenies", "IdentityDenies", "BoundaryDenies", "SessionDenies",
	"NoKeyPolicyAllows", "NoIdentityAllows", "NoBoundaryAllows", "NoSessionAllows",
	"Foreign",
}

func (r Reason) String() string { return reasonNames[r] }

// Source is the kind of document that a statement stands in.
type Source uint8

// The sources.
const (
	NoSource Source = iota
	KeyPolicySource
	IdentitySource
	BoundarySource
	SessionSource
)

var sourceNames = [...]string{"", "key policy", "identity policy", "permissions boundary", "session policy"}

func (s Source) String() string { return sourceNames[s] }

// Authorize decides. It is safe for concurrent use and does not allocate unless
// a policy variable, a date or a binary value is compared.
//
// IAM User Guide, "Policy evaluation logic"; KMS Developer Guide, "Determining
// access to AWS KMS keys".
func Authorize(in Input) Decision { return authorize(&in, nil) }

// AllowsAlone tells whether p by itself lets a caller do something: the check
// that a new key policy does not lock its writer out. An Allow for the caller's
// account counts; conditions are judged by the request at hand. Of the Input
// only Caller, Action, Resource and Context matter, and that there is a Boundary
// to a Deny with NotPrincipal.
//
// KMS Developer Guide, "Default key policy", on the safety check of PutKeyPolicy.
func (p *Policy) AllowsAlone(in Input) bool {
	if !in.sound() {
		return false
	}
	v := p.evaluate(&in, KeyPolicySource, 0, nil)
	return !v.denied() && v.reach != reachNone
}

// verdicts are what the documents say, each sort of them taken together.
type verdicts struct {
	key, identity, boundary, session verdict
}

func authorize(in *Input, t *Trace) Decision {
	if !in.complete() {
		return Decision{}
	}
	v := verdicts{
		identity: evaluateAll(in.Identity, in, IdentitySource, t),
		session:  evaluateAll(in.Session, in, SessionSource, t),
	}
	if in.Boundary != nil {
		v.boundary = in.Boundary.evaluate(in, BoundarySource, 0, t)
	}
	// Grants alone say who may retire them.
	if in.KeyPolicy != nil && !strings.EqualFold(in.Action, "kms:RetireGrant") {
		v.key = in.KeyPolicy.evaluate(in, KeyPolicySource, 0, t)
	}
	switch own := in.Caller.Account == in.Owner; {
	case v.identity.denied():
		return v.identity.decision(false, IdentityDenies)
	case v.boundary.denied():
		return v.boundary.decision(false, BoundaryDenies)
	case v.session.denied():
		return v.session.decision(false, SessionDenies)
	case in.IdentityOnly && own:
		return v.identitySide(in, IdentityAllows, &v.identity)
	case in.IdentityOnly:
		return Decision{Reason: Foreign}
	case own || in.Caller.Kind.accountless():
		return v.ownKey(in)
	}
	return v.foreignKey(in)
}

// ownKey decides about a key of the caller's account.
func (v *verdicts) ownKey(in *Input) Decision {
	if v.key.denied() {
		return v.key.decision(false, KeyPolicyDenies)
	}
	switch v.key.reach {
	case reachDirect:
		return v.key.decision(true, KeyPolicyAllows)
	case reachLimited:
		if r, limited := v.limit(in); limited {
			return Decision{Reason: r}
		}
		return v.key.decision(true, KeyPolicyAllows)
	case reachAccount:
		return v.identitySide(in, AccountAllows, &v.key)
	case reachNone:
	}
	return Decision{Reason: NoKeyPolicyAllows}
}

// foreignKey decides about a key of another account: both sides must allow.
func (v *verdicts) foreignKey(in *Input) Decision {
	switch {
	case v.key.denied():
		return v.key.decision(false, Foreign)
	case !in.CrossAccount || v.key.reach == reachNone:
		return Decision{Reason: Foreign}
	}
	return v.identitySide(in, BothSidesAllow, &v.key)
}

// identitySide decides by the caller's own policies, their boundary and the
// session's; an Allow is laid to the statement of by.
func (v *verdicts) identitySide(in *Input, r Reason, by *verdict) Decision {
	if in.Caller.Kind != AccountRoot && v.identity.reach == reachNone {
		return Decision{Reason: NoIdentityAllows}
	}
	if none, limited := v.limit(in); limited {
		return Decision{Reason: none}
	}
	return by.decision(true, r)
}

// limit tells whether boundary or session policy hold back what others allow.
func (v *verdicts) limit(in *Input) (Reason, bool) {
	switch {
	case in.Boundary != nil && v.boundary.reach == reachNone:
		return NoBoundaryAllows, true
	case len(in.Session) > 0 && v.session.reach == reachNone:
		return NoSessionAllows, true
	}
	return Undecided, false
}

// sound tells whether the question itself is complete.
func (in *Input) sound() bool {
	return in.Caller.sound() && in.Action != "" && in.Resource != ""
}

// complete tells whether there is all that a decision needs: a document that
// the caller failed to load might deny.
func (in *Input) complete() bool {
	for _, p := range in.Identity {
		if p == nil {
			return false
		}
	}
	for _, p := range in.Session {
		if p == nil {
			return false
		}
	}
	return in.sound() && in.Owner != "" && !(in.IdentityOnly && in.KeyPolicy != nil)
}
