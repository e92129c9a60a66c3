package policy_test

import (
	"errors"
	"strings"
	"testing"

	"kmsgate/policy"
)

const providerARN = "arn:aws:iam::" + account + ":oidc-provider/oidc.example.com/id"

// trust is a trust policy with one statement of the given members beside an Allow.
func trust(members string) string {
	return `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", ` + members + `}]}`
}

func mustParseTrust(tb testing.TB, document string) *policy.Policy {
	tb.Helper()
	p, err := policy.ParseTrust(document)
	if err != nil {
		tb.Fatalf("ParseTrust(%s) = %v", document, err)
	}
	return p
}

func TestParseTrust(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, members, want string }{
		{"user", `"Principal": ` + aws(userARN) + `, "Action": "sts:AssumeRole"`, ""},
		{"several actions", `"Principal": "*", "Action": ["STS:assumerole", "sts:TagSession", "sts:SetSourceIdentity"]`, ""},
		{"wildcards", `"Principal": "*", "Action": ["sts:*", "sts:Assume*"]`, ""},
		{"provider", `"Principal": {"Federated": "` + providerARN + `"}, "Action": "sts:AssumeRoleWithWebIdentity"`, ""},
		{"condition on a tag", `"Principal": "*", "Action": "sts:AssumeRole", "Condition": {"ForAllValues:StringEquals": {"aws:RequestTag/a": "b"}}`, ""},
		{"resource", `"Principal": "*", "Action": "sts:AssumeRole", "Resource": "*"`, "Statement[0].Resource: is not for trust policies"},
		{"not resource", `"Principal": "*", "Action": "sts:AssumeRole", "NotResource": "*"`, "Statement[0].NotResource: is not for trust policies"},
		{"not principal", `"NotPrincipal": "*", "Action": "sts:AssumeRole"`, "Statement[0].NotPrincipal: is not for trust policies"},
		{"not action", `"Principal": "*", "NotAction": "sts:AssumeRole"`, "Statement[0].NotAction: is not for trust policies"},
		{"no principal", `"Action": "sts:AssumeRole"`, "Statement[0].Principal: is missing"},
		{"no action", `"Principal": "*"`, "Statement[0].Action: is missing"},
		{"every action", `"Principal": "*", "Action": "*"`, `Statement[0].Action: "*" is not an action of STS on roles`},
		{"other service", `"Principal": "*", "Action": "kms:*"`, `Statement[0].Action: "kms:*" is not an action of STS on roles`},
		{"other action", `"Principal": "*", "Action": "sts:GetSessionToken"`, `Statement[0].Action: "sts:GetSessionToken" is not an action of STS on roles`},
		{"Sid", `"Sid": "a b", "Principal": "*", "Action": "sts:AssumeRole"`, "Statement[0].Sid: must be of letters and digits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.ParseTrust(trust(tt.members))
			if got := strings.TrimPrefix(text(err), "policy: "); got != tt.want {
				t.Errorf("ParseTrust = %q, want %q", got, tt.want)
			}
		})
	}
	_, err := policy.ParseTrust(trust(`"Principal": {"AWS": "AIDAALICE"}, "Action": "sts:AssumeRole"`))
	if _, ok := errors.AsType[*policy.PrincipalError](err); !ok {
		t.Errorf("ParseTrust with a unique id = %v, want *PrincipalError", err)
	}
}

func TestTrustDecides(t *testing.T) {
	t.Parallel()
	assumes := mustParseIdentity(t, strings.Replace(identity(""), "kms:*", "sts:AssumeRole", 1))
	tests := []struct {
		name, caller, principal string
		identity                *policy.Policy
		want                    policy.Reason
	}{
		{"user by name", "user", aws(userARN), nil, policy.KeyPolicyAllows},
		{"user by account", "user", aws(account), assumes, policy.AccountAllows},
		{"user by account alone", "user", aws(account), nil, policy.NoIdentityAllows},
		{"other user by name alone", "other user", aws(otherUser), nil, policy.NoIdentityAllows},
		{"other user by both", "other user", aws(other), assumes, policy.BothSidesAllow},
		{"chained role", "session", aws(roleARN), nil, policy.KeyPolicyAllows},
		{"somebody else", "user", aws(roleARN), assumes, policy.NoKeyPolicyAllows},
	}
	for _, tt := range tests {
		in := policy.Input{
			Caller: callers[tt.caller], Action: "sts:AssumeRole", Resource: roleARN + "2", Owner: account, CrossAccount: true,
			KeyPolicy: mustParseTrust(t, trust(`"Principal": `+tt.principal+`, "Action": "sts:AssumeRole"`)),
		}
		if tt.identity != nil {
			in.Identity = []*policy.Policy{tt.identity}
		}
		if got := policy.Authorize(in).Reason; got != tt.want {
			t.Errorf("%s: Authorize = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestWebIdentitiesByTrustPolicy(t *testing.T) {
	t.Parallel()
	doc := trust(`"Principal": {"Federated": "` + providerARN + `"}, "Action": "sts:AssumeRoleWithWebIdentity",
		"Condition": {"StringLike": {"oidc.example.com/id:sub": "system:serviceaccount:pay:*"}, "StringEquals": {"oidc.example.com/id:aud": "kms"}}`)
	for subject, want := range map[string]bool{"system:serviceaccount:pay:api": true, "system:serviceaccount:web:api": false} {
		in := policy.Input{
			Caller: policy.Principal{Kind: policy.WebIdentity, ARN: providerARN}, Action: "sts:AssumeRoleWithWebIdentity",
			Resource: roleARN, Owner: account, KeyPolicy: mustParseTrust(t, doc),
			Context: policy.Facts{{"oidc.example.com/id:sub", []string{subject}}, {"oidc.example.com/id:aud", []string{"kms"}}},
		}
		if got := policy.Authorize(in).Allowed; got != want {
			t.Errorf("Authorize of %s = %t, want %t", subject, got, want)
		}
	}
}

func TestFederatedWithoutSubject(t *testing.T) {
	t.Parallel()
	federated := func(condition string) string {
		return `"Principal": {"Federated": "` + providerARN + `"}, "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession"], "Condition": {` + condition + `}`
	}
	tests := []struct {
		name, members string
		bad           bool
	}{
		{"subject", federated(`"StringEquals": {"oidc.example.com/id:sub": "a"}`), false},
		{"subjects", federated(`"ForAnyValue:StringLike": {"oidc.example.com/id:SUB": ["a:*", "b"]}`), false},
		{"subject in any case", federated(`"StringEqualsIgnoreCase": {"oidc.example.com/id:sub": "a"}`), false},
		{"no condition", federated(``), true},
		{"audience only", federated(`"StringEquals": {"oidc.example.com/id:aud": "a"}`), true},
		{"any subject", federated(`"StringLike": {"oidc.example.com/id:sub": ["a", "*?*"]}`), true},
		{"subject if there is one", federated(`"StringEqualsIfExists": {"oidc.example.com/id:sub": "a"}`), true},
		{"all values", federated(`"ForAllValues:StringEquals": {"oidc.example.com/id:sub": "a"}`), true},
		{"other subjects", federated(`"StringNotEquals": {"oidc.example.com/id:sub": "a"}`), true},
		{"there is a subject", federated(`"Null": {"oidc.example.com/id:sub": "false"}`), true},
		{"anyone", `"Principal": "*", "Action": "sts:*"`, true},
		{"anyone who assumes", `"Principal": "*", "Action": "sts:AssumeRole"`, false},
		{"users", `"Principal": ` + aws(userARN) + `, "Action": "sts:*"`, false},
	}
	for _, tt := range tests {
		path, bad := mustParseTrust(t, trust(tt.members)).FederatedWithoutSubject()
		if bad != tt.bad || bad != (path == "Statement[0]") {
			t.Errorf("%s: FederatedWithoutSubject = %q, %t, want %t", tt.name, path, bad, tt.bad)
		}
	}
	denies := strings.Replace(trust(federated("")), "Allow", "Deny", 1)
	if path, bad := mustParseTrust(t, denies).FederatedWithoutSubject(); bad {
		t.Errorf("FederatedWithoutSubject of a Deny = %q, want none", path)
	}
}
