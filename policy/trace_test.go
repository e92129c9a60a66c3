package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/policy"
)

func TestExplainTellsWhatFailed(t *testing.T) {
	t.Parallel()
	in := userInput(t, `{"Statement": [
		{"Sid": "p", "Effect": "Allow", "Principal": {"AWS": "`+otherUser+`"}, "Action": "*", "Resource": "*"},
		{"Sid": "a", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"},
		{"Sid": "r", "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "x"},
		{"Sid": "i", "Effect": "Allow", "Principal": "*", "Action": "*"},
		{"Sid": "c", "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*", "Condition":
			{"Bool": {"aws:SecureTransport": true}, "StringEquals": {"kms:EncryptionContext:Dept": ["x", "y"]}}},
		{"Sid": "m", "Effect": "Allow", "Principal": {"AWS": "`+account+`"}, "Action": "*", "Resource": "*"}]}`,
		mustParseIdentity(t, identity("")))
	in.Boundary = mustParseIdentity(t, identity(""))
	in.Session = []*policy.Policy{mustParseIdentity(t, strings.Replace(identity(""), "kms:*", "s3:*", 1))}
	in.Context = policy.Facts{{"aws:SecureTransport", []string{"true"}}, {"kms:EncryptionContext:dept", []string{"z"}}}

	d, trace := policy.Explain(in)
	if want := policy.Authorize(in); d != want || d.Reason != policy.NoSessionAllows {
		t.Errorf("Explain = %+v, want what Authorize says, %+v", d, want)
	}
	want := policy.Trace{Statements: []policy.StatementTrace{
		{Source: policy.IdentitySource},
		{Source: policy.SessionSource, Failed: policy.ActionElement},
		{Source: policy.BoundarySource},
		{Source: policy.KeyPolicySource, Sid: "p", Failed: policy.PrincipalElement},
		{Source: policy.KeyPolicySource, Statement: 1, Sid: "a", Deny: true, Failed: policy.ActionElement},
		{Source: policy.KeyPolicySource, Statement: 2, Sid: "r", Failed: policy.ResourceElement},
		{Source: policy.KeyPolicySource, Statement: 3, Sid: "i", Failed: policy.InertStatement},
		{Source: policy.KeyPolicySource, Statement: 4, Sid: "c", Failed: policy.ConditionElement, Condition: &policy.ConditionTrace{
			Operator: "StringEquals", Key: "kms:EncryptionContext:Dept", Wanted: []string{"x", "y"}, Got: []string{"z"},
		}},
		{Source: policy.KeyPolicySource, Statement: 5, Sid: "m"},
	}}
	if diff := cmp.Diff(want, trace); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
	if !trace.Statements[8].Matched() || trace.Statements[7].Matched() {
		t.Error("Matched is not what Failed says")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r := policy.Undecided; r <= policy.Foreign; r++ {
		seen[r.String()] = true
	}
	for s := policy.NoSource; s <= policy.SessionSource; s++ {
		seen[s.String()] = true
	}
	for e := policy.Nothing; e <= policy.EncryptionContextElement; e++ {
		seen[e.String()] = true
	}
	for l := policy.Never; l <= policy.Always; l++ {
		seen[l.String()] = true
	}
	for k := policy.AddStatement; k <= policy.LiftDeny; k++ {
		seen[k.String()] = true
	}
	if got, want := len(seen), 15+5+8+3+4; got != want {
		t.Errorf("%d different names, want %d", got, want)
	}
	for name, got := range map[string]string{
		"Foreign": policy.Foreign.String(), "session policy": policy.SessionSource.String(),
		"EncryptionContext": policy.EncryptionContextElement.String(), "Always": policy.Always.String(), "LiftDeny": policy.LiftDeny.String(),
	} {
		if got != name {
			t.Errorf("String() = %q, want %q", got, name)
		}
	}
}
