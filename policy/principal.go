package policy

import (
	"slices"
	"strings"

	"kmsgate/gateway/arn"
)

// Kind is what sort of principal is meant.
type Kind uint8

// The kinds. Role stands in documents only: a role calls through a session.
const (
	AccountRoot   Kind = iota + 1 // in a document: the account as a whole
	User                          // arn:aws:iam::<account>:user/<path and name>
	Role                          // arn:aws:iam::<account>:role/<path and name>
	RoleSession                   // arn:aws:sts::<account>:assumed-role/<role name>/<session name>
	FederatedUser                 // arn:aws:sts::<account>:federated-user/<name>
	WebIdentity                   // a token of an identity provider; the provider's ARN or name
	Service                       // the service's name, like logs.eu-west-1.amazonaws.com

	anyone // "*", in documents only
)

// accountless are the principals that belong to no account.
func (k Kind) accountless() bool { return k == WebIdentity || k == Service }

// Principal is who makes a request.
type Principal struct {
	Kind    Kind
	Account string // 12 digits; empty for a web identity or a service
	ARN     string // of the user, session or root; the name of a service or provider
	RoleARN string // of a session's role, with its path; empty for all others
	// ID is the unique id of the user, or of the session's role: what a document
	// that was bound names it by. Empty for all others.
	ID string
}

// sound tells whether p is complete enough to be decided about.
func (p *Principal) sound() bool {
	switch p.Kind {
	case AccountRoot, User, FederatedUser:
		return p.ARN != "" && p.Account != "" && p.RoleARN == ""
	case RoleSession:
		return p.ARN != "" && p.Account != "" && p.RoleARN != ""
	case WebIdentity, Service:
		return p.ARN != "" && p.Account == "" && p.RoleARN == ""
	case Role, anyone:
	}
	return false
}

// Mention is a principal that a document names.
type Mention struct {
	Path    string // the place in the document
	Kind    Kind
	Account string // empty for a provider or a service
	ARN     string // the name of a service or provider
}

// reach is how a statement's principals cover a caller; a greater one is
// bounded by fewer other policies.
//
// IAM User Guide, "Policy evaluation for requests within a single account".
type reach uint8

const (
	reachNone    reach = iota
	reachAccount       // through the account: IAM in that account decides
	reachLimited       // through a role or "*": boundary and session policy still limit
	reachDirect        // by name
)

// reaches tells how n covers a caller.
func (n *named) reaches(p *Principal) reach {
	switch {
	case n.Kind == anyone, n.Kind == Role && n.is(p):
		return reachLimited
	case n.Kind == AccountRoot && p.Account == n.Account:
		return reachAccount
	case n.Kind != AccountRoot && n.is(p):
		return reachDirect
	}
	return reachNone
}

// reach tells how the statement's Principal or NotPrincipal covers a caller.
func (s *statement) reach(p *Principal, bounded bool) reach {
	if s.principals == nil { // an identity's document: it is attached to the caller
		return reachDirect
	}
	best := reachNone
	for i := range s.principals {
		best = max(best, s.principals[i].reaches(p))
	}
	switch {
	case !s.notPrincipal:
		return best
	case s.deny && (bounded || !s.exempts(p)), !s.deny && best == reachNone && !s.lists(p):
		return reachLimited
	}
	return reachNone
}

// lists tells whether a caller's ARN is among the principals, bound or not: an
// Allow with NotPrincipal is not for one who has it again either.
func (s *statement) lists(p *Principal) bool {
	return slices.ContainsFunc(s.principals, func(n named) bool { return n.hasARN(p) })
}

// exempts tells whether a Deny with NotPrincipal leaves a caller alone: all
// that the caller is must be listed, for a role session the account, the role
// and the session.
func (s *statement) exempts(p *Principal) bool {
	account, role, self := p.Kind.accountless(), p.Kind != RoleSession, p.Kind == AccountRoot
	for i := range s.principals {
		n := &s.principals[i]
		switch {
		case n.reaches(p) == reachNone:
		case n.Kind == anyone:
			return true
		case n.Kind == AccountRoot:
			account = true
		case n.Kind == Role:
			role = true
		default:
			self = true
		}
	}
	return account && role && self
}

// principalTypes are the members of a Principal object, each with the parser of
// its values, which returns what is wrong with one.
var principalTypes = map[string]func(string) (m Mention, problem string){
	"AWS":           parseAWSPrincipal,
	"Service":       parseServicePrincipal,
	"Federated":     parseFederatedPrincipal,
	"CanonicalUser": func(string) (Mention, string) { return Mention{}, "canonical users are for S3 only" },
}

// namedPrincipals are the ARNs that may be named: service, kind of resource and
// how many names follow it at least and at most.
var namedPrincipals = []struct {
	service, resource string
	kind              Kind
	least, most       int
}{
	{"iam", "user", User, 1, 64},
	{"iam", "role", Role, 1, 64},
	{"sts", "assumed-role", RoleSession, 2, 2},
	{"sts", "federated-user", FederatedUser, 1, 1},
}

func parseAWSPrincipal(s string) (Mention, string) {
	if s == "*" {
		return Mention{Kind: anyone}, ""
	}
	if arn.IsAccount(s) {
		return Mention{Kind: AccountRoot, Account: s, ARN: arn.Root(s)}, ""
	}
	if strings.ContainsAny(s, "*?") {
		return Mention{}, "wildcards are not allowed in a principal"
	}
	f := strings.Split(s, ":")
	if len(f) != 6 || f[0] != "arn" || f[1] != arn.Partition || f[3] != "" || !arn.IsAccount(f[4]) {
		return Mention{}, "not an account id or the ARN of a principal"
	}
	if s == arn.Root(f[4]) {
		return Mention{Kind: AccountRoot, Account: f[4], ARN: s}, ""
	}
	names := strings.Split(f[5], "/")
	for _, n := range namedPrincipals {
		if f[2] == n.service && names[0] == n.resource && areNames(names[1:], n.least, n.most) {
			return Mention{Kind: n.kind, Account: f[4], ARN: s}, ""
		}
	}
	return Mention{}, "not the ARN of an account, user, role, role session or federated user"
}

// areNames tells whether the parts of a path are names that IAM allows.
func areNames(parts []string, least, most int) bool {
	if len(parts) < least || len(parts) > most {
		return false
	}
	for _, s := range parts {
		if s == "" || strings.Trim(s, nameCharacters) != "" {
			return false
		}
	}
	return true
}

const nameCharacters = lettersAndDigits + "_+=,.@-"

func parseServicePrincipal(s string) (Mention, string) {
	if !strings.Contains(s, ".") || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		return Mention{}, "not the name of a service"
	}
	return Mention{Kind: Service, ARN: s}, ""
}

func parseFederatedPrincipal(s string) (Mention, string) {
	if s == "" || strings.Trim(s, nameCharacters+":/") != "" {
		return Mention{}, "not the ARN or name of an identity provider"
	}
	m := Mention{Kind: WebIdentity, ARN: s}
	if f := strings.Split(s, ":"); len(f) == 6 {
		m.Account = f[4]
	}
	return m, ""
}
