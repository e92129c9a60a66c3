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

// The key policy has ten statements and the user five policies; the last ones match.
func BenchmarkAuthorizeManyStatements(b *testing.B) {
	const (
		keyStatement = `{"Effect": "Allow", "Principal": {"AWS": ["` + rootARN + `", "arn:aws:iam::444455556666:user/eve"]}, "Action": ["kms:Describe*", "kms:Get*", "kms:Decrypt"], "Resource": "*",
			"Condition": {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}}`
		userStatement = `{"Effect": "Deny", "Action": "kms:*", "NotResource": "arn:aws:kms:*:` + account + `:key/*",
			"Condition": {"StringNotLike": {"aws:PrincipalTag/team": "a*"}}}`
	)
	identity := mustParseIdentity(b, `{"Version": "2012-10-17", "Statement": [`+userStatement+`, {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "arn:aws:kms:*:*:key/1234*",
		"Condition": {"StringEquals": {"kms:EncryptionContext:dept": ["x", "y"]}, "Bool": {"aws:SecureTransport": "true"}}}]}`)
	last := policy.DefaultKeyPolicy(account)
	last = last[strings.Index(last, "[")+1 : strings.LastIndex(last, "]")]
	in := userInput(b, joined(append(slices.Repeat([]string{keyStatement}, 9), last)), slices.Repeat([]*policy.Policy{identity}, 5)...)
	in.Context = policy.Facts{
		{"aws:SecureTransport", []string{"true"}},
		{"aws:PrincipalTag/Team", []string{"abc"}},
		{"kms:EncryptionContext:Dept", []string{"y"}},
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.Authorize(in); !d.Allowed {
			b.Fatalf("Authorize = %+v, want allowed", d)
		}
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
