package policy

import (
	"fmt"
	"strings"
)

// compiler turns a document's tree into a Policy and keeps the first error of
// each sort; what it returns is of use only if there is none.
type compiler struct {
	dialect *dialect
	special syntax // of all values: variables, if the version has them, and hiding

	syntax    *SyntaxError
	principal *PrincipalError
	condition *ConditionError
}

func (c *compiler) fail(path, problem string) {
	if c.syntax == nil {
		c.syntax = &SyntaxError{Path: path, Problem: problem}
	}
}

func (c *compiler) policy(root node) *Policy {
	c.known("", root, "Version", "Id", "Statement")
	if id, ok := root.member("Id"); ok {
		c.text("Id", id)
	}
	if version, ok := root.member("Version"); ok {
		switch c.text("Version", version) {
		case "2012-10-17":
			c.special |= variables
		case "2008-10-17": // also of documents that give none
		default:
			c.fail("Version", "must be 2012-10-17 or 2008-10-17")
		}
	}
	p := &Policy{dialect: c.dialect}
	switch s, ok := root.member("Statement"); {
	case !ok:
		c.fail("Statement", "is missing")
	case s.kind == object:
		p.statements = []statement{c.statement("Statement", s)}
	case s.kind == list && len(s.items) > 0:
		p.statements = c.statements(s.items)
	default:
		c.fail("Statement", "must be a statement or a list of statements")
	}
	return p
}

func (c *compiler) statements(items []node) []statement {
	compiled := make([]statement, len(items))
	sids := map[string]bool{}
	for i, item := range items {
		path := index("Statement", i)
		s := c.statement(path, item)
		if !c.dialect.kms && s.sid != "" && sids[s.sid] {
			c.fail(path+".Sid", "given twice")
		}
		sids[s.sid] = true
		compiled[i] = s
	}
	return compiled
}

func (c *compiler) statement(path string, n node) statement {
	if n.kind != object {
		c.fail(path, "must be an object")
		return statement{}
	}
	c.known(path, n, "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction",
		"Resource", "NotResource", "Condition")
	c.lacks(path, n)
	s := statement{path: path}
	if sid, ok := n.member("Sid"); ok {
		s.sid = c.sid(within(path, "Sid"), sid)
	}
	effect, _ := n.member("Effect")
	switch effect.text {
	case "Allow":
	case "Deny":
		s.deny = true
	default:
		c.fail(within(path, "Effect"), "must be Allow or Deny")
	}
	c.principals(path, n, &s)
	c.actions(path, n, &s)
	c.resources(path, n, &s)
	s.inert = len(s.actions) == 0 || len(s.resources) == 0
	if conditions, ok := n.member("Condition"); ok {
		s.conditions = c.conditions(within(path, "Condition"), conditions)
	}
	return s
}

// sid reads a statement's name: free text, except in IAM's own documents.
func (c *compiler) sid(path string, n node) string {
	s := c.text(path, n)
	if !c.dialect.kms && strings.Trim(s, lettersAndDigits) != "" {
		c.fail(path, "must be of letters and digits")
	}
	return s
}

// either finds an element that comes as X or NotX, X being required or not.
func (c *compiler) either(path string, n node, name string, required bool) (v node, place string, not, found bool) {
	v, is := n.member(name)
	notV, not := n.member("Not" + name)
	switch {
	case is && not:
		c.fail(within(path, "Not"+name), "can't be combined with "+name)
	case not:
		return notV, within(path, "Not"+name), true, true
	case !is && required:
		c.fail(within(path, name), "is missing")
	}
	return v, within(path, name), false, is
}

func (c *compiler) principals(path string, n node, s *statement) {
	v, path, not, found := c.either(path, n, "Principal", c.dialect.principals)
	if !found {
		return
	}
	s.notPrincipal = not
	switch {
	case v.kind == text && v.text == "*":
		s.principals = []named{{Mention: Mention{Path: path, Kind: anyone}}}
	case v.kind == object && len(v.members) > 0:
		for _, m := range v.members {
			s.principals = append(s.principals, c.mentions(within(path, m.name), m)...)
		}
	default:
		c.fail(path, `must be "*" or an object that names principals`)
	}
}

func (c *compiler) mentions(path string, m member) []named {
	parsePrincipal, known := principalTypes[m.name]
	if !known {
		c.fail(path, "is unknown")
		return nil
	}
	var all []named
	for i, s := range c.texts(path, m.value) {
		mention, problem := parsePrincipal(s)
		mention.Path = path
		if m.value.kind == list {
			mention.Path = index(path, i)
		}
		if problem != "" && c.principal == nil {
			c.principal = &PrincipalError{Path: mention.Path, Problem: problem}
		}
		all = append(all, named{Mention: mention})
	}
	return all
}

func (c *compiler) actions(path string, n node, s *statement) {
	v, path, not, found := c.either(path, n, "Action", !c.dialect.kms)
	if !found {
		return
	}
	s.notAction = not
	for _, a := range c.texts(path, v) {
		if !isAction(a) {
			c.fail(path, fmt.Sprintf("%q must be of the form service:name", brief(a)))
		}
		p, problem := compilePattern(a, wildcards)
		if problem != "" {
			c.fail(path, problem)
		}
		p.fold = true
		if problem == "" && c.dialect.sts && !isTrustAction(a, &p) {
			c.fail(path, fmt.Sprintf("%q is not an action of STS on roles", brief(a)))
		}
		s.actions = append(s.actions, p)
	}
}

const lettersAndDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// isAction tells whether s is "*", or a service and a name in which there may
// be wildcards.
func isAction(s string) bool {
	service, name, _ := strings.Cut(s, ":")
	switch {
	case s == "*":
		return true
	case service == "" || name == "":
		return false
	}
	return (service == "*" || strings.Trim(service, lettersAndDigits+"-") == "") &&
		strings.Trim(name, lettersAndDigits+"-_*?") == ""
}

func (c *compiler) resources(path string, n node, s *statement) {
	if !c.dialect.resources {
		s.resources = []resource{anyResource}
		return
	}
	v, path, not, found := c.either(path, n, "Resource", !c.dialect.kms)
	if !found {
		return
	}
	s.notResource = not
	for _, value := range c.texts(path, v) {
		r, problem := compileResource(value, c.special, c.dialect.kms)
		if problem != "" {
			c.fail(path, problem)
		}
		s.resources = append(s.resources, r)
	}
}

func (c *compiler) conditions(path string, n node) []condition {
	if n.kind != object {
		c.fail(path, "must be an object")
	}
	var all []condition
	for _, m := range n.members {
		here := within(path, m.name)
		op, template, known := parseOperator(m.name)
		switch {
		case !known:
			c.fail(here, "is not a condition operator")
			return nil
		case m.value.kind != object || len(m.value.members) == 0:
			c.fail(here, "must be an object of condition keys")
			return nil
		}
		keys := map[string]bool{}
		for _, entry := range m.value.members {
			cond := c.oneCondition(within(here, entry.name), op, template, entry)
			if keys[cond.key] {
				c.fail(within(here, entry.name), "given twice in different letter case")
			}
			keys[cond.key] = true
			all = append(all, cond)
		}
	}
	return all
}

func (c *compiler) oneCondition(path string, op operator, cond condition, entry member) condition {
	cond.name, cond.key = entry.name, strings.ToLower(entry.name)
	cond.hidden = c.dialect.kms && isHiddenFromKeyPolicies(cond.key)
	cond.single = hasOneValue(cond.key) && !strings.Contains(cond.operator, ":") // else its author thinks of several
	if problem := checkKey(entry.name); problem != "" {
		c.fail(path, "is a condition key "+problem)
	}
	if c.dialect.kms && strings.HasPrefix(cond.operator, forAllValues) && isSingle(cond.key) && c.condition == nil {
		c.condition = &ConditionError{Path: path, Key: entry.name}
	}
	cond.wanted = c.values(path, entry.value)
	for _, s := range cond.wanted {
		if cond.null {
			c.nullValue(path, s, &cond)
			continue
		}
		m, problem := op.compile(s, c.special)
		if problem != "" {
			c.fail(path, problem)
		}
		cond.values = append(cond.values, m)
	}
	return cond
}

func (c *compiler) nullValue(path, s string, cond *condition) {
	if !isBool(s) {
		c.fail(path, "must be true or false")
	}
	absent := strings.EqualFold(s, "true")
	cond.wantAbsent = cond.wantAbsent || absent
	cond.wantPresent = cond.wantPresent || !absent
}

// known refuses members that are not of the language.
func (c *compiler) known(path string, n node, names ...string) {
next:
	for _, m := range n.members {
		for _, name := range names {
			if m.name == name {
				continue next
			}
		}
		c.fail(within(path, m.name), "is unknown")
	}
}

func (c *compiler) text(path string, n node) string {
	if n.kind != text {
		c.fail(path, "must be a string")
	}
	return n.text
}

// texts reads a string or a list of at least one string.
func (c *compiler) texts(path string, n node) []string {
	if n.kind == list && len(n.items) > 0 {
		all := make([]string, len(n.items))
		for i, item := range n.items {
			all[i] = c.text(index(path, i), item)
		}
		return all
	}
	if n.kind != text {
		c.fail(path, "must be a string or a list of strings")
	}
	return []string{n.text}
}

// values reads what texts reads, and takes booleans and numbers for strings.
func (c *compiler) values(path string, n node) []string {
	asText := func(n node) node {
		if n.kind == boolean || n.kind == number {
			n.kind = text
		}
		return n
	}
	if n.kind != list {
		return c.texts(path, asText(n))
	}
	all := node{kind: list}
	for _, item := range n.items {
		all.items = append(all.items, asText(item))
	}
	return c.texts(path, all)
}
