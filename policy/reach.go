package policy

// Access is what a caller may do whatever a request's condition keys hold.
type Access struct {
	Level  Level
	Reason Reason // the rule that allows; of Never the one that refuses

	// The statement that allows, or denies: its document, its place there and its
	// name. Source is NoSource if it is a grant, or the lack of a statement.
	Source    Source
	Document  int // index in Input.Identity or Input.Session, else 0
	Statement int // index in the document
	Sid       string

	// Grant that allows, if Reason is GrantAllows.
	Grant string

	// Identity is the statement of an identity policy that allows beside the key
	// policy or the grant. Its Source is NoSource if none has to.
	Identity Place
}

// Place is where a statement stands.
type Place struct {
	Source    Source
	Document  int // index in Input.Identity or Input.Session, else 0
	Statement int // index in the document
	Sid       string
}

// Level tells whether access depends on conditions.
type Level uint8

// The levels.
const (
	Never       Level = iota
	Conditional       // under conditions of the policies or constraints of the grants
	Always
)

var levelNames = [...]string{"Never", "Conditional", "Always"}

func (l Level) String() string { return levelNames[l] }

// Reach tells whether a caller could take an action, nothing being known of the
// request: Input.Context and Input.Granted do not matter. A condition, a policy
// variable in a Resource or a constraint of a grant can hold or not, each by
// itself, so that Conditional may promise what two conditions rule out together;
// Never and Always hold for every request.
func Reach(in Input) Access {
	e := evaluation{Input: &in, assumed: against}
	if d := e.decide(); d.Allowed {
		return e.access(Always, d)
	}
	e = evaluation{Input: &in, assumed: inFavour}
	d := e.decide()
	if d.Allowed {
		return e.access(Conditional, d)
	}
	return e.access(Never, d)
}

// access is the decision as an answer to Reach.
func (e *evaluation) access(l Level, d Decision) Access {
	a := Access{
		Level: l, Reason: d.Reason, Source: d.Source, Document: d.Document,
		Statement: d.Statement, Sid: d.Sid, Grant: d.Grant,
	}
	if d.Allowed && d.Reason != IdentityAllows && e.through == reachAccount && e.identity.allowedBy != nil {
		by := e.identity.decision(true, d.Reason)
		a.Identity = Place{by.Source, by.Document, by.Statement, by.Sid}
	}
	return a
}

// assumption is what is held of whatever depends on condition keys.
type assumption uint8

const (
	asAsked  assumption = iota // the request's condition keys decide
	inFavour                   // Allows and grants apply, Denies do not
	against                    // the other way round
)

// assume tells how a statement covers the request, whose principal and action
// match, under an assumption.
func (s *statement) assume(r reach, e *evaluation) (reach, failure) {
	certain, possible := s.resourceFits(e.Resource)
	switch {
	case !possible:
		return reachNone, failure{element: ResourceElement}
	case certain && len(s.conditions) == 0, s.deny == (e.assumed == against):
		return r, failure{}
	}
	return reachNone, failure{element: ConditionElement}
}

// resourceFits tells whether the statement's resources match whatever the policy
// variables in them hold, and whether they can match.
func (s *statement) resourceFits(name string) (certain, possible bool) {
	for i := range s.resources {
		r := &s.resources[i]
		may := r.mayMatch(name)
		certain = certain || may && !r.variable()
		possible = possible || may
	}
	if s.notResource {
		return !possible, !certain
	}
	return certain, possible
}
