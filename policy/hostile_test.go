package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/policy"
)

// checkSteps holds the comparisons of one match to the product of both lengths.
func checkSteps(tb rapid.TB, pattern, value string, action bool) (matched bool, steps int) {
	matched, steps, problem := policy.Match(pattern, value, action)
	if problem != "" {
		tb.Fatalf("compile %.80q: %s", pattern, problem)
	}
	if most := (len(pattern) + 1) * (len(value) + 1); steps > most {
		tb.Errorf("%.80q of %d bytes with a value of %d bytes took %d steps, want at most %d", pattern, len(pattern), len(value), steps, most)
	}
	return matched, steps
}

func TestMatchingTakesNoMoreThanTheProductOfLengths(t *testing.T) {
	t.Parallel()
	patterns := []string{
		"*" + strings.Repeat("a", 60) + "b*",
		"*" + strings.Repeat("?a", 31) + "?b*",
		"*" + strings.Repeat("?", 63) + "b*",
		strings.Repeat("*a", 200) + "*b",
		strings.Repeat("*a?", 200) + "*b*",
		strings.Repeat("a*", 300) + "b",
		strings.Repeat("?", 400) + "*b",
		"*abcdefghijklmnopqrstuvwxyz?0123456789ABCDEFGHIJKLMNOPQRSTUVWXY*",
	}
	for _, pattern := range patterns {
		for _, action := range []bool{false, true} {
			var before int
			for _, length := range []int{1000, 2000, 4000} {
				matched, steps := checkSteps(t, pattern, strings.Repeat("a", length), action)
				if matched {
					t.Errorf("%.80q matches", pattern)
				}
				// Twice the value takes twice the steps, and not four times.
				if most := 2*before + len(pattern)*len(pattern); before > 0 && steps > most {
					t.Errorf("%.80q took %d steps with half of a value and %d with all, want at most %d", pattern, before, steps, most)
				}
				before = steps
			}
		}
	}
}

func TestMatchingAnythingTakesNoMoreThanTheProductOfLengths(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune("ab*?é")), 0, 60, -1).Draw(t, "pattern")
		value := rapid.StringOfN(rapid.RuneFrom([]rune("aabé")), 0, 200, -1).Draw(t, "value")
		checkSteps(t, pattern, value, rapid.Bool().Draw(t, "action"))
	})
}

// A variable that stands often makes a pattern longer than any value: it is given
// up before it is put together.
func TestVariablesDoNotBlowUpAPattern(t *testing.T) {
	t.Parallel()
	in := rootInput(t, document(`"Condition": {"StringLike": {"a:k": "`+strings.Repeat("${a:long}", 3000)+`"}}`))
	in.Context = policy.Facts{{"a:k", []string{strings.Repeat("a", 8192)}}, {"a:long", []string{strings.Repeat("a", 1<<20)}}}
	if d := policy.Authorize(in); d.Allowed {
		t.Errorf("Authorize = %+v, want refused", d)
	}
	in.KeyPolicy = mustParse(t, document(`"Condition": {"StringLike": {"a:k": "`+strings.Repeat("${a:short}", 3000)+`*"}}`))
	in.Context = policy.Facts{{"a:k", []string{strings.Repeat("a", 3000)}}, {"a:short", []string{"a"}}}
	if d := policy.Authorize(in); !d.Allowed {
		t.Errorf("Authorize = %+v, want allowed", d)
	}
}

func TestHostileDocumentsAreRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", policy.MaxDocumentBytes)
	open := strings.Repeat("[", policy.MaxDocumentBytes-20)
	var twice strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&twice, `"k%d": "", `, i)
	}
	tests := map[string]string{
		"deep":              `{"Statement": ` + open,
		"deep objects":      strings.Repeat(`{"Statement":`, 2000),
		"long":              `{"Id": "` + long + `"}`,
		"long white space":  "{" + strings.Repeat(" ", policy.MaxDocumentBytes) + "}",
		"many members":      `{` + twice.String() + `"k0": ""}`,
		"only a string":     `"` + long[:100] + `"`,
		"half a surrogate":  `{"Statement": {"Effect": "\ud800"}}`,
		"twice by escapes":  `{"Id": "", "\u0049d": ""}`,
		"null character":    "{\"Id\": \"\x00\"}",
		"byte order mark":   "\ufeff{}",
		"comment":           `{/* */}`,
		"number with zeros": `{"Id": 00}`,
		"two documents":     `{}{}`,
		"a list of lists":   `{"Statement": [[{"Effect": "Allow"}]]}`,
		"effect in a list":  `{"Statement": {"Effect": ["Allow"]}}`,
		"action in a list":  `{"Statement": {"Effect": "Allow", "Principal": "*", "Action": [["*"]], "Resource": "*"}}`,
		"condition by list": `{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*", "Condition": {"Bool": [{"a:b": true}]}}}`,
		"values by object":  `{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*", "Condition": {"Bool": {"a:b": {"a": true}}}}}`,
		"principal of null": `{"Statement": {"Effect": "Allow", "Principal": null, "Action": "*", "Resource": "*"}}`,
		"star and more":     `{"Statement": {"Effect": "Allow", "Principal": {"AWS": "**"}, "Action": "*", "Resource": "*"}}`,
		"wildcard account":  `{"Statement": {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::*:root"}, "Action": "*", "Resource": "*"}}`,
	}
	parsers := []func(string) (*policy.Policy, error){policy.Parse, policy.ParseIdentity, policy.ParseTrust}
	for name, doc := range tests {
		for i, parse := range parsers {
			p, err := parse(doc)
			if p != nil || !isOurs(err) {
				t.Errorf("%s: parser %d = %v, %v, want one of our errors", name, i, p, err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
			}
		}
	}
}

// What stands in an ARN's fields stays there, whatever it looks like.
func TestOddResourcesMatchNoOtherKey(t *testing.T) {
	t.Parallel()
	for _, odd := range []string{
		"arn:aws:kms:*", "arn:*", "*:*", "arn:aws:kms:us-east-1:" + account + ":key/?", "arn:aws:kms:*:" + account + ":alias/*", ":::::*",
		"arn:aws:*:*:*:*:*", "arn:aws:kms:us-east-1:*/1234*", "ARN:aws:kms:*:*:key/*", "arn:aws:kms::" + account + ":key/*", "arn:aws:kms:us-east-1:1:key/*", "",
	} {
		doc := strings.Replace(document(""), `"Resource": "*"`, `"Resource": "`+odd+`"`, 1)
		if d := policy.Authorize(rootInput(t, doc)); d.Allowed {
			t.Errorf("Resource %q covers %s", odd, keyARN)
		}
		_, err := policy.ParseIdentity(strings.Replace(doc, `"Principal": "*", `, "", 1))
		if _, ok := errors.AsType[*policy.SyntaxError](err); err != nil && !ok {
			t.Errorf("ParseIdentity with %q = %v, want no other error than a *SyntaxError", odd, err)
		}
	}
}
