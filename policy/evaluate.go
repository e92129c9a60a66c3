package policy

import (
	"math"
	"strings"
)

// verdict is what one document, or several of one sort, say.
type verdict struct {
	reach     reach // of the strongest Allow
	deniedBy  *statement
	allowedBy *statement

	// Where the statement that decides stands.
	source              Source
	document, statement int
}

func (v *verdict) denied() bool { return v.deniedBy != nil }

func (v *verdict) decision(allowed bool, r Reason) Decision {
	d := Decision{Allowed: allowed, Reason: r, Source: v.source, Document: v.document, Statement: v.statement}
	switch {
	case v.deniedBy != nil:
		d.Sid = v.deniedBy.sid
	case v.allowedBy != nil:
		d.Sid = v.allowedBy.sid
	}
	return d
}

// evaluation is one question on its way to its decision.
type evaluation struct {
	*Input
	assumed assumption
	trace   *Trace // nil unless it is wanted

	// What the documents say, each sort of them taken together.
	key, identity, boundary, session verdict

	through reach // of the Allow or the grant that was weighed last
}

// evaluateAll looks at all documents that there are.
func (e *evaluation) evaluateAll() {
	e.identity = e.together(e.Identity, IdentitySource)
	e.session = e.together(e.Session, SessionSource)
	if e.Boundary != nil {
		e.boundary = e.Boundary.evaluate(e, BoundarySource, 0)
	}
	// Grants alone say who may retire them.
	if e.KeyPolicy != nil && !strings.EqualFold(e.Action, "kms:RetireGrant") {
		e.key = e.KeyPolicy.evaluate(e, KeyPolicySource, 0)
	}
}

// together takes documents of one sort together: the first Deny, else the first
// Allow.
func (e *evaluation) together(documents []*Policy, source Source) verdict {
	var all verdict
	for i, p := range documents {
		v := p.evaluate(e, source, i)
		if !all.denied() && (v.denied() || v.reach > all.reach) {
			all = v
		}
	}
	return all
}

// evaluate looks at every statement: the first Deny decides, else the first of
// the strongest Allows.
func (p *Policy) evaluate(e *evaluation, source Source, document int) verdict {
	var v verdict
	for i := range p.statements {
		s := &p.statements[i]
		r, failed := s.match(e)
		if e.trace != nil {
			e.trace.add(s, e.Input, StatementTrace{Source: source, Document: document, Statement: i, Failed: failed.element}, failed.condition)
		}
		switch {
		case r == reachNone || v.denied():
			continue
		case s.deny:
			v.deniedBy = s
		case r > v.reach:
			v.allowedBy, v.reach = s, r
		default:
			continue
		}
		v.source, v.document, v.statement = source, document, i
	}
	return v
}

// failure is the first element of a statement that did not match.
type failure struct {
	element   Element
	condition *condition // of the element Condition
}

// match tells how a statement covers the request, reachNone if it does not.
func (s *statement) match(e *evaluation) (reach, failure) {
	if s.inert {
		return reachNone, failure{element: InertStatement}
	}
	r := s.reach(&e.Caller, e.Boundary != nil)
	switch {
	case r == reachNone:
		return reachNone, failure{element: PrincipalElement}
	case s.matchesAction(e.Action) == s.notAction:
		return reachNone, failure{element: ActionElement}
	case e.assumed != asAsked:
		return s.assume(r, e)
	case s.matchesResource(e.Input) == s.notResource, s.notResource && !s.deny && s.unresolved(e.Context):
		return reachNone, failure{element: ResourceElement}
	}
	for i := range s.conditions {
		if c := &s.conditions[i]; !c.holds(e.Context, s.deny) {
			return reachNone, failure{ConditionElement, c}
		}
	}
	return r, failure{}
}

func (s *statement) matchesAction(action string) bool {
	for i := range s.actions {
		if s.actions[i].matches(action, nil) {
			return true
		}
	}
	return false
}

// unresolved tells whether a resource has a policy variable that the request has
// no value for: it excludes nothing then, and an Allow of all others would allow
// what its author meant to leave out.
func (s *statement) unresolved(ctx Context) bool {
	for i := range s.resources {
		if r := &s.resources[i]; r.variable() {
			if _, ok := resolve(r.arn.fields[arnFields-1].pieces, ctx, math.MaxInt); !ok {
				return true
			}
		}
	}
	return false
}

func (s *statement) matchesResource(in *Input) bool {
	for i := range s.resources {
		if s.resources[i].matches(in.Resource, in.Context) {
			return true
		}
	}
	return false
}
