package policy_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

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
	f.Add(trust(`"Principal": {"Federated": "` + providerARN + `"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringLike": {"oidc.example.com/id:sub": "a:*"}}`))
	f.Add(`{"Id": "a", "Id": "b"}`)
	f.Add(`{"Statement": [[[[[[[[[[`)
	f.Add("{\"Id\": \"\xff\"}")
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, doc string) {
		p, err := policy.Parse(doc)
		identityPolicy, identityErr := policy.ParseIdentity(doc)
		trustPolicy, trustErr := policy.ParseTrust(doc)
		if identityErr == nil && (p != nil || trustPolicy != nil) {
			t.Errorf("ParseIdentity takes %q, and so does another", doc)
		}
		for _, err := range []error{err, identityErr, trustErr} {
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
		if trustPolicy != nil {
			trustPolicy.FederatedWithoutSubject()
		}
		checkReach(t, in)
		for _, s := range policy.Suggest(in) {
			if len(s) == 0 {
				t.Errorf("Suggest has a suggestion without changes")
			}
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

// FuzzMatch holds that a pattern matches what its regular expression matches, in
// a bounded number of steps.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{{"*", ""}, {"a?*?c", "abbc"}, {"*a?c*", "xaacx"}, {"*ab*ab*", "abxab"}, {"*?\u00e9?*z", "a\u00e9az"}, {"kms:*", "KMS:Encrypt"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(value) {
			return
		}
		if _, _, problem := policy.Match(pattern, value, false); problem != "" {
			return
		}
		want := wildcardRegexp(pattern).MatchString(value)
		if got, _ := checkSteps(t, pattern, value, false); got != want {
			t.Errorf("%q matches %q = %t, want %t", pattern, value, got, want)
		}
	})
}

// wildcardRegexp is a pattern as a regular expression.
func wildcardRegexp(pattern string) *regexp.Regexp {
	return regexp.MustCompile("(?s)^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern)) + "$")
}

// FuzzGrant holds that a grant allows nothing beyond its operations and
// constraints, and no child that it covers does.
func FuzzGrant(f *testing.F) {
	f.Add("Encrypt", "Decrypt,CreateGrant", "a", "b", "a", "b", "", true)
	f.Add("DescribeKey", "DescribeKey", "a", "b", "", "", "arn:aws:s3:::x", false)
	f.Add("RetireGrant", "Frobnicate", "", "", "", "", "x", true)
	f.Fuzz(func(t *testing.T, operation, operations, key, value, contextKey, contextValue, source string, equals bool) {
		g := policy.GrantConstraints{SourceARN: source}
		if equals {
			g.EncryptionContextEquals = pairs(key, value)
		} else {
			g.EncryptionContextSubset = pairs(key, value)
		}
		child := policy.GrantConstraints{EncryptionContextEquals: pairs(contextKey, contextValue), SourceARN: source}
		checkGrant(t, operation, strings.Split(operations, ","), g, strings.Split(operations, ","), child, pairs(contextKey, contextValue), source)
	})
}

// FuzzBind holds that a bound policy allows none by an ARN alone, and that what is
// shown has the same layout as the document.
func FuzzBind(f *testing.F) {
	f.Add(naming("Allow", `"Principal": `+aws(userARN, roleARN)), userARN, userID)
	f.Add(naming("Allow", `"NotPrincipal": `+aws(userARN, sessionARN)), roleARN, roleID)
	f.Add(naming("Deny", `"NotPrincipal": `+aws(account, userARN)), userARN, "")
	f.Fuzz(func(t *testing.T, doc, arn, id string) {
		shown, err := policy.ShowPrincipals(doc, map[string]string{arn: id})
		formatted, formatErr := policy.Format(doc)
		if text(err) != text(formatErr) {
			t.Errorf("ShowPrincipals = %v, Format = %v", err, formatErr)
		}
		if strings.Count(shown, "\n") != strings.Count(formatted, "\n") {
			t.Errorf("ShowPrincipals = %s, Format = %s", shown, formatted)
		}
		p, err := policy.Parse(doc)
		if err != nil {
			return
		}
		bound := p.Bind(map[string]string{arn: id})
		if !cmp.Equal(bound.Principals(), p.Principals()) {
			t.Errorf("Principals = %v, of the bound policy %v", p.Principals(), bound.Principals())
		}
		for name, caller := range callers { // none of them has an id
			in := policy.Input{Caller: caller, Action: "kms:Encrypt", Resource: keyARN, Owner: caller.Account, KeyPolicy: p}
			in.Owner += strings.Repeat(account, 1-min(1, len(caller.Account)))
			before := policy.Authorize(in)
			in.KeyPolicy = bound
			if after := policy.Authorize(in); after.Allowed && !before.Allowed {
				t.Errorf("%s is allowed by the bound policy only: %+v", name, after)
			}
		}
	})
}
