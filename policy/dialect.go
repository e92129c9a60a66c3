package policy

import (
	"slices"
	"strings"
)

// dialect is a sort of document: what it has beside the language that all share.
type dialect struct {
	name    string   // as the object of "is not for"
	without []string // elements of a statement that it does not have

	principals bool // statements name principals
	resources  bool // statements name resources, else they are about the one that the document belongs to
	kms        bool // key policies: free Sids, inert statements, and keys that they do not see
	sts        bool // trust policies: actions on roles only
}

var (
	keyDialect      = dialect{name: "key policies", principals: true, resources: true, kms: true}
	identityDialect = dialect{
		name: "policies of an identity", resources: true,
		without: []string{"Principal", "NotPrincipal"},
	}
	trustDialect = dialect{
		name: "trust policies", principals: true, sts: true,
		without: []string{"NotPrincipal", "NotAction", "Resource", "NotResource"},
	}
)

// lacks refuses elements that the document's sort does not have.
func (c *compiler) lacks(path string, statement node) {
	for _, m := range statement.members {
		if slices.Contains(c.dialect.without, m.name) {
			c.fail(within(path, m.name), "is not for "+c.dialect.name)
		}
	}
}

// webIdentityAction is what a web identity does with a role.
const webIdentityAction = "sts:AssumeRoleWithWebIdentity"

// trustActions are the actions on a role that its trust policy decides.
//
// Service Authorization Reference, "Actions defined by AWS Security Token Service".
var trustActions = []string{
	"sts:AssumeRole", "sts:AssumeRoleWithSAML", webIdentityAction,
	"sts:TagSession", "sts:SetSourceIdentity", "sts:SetContext",
}

// isTrustAction tells whether an action of a trust policy, given as text and as
// pattern, is of STS and covers an action on roles.
func isTrustAction(s string, p *pattern) bool {
	service, _, _ := strings.Cut(s, ":")
	return strings.EqualFold(service, "sts") && slices.ContainsFunc(trustActions, func(a string) bool { return p.matches(a, nil) })
}

// subjectOperators are the condition operators that only a request with the key
// passes, and with a value of the document's.
var subjectOperators = []string{"StringEquals", "StringEqualsIgnoreCase", "StringLike"}

// FederatedWithoutSubject finds a statement of a trust policy that lets every
// identity of a provider in: one that allows sts:AssumeRoleWithWebIdentity to a
// provider or to "*" without asking for the subject, by StringEquals,
// StringEqualsIgnoreCase or StringLike on the provider's key "…:sub" with a value
// that is more than wildcards. path is the statement's place.
//
// IAM User Guide, "Create a role for OpenID Connect federation".
func (p *Policy) FederatedWithoutSubject() (path string, bad bool) {
	for i := range p.statements {
		s := &p.statements[i]
		if !s.deny && s.federated() && s.matchesAction(webIdentityAction) && !slices.ContainsFunc(s.conditions, condition.asksSubject) {
			return s.path, true
		}
	}
	return "", false
}

// federated tells whether a provider's identities are among the principals.
func (s *statement) federated() bool {
	return slices.ContainsFunc(s.principals, func(n named) bool { return n.Kind == WebIdentity || n.Kind == anyone })
}

// asksSubject tells whether the condition holds for chosen subjects only.
func (c condition) asksSubject() bool {
	return strings.HasSuffix(c.key, ":sub") &&
		slices.Contains(subjectOperators, strings.TrimPrefix(c.operator, forAnyValue)) &&
		!slices.ContainsFunc(c.wanted, func(s string) bool { return strings.Trim(s, "*?") == "" })
}
