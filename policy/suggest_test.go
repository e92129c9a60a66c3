package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kmsgate/policy"
)

// documentOf is the place in a question of the documents of a source.
var documentOf = map[policy.Source]int{
	policy.KeyPolicySource: 0, policy.IdentitySource: 1, policy.BoundarySource: 2, policy.SessionSource: 3,
}

// make makes a change as an administrator would: in the text of a document.
func (q *question) make(t *rapid.T, c policy.Change) {
	q.documents[documentOf[c.Source]] = slices.Clone(q.documents[documentOf[c.Source]])
	document := &q.documents[documentOf[c.Source]]
	switch c.Kind {
	case policy.AddStatement:
		*document = append(*document, c.JSON)
	case policy.LiftDeny:
		principal := ""
		if c.Source == policy.KeyPolicySource {
			principal = `"Principal": "*", `
		}
		(*document)[c.Statement] = `{"Effect": "Deny", ` + principal + `"Action": "none:none", "Resource": "*"}`
	case policy.MeetConditions:
		members := map[string]any{}
		if err := json.Unmarshal([]byte((*document)[c.Statement]), &members); err != nil {
			t.Fatal(err)
		}
		delete(members, "Condition")
		text, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		(*document)[c.Statement] = string(text)
	case policy.AddGrant:
		var request struct {
			KeyID            string `json:"KeyId"`
			GranteePrincipal string
			Operations       []string
		}
		if err := json.Unmarshal([]byte(c.JSON), &request); err != nil {
			t.Fatal(err)
		}
		if request.KeyID != q.in.Resource {
			t.Fatalf("grant on %s, want one on %s", request.KeyID, q.in.Resource)
		}
		to := map[string]*[]*policy.Grant{q.in.Caller.ARN: &q.in.Grants, q.in.Caller.RoleARN: &q.in.RoleGrants}
		if q.in.Caller.Kind == policy.AccountRoot {
			to[q.in.Caller.ARN] = &q.in.AccountGrants
		}
		list := to[request.GranteePrincipal]
		*list = append(slices.Clone(*list), policy.NewGrant("new", request.Operations, policy.GrantConstraints{}))
	}
}

func (q *question) with(t *rapid.T, changes ...policy.Change) policy.Decision {
	changed := *q
	for _, c := range changes {
		changed.make(t, c)
	}
	return policy.Authorize(changed.input(t))
}

func TestSuggestionsAreTrueAndSmallest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t)
		in := q.input(t)
		suggestions := policy.Suggest(in)
		allowed := policy.Authorize(in).Allowed
		helpless := in.Caller.Kind == policy.WebIdentity || in.Caller.Account == other && !in.CrossAccount
		switch {
		case allowed && suggestions != nil:
			t.Fatalf("Suggest = %+v for a request that is allowed", suggestions)
		case !allowed && !helpless && suggestions == nil:
			t.Fatal("Suggest knows no way")
		}
		for _, s := range suggestions {
			if d := q.with(t, s...); !d.Allowed {
				t.Fatalf("with %+v Authorize = %+v, want allowed", s, d)
			}
			for i := range s {
				if d := q.with(t, slices.Delete(slices.Clone(s), i, i+1)...); d.Allowed {
					t.Fatalf("change %d of %+v is not needed: Authorize = %+v", i, s, d)
				}
			}
		}
	})
}

// statement is the JSON of a suggested statement.
func statement(members ...string) string {
	return "{\n  \"Effect\" : \"Allow\",\n  " + strings.Join(members, ",\n  ") + "\n}"
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	const (
		action = `"Action" : "kms:Encrypt"`
		onKey  = `"Resource" : "` + keyARN + `"`
		every  = `"Resource" : "*"`
		toKey  = "Add a statement to the key policy, or to the trust policy of the role."
		toIAM  = "Add a statement to a policy of the caller, of a group of it, or of its role."
	)
	principal := func(arn string) string { return "\"Principal\" : {\n    \"AWS\" : \"" + arn + "\"\n  }" }
	var (
		named      = policy.Change{Kind: policy.AddStatement, Text: toKey, Source: policy.KeyPolicySource, JSON: statement(principal(userARN), action, every)}
		theAccount = policy.Change{Kind: policy.AddStatement, Text: toKey, Source: policy.KeyPolicySource, JSON: statement(principal(rootARN), action, every)}
		byIAM      = policy.Change{Kind: policy.AddStatement, Text: toIAM, Source: policy.IdentitySource, JSON: statement(action, onKey)}
		boundary   = policy.Change{Kind: policy.AddStatement, Text: "Add a statement to the permissions boundary.", Source: policy.BoundarySource, JSON: statement(action, onKey)}
		grant      = policy.Change{
			Kind: policy.AddGrant, Text: "Create a grant on the key, by CreateGrant with these members.",
			JSON: "{\n  \"KeyId\" : \"" + keyARN + "\",\n  \"GranteePrincipal\" : \"" + userARN + "\",\n  \"Operations\" : [ \"Encrypt\" ]\n}",
		}
	)
	finance := policy.ConditionTrace{Operator: "StringEquals", Key: "kms:EncryptionContext:dept", Wanted: []string{"finance"}, Got: []string{"sales"}}
	secure := policy.ConditionTrace{Operator: "BoolIfExists", Key: "aws:SecureTransport", Wanted: []string{"true"}}
	const condition = `"Sid": "c", "Condition": {"StringEquals": {"kms:EncryptionContext:dept": "finance"}}`
	none := mustParseIdentity(t, `{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}`)
	tests := []struct {
		name, keyPolicy    string
		identity, boundary *policy.Policy
		want               []policy.Suggestion
	}{
		{"IAM decides", policy.DefaultKeyPolicy(account), nil, nil, []policy.Suggestion{{byIAM}, {named}, {grant}}},
		{"IAM decides within a boundary", policy.DefaultKeyPolicy(account), nil, none, []policy.Suggestion{{named}, {grant}, {byIAM, boundary}}},
		{"beyond the boundary", policy.DefaultKeyPolicy(account), mustParseIdentity(t, identity("")), none, []policy.Suggestion{{boundary}, {named}, {grant}}},
		{"IAM does not decide", naming("Allow", `"Principal": `+aws(roleARN)), nil, nil, []policy.Suggestion{{named}, {grant}, {theAccount, byIAM}}},
		{"condition", document(condition), nil, nil, []policy.Suggestion{
			{{Kind: policy.MeetConditions, Text: "Send a request that meets the conditions of Statement (c) of the key policy, or change them.", Source: policy.KeyPolicySource, Sid: "c", Conditions: []policy.ConditionTrace{finance}}},
			{named},
			{grant},
			{theAccount, byIAM},
		}},
		{"one of two conditions", document(`"Condition": {"StringNotEquals": {"a:k": "x"}, "StringEquals": {"kms:EncryptionContext:dept": "finance"}}`), nil, nil, []policy.Suggestion{
			{{Kind: policy.MeetConditions, Text: "Send a request that meets the conditions of Statement of the key policy, or change them.", Source: policy.KeyPolicySource, Conditions: []policy.ConditionTrace{finance}}},
			{named},
			{grant},
			{theAccount, byIAM},
		}},
		{"condition that a key policy can't see", document(`"Condition": {"StringEquals": {"aws:ResourceTag/a": "b"}}`), nil, nil, []policy.Suggestion{{named}, {grant}, {theAccount, byIAM}}},
		{"deny", policy.DefaultKeyPolicy(account), mustParseIdentity(t, `{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"},
			{"Effect": "Deny", "Action": "kms:*", "Resource": "*", "Condition": {"BoolIfExists": {"aws:SecureTransport": "true"}}}]}`), nil, []policy.Suggestion{{
			{
				Kind: policy.LiftDeny, Source: policy.IdentitySource, Statement: 1,
				Text:       "Remove Statement[1] of the identity policy, or narrow it so that it does not cover this request.",
				Conditions: []policy.ConditionTrace{secure},
			},
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := userInput(t, tt.keyPolicy)
			in.Context = policy.Facts{{"kms:EncryptionContext:dept", []string{"sales"}}}
			in.Boundary = tt.boundary
			if tt.identity != nil {
				in.Identity = []*policy.Policy{tt.identity}
			}
			if diff := cmp.Diff(tt.want, policy.Suggest(in)); diff != "" {
				t.Errorf("Suggest (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSuggestWhereNoKeyPolicyGoverns(t *testing.T) {
	t.Parallel()
	in := policy.Input{Caller: callers["user"], Action: "kms:ListKeys", Resource: "*", Owner: account, IdentityOnly: true}
	got := policy.Suggest(in)
	if len(got) != 1 || len(got[0]) != 1 || got[0][0].Source != policy.IdentitySource || got[0][0].JSON != statement(`"Action" : "kms:ListKeys"`, `"Resource" : "*"`) {
		t.Errorf("Suggest = %+v, want one statement of an identity policy", got)
	}
}

func TestSuggestSessionsByTheirRole(t *testing.T) {
	t.Parallel()
	in := grantInput(t, "session", "kms:Encrypt")
	in.Session = []*policy.Policy{mustParseIdentity(t, `{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}`)}
	for _, s := range policy.Suggest(in) {
		if len(s) < 2 || s[len(s)-1].Source != policy.SessionSource {
			t.Errorf("Suggest has %+v without the session policy", s)
		}
		if strings.Contains(s[0].JSON, "assumed-role") {
			t.Errorf("Suggest has %s, want the role in it", s[0].JSON)
		}
	}
}

func TestSuggestForTrustPolicies(t *testing.T) {
	t.Parallel()
	in := policy.Input{
		Caller: callers["user"], Action: "sts:AssumeRole", Resource: roleARN, Owner: account, CrossAccount: true,
		KeyPolicy: mustParseTrust(t, trust(`"Principal": `+aws(account)+`, "Action": "sts:AssumeRole"`)),
	}
	var added []string
	for _, s := range policy.Suggest(in) {
		added = append(added, s[0].JSON)
	}
	want := []string{
		statement(`"Action" : "sts:AssumeRole"`, `"Resource" : "`+roleARN+`"`),
		statement("\"Principal\" : {\n    \"AWS\" : \""+userARN+"\"\n  }", `"Action" : "sts:AssumeRole"`),
	}
	if diff := cmp.Diff(want, added); diff != "" {
		t.Errorf("Suggest (-want +got):\n%s", diff)
	}
}

func TestSuggestTrustsNoProviderAsAWhole(t *testing.T) {
	t.Parallel()
	in := policy.Input{
		Caller: policy.Principal{Kind: policy.WebIdentity, ARN: providerARN}, Action: "sts:AssumeRoleWithWebIdentity", Resource: roleARN, Owner: account,
		KeyPolicy: mustParseTrust(t, trust(`"Principal": `+aws(account)+`, "Action": "sts:AssumeRole"`)),
	}
	if got := policy.Suggest(in); got != nil {
		t.Errorf("Suggest without a subject = %+v, want none", got)
	}
	in.Context = policy.Facts{{"oidc.example.com/id:sub", []string{"system:serviceaccount:pay:api"}}}
	got := policy.Suggest(in)
	if len(got) != 1 || len(got[0]) != 1 {
		t.Fatalf("Suggest = %+v, want one statement", got)
	}
	doc := `{"Version": "2012-10-17", "Statement": ` + got[0][0].JSON + `}`
	if path, bad := mustParseTrust(t, doc).FederatedWithoutSubject(); bad {
		t.Errorf("%s of the suggested %s is without a subject", path, doc)
	}
}

func TestSuggestNothingThatDoesNotHelp(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*policy.Input){
		"incomplete":         func(in *policy.Input) { in.Owner = "" },
		"own accounts only":  func(in *policy.Input) { in.Caller, in.CrossAccount = callers["other user"], false },
		"retiring a grant":   func(in *policy.Input) { in.Action = "kms:RetireGrant" },
		"strange resource":   func(in *policy.Input) { in.IdentityOnly, in.KeyPolicy, in.Resource = true, nil, "key" },
		"strange action":     func(in *policy.Input) { in.Action = "kms:Dé" },
		"strange name":       func(in *policy.Input) { in.Caller.ARN, in.Identity = userARN+" ", nil; in.Action = "kms:" },
		"variable in a name": func(in *policy.Input) { in.IdentityOnly, in.KeyPolicy, in.Resource = true, nil, keyARN+"${a:b}" },
		"allowed":            func(in *policy.Input) { in.KeyPolicy = mustParse(t, document("")) },
	}
	for name, spoil := range tests {
		in := grantInput(t, "user", "kms:Encrypt")
		spoil(&in)
		if got := policy.Suggest(in); got != nil {
			t.Errorf("%s: Suggest = %+v, want none", name, got)
		}
	}
}

// Suggest matches nothing more often than Explain does, but for the conditions
// that it names: with hostile patterns, and a statement that has many, it would
// not come back within the test's time.
func TestSuggestIsCheapWithHostileDocuments(t *testing.T) {
	t.Parallel()
	if got := policy.Suggest(hostile(t)); len(got) == 0 {
		t.Error("Suggest knows no way")
	}
	conditional := `{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*", "Condition": {"Bool": {"a:b": true}}}`
	var met int
	for _, s := range policy.Suggest(userInput(t, joined(slices.Repeat([]string{conditional}, 250)))) {
		if s[0].Kind == policy.MeetConditions {
			met++
		}
	}
	if met != 10 {
		t.Errorf("Suggest tries the conditions of %d statements, want 10", met)
	}
}
