package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"kmsgate/metadata"
	"kmsgate/policy"
)

// Refused is why policy refused a request, as administrators read it: what kmsgate
// explain prints, and the JSON that it is kept as. It has the values of condition
// keys, the encryption context among them, and no secrets. Callers never see it.
type Refused struct {
	RequestID string           `json:"requestId"`
	Time      time.Time        `json:"time"`
	Region    string           `json:"region"`
	SourceIP  string           `json:"sourceIp"`
	Operation string           `json:"operation"`
	Principal RefusedPrincipal `json:"principal"`
	// Action that was refused, like kms:Decrypt, and the ARN of what it was to be
	// taken on; "*" for an operation on no resource, empty for a ciphertext that
	// names no key that is here.
	Action   string `json:"action"`
	Resource string `json:"resource"`
	// Exists tells whether the resource is there: callers may not know.
	Exists bool `json:"exists"`
	// Reason is the rule that refused, by its name in package policy, and Because
	// says it in words.
	Reason  string `json:"reason"`
	Because string `json:"because"`
	// Statements are those that were looked at, Omitted how many more there were
	// than fit.
	Statements []RefusedStatement `json:"statements,omitempty"`
	Omitted    int                `json:"omittedStatements,omitempty"`
	// Grants are the same of the caller's grants, those first that come closest.
	Grants        []RefusedGrant `json:"grants,omitempty"`
	OmittedGrants int            `json:"omittedGrants,omitempty"`
	// Alternatives are the smallest changes that would let the same request pass.
	// Each list is one way, of which nothing can be left out.
	Alternatives [][]RefusedChange `json:"alternatives,omitempty"`
	// AlternativesOmitted: there were too many to look for, or too many to keep.
	AlternativesOmitted bool `json:"alternativesOmitted,omitempty"`
}

// RefusedPrincipal is who asked.
type RefusedPrincipal struct {
	Kind        string `json:"kind"`
	ARN         string `json:"arn"`
	Account     string `json:"account"`
	ID          string `json:"id,omitempty"`      // unique id of the user, or of the session's role
	RoleARN     string `json:"roleArn,omitempty"` // of a role session
	AccessKeyID string `json:"accessKeyId,omitempty"`
}

// RefusedStatement is a statement of a policy and what became of it.
type RefusedStatement struct {
	Document  string `json:"document"` // which policy, and whose
	Statement int    `json:"statement"`
	Sid       string `json:"sid,omitempty"`
	Effect    string `json:"effect"`
	Applied   bool   `json:"applied"`
	// Failed is the first element that did not match: Principal, Action, Resource
	// or Condition, or InertStatement for one that says nothing. Empty if it applied.
	Failed    string            `json:"failed,omitempty"`
	Condition *RefusedCondition `json:"condition,omitempty"`
}

// RefusedCondition is a condition that did not hold.
type RefusedCondition struct {
	Operator string   `json:"operator"`
	Key      string   `json:"key"`
	Wanted   []string `json:"wanted"`
	Got      []string `json:"got"` // empty: the request does not have the key
}

// RefusedGrant is a grant to the caller that did not cover the request.
type RefusedGrant struct {
	Grant string `json:"grant"`
	// To is what of the caller it is to, like "user" or "account root".
	To string `json:"to"`
	// Failed is what did not match: Action, SourceArn or EncryptionContext. Empty if
	// the grant covers the request, which something else denies.
	Failed string `json:"failed,omitempty"`
	// Pair of the encryption context that is not as the grant has it.
	Pair *RefusedPair `json:"pair,omitempty"`
}

// RefusedPair is a pair of an encryption context; a nil value is none.
type RefusedPair struct {
	Key    string  `json:"key"`
	Wanted *string `json:"wanted"`
	Got    *string `json:"got"`
}

// RefusedChange is a change that helps a request that was refused.
type RefusedChange struct {
	// Kind is AddStatement, AddGrant, MeetConditions or LiftDeny.
	Kind string `json:"kind"`
	Text string `json:"text"`
	// Document that is to be changed; empty for a grant.
	Document string `json:"document,omitempty"`
	// Add is the statement to add, or the request of CreateGrant to send.
	Add json.RawMessage `json:"add,omitempty"`
	// Conditions that do not hold and have to, or that hold and must not all.
	Conditions []RefusedCondition `json:"conditions,omitempty"`
}

// kindNames are the kinds of principals in words.
var kindNames = map[policy.Kind]string{
	policy.AccountRoot: "account root", policy.User: "user", policy.RoleSession: "role session",
	policy.FederatedUser: "federated user", policy.WebIdentity: "web identity", policy.Service: "service", policy.Role: "role",
}

// because are the reasons of refusals in words.
var because = map[policy.Reason]string{
	policy.Undecided:         "the ciphertext names no key that is here, or the question is incomplete",
	policy.KeyPolicyDenies:   "a statement of the key's own policy denies it",
	policy.IdentityDenies:    "a statement of an identity policy denies it",
	policy.BoundaryDenies:    "a statement of the permissions boundary denies it",
	policy.SessionDenies:     "a statement of a session policy denies it",
	policy.NoKeyPolicyAllows: "no statement of the key's own policy allows it",
	policy.NoIdentityAllows:  "no statement of an identity policy allows it",
	policy.NoBoundaryAllows:  "no statement of the permissions boundary allows it",
	policy.NoSessionAllows:   "no statement of a session policy allows it",
	policy.Foreign:           "it is another account's, whose policy does not allow it or denies it, or it is not there, or the operation is for the own account alone",
}

// noteRefusal keeps why policy refused a target, for administrators, together with
// the call's record. The question is decided once more for it.
func (c *call) noteRefusal(r *resource, q policy.Input) {
	if !c.gateway.explaining.allow(c.now, throttleKey{c.caller.Account, c.region, explanations}) {
		c.gateway.metrics.unexplained.Inc()
		c.detail = "too many refusals at once: why this one was refused is not kept"
		return
	}
	d, trace := policy.Explain(q)
	refused := Refused{
		RequestID: c.requestID, Time: c.now.UTC(), Region: c.region, SourceIP: c.event.SourceIP, Operation: c.event.Name,
		Principal: c.refusedPrincipal(q.Caller), Action: q.Action, Resource: q.Resource, Exists: (r.missing == nil || r.key != nil) && q.Resource != "",
		Reason: d.Reason.String(), Because: because[d.Reason],
	}
	for i := range trace.Statements {
		refused.Statements = append(refused.Statements, c.refusedStatement(&trace.Statements[i], r))
	}
	refused.addGrants(trace.Grants)
	aliasOfNothing := r.key == nil && r.aliasARN != ""
	if aliasOfNothing {
		refused.Resource = r.aliasARN
	}
	if refused.AlternativesOmitted = tooMany(trace.Statements); !refused.AlternativesOmitted && !aliasOfNothing {
		refused.Alternatives = c.alternatives(q, r)
	}
	document, err := refused.encode()
	if err != nil {
		c.gateway.report(c, false, err)
		return
	}
	c.refusal = &metadata.Refusal{
		RequestID: uuid.MustParse(c.requestID), Account: c.caller.Account, At: c.now, Document: document,
	}
}

func (c *call) refusedPrincipal(p policy.Principal) RefusedPrincipal {
	return RefusedPrincipal{
		Kind: kindNames[p.Kind], ARN: p.ARN, Account: c.caller.Account, ID: p.ID, RoleARN: p.RoleARN,
		AccessKeyID: c.caller.AccessKeyID,
	}
}

func (c *call) refusedStatement(s *policy.StatementTrace, r *resource) RefusedStatement {
	out := RefusedStatement{
		Document: c.documentName(s.Source, s.Document, r), Statement: s.Statement, Sid: s.Sid,
		Effect: "Allow", Applied: s.Matched(),
	}
	if !out.Applied {
		out.Failed = s.Failed.String()
	}
	if s.Deny {
		out.Effect = "Deny"
	}
	if s.Condition != nil {
		condition := refusedCondition(s.Condition)
		out.Condition = &condition
	}
	return out
}

func refusedCondition(c *policy.ConditionTrace) RefusedCondition {
	return RefusedCondition{Operator: c.Operator, Key: c.Key, Wanted: shown(c.Wanted), Got: shown(c.Got)}
}

// Limits of the alternatives: of the statements that only a condition keeps from
// allowing, for each is tried out, and of those that are kept.
const (
	maxUnmet        = 20
	maxAlternatives = 10
)

// tooMany tells whether looking for alternatives would take too long.
func tooMany(statements []policy.StatementTrace) bool {
	unmet := 0
	for i := range statements {
		if statements[i].Failed == policy.ConditionElement {
			unmet++
		}
	}
	return unmet > maxUnmet
}

// alternatives are the ways in which a target could be allowed. What would change
// the policy of a service's key is none: nobody may.
func (c *call) alternatives(q policy.Input, r *resource) (all [][]RefusedChange) {
	fixed := r.key != nil && r.key.Service != ""
	for _, suggestion := range policy.Suggest(q) {
		if len(all) == maxAlternatives {
			break
		}
		if fixed && slices.ContainsFunc(suggestion, changesKeyPolicy) {
			continue
		}
		changes := make([]RefusedChange, 0, len(suggestion))
		for i := range suggestion {
			changes = append(changes, c.refusedChange(&suggestion[i], r))
		}
		all = append(all, changes)
	}
	return all
}

func changesKeyPolicy(c policy.Change) bool {
	return c.Source == policy.KeyPolicySource && c.Kind != policy.MeetConditions
}

func (c *call) refusedChange(change *policy.Change, r *resource) RefusedChange {
	out := RefusedChange{Kind: change.Kind.String(), Text: change.Text, Add: json.RawMessage(change.JSON)}
	switch {
	case change.Kind == policy.AddGrant:
	case change.Kind == policy.AddStatement && change.Source == policy.IdentitySource && c.caller.Entry != nil:
		out.Document = "a policy of " + c.caller.Entry.ARN()
	default:
		out.Document = c.documentName(change.Source, change.Document, r)
	}
	for i := range change.Conditions {
		out.Conditions = append(out.Conditions, refusedCondition(&change.Conditions[i]))
	}
	return out
}

// maxShownGrants bounds the grants that are kept of a refusal.
const maxShownGrants = 50

// addGrants adds what became of grants.
func (r *Refused) addGrants(grants []policy.GrantTrace) {
	slices.SortStableFunc(grants, func(a, b policy.GrantTrace) int { return int(b.Failed) - int(a.Failed) })
	for _, g := range grants[:min(len(grants), maxShownGrants)] {
		out := RefusedGrant{Grant: g.ID, To: kindNames[g.Grantee]}
		if g.Failed != policy.Nothing {
			out.Failed = g.Failed.String()
		}
		if g.Pair != nil {
			out.Pair = &RefusedPair{Key: g.Pair.Key, Wanted: g.Pair.Wanted, Got: g.Pair.Got}
		}
		r.Grants = append(r.Grants, out)
	}
	r.OmittedGrants = len(grants) - len(r.Grants)
}

// documentName says which policy of a question a document is, and whose.
func (c *call) documentName(source policy.Source, document int, r *resource) string {
	switch {
	case source == policy.KeyPolicySource && r.target.kind == onTrust:
		return "trust policy of " + r.arn
	case source == policy.SessionSource:
		return fmt.Sprintf("session policy %d", document+1)
	}
	return documentName(c.caller.Entry, source, document, r.arn)
}

// documentName says which policy a document is, and whose.
func documentName(e *metadata.PrincipalEntry, source policy.Source, document int, resource string) string {
	switch {
	case source == policy.KeyPolicySource:
		return "policy of " + resource
	case source == policy.IdentitySource && e != nil && document < len(e.Policies):
		return "policy " + e.Policies[document].Name + " of " + e.Policies[document].Of
	case source == policy.BoundarySource && e != nil:
		return "permissions boundary " + e.Boundary
	}
	return source.String()
}

// Limits of what of a condition's values is kept.
const (
	maxShownValues = 20
	maxShownBytes  = 512
)

// shown are values as far as they are kept.
func shown(values []string) []string {
	kept := make([]string, 0, min(len(values), maxShownValues+1))
	for i, v := range values {
		if i == maxShownValues {
			return append(kept, "…")
		}
		if len(v) > maxShownBytes {
			v = v[:maxShownBytes] + "…"
		}
		kept = append(kept, v)
	}
	return kept
}

// encode is the document that is kept. If it is too long, statements are left out,
// first those that are about something else, and then the alternatives and grants.
func (r *Refused) encode() ([]byte, error) {
	for {
		document, err := json.Marshal(r)
		if err != nil || len(document) <= metadata.MaxRefusalBytes {
			return document, err
		}
		before := len(r.Statements)
		r.Statements = slices.DeleteFunc(r.Statements, func(s RefusedStatement) bool { return !s.Applied && s.Condition == nil })
		if len(r.Statements) == before {
			r.Statements = r.Statements[:before/2]
		}
		r.Omitted += before - len(r.Statements)
		if before == 0 {
			r.AlternativesOmitted, r.Alternatives = true, nil
			r.OmittedGrants, r.Grants = r.OmittedGrants+len(r.Grants), nil
		}
	}
}
