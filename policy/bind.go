package policy

import "slices"

// named is a principal of a compiled document. One that is bound is known by
// its unique id and not by its ARN, which another may have by now.
type named struct {
	Mention
	bound bool
	id    string // empty: bound to nobody
}

// bindable are the kinds of principals that have, or whose role has, a unique id.
func (k Kind) bindable() bool { return k == User || k == Role || k == RoleSession }

// is tells whether a caller is the user, the session or a session of the role
// that n names.
func (n *named) is(p *Principal) bool {
	switch {
	case !n.bound:
		return n.hasARN(p)
	case n.Kind == RoleSession && n.ARN != p.ARN:
		return false
	}
	return n.id != "" && n.id == p.ID && n.caller() == p.Kind
}

// hasARN is the same by ARN.
func (n *named) hasARN(p *Principal) bool {
	if n.Kind == Role {
		return p.Kind == RoleSession && p.RoleARN == n.ARN
	}
	return n.Kind == p.Kind && n.ARN == p.ARN
}

// caller is the kind of those who call as the principal.
func (n *named) caller() Kind {
	if n.Kind == Role {
		return RoleSession
	}
	return n.Kind
}

// Bind returns the policy with the users, roles and role sessions that it names
// bound to unique ids, by the ARN that the document has; of a session it is the
// id of its role. Such a principal matches only if its Principal.ID is the same.
// What ids does not have is bound to nobody.
//
// IAM User Guide, "AWS JSON policy elements: Principal".
func (p *Policy) Bind(ids map[string]string) *Policy {
	if !slices.ContainsFunc(p.Principals(), func(m Mention) bool { return m.Kind.bindable() }) {
		return p
	}
	bound := &Policy{dialect: p.dialect, statements: make([]statement, len(p.statements))}
	for i, s := range p.statements {
		s.principals = make([]named, len(s.principals))
		for j, n := range p.statements[i].principals {
			if n.Kind.bindable() {
				n.bound, n.id = true, ids[n.ARN]
			}
			s.principals[j] = n
		}
		bound.statements[i] = s
	}
	return bound
}

// ShowPrincipals lays a document out as Format does, with the principals that
// ids has, by ARN, replaced by what it says: the unique ids of those that do not
// exist any more. Parse takes no such id, so that the document can't be put back
// without thought. The error is a *SyntaxError.
func ShowPrincipals(document string, ids map[string]string) (string, error) {
	root, err := readDocument(document)
	if err != nil {
		return "", err
	}
	root.each("Statement", func(statement *node) {
		for _, element := range []string{"Principal", "NotPrincipal"} {
			statement.each(element, func(principal *node) {
				principal.each("AWS", func(name *node) {
					if id, ok := ids[name.text]; ok {
						name.text = id
					}
				})
			})
		}
	})
	return root.layout(), nil
}

// each calls f with a member's value or, if it is a list, with each of its items.
func (n *node) each(name string, f func(*node)) {
	for i := range n.members {
		switch m := &n.members[i]; {
		case m.name != name:
		case m.value.kind == list:
			for j := range m.value.items {
				f(&m.value.items[j])
			}
		default:
			f(&m.value)
		}
	}
}
