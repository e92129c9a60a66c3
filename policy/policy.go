// Package policy is IAM's policy language: it parses and compiles documents,
// decides requests by them and explains its decisions. It is pure: no input or
// output, no clock, no state. It trusts the caller's word on who is calling,
// who owns the resource and what the condition keys hold; whether the
// principals that a document names exist is for the caller to check, and the
// wire texts of refusals are the caller's too. What it cannot decide it refuses.
//
// Where AWS's behaviour is not documented the stricter reading holds. Lists of
// values must not be empty; condition keys that differ in letter case only may
// not stand side by side; values of an ARN operator are "*", a variable or six
// fields; a value of a policy variable is never a wildcard; and between two '*'
// of a pattern a '?' has 64 characters at most around it and no variable. A grant
// that names the caller is held back by nothing but explicit denies, one to its
// role also by boundary and session policies, one to its account by IAM there;
// on a key of another account the identity's side must allow beside any grant.
// Not there: service and resource control policies, VPC endpoint policies.
//
// IAM User Guide, "IAM JSON policy element reference" and "Policy evaluation
// logic"; KMS Developer Guide, "Key policies".
package policy

import "fmt"

// Limits of a document. A document within them is compiled and evaluated in
// time that grows no faster than its size times the size of the values it is
// matched with.
const (
	MaxDocumentBytes = 32768 // KMS's size limit of a key policy

	maxDepth = 8 // objects and lists within each other; the language needs 6
)

// Policy is a compiled document. It never changes and is safe for concurrent use.
type Policy struct {
	dialect    *dialect
	statements []statement
}

// statement is one compiled element of Statement.
type statement struct {
	path       string // its place in the document
	sid        string
	deny       bool
	inert      bool // without Action or Resource: matches nothing
	principals []named
	actions    []pattern
	resources  []resource
	conditions []condition

	// The lists above say who or what the statement is not about.
	notPrincipal, notAction, notResource bool
}

// Parse compiles a key policy: a document of a resource, whose statements name
// principals. Element names are exact, unknown and duplicate ones are refused.
// Errors are *SyntaxError, else *PrincipalError, else *ConditionError.
func Parse(document string) (*Policy, error) { return parse(document, &keyDialect) }

// ParseIdentity compiles a document of an identity (a policy of a user, group
// or role, a permissions boundary or a session policy): no principals, and
// Action and Resource are required. Errors are *SyntaxError.
func ParseIdentity(document string) (*Policy, error) { return parse(document, &identityDialect) }

// ParseTrust compiles the trust policy of a role: a document of a resource
// without Resource elements, whose actions are of STS and on roles. Its place in
// an Input is KeyPolicy. Errors are *SyntaxError, else *PrincipalError.
func ParseTrust(document string) (*Policy, error) { return parse(document, &trustDialect) }

func parse(document string, d *dialect) (*Policy, error) {
	root, err := readDocument(document)
	if err != nil {
		return nil, err
	}
	c := compiler{dialect: d}
	if d.kms {
		c.special = hiding
	}
	p := c.policy(root)
	switch {
	case c.syntax != nil:
		return nil, c.syntax
	case c.principal != nil:
		return nil, c.principal
	case c.condition != nil:
		return nil, c.condition
	}
	return p, nil
}

// Principals lists the principals that the document names, in the order of the
// text and with repetitions, so that the caller can check that they exist.
// "*" is not among them.
func (p *Policy) Principals() []Mention {
	var all []Mention
	for _, s := range p.statements {
		for _, n := range s.principals {
			if n.Kind != anyone {
				all = append(all, n.Mention)
			}
		}
	}
	return all
}

// SyntaxError is a document that is not JSON or not of the policy language.
type SyntaxError struct {
	Path    string // the place, like Statement[1].Condition.StringEquals; empty for the whole document
	Problem string
}

func (e *SyntaxError) Error() string { return at(e.Path, e.Problem) }

// PrincipalError is a statement that names something that cannot be a
// principal. KMS has a text of its own for it.
type PrincipalError struct {
	Path    string
	Problem string
}

func (e *PrincipalError) Error() string { return at(e.Path, e.Problem) }

// ConditionError is a condition that KMS refuses as overly permissive:
// ForAllValues with a key that has a single value, which an absent key passes.
type ConditionError struct {
	Path string
	Key  string // as written
}

func (e *ConditionError) Error() string {
	return at(e.Path, fmt.Sprintf("ForAllValues with %q matches requests that do not have it", brief(e.Key)))
}

func at(path, problem string) string {
	if path == "" {
		return "policy: " + problem
	}
	return "policy: " + path + ": " + problem
}
