package policy_test

import (
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

func mustParse(tb testing.TB, document string) *policy.Policy {
	tb.Helper()
	p, err := policy.Parse(document)
	if err != nil {
		tb.Fatalf("Parse(%s) = %v", document, err)
	}
	return p
}
