package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"kmsgate/policy"
)

// holds decides a request by a key policy with one condition.
func holds(t *testing.T, effect, condition string, facts policy.Facts) bool {
	t.Helper()
	doc := strings.Replace(document(`"Condition": {`+condition+`}`), `"Effect": "Allow"`, `"Effect": "`+effect+`"`, 1)
	in := rootInput(t, doc)
	in.Context = facts
	d := policy.Authorize(in)
	if effect == "Deny" {
		return d.Reason == policy.KeyPolicyDenies
	}
	return d.Allowed
}

// rootInput is a request of the account's root to encrypt with its own key.
func rootInput(tb testing.TB, keyPolicy string) policy.Input {
	return policy.Input{
		Caller:    policy.Principal{Kind: policy.AccountRoot, Account: account, ARN: rootARN},
		Action:    "kms:Encrypt",
		Resource:  keyARN,
		Owner:     account,
		KeyPolicy: mustParse(tb, keyPolicy),
	}
}

func TestConditionOperators(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::111122223333:role/path/R"
	tests := []struct {
		condition string // on a:k
		values    string // of a:k, parted by spaces; "-" for an absent key
		want      bool
	}{
		{`"StringEquals": {"A:K": "x"}`, "x", true},
		{`"StringEquals": {"a:k": "x"}`, "X", false},
		{`"StringEquals": {"a:k": "x*"}`, "xy", false},
		{`"StringEquals": {"a:k": ["w", "x"]}`, "x", true},
		{`"StringEquals": {"a:k": "x"}, "StringLike": {"a:k": "y"}`, "x", false},
		{`"StringEquals": {"a:k": ""}`, "", true},
		{`"StringNotEquals": {"a:k": ["w", "x"]}`, "x", false},
		{`"StringNotEquals": {"a:k": ["w", "x"]}`, "y", true},
		{`"StringEqualsIgnoreCase": {"a:k": "xÉ"}`, "Xé", true},
		{`"StringEqualsIgnoreCase": {"a:k": "xy"}`, "x", false},
		{`"StringNotEqualsIgnoreCase": {"a:k": "x"}`, "X", false},
		{`"StringLike": {"a:k": "x*z?"}`, "xyyz1", true},
		{`"StringLike": {"a:k": "x*z?"}`, "xyyz", false},
		{`"StringLike": {"a:k": "X*"}`, "x", false},
		{`"StringNotLike": {"a:k": "x*"}`, "xy", false},
		{`"NumericEquals": {"a:k": "7"}`, "7.0", true},
		{`"NumericEquals": {"a:k": 7}`, "seven", false},
		{`"NumericNotEquals": {"a:k": 7}`, "8", true},
		{`"NumericNotEquals": {"a:k": 7}`, "seven", true},
		{`"NumericLessThan": {"a:k": 7}`, "7", false},
		{`"NumericLessThanEquals": {"a:k": 7}`, "7", true},
		{`"NumericGreaterThan": {"a:k": 7}`, "8", true},
		{`"NumericGreaterThanEquals": {"a:k": 7}`, "6", false},
		{`"DateEquals": {"a:k": "2026-01-02T03:04:05Z"}`, "2026-01-02T04:04:05+01:00", true},
		{`"DateEquals": {"a:k": "2026-01-02T03:04:05.500Z"}`, "1767323045.5", true},
		{`"DateNotEquals": {"a:k": "2026"}`, "2026-01-01", false},
		{`"DateLessThan": {"a:k": "2026-02"}`, "2026-01-31T23:59Z", true},
		{`"DateLessThanEquals": {"a:k": "1767323045"}`, "2026-01-02T03:04:05Z", true},
		{`"DateGreaterThan": {"a:k": "2026-02-01T00:00:00+0100"}`, "2026-01-31T23:59+0000", true},
		{`"DateGreaterThanEquals": {"a:k": "2026"}`, "today", false},
		{`"Bool": {"a:k": true}`, "True", true},
		{`"Bool": {"a:k": "false"}`, "true", false},
		{`"BinaryEquals": {"a:k": "QmluYXJ5"}`, "QmluYXJ5", true},
		{`"BinaryEquals": {"a:k": "QmluYXJ5"}`, "QmluYXJ", false},
		{`"IpAddress": {"a:k": "203.0.113.7/24"}`, "203.0.113.1", true},
		{`"IpAddress": {"a:k": "203.0.113.7"}`, "::ffff:203.0.113.7", true},
		{`"IpAddress": {"a:k": "::ffff:203.0.113.7"}`, "203.0.113.7", true},
		{`"IpAddress": {"a:k": "2001:db8::/32"}`, "2001:db8::1", true},
		{`"IpAddress": {"a:k": "0.0.0.0/0"}`, "here", false},
		{`"NotIpAddress": {"a:k": "203.0.113.0/24"}`, "203.0.113.1", false},
		{`"ArnEquals": {"a:k": "arn:aws:iam::*:role/*/R"}`, role, true},
		{`"ArnLike": {"a:k": "arn:aws:iam::1111*:role/path/?"}`, role, true},
		{`"ArnLike": {"a:k": "arn:aws:*:*:*:role/path/R"}`, role, true},
		{`"ArnLike": {"a:k": "arn:aws:*:role/path/R:*:*"}`, role, false},
		{`"ArnLike": {"a:k": "arn:aws:iam::*:role/PATH/R"}`, role, false},
		{`"ArnLike": {"a:k": "arn:aws:iam::*:*"}`, "arn:aws:iam", false},
		{`"ArnLike": {"a:k": "arn:aws:sns:*:*:*"}`, "arn:aws:sns:us-east-1:111122223333:topic:id", true},
		{`"ArnLike": {"a:k": "*"}`, role, true},
		{`"ArnNotEquals": {"a:k": "arn:aws:iam::*:role/*"}`, role, false},
		{`"ArnNotLike": {"a:k": "arn:aws:iam::*:user/*"}`, role, true},
		{`"Null": {"a:k": "true"}`, "-", true},
		{`"Null": {"a:k": "true"}`, "x", false},
		{`"Null": {"a:k": false}`, "x", true},
		{`"Null": {"a:k": false}`, "-", false},
		{`"Null": {"a:k": ["true", "false"]}`, "-", true},

		{`"StringEquals": {"a:k": "x"}`, "-", false},
		{`"StringNotEquals": {"a:k": "x"}`, "-", true},
		{`"StringEqualsIfExists": {"a:k": "x"}`, "-", true},
		{`"StringEqualsIfExists": {"a:k": "x"}`, "y", false},
		{`"StringNotEqualsIfExists": {"a:k": "x"}`, "x", false},

		{`"ForAllValues:StringEquals": {"a:k": ["x", "y"]}`, "x y x", true},
		{`"ForAllValues:StringEquals": {"a:k": ["x", "y"]}`, "x z", false},
		{`"ForAllValues:StringEquals": {"a:k": "x"}`, "-", true},
		{`"ForAllValues:StringNotEquals": {"a:k": ["x", "y"]}`, "w z", true},
		{`"ForAllValues:StringNotEquals": {"a:k": ["x", "y"]}`, "w x", false},
		{`"ForAnyValue:StringEquals": {"a:k": "x"}`, "w x", true},
		{`"ForAnyValue:StringEquals": {"a:k": "x"}`, "w z", false},
		{`"ForAnyValue:StringEquals": {"a:k": "x"}`, "-", false},
		{`"ForAnyValue:StringEqualsIfExists": {"a:k": "x"}`, "-", true},
		{`"ForAnyValue:StringNotEquals": {"a:k": ["x", "y"]}`, "x z", true},
		{`"ForAnyValue:StringNotEquals": {"a:k": ["x", "y"]}`, "x y", false},
		{`"ForAnyValue:StringNotEquals": {"a:k": "x"}`, "-", false},
		{`"StringEquals": {"a:k": "x"}`, "w x", true},
		{`"StringNotEquals": {"a:k": "x"}`, "w x", false},
	}
	for _, tt := range tests {
		t.Run(tt.condition+" with "+tt.values, func(t *testing.T) {
			t.Parallel()
			var facts policy.Facts
			if tt.values != "-" {
				facts = policy.Facts{{Key: "a:K", Values: strings.Split(tt.values, " ")}}
			}
			for _, effect := range []string{"Allow", "Deny"} {
				if got := holds(t, effect, tt.condition, facts); got != tt.want {
					t.Errorf("condition of %s = %t, want %t", effect, got, tt.want)
				}
			}
		})
	}
}

func TestAKeyWithoutValuesIsAbsent(t *testing.T) {
	t.Parallel()
	facts := policy.Facts{{Key: "a:k"}}
	if !holds(t, "Allow", `"Null": {"a:k": true}, "ForAllValues:StringEquals": {"a:k": "x"}`, facts) {
		t.Error("a key without values is not taken for an absent one")
	}
	if holds(t, "Allow", `"ForAnyValue:StringNotEquals": {"a:k": "x"}`, facts) {
		t.Error("ForAnyValue holds for a key without values")
	}
}

func TestWithoutContextAllKeysAreAbsent(t *testing.T) {
	t.Parallel()
	in := rootInput(t, document(`"Condition": {"Null": {"a:k": true}}`))
	if d := policy.Authorize(in); !d.Allowed {
		t.Errorf("Authorize = %+v, want allowed", d)
	}
	in.KeyPolicy = mustParse(t, document(`"Condition": {"StringLike": {"a:k": "*"}}`))
	if d := policy.Authorize(in); d.Allowed {
		t.Errorf("Authorize = %+v, want refused", d)
	}
}

func TestKeysThatDifferInCaseAreOne(t *testing.T) {
	t.Parallel()
	first := []string{"x", "spare"}
	facts := policy.Facts{{"kms:EncryptionContext:Dept", first[:1]}, {"kms:EncryptionContext:dept", []string{"y"}}}
	for _, want := range []string{"x", "y"} {
		if !holds(t, "Deny", `"StringEquals": {"kms:EncryptionContext:DEPT": "`+want+`"}`, facts) {
			t.Errorf("Deny of %s does not see both values", want)
		}
	}
	if first[1] != "spare" {
		t.Errorf("looking up wrote %q into the caller's slice", first[1])
	}
}

func TestPolicyVariables(t *testing.T) {
	t.Parallel()
	facts := policy.Facts{
		{"a:k", []string{"team-x*"}},
		{"aws:PrincipalTag/Team", []string{"x*"}},
		{"aws:TagKeys", []string{"x*", "y"}},
		{"a:arn", []string{"arn:aws:iam::111122223333:user/x*"}},
		{"a:empty", []string{""}},
		{"a:true", []string{"TRUE"}},
	}
	tests := []struct {
		condition string
		want      bool
	}{
		{`"StringEquals": {"a:k": "team-${aws:principaltag/team}"}`, true},
		{`"StringNotEquals": {"a:k": "team-${aws:principaltag/team}"}`, false},
		{`"StringLike": {"a:k": "*-${aws:PrincipalTag/Team}"}`, true},
		{`"StringLike": {"a:k": "t*${aws:PrincipalTag/Team}*"}`, true},
		{`"StringLike": {"a:k": "*${a:empty}*"}`, true},
		{`"StringLike": {"aws:userid": "${aws:PrincipalTag/Team}"}`, false},
		{`"StringLike": {"a:true": "${aws:PrincipalTag/Team}"}`, false}, // a value's * is no wildcard
		{`"StringEquals": {"a:k": "${a:missing}"}`, false},
		{`"StringNotEquals": {"a:k": "${a:missing}"}`, true},
		{`"StringEquals": {"a:k": "${a:missing, 'team-x*'}"}`, true},
		{`"StringEquals": {"a:k": "team-${aws:PrincipalTag/Team, 'y'}"}`, true},
		{`"StringEquals": {"a:empty": "${a:missing,''}"}`, true},
		{`"StringEquals": {"a:k": "${aws:TagKeys, 'team-x*'}"}`, false}, // several values
		{`"StringLike": {"a:k": "team-x${*}"}`, true},
		{`"StringEquals": {"a:k": "team-x${?}"}`, false},
		{`"StringNotEquals": {"a:k": "${$}{aws:PrincipalTag/Team}"}`, true},
		{`"StringEqualsIgnoreCase": {"a:k": "TEAM-${aws:PrincipalTag/Team}"}`, true},
		{`"Bool": {"a:true": "${a:true}"}`, true},
		{`"ArnLike": {"a:arn": "arn:aws:iam::*:user/${aws:PrincipalTag/Team}"}`, true},
		{`"ArnEquals": {"a:arn": "${a:arn}"}`, true},
		{`"ArnEquals": {"a:k": "${a:arn}"}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.condition, func(t *testing.T) {
			t.Parallel()
			if got := holds(t, "Allow", tt.condition, facts); got != tt.want {
				t.Errorf("condition = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestVariablesAreLiteralInTheOldVersion(t *testing.T) {
	t.Parallel()
	doc := strings.Replace(document(`"Condition": {"StringEquals": {"a:k": "${aws:username}"}}`), "2012", "2008", 1)
	in := rootInput(t, doc)
	for value, want := range map[string]bool{"${aws:username}": true, "bob": false} {
		in.Context = policy.Facts{{"a:k", []string{value}}, {"aws:username", []string{"bob"}}}
		if got := policy.Authorize(in).Allowed; got != want {
			t.Errorf("Authorize with %s = %t, want %t", value, got, want)
		}
	}
}

func TestKeyPoliciesDoNotSeeTagsAndAliases(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"kms:ResourceAliases", "aws:ResourceTag/a"} {
		facts := policy.Facts{{key, []string{"alias/x"}}}
		if !holds(t, "Allow", `"Null": {"`+key+`": true}`, facts) {
			t.Errorf("a key policy sees %s", key)
		}
		facts = append(facts, policy.Fact{Key: "a:k", Values: []string{"alias/x"}})
		if holds(t, "Allow", `"StringEquals": {"a:k": "${`+key+`}"}`, facts) {
			t.Errorf("a key policy sees the variable %s", key)
		}
	}
}

// TestPairsInSeveralLetterCases: a second pair whose key differs in letter case alone
// does not help a request.
func TestPairsInSeveralLetterCases(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		effect, operator string
		values           []string
		want             bool
	}{
		{"Allow", "StringEquals", []string{"x"}, true},
		{"Allow", "StringEquals", []string{"x", "x"}, true},
		{"Allow", "StringEquals", []string{"x", "y"}, false},
		{"Allow", "StringNotEquals", []string{"y", "x"}, false},
		{"Allow", "ForAnyValue:StringEquals", []string{"x", "y"}, true},
		{"Deny", "StringEquals", []string{"y", "x"}, true},
		{"Deny", "StringNotEquals", []string{"x", "y"}, true},
		{"Deny", "StringNotEquals", []string{"x", "x"}, false},
	} {
		for _, key := range []string{"kms:EncryptionContext:app", "aws:RequestTag/app", "aws:PrincipalTag/app"} {
			facts := policy.Facts{}
			for i, v := range tt.values {
				facts = append(facts, policy.Fact{Key: []string{key, strings.ToUpper(key)}[i], Values: []string{v}})
			}
			if got := holds(t, tt.effect, `"`+tt.operator+`": {"`+key+`": "x"}`, facts); got != tt.want {
				t.Errorf("%s with %s of %s, which is %q: holds %t, want %t", tt.effect, tt.operator, key, tt.values, got, tt.want)
			}
		}
	}
}

func TestTooManyAliasesRefuse(t *testing.T) {
	t.Parallel()
	condition := `"Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/1"}}`
	allow := mustParseIdentity(t, identity(condition))
	deny := mustParseIdentity(t, strings.Replace(identity(strings.Replace(condition, "alias/1", "alias/none", 1)), "Allow", "Deny", 1))
	var aliases []string
	for n := range 51 {
		aliases = append(aliases, fmt.Sprintf("alias/%d", n))
	}
	tests := []struct {
		name   string
		policy *policy.Policy
		count  int
		want   policy.Reason
	}{
		{"allow at the limit", allow, 50, policy.AccountAllows},
		{"allow beyond", allow, 51, policy.NoIdentityAllows},
		{"deny at the limit", deny, 50, policy.AccountAllows},
		{"deny beyond", deny, 51, policy.IdentityDenies},
	}
	for _, tt := range tests {
		in := userInput(t, policy.DefaultKeyPolicy(account), tt.policy, mustParseIdentity(t, identity("")))
		if tt.policy == allow {
			in.Identity = in.Identity[:1]
		}
		in.Context = policy.Facts{{"kms:ResourceAliases", aliases[:tt.count]}}
		if got := policy.Authorize(in).Reason; got != tt.want {
			t.Errorf("%s: Authorize = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestWildcards(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, value string
		want           bool
	}{
		{"*", "", true},
		{"**", "x", true},
		{"?", "", false},
		{"?", "é", true},
		{"??", "é", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"*?", "é", true},
		{"*?", "", false},
		{"a?*?c", "abbc", true},
		{"a?*?c", "abc", false},
		{"*ab*", "xxab", true},
		{"*ab*ab*", "ab", false},
		{"*ab*ab*", "abxab", true},
		{"*a?c*", "xaacx", true},
		{"*a?c*", "abab", false},
		{"*?a?*", "ab", false},
		{"*?a?*", "bab", true},
		{"*é?*z", "éaz", true},
		{"*aab?*", "aaaabx", true},
		{"*ab?*ab?*", "abxabx", true},
		{"*ab?*ab?*", "abxab", false},
		{"a*b?", "axb", false},
		{"x*" + strings.Repeat("?", 64) + "*", "x" + strings.Repeat("y", 64), true},
		{"x*" + strings.Repeat("?", 64) + "*", "x" + strings.Repeat("y", 63), false},
	}
	for _, tt := range tests {
		facts := policy.Facts{{"a:k", []string{tt.value}}}
		if got := holds(t, "Allow", `"StringLike": {"a:k": "`+tt.pattern+`"}`, facts); got != tt.want {
			t.Errorf("%q matches %q = %t, want %t", tt.pattern, tt.value, got, tt.want)
		}
	}
}

// hostile is a request whose key policy is as long as a document can be and full
// of patterns that almost match all along the value.
func hostile(tb testing.TB) policy.Input {
	value := strings.Repeat("a", 8192)
	pattern := `"*` + strings.Repeat("?a", 31) + `?b*",`
	members := `"Condition": {"StringLike": {"kms:EncryptionContext:k": [` + strings.Repeat(pattern, 32000/len(pattern)) + `"b"]}}`
	in := rootInput(tb, document(members))
	in.Context = policy.Facts{{"kms:EncryptionContext:k", []string{value}}}
	return in
}

// A pattern that is searched by trial, or worse by recursion, would not end
// within the test's time.
func TestHostilePatternsComeToAnEnd(t *testing.T) {
	t.Parallel()
	if d := policy.Authorize(hostile(t)); d.Allowed {
		t.Errorf("Authorize = %+v, want refused", d)
	}
}
