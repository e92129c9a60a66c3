package policy_test

import (
	"slices"
	"strings"
	"testing"

	"kmsgate/policy"
)

const (
	account = "111122223333"
	other   = "444455556666"
	rootARN = "arn:aws:iam::" + account + ":root"
	keyARN  = "arn:aws:kms:us-east-1:" + account + ":key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

func BenchmarkAuthorizeDefaultKeyPolicy(b *testing.B) {
	in := policy.Input{
		Caller:    policy.Principal{Kind: policy.AccountRoot, Account: account, ARN: rootARN},
		Action:    "kms:Encrypt",
		Resource:  keyARN,
		Owner:     account,
		KeyPolicy: mustParse(b, policy.DefaultKeyPolicy(account)),
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.Authorize(in); !d.Allowed {
			b.Fatalf("Authorize = %+v, want allowed", d)
		}
	}
}

// manyStatements is a request against a key policy of ten statements, five
// policies of the user and a hundred grants to it, the last of which allows.
func manyStatements(tb testing.TB) policy.Input {
	const (
		keyStatement = `{"Effect": "Allow", "Principal": {"AWS": ["` + rootARN + `", "arn:aws:iam::444455556666:user/eve"]}, "Action": ["kms:Describe*", "kms:Get*", "kms:Decrypt"], "Resource": "*",
			"Condition": {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}}`
		userStatement = `{"Effect": "Deny", "Action": "kms:*", "NotResource": "arn:aws:kms:*:` + account + `:key/*",
			"Condition": {"StringNotLike": {"aws:PrincipalTag/team": "a*"}}}`
	)
	identity := mustParseIdentity(tb, `{"Version": "2012-10-17", "Statement": [`+userStatement+`, {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "arn:aws:kms:*:*:key/1234*",
		"Condition": {"StringEquals": {"kms:EncryptionContext:dept": ["x", "z"]}, "Bool": {"aws:SecureTransport": "true"}}}]}`)
	last := policy.DefaultKeyPolicy(account)
	last = last[strings.Index(last, "[")+1 : strings.LastIndex(last, "]")]
	in := userInput(tb, joined(append(slices.Repeat([]string{keyStatement}, 9), last)), slices.Repeat([]*policy.Policy{identity}, 5)...)
	in.Context = policy.Facts{
		{"aws:SecureTransport", []string{"true"}},
		{"aws:PrincipalTag/Team", []string{"abc"}},
		{"kms:EncryptionContext:Dept", []string{"y"}},
	}
	in.Granted.EncryptionContext = pairs("Dept", "y")
	for i := range 100 {
		in.Grants = append(in.Grants, policy.NewGrant("g", []string{"Encrypt", "Decrypt"}, policy.GrantConstraints{
			EncryptionContextSubset: pairs("Dept", []string{"x", "y"}[i/99]),
		}))
	}
	return in
}

func BenchmarkAuthorizeManyStatements(b *testing.B) {
	in := manyStatements(b)
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.Authorize(in); !d.Allowed {
			b.Fatalf("Authorize = %+v, want allowed", d)
		}
	}
}

// Not parallel: allocations are counted over the whole process.
func TestAuthorizeDoesNotAllocate(t *testing.T) {
	in := manyStatements(t)
	if d := policy.Authorize(in); d.Reason != policy.GrantAllows {
		t.Fatalf("Authorize = %+v, want GrantAllows", d)
	}
	if got := testing.AllocsPerRun(100, func() { policy.Authorize(in) }); got != 0 {
		t.Errorf("Authorize allocates %v times, want none", got)
	}
}

// See hostile.
func BenchmarkAuthorizeHostilePatterns(b *testing.B) {
	in := hostile(b)
	for b.Loop() {
		if d := policy.Authorize(in); d.Allowed {
			b.Fatalf("Authorize = %+v, want refused", d)
		}
	}
}

func BenchmarkParseDefaultKeyPolicy(b *testing.B) {
	doc := policy.DefaultKeyPolicy(account)
	for b.Loop() {
		mustParse(b, doc)
	}
}

func mustParse(tb testing.TB, document string) *policy.Policy {
	tb.Helper()
	p, err := policy.Parse(document)
	if err != nil {
		tb.Fatalf("Parse(%s) = %v", document, err)
	}
	return p
}
