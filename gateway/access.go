package gateway

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// KeyAccess is who can do what with a key, and through what: what kmsgate access
// prints, as text or as JSON.
type KeyAccess struct {
	KeyARN  string `json:"keyArn"`
	State   string `json:"keyState"`
	Service string `json:"service,omitempty"` // of the site, whose key it is
	// Callers are what the service calls with; it alone is meant where
	// kms:ViaService is a condition.
	Callers    []string          `json:"serviceCallers,omitempty"`
	Principals []PrincipalAccess `json:"principals"`
	// Powerless is how many principals were looked at that can do nothing.
	Powerless int `json:"powerless"`
}

// PrincipalAccess is what one principal can do.
type PrincipalAccess struct {
	Kind   string         `json:"kind"`
	ARN    string         `json:"arn"`
	Access []ActionAccess `json:"access"`
}

// ActionAccess is actions that are allowed in the same way.
type ActionAccess struct {
	Actions []string `json:"actions"`
	// Conditional: a condition, a constraint or a policy variable decides, by each
	// request.
	Conditional bool `json:"conditional"`
	// Through is the statement or the grant that allows it, and And the statement
	// that allows it besides, where the account's own policies have to.
	Through string `json:"through"`
	And     string `json:"and,omitempty"`
	// Conditions are those of both. A conditional access without any is one that a
	// Deny with conditions may take away.
	Conditions []string `json:"conditions,omitempty"`
}

// AccessQuery says which key is asked about.
type AccessQuery struct {
	Key string // in any of the four forms
	// Account and Region of a key that is not named by an ARN. The account matters
	// for aliases alone.
	Account, Region string
	Services        []Service
}

// QuestionError is what is wrong with an AccessQuery.
type QuestionError struct{ problem string }

func (e *QuestionError) Error() string { return e.problem }

// WhoCan finds out who can do what with a key: the root, the users and the roles of
// its account, and the principals of other accounts that its policy or a grant
// names. It knows nothing of any request. *QuestionError if no key can be meant, an
// error that wraps metadata.ErrNotFound if there is no such key.
func WhoCan(ctx context.Context, store *metadata.Store, q AccessQuery) (*KeyAccess, error) {
	s := survey{ctx: ctx, store: store, view: store.View()}
	if err := s.find(q); err != nil {
		return nil, err
	}
	s.actions = keyActions(s.key)
	if err := s.readGrants(); err != nil {
		return nil, err
	}
	out := &KeyAccess{
		KeyARN: s.key.ARN(), State: string(s.key.State), Service: s.key.Service, Principals: []PrincipalAccess{},
	}
	if s.key.Service != "" {
		out.Callers = servicesOf(q.Services)[s.key.Service].Callers
	}
	err := s.eachSubject(func(who subject) {
		if access := s.access(who); len(access) > 0 {
			out.Principals = append(out.Principals, PrincipalAccess{Kind: who.kind, ARN: who.shown, Access: access})
			return
		}
		out.Powerless++
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// A survey is one look at who can do what with a key.
type survey struct {
	ctx     context.Context
	store   *metadata.Store
	view    *metadata.View
	key     *metadata.KeyEntry
	actions []keyAction
	grants  map[string][]*metadata.Grant // by grantee
	byID    map[string]*metadata.Grant
}

// find finds the key of a query.
func (s *survey) find(q AccessQuery) error {
	ref, err := arn.Parse(q.Key)
	if err != nil {
		return &QuestionError{fmt.Sprintf("%q is not a key: it is %v", q.Key, err)}
	}
	region, account := cmp.Or(ref.Region, q.Region), cmp.Or(ref.Account, q.Account)
	id := ref.ID
	if ref.Alias != "" {
		if account == "" {
			return &QuestionError{fmt.Sprintf("%q is an alias, and each account has its own: of which account?", q.Key)}
		}
		alias, err := s.view.Alias(s.ctx, account, region, ref.Alias)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", ref.Alias, region, err)
		}
		id = alias.KeyID
	}
	s.key, err = s.view.Key(s.ctx, region, id)
	if err == nil && account != "" && s.key.Account != account {
		err = fmt.Errorf("account %s has no such key: %w", account, metadata.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w", q.Key, region, err)
	}
	return nil
}

// keyAction is an action on keys and whether it can be taken on those of others.
type keyAction struct {
	name    string
	foreign bool
}

// keyActions are the actions that operations take on keys like this one, by name.
func keyActions(key *metadata.KeyEntry) (actions []keyAction) {
	for i := range operations {
		for j := range operations[i].targets {
			t := &operations[i].targets[j]
			if t.isOfKey() && t.fits(key) {
				actions = append(actions, keyAction{operations[i].action(t), t.foreign})
			}
		}
	}
	slices.SortFunc(actions, func(a, b keyAction) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(actions, func(a, b keyAction) bool { return a.name == b.name })
}

// isOfKey tells whether the target is a key that exists.
func (t *target) isOfKey() bool {
	return t.kind == onKey || t.kind == onCiphertext || t.kind == onAliasTarget
}

// fits tells whether the target can be a key like this one.
func (t *target) fits(key *metadata.KeyEntry) bool {
	return (t.usage == "" || t.usage == key.Usage) && (t.origin == "" || t.origin == key.Origin) && (!t.public || isPair(key.Spec))
}

// grantPage is how many grants are read at once.
const grantPage = 1000

// readGrants reads all grants on the key.
func (s *survey) readGrants() error {
	s.grants, s.byID = map[string][]*metadata.Grant{}, map[string]*metadata.Grant{}
	after := ""
	for {
		page, err := s.store.ListGrants(s.ctx, s.key.Region, s.key.Account, s.key.ID, after, grantPage)
		if err != nil {
			return err
		}
		for _, g := range page {
			s.grants[g.Grantee] = append(s.grants[g.Grantee], g)
			s.byID[g.ID] = g
			after = g.ID
		}
		if len(page) < grantPage {
			return nil
		}
	}
}

// access is what a principal can do, actions that are allowed alike together.
func (s *survey) access(who subject) (all []ActionAccess) {
	in := policy.Input{
		Caller: who.principal, Resource: s.key.ARN(), Owner: s.key.Account, KeyPolicy: s.key.Policy,
	}
	if who.entry != nil {
		in.Identity, in.Boundary = who.entry.Identity, who.entry.BoundaryPolicy
	}
	direct, ofRole, ofAccount := s.grantsOf(who)
	for _, action := range s.actions {
		in.Action, in.CrossAccount = action.name, action.foreign
		in.Grants, in.RoleGrants, in.AccountGrants = nil, nil, nil
		if action.foreign { // as in a call: other operations are no grants'
			in.Grants, in.RoleGrants, in.AccountGrants = direct, ofRole, ofAccount
		}
		reached := policy.Reach(in)
		if reached.Level == policy.Never {
			continue
		}
		all = addAction(all, action.name, s.explained(who, reached))
	}
	return all
}

// grantsOf are the grants that are a principal's: by itself, by its role, and by
// its account.
func (s *survey) grantsOf(who subject) (direct, ofRole, ofAccount []*policy.Grant) {
	p := &who.principal
	for _, g := range s.grants[p.ARN] {
		if p.Kind != policy.AccountRoot && g.GranteeID == p.ID {
			direct = append(direct, g.Compiled)
		}
	}
	for _, g := range s.grants[p.RoleARN] {
		if g.GranteeID == p.ID {
			ofRole = append(ofRole, g.Compiled)
		}
	}
	for _, g := range s.grants[arn.Root(p.Account)] {
		ofAccount = append(ofAccount, g.Compiled)
	}
	return direct, ofRole, ofAccount
}

// addAction adds an action to those that are allowed in the same way.
func addAction(all []ActionAccess, action string, how ActionAccess) []ActionAccess {
	for i := range all {
		same := &all[i]
		if same.Through == how.Through && same.And == how.And && same.Conditional == how.Conditional {
			same.Actions = append(same.Actions, action)
			return all
		}
	}
	how.Actions = []string{action}
	return append(all, how)
}

// explained says through what access is there.
func (s *survey) explained(who subject, a policy.Access) ActionAccess {
	out := ActionAccess{Conditional: a.Level == policy.Conditional}
	if a.Grant != "" {
		out.Through = "grant " + a.Grant
		out.Conditions = constraintsText(s.byID[a.Grant])
	} else {
		out.Through, out.Conditions = s.statement(who, policy.Place{Source: a.Source, Document: a.Document, Statement: a.Statement, Sid: a.Sid})
	}
	if a.Identity.Source != policy.NoSource {
		and, conditions := s.statement(who, a.Identity)
		out.And, out.Conditions = and, append(out.Conditions, conditions...)
	}
	if !out.Conditional {
		out.Conditions = nil // another statement allows it without
	}
	return out
}

// statement names a statement and its conditions.
func (s *survey) statement(who subject, at policy.Place) (name string, conditions []string) {
	name = fmt.Sprintf("statement %d", at.Statement+1)
	if at.Sid != "" {
		name += fmt.Sprintf(" %q", at.Sid)
	}
	name += " of the " + documentName(who.entry, at.Source, at.Document, s.key.ARN())
	document := s.key.Policy
	if at.Source == policy.IdentitySource && who.entry != nil {
		document = who.entry.Identity[at.Document]
	}
	for _, c := range document.Conditions(at.Statement) {
		conditions = append(conditions, fmt.Sprintf("%s %s: %s", c.Operator, c.Key, strings.Join(shown(c.Wanted), ", ")))
	}
	return name, conditions
}

// constraintsText are the constraints of a grant in words.
func constraintsText(g *metadata.Grant) (all []string) {
	for _, c := range []struct {
		name  string
		pairs map[string]string
	}{
		{"the encryption context is", g.Constraints.EncryptionContextEquals},
		{"the encryption context has", g.Constraints.EncryptionContextSubset},
	} {
		if c.pairs == nil {
			continue
		}
		pairs := make([]string, 0, len(c.pairs))
		for k, v := range c.pairs {
			pairs = append(pairs, k+"="+v)
		}
		slices.Sort(pairs)
		all = append(all, c.name+" "+strings.Join(shown(pairs), ", "))
	}
	if g.Constraints.SourceARN != "" {
		all = append(all, "aws:SourceArn is "+g.Constraints.SourceARN)
	}
	return all
}
