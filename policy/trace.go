package policy

import (
	"maps"
	"slices"
)

// Trace is how a decision came about, for an administrator; callers see
// nothing of it. It holds values of the request's condition keys.
type Trace struct {
	Statements []StatementTrace // every one that was looked at
	Grants     []GrantTrace     // the same of grants, which are looked at if the policies do not allow
}

// StatementTrace is what became of one statement.
type StatementTrace struct {
	Source    Source
	Document  int // index in Input.Identity or Input.Session, else 0
	Statement int // index in the document
	Sid       string
	Deny      bool
	Failed    Element         // what did not match; Nothing if the statement applied
	Condition *ConditionTrace // the one that failed, if Failed is ConditionElement
}

// Matched tells whether the statement applied to the request.
func (s *StatementTrace) Matched() bool { return s.Failed == Nothing }

// ConditionTrace is a condition and what a request had for it.
type ConditionTrace struct {
	Operator string   // as written
	Key      string   // as written
	Wanted   []string // the document's values, as written
	Got      []string // the request's values; empty if it does not have the key
}

// Element is an element of a statement.
type Element uint8

// The elements, in the order in which they are matched.
const (
	Nothing        Element = iota
	InertStatement         // there is no Action or no Resource
	PrincipalElement
	ActionElement // of a grant its operations
	ResourceElement
	ConditionElement

	// Constraints of grants.
	SourceARNElement
	EncryptionContextElement
)

var elementNames = [...]string{
	"Nothing", "InertStatement", "Principal", "Action", "Resource", "Condition", "SourceArn", "EncryptionContext",
}

func (e Element) String() string { return elementNames[e] }

// GrantTrace is what became of one grant.
type GrantTrace struct {
	ID string
	// Grantee is Role for a grant to the session's role, AccountRoot for one to the
	// caller's account, else the caller's kind.
	Grantee Kind
	Failed  Element    // what did not match; Nothing if the grant covers the request
	Pair    *PairTrace // the first that failed, by its key, if Failed is EncryptionContextElement
}

// PairTrace is a pair of an encryption context that is not as a grant has it.
type PairTrace struct {
	Key string
	// Wanted is the constraint's value, and Got the request's; nil if there is none.
	Wanted, Got *string
}

// Explain decides like Authorize and tells how. The trace is its own copy.
func Explain(in Input) (Decision, Trace) {
	var t Trace
	e := evaluation{Input: &in, trace: &t}
	return e.decide(), t
}

// add appends what became of s; c is the condition that failed, or nil.
func (t *Trace) add(s *statement, in *Input, st StatementTrace, c *condition) {
	st.Sid, st.Deny = s.sid, s.deny
	if c != nil {
		failed := c.trace(in.Context)
		st.Condition = &failed
	}
	t.Statements = append(t.Statements, st)
}

// trace is the condition with the values of a request.
func (c *condition) trace(ctx Context) ConditionTrace {
	return ConditionTrace{Operator: c.operator, Key: c.name, Wanted: slices.Clone(c.wanted), Got: slices.Clone(c.got(ctx))}
}

// addGrant appends what became of g, a grant to the caller, its role or its account.
func (t *Trace) addGrant(g *Grant, in *Input, to reach, failed Element) {
	gt := GrantTrace{ID: g.id, Grantee: in.Caller.Kind, Failed: failed}
	switch to {
	case reachLimited:
		gt.Grantee = Role
	case reachAccount:
		gt.Grantee = AccountRoot
	}
	if failed == EncryptionContextElement {
		gt.Pair = g.difference(in.Granted.EncryptionContext)
	}
	t.Grants = append(t.Grants, gt)
}

// difference finds the first pair, by its key, of an encryption context that the
// constraints do not admit.
func (g *Grant) difference(context map[string]string) *PairTrace {
	wanted := g.constraints.EncryptionContextSubset
	either := maps.Clone(wanted)
	if hasPairs(context, g.subset) { // it is the other constraint, which bars further pairs too
		wanted, either = g.constraints.EncryptionContextEquals, map[string]string{}
		maps.Copy(either, wanted)
		maps.Copy(either, context)
	}
	maps.DeleteFunc(either, func(key, _ string) bool {
		want, isWanted := wanted[key]
		got, isThere := context[key]
		return want == got && isWanted == isThere
	})
	key := slices.Min(slices.Collect(maps.Keys(either)))
	return &PairTrace{Key: key, Wanted: valueOf(wanted, key), Got: valueOf(context, key)}
}

func valueOf(m map[string]string, key string) *string {
	v, ok := m[key]
	if !ok {
		return nil
	}
	return &v
}
