package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"kmsgate/policy"
)

// FuzzParse holds that any document is either refused with an error of ours or
// compiles to a policy that can be asked, and that the formatter agrees.
func FuzzParse(f *testing.F) {
	f.Add(policy.DefaultKeyPolicy(account))
	f.Add(document(`"Sid": "\u00e9\ud800", "Condition": {"ForAnyValue:StringLikeIfExists": {"kms:EncryptionContextKeys": ["a*?b", "${aws:username, 'x'}${*}"]}}`))
	f.Add(document(`"Condition": {"NumericLessThan": {"kms:RotationPeriodInDays": [90, 1e2]}, "Bool": {"aws:SecureTransport": true}, "Null": {"a:k": "false"}}`))
	f.Add(document(`"Condition": {"DateGreaterThan": {"aws:CurrentTime": ["2026-01-02T03:04:05Z", "1767323045"]}, "IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "::1"]}}`))
	f.Add(document(`"Condition": {"ArnLike": {"aws:PrincipalArn": ["arn:aws:iam::*:role/*", "*"]}, "BinaryEquals": {"a:k": "QQ=="}}`))
	f.Add(document(`"Condition": {"ForAllValues:StringEquals": {"kms:EncryptionContext:a": "b"}}`))
	f.Add(`{"Statement": [{"Effect": "Deny", "NotPrincipal": {"AWS": ["111122223333", "arn:aws:iam::111122223333:user/a"], "Service": "a.b"}, "NotAction": "kms:*", "NotResource": "arn:aws:kms:*:1:key/${a:k}"}]}`)
	f.Add(`{"Statement": {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:group/g"}}}`)
	f.Add(`{"Id": "a", "Id": "b"}`)
	f.Add(`{"Statement": [[[[[[[[[[`)
	f.Add("{\"Id\": \"\xff\"}")
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, doc string) {
		p, err := policy.Parse(doc)
		identityPolicy, identityErr := policy.ParseIdentity(doc)
		if identityErr == nil && p != nil {
			t.Errorf("Parse and ParseIdentity both take %q", doc)
		}
		for _, err := range []error{err, identityErr} {
			if err != nil && !isOurs(err) {
				t.Errorf("Parse(%q) = %v of type %T", doc, err, err)
			}
		}
		formatted, err := policy.Format(doc)
		if err == nil {
			checkFormat(t, doc)
		} else if p != nil {
			t.Errorf("Parse takes %q, Format says %v", doc, err)
		}
		if p != nil && !json.Valid([]byte(doc)) {
			t.Errorf("Parse takes %q, which is not JSON", doc)
		}
		in := policy.Input{
			Caller: callers["session"], Action: "kms:Encrypt", Resource: keyARN, Owner: account, KeyPolicy: p,
			Context: policy.Facts{{"a:k", []string{"x", ""}}, {"aws:CurrentTime", []string{"2026"}}, {"aws:SourceIp", []string{"::1"}}},
		}
		if identityPolicy != nil {
			in.Identity = []*policy.Policy{identityPolicy}
		}
		d, _ := policy.Explain(in)
		if d.Allowed && !strings.Contains(formatted, `"Allow"`) {
			t.Errorf("Explain with %q = %+v without any Allow", doc, d)
		}
	})
}

func isOurs(err error) bool {
	_, syntax := errors.AsType[*policy.SyntaxError](err)
	_, principal := errors.AsType[*policy.PrincipalError](err)
	_, condition := errors.AsType[*policy.ConditionError](err)
	return syntax || principal || condition
}
