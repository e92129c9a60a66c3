package policy

import "slices"

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

	// KeyPolicy is the policy of the key, or the trust policy of the role. Nil
	// allows nothing.
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

	// Grants are the grants on the key whose grantee is the caller itself: the
	// user, the session or the service. Who the grantee of a grant is, is for the
	// caller of Authorize to find out.
	Grants []*Grant

	// RoleGrants are the grants on the key whose grantee is the role of the
	// caller's session: boundary and session policies still limit them.
	RoleGrants []*Grant

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
	GrantAllows     // a grant to the caller, its role or its account

	KeyPolicyDenies
	IdentityDenies
	BoundaryDenies
	SessionDenies

	NoKeyPolicyAllows
	NoIdentityAllows
	NoBoundaryAllows
	NoSessionAllows

	// Foreign refuses a resource of another account: its policy does not allow,
	// or denies, or the operation is for the own account only, whatever the
	// caller's side says. Callers must not be able to tell it from a key that does
	// not exist.
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
func Authorize(in Input) Decision {
	e := evaluation{Input: &in}
	return e.decide()
}

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
	e := evaluation{Input: &in}
	v := p.evaluate(&e, KeyPolicySource, 0)
	return !v.denied() && v.reach != reachNone
}

// decide evaluates all documents and decides.
func (e *evaluation) decide() Decision {
	if !e.complete() {
		return Decision{}
	}
	e.evaluateAll()
	own := e.Caller.Account == e.Owner
	switch {
	case !own && e.IdentityOnly:
		return Decision{Reason: Foreign}
	case !own && !e.Caller.Kind.accountless():
		return e.foreignKey()
	case e.callerDenied():
		return e.callerDenies()
	case e.IdentityOnly:
		return e.allow(&e.identity, reachAccount, IdentityAllows)
	}
	return e.ownKey()
}

// callerDenied tells whether a document of the caller's side denies.
func (e *evaluation) callerDenied() bool {
	return e.identity.denied() || e.boundary.denied() || e.session.denied()
}

// callerDenies is the refusal of a caller whom its own side denies.
func (e *evaluation) callerDenies() Decision {
	switch {
	case e.identity.denied():
		return e.identity.decision(false, IdentityDenies)
	case e.boundary.denied():
		return e.boundary.decision(false, BoundaryDenies)
	}
	return e.session.decision(false, SessionDenies)
}

// ownKey decides about a key of the caller's account.
func (e *evaluation) ownKey() Decision {
	if e.key.denied() {
		return e.key.decision(false, KeyPolicyDenies)
	}
	d := e.allow(&e.key, e.key.reach, allowedThrough[e.key.reach])
	if d.Allowed {
		return d
	}
	return e.granted(reachDirect, d)
}

// allowedThrough is the reason of an Allow of a key policy for the own account.
var allowedThrough = [...]Reason{
	reachAccount: AccountAllows, reachLimited: KeyPolicyAllows, reachDirect: KeyPolicyAllows,
}

// foreignKey decides about a key of another account: its policy or a grant must
// allow, and the caller's side too. What the caller's side says counts only where
// the key's allows: else callers could read of a key that does not trust them in
// the refusals of a Deny that they wrote themselves.
func (e *evaluation) foreignKey() Decision {
	var d Decision
	switch {
	case e.key.denied():
		return e.key.decision(false, Foreign)
	case !e.CrossAccount:
		return Decision{Reason: Foreign}
	case e.key.reach != reachNone:
		d = e.allow(&e.key, reachAccount, BothSidesAllow)
	default:
		d = e.granted(reachAccount, Decision{Reason: Foreign})
	}
	if d.Reason != Foreign && e.callerDenied() {
		return e.callerDenies()
	}
	return d
}

// allow lays an Allow to the statement of by, unless something holds it back.
func (e *evaluation) allow(by *verdict, r reach, reason Reason) Decision {
	if held := e.held(r); held != Undecided {
		return Decision{Reason: held}
	}
	return by.decision(true, reason)
}

// held tells which side has to allow beside what covers the caller so far, and
// does not; Undecided if nothing is amiss.
func (e *evaluation) held(r reach) Reason {
	e.through = r
	switch {
	case r == reachDirect:
		return Undecided
	case r == reachNone:
		return NoKeyPolicyAllows
	case r == reachAccount && e.Caller.Kind != AccountRoot && e.identity.reach == reachNone:
		return NoIdentityAllows
	case e.Boundary != nil && e.boundary.reach == reachNone:
		return NoBoundaryAllows
	case len(e.Session) > 0 && e.session.reach == reachNone:
		return NoSessionAllows
	}
	return Undecided
}

// granted decides by the grants, which reach no further than most; without any
// that covers the request it is refused as it was.
func (e *evaluation) granted(most reach, refusal Decision) Decision {
	op := grantOperation(e.Action)
	for _, to := range [...]struct {
		grants []*Grant
		reach  reach
	}{{e.Grants, reachDirect}, {e.RoleGrants, reachLimited}, {e.AccountGrants, reachAccount}} {
		g := e.covering(to.grants, to.reach, op)
		if g == nil {
			continue
		}
		held := e.held(min(to.reach, most))
		if held == Undecided {
			return Decision{Allowed: true, Reason: GrantAllows, Grant: g.id}
		}
		refusal = Decision{Reason: held}
	}
	return refusal
}

// covering finds the first grant that covers the request.
func (e *evaluation) covering(grants []*Grant, to reach, op operations) *Grant {
	var first *Grant
	for _, g := range grants {
		failed := g.fails(op, e)
		if e.trace != nil {
			e.trace.addGrant(g, e.Input, to, failed)
		}
		if failed == Nothing && first == nil {
			first = g
			if e.trace == nil {
				break
			}
		}
	}
	return first
}

// sound tells whether the question itself is complete.
func (in *Input) sound() bool {
	return in.Caller.sound() && in.Action != "" && in.Resource != ""
}

// complete tells whether there is all that a decision needs: a document that
// the caller failed to load might deny.
func (in *Input) complete() bool {
	return in.sound() && in.Owner != "" && !(in.IdentityOnly && in.KeyPolicy != nil) &&
		!slices.Contains(in.Identity, nil) && !slices.Contains(in.Session, nil) &&
		!slices.Contains(in.Grants, nil) && !slices.Contains(in.RoleGrants, nil) && !slices.Contains(in.AccountGrants, nil)
}
