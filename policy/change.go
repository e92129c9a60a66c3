package policy

import (
	"slices"
	"strings"
)

// namings are how callers are named in a statement's Principal, and which can be
// grantees. Federated users can be neither.
var namings = map[Kind]struct {
	member  string
	grantee bool
}{
	AccountRoot: {"AWS", true},
	User:        {"AWS", true},
	RoleSession: {"AWS", true},
	WebIdentity: {"Federated", false},
	Service:     {"Service", false},
}

// lasting is the ARN that stands for a caller in documents: of a session its role's.
func (p *Principal) lasting() string {
	if p.Kind == RoleSession {
		return p.RoleARN
	}
	return p.ARN
}

// addStatement is a change that adds a statement for the action to a document; one
// of a resource names a principal.
func (a *adviser) addStatement(to Source, principalType, principal string) Change {
	n := node{kind: object}
	n.put("Effect", textNode("Allow"))
	resource := a.in.Resource
	if to == KeyPolicySource {
		p := node{kind: object}
		p.put(principalType, textNode(principal))
		n.put("Principal", p)
		resource = "*"
	}
	n.put("Action", textNode(a.in.Action))
	if to != KeyPolicySource || a.in.KeyPolicy.dialect.resources {
		n.put("Resource", textNode(resource))
	}
	if a.in.Caller.Kind == WebIdentity {
		n.put("Condition", a.subject())
	}
	return Change{Kind: AddStatement, Source: to, JSON: n.layout(), Text: additions[to]}
}

// additions are what AddStatement says.
var additions = map[Source]string{
	KeyPolicySource: "Add a statement to the key policy, or to the trust policy of the role.",
	IdentitySource:  "Add a statement to a policy of the caller, of a group of it, or of its role.",
	BoundarySource:  "Add a statement to the permissions boundary.",
	SessionSource:   "Make the session with a session policy that has this statement too.",
}

// subject is the condition on a web identity's subject, without which its provider
// must not be trusted.
func (a *adviser) subject() node {
	_, issuer, _ := strings.Cut(a.in.Caller.ARN, ":oidc-provider/")
	key := issuer + ":sub"
	values := node{kind: list}
	for _, v := range lookUp(a.in.Context, strings.ToLower(key)) {
		values.items = append(values.items, textNode(v))
	}
	equals, condition := node{kind: object}, node{kind: object}
	equals.put(key, values)
	condition.put("StringEquals", equals)
	return condition
}

// addGrant is a change that grants the operation to the caller.
func (a *adviser) addGrant() Change {
	n := node{kind: object}
	n.put("KeyId", textNode(a.in.Resource))
	n.put("GranteePrincipal", textNode(a.in.Caller.lasting()))
	n.put("Operations", node{kind: list, items: []node{textNode(strings.TrimPrefix(a.in.Action, "kms:"))}})
	return Change{Kind: AddGrant, JSON: n.layout(), Text: "Create a grant on the key, by CreateGrant with these members."}
}

func textNode(s string) node { return node{kind: text, text: s} }

func (n *node) put(name string, value node) { n.members = append(n.members, member{name, value}) }

// document is the place of a document in an Input.
func (in *Input) document(s Source, i int) **Policy {
	switch s {
	case IdentitySource:
		return &in.Identity[i]
	case BoundarySource:
		return &in.Boundary
	case SessionSource:
		return &in.Session[i]
	default:
		return &in.KeyPolicy
	}
}

// apply makes a change in an Input whose lists are its own; false if its statement
// is not of the language.
func (c *Change) apply(in *Input) bool {
	switch c.Kind {
	case AddStatement:
		return c.addTo(in)
	case AddGrant:
		op, _ := strings.CutPrefix(in.Action, "kms:")
		grants := map[Kind]*[]*Grant{AccountRoot: &in.AccountGrants, User: &in.Grants, RoleSession: &in.RoleGrants}[in.Caller.Kind]
		*grants = append(slices.Clone(*grants), NewGrant("", []string{op}, GrantConstraints{}))
	case MeetConditions:
		p := in.document(c.Source, c.Document)
		*p = (*p).changed(c.Statement, func(s *statement) { s.conditions = nil })
	case LiftDeny:
		p := in.document(c.Source, c.Document)
		*p = (*p).changed(c.Statement, func(s *statement) { s.inert = true })
	}
	return true
}

// addTo adds the statement to its document, or as a document of its own where an
// Input has several.
func (c *Change) addTo(in *Input) bool {
	added, err := parse(`{"Version": "2012-10-17", "Statement": `+c.JSON+`}`, c.dialect(in))
	if err != nil {
		return false
	}
	switch c.Source {
	case IdentitySource:
		in.Identity = append(in.Identity, added)
	case SessionSource:
		in.Session = append(in.Session, added)
	default:
		p := in.document(c.Source, 0)
		*p = &Policy{dialect: (*p).dialect, statements: slices.Concat((*p).statements, added.statements)}
	}
	return true
}

// dialect is that of the document that is changed.
func (c *Change) dialect(in *Input) *dialect {
	if c.Source == KeyPolicySource {
		return in.KeyPolicy.dialect
	}
	return &identityDialect
}

// changed is the policy with one statement changed.
func (p *Policy) changed(i int, change func(*statement)) *Policy {
	c := &Policy{dialect: p.dialect, statements: slices.Clone(p.statements)}
	change(&c.statements[i])
	return c
}
