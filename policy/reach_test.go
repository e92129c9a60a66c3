package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kmsgate/policy"
)

// drawGrants draws grants that have a fair chance to cover.
func drawGrants(t *rapid.T, name string) []*policy.Grant {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *policy.Grant {
		var c policy.GrantConstraints
		context := rapid.SampledFrom([]map[string]string{nil, pairs(), pairs("a", "b"), pairs("a", "b", "c", "d")})
		switch rapid.IntRange(0, 5).Draw(t, "constraint") {
		case 0:
			c.EncryptionContextEquals = context.Draw(t, "equals")
		case 1:
			c.EncryptionContextSubset = context.Draw(t, "subset")
		case 2:
			c.SourceARN = "x"
		}
		operations := rapid.SampledFrom([][]string{{"Encrypt"}, {"Decrypt", "CreateGrant"}, {"Encrypt", "Decrypt", "Frobnicate"}}).Draw(t, "operations")
		return policy.NewGrant(element(t, "id", "g1", "g2"), operations, c)
	}), 0, 2).Draw(t, name)
}

func TestReachHoldsForEveryRequest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		checkReach(t, drawQuestion(t).input(t))
	})
}

// checkReach holds that Reach says Never and Always only where Authorize agrees,
// and regardless of the request.
func checkReach(tb rapid.TB, in policy.Input) {
	d, a := policy.Authorize(in), policy.Reach(in)
	if a.Level == policy.Never && d.Allowed || a.Level == policy.Always && !d.Allowed || a.Level == policy.Never && a.Grant != "" {
		tb.Fatalf("Authorize = %+v, Reach = %+v", d, a)
	}
	in.Context, in.Granted = nil, policy.GrantContext{}
	if diff := cmp.Diff(a, policy.Reach(in)); diff != "" {
		tb.Fatalf("Reach depends on the request (-want +got):\n%s", diff)
	}
}

func TestReachNamesTheWay(t *testing.T) {
	t.Parallel()
	allow := mustParseIdentity(t, `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
		{"Sid": "i", "Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}`)
	tagged := mustParseIdentity(t, `{"Version": "2012-10-17", "Statement": {"Sid": "v", "Effect": "Allow", "Action": "kms:*", "Resource": "arn:aws:kms:us-east-1:*:key/${aws:PrincipalTag/key, 'none'}"}}`)
	elsewhere := mustParseIdentity(t, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "arn:aws:kms:eu-west-1:*:key/${aws:username}"}}`)
	notTagged := mustParseIdentity(t, `{"Version": "2012-10-17", "Statement": {"Sid": "n", "Effect": "Allow", "Action": "kms:*", "NotResource": ["arn:aws:kms:us-east-1:*:key/${aws:username}", "arn:aws:kms:eu-west-1:*:*"]}}`)
	conditional := document(`"Sid": "c", "Condition": {"Bool": {"aws:SecureTransport": "true"}}`)
	denied := `{"Statement": [{"Sid": "a", "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"},
		{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*", "Condition": {"Null": {"a:k": "true"}}}]}`
	bound := policy.GrantConstraints{EncryptionContextSubset: pairs("a", "b")}
	byAccount := func(l policy.Level, p policy.Place) policy.Access {
		p.Source = policy.IdentitySource
		return policy.Access{Level: l, Reason: policy.AccountAllows, Source: policy.KeyPolicySource, Sid: "Enable IAM User Permissions", Identity: p}
	}
	tests := []struct {
		name, caller, keyPolicy string
		identity                *policy.Policy
		grant                   *policy.Grant
		want                    policy.Access
	}{
		{name: "root", caller: "root", keyPolicy: policy.DefaultKeyPolicy(account), want: policy.Access{
			Level: policy.Always, Reason: policy.AccountAllows, Source: policy.KeyPolicySource, Sid: "Enable IAM User Permissions",
		}},
		{name: "user by IAM", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), identity: allow, want: byAccount(policy.Always, policy.Place{Statement: 1, Sid: "i"})},
		{name: "user without IAM", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), want: policy.Access{Reason: policy.NoIdentityAllows}},
		{name: "variable", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), identity: tagged, want: byAccount(policy.Conditional, policy.Place{Sid: "v"})},
		{name: "variable of another region", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), identity: elsewhere, want: policy.Access{Reason: policy.NoIdentityAllows}},
		{name: "not a variable", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), identity: notTagged, want: byAccount(policy.Conditional, policy.Place{Sid: "n"})},
		{name: "condition", caller: "user", keyPolicy: conditional, want: policy.Access{Level: policy.Conditional, Reason: policy.KeyPolicyAllows, Source: policy.KeyPolicySource, Sid: "c"}},
		{name: "conditional deny", caller: "user", keyPolicy: denied, identity: allow, want: policy.Access{Level: policy.Conditional, Reason: policy.KeyPolicyAllows, Source: policy.KeyPolicySource, Sid: "a"}},
		{name: "deny", caller: "user", keyPolicy: naming("Deny", `"Principal": "*"`), want: policy.Access{Reason: policy.KeyPolicyDenies, Source: policy.KeyPolicySource}},
		{name: "grant", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), grant: policy.NewGrant("g", []string{"Encrypt"}, policy.GrantConstraints{}), want: policy.Access{Level: policy.Always, Reason: policy.GrantAllows, Grant: "g"}},
		{name: "grant with constraint", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), grant: policy.NewGrant("g", []string{"Encrypt"}, bound), want: policy.Access{Level: policy.Conditional, Reason: policy.GrantAllows, Grant: "g"}},
		{name: "grant for a source", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), grant: policy.NewGrant("g", []string{"Encrypt"}, policy.GrantConstraints{SourceARN: "x"}), want: policy.Access{Level: policy.Conditional, Reason: policy.GrantAllows, Grant: "g"}},
		{name: "foreign grant", caller: "other user", keyPolicy: policy.DefaultKeyPolicy(account), identity: allow, grant: policy.NewGrant("g", []string{"Encrypt"}, policy.GrantConstraints{}), want: policy.Access{
			Level: policy.Always, Reason: policy.GrantAllows, Grant: "g", Identity: policy.Place{Source: policy.IdentitySource, Statement: 1, Sid: "i"},
		}},
		{name: "grant of something else", caller: "user", keyPolicy: policy.DefaultKeyPolicy(account), grant: policy.NewGrant("g", []string{"Decrypt"}, policy.GrantConstraints{}), want: policy.Access{Reason: policy.NoIdentityAllows}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := rootInput(t, tt.keyPolicy)
			in.Caller, in.CrossAccount = callers[tt.caller], true
			if tt.identity != nil {
				in.Identity = []*policy.Policy{tt.identity}
			}
			if tt.grant != nil {
				in.Grants = grants(tt.grant)
			}
			if diff := cmp.Diff(tt.want, policy.Reach(in)); diff != "" {
				t.Errorf("Reach (-want +got):\n%s", diff)
			}
		})
	}
}
