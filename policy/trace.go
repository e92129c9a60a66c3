package policy

import "slices"

// Trace is how a decision came about, for an administrator; callers see
// nothing of it. It holds values of the request's condition keys.
type Trace struct {
	Statements []StatementTrace // every one that was looked at
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

// ConditionTrace is a condition that was not fulfilled.
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
	ActionElement
	ResourceElement
	ConditionElement
)

// Explain decides like Authorize and tells how. The trace is its own copy.
func Explain(in Input) (Decision, Trace) {
	var t Trace
	d := authorize(&in, &t)
	return d, t
}

// add appends what became of s; c is the condition that failed, or nil.
func (t *Trace) add(s *statement, in *Input, st StatementTrace, c *condition) {
	st.Sid, st.Deny = s.sid, s.deny
	if c != nil {
		st.Condition = &ConditionTrace{
			Operator: c.operator,
			Key:      c.name,
			Wanted:   slices.Clone(c.wanted),
			Got:      slices.Clone(c.got(in.Context)),
		}
	}
	t.Statements = append(t.Statements, st)
}
