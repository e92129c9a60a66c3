package policy

import (
	"fmt"
	"slices"

	"kmsgate/gateway/arn"
)

// Suggestion are changes that together let a request pass that was refused. None
// of them can be left out.
type Suggestion []Change

// Change is one change that an administrator, or who sends the request, can make.
type Change struct {
	Kind ChangeKind
	Text string // what to do, in a sentence

	// The document that is to be changed. Of AddStatement to an identity policy or a
	// session policy it is any one of them, or a new one, and Document is 0.
	Source   Source
	Document int // index in Input.Identity or Input.Session, else 0

	// The statement that is meant, of LiftDeny and MeetConditions.
	Statement int // index in the document
	Sid       string

	// JSON is the statement of AddStatement, in the layout of Format, or the request
	// of CreateGrant.
	JSON string

	// Conditions of the statement: of MeetConditions those that did not hold and
	// have to, of LiftDeny all, which hold: a request for which one does not passes.
	Conditions []ConditionTrace
}

// ChangeKind is what sort of change it is.
type ChangeKind uint8

// The kinds of changes.
const (
	AddStatement ChangeKind = iota + 1
	AddGrant
	MeetConditions
	LiftDeny
)

var changeNames = [...]string{AddStatement: "AddStatement", AddGrant: "AddGrant", MeetConditions: "MeetConditions", LiftDeny: "LiftDeny"}

func (k ChangeKind) String() string { return changeNames[k] }

// Suggest tells how a request that Authorize refuses could be allowed: several
// ways, those with the fewest changes first. Each was tried out: with its changes
// made, conditions that are to be met taken for met, Authorize allows. There is
// none for a request that is allowed, that is incomplete, or that no change of
// policies or grants would help. Of the statements that would allow but for their
// conditions only the first ten are tried.
func Suggest(in Input) []Suggestion {
	d, t := Explain(in)
	if d.Allowed || d.Reason == Undecided {
		return nil
	}
	a := adviser{in: in, settled: settled(in, &t)}
	denies := a.denies(&t)
	var found []Suggestion
	for _, start := range a.starts(&t) {
		s := a.completed(append(slices.Clone(denies), start...))
		if s != nil && !slices.ContainsFunc(found, s.same) {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(x, y Suggestion) int { return len(x) - len(y) })
	return found
}

// same tells whether two suggestions are of the same changes.
func (s Suggestion) same(other Suggestion) bool {
	return slices.EqualFunc(s, other, func(a, b Change) bool { return a.Text == b.Text && a.JSON == b.JSON })
}

// maxMet bounds the statements whose conditions are tried.
const maxMet = 10

// adviser looks for changes to one request's policies.
type adviser struct {
	in      Input
	settled Input // is decided like in, at little cost
}

// settled puts in the place of each document one that says the same about this
// request, without matching its conditions again: to try out many changes costs
// no more than a few decisions, whatever the documents' authors have written.
func settled(in Input, t *Trace) Input {
	in.Identity, in.Session = slices.Clone(in.Identity), slices.Clone(in.Session)
	for i := range t.Statements {
		st := &t.Statements[i]
		p := in.document(st.Source, st.Document)
		if st.Statement == 0 {
			*p = (*p).changed(0, func(*statement) {})
		}
		s := &(*p).statements[st.Statement]
		switch {
		case st.Matched():
			s.conditions = nil
		case st.Failed == ConditionElement && !st.Deny:
			s.conditions = []condition{{null: true}} // holds for no request
		default:
			s.inert = true
		}
	}
	return in
}

// denies are the changes that every way needs: all Denies that apply must go.
func (a *adviser) denies(t *Trace) []Change {
	var all []Change
	for i := range t.Statements {
		st := &t.Statements[i]
		if !st.Deny || !st.Matched() {
			continue
		}
		c := a.about(LiftDeny, st)
		c.Text = fmt.Sprintf("Remove %s, or narrow it so that it does not cover this request.", a.name(st))
		for j := range a.statement(st).conditions {
			c.Conditions = append(c.Conditions, a.statement(st).conditions[j].trace(a.in.Context))
		}
		all = append(all, c)
	}
	return all
}

// about is a change that concerns a statement.
func (a *adviser) about(kind ChangeKind, st *StatementTrace) Change {
	return Change{Kind: kind, Source: st.Source, Document: st.Document, Statement: st.Statement, Sid: st.Sid}
}

// statement is the one that a trace is of.
func (a *adviser) statement(st *StatementTrace) *statement {
	return &(*a.in.document(st.Source, st.Document)).statements[st.Statement]
}

// name says which statement a trace is of.
func (a *adviser) name(st *StatementTrace) string {
	name := a.statement(st).path
	if st.Sid != "" {
		name += " (" + st.Sid + ")"
	}
	return name + " of the " + st.Source.String()
}

// starts are what to try beside lifting Denies: nothing; the conditions of each
// statement that would allow but for them; and what could be added on the side of
// the resource.
func (a *adviser) starts(t *Trace) [][]Change {
	all := [][]Change{nil}
	for i := range t.Statements {
		st := &t.Statements[i]
		if st.Deny || st.Failed != ConditionElement || len(all) > maxMet {
			continue
		}
		if c := a.about(MeetConditions, st); a.meet(&c, a.statement(st)) {
			c.Text = fmt.Sprintf("Send a request that meets the conditions of %s, or change them.", a.name(st))
			all = append(all, []Change{c})
		}
	}
	if a.in.KeyPolicy == nil {
		return all
	}
	p := &a.in.Caller
	if naming, ok := namings[p.Kind]; ok {
		all = append(all, []Change{a.addStatement(KeyPolicySource, naming.member, p.lasting())})
		if op := grantOperation(a.in.Action); naming.grantee && op != 0 && op != retirement {
			all = append(all, []Change{a.addGrant()})
		}
	}
	if !p.Kind.accountless() {
		all = append(all, []Change{a.addStatement(KeyPolicySource, "AWS", arn.Root(p.Account))})
	}
	return all
}

// meet notes the conditions that do not hold; false if one is on a key that the
// document can't see, which no request meets.
func (a *adviser) meet(c *Change, s *statement) bool {
	for i := range s.conditions {
		cond := &s.conditions[i]
		if cond.holds(a.in.Context, false) {
			continue
		}
		if cond.hidden {
			return false
		}
		c.Conditions = append(c.Conditions, cond.trace(a.in.Context))
	}
	return true
}

// missing are the documents in which an Allow is missing, by the reason of a refusal.
var missing = map[Reason]Source{
	NoIdentityAllows: IdentitySource, NoBoundaryAllows: BoundarySource, NoSessionAllows: SessionSource,
}

// completed adds to changes what they still need on the identity's side and drops
// what they do not need; nil if they do not help.
func (a *adviser) completed(changes []Change) Suggestion {
	for range len(missing) + 1 {
		d := a.decide(changes)
		if d.Allowed {
			return a.needed(changes)
		}
		source, ok := missing[d.Reason]
		if !ok {
			return nil
		}
		changes = append(changes, a.addStatement(source, "", ""))
	}
	return nil
}

// needed drops the changes without which the request is allowed as well.
func (a *adviser) needed(changes []Change) Suggestion {
	for i := 0; i < len(changes); {
		without := slices.Delete(slices.Clone(changes), i, i+1)
		if a.decide(without).Allowed {
			changes = without
		} else {
			i++
		}
	}
	return changes
}

// decide decides the request with changes made.
func (a *adviser) decide(changes []Change) Decision {
	in := a.settled
	in.Identity, in.Session = slices.Clone(in.Identity), slices.Clone(in.Session)
	for i := range changes {
		if !changes[i].apply(&in) {
			return Decision{}
		}
	}
	return Authorize(in)
}
