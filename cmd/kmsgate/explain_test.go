package main

import (
	"strings"
	"testing"
	"time"

	"kmsgate/gateway"
)

// TestExplainIsPlainText prints a refusal with names that would steer a terminal.
func TestExplainIsPlainText(t *testing.T) {
	t.Parallel()
	evil, value := "a\x1b[2Jb\nc\u009b", "x"
	var b strings.Builder
	printRefused(&b, &gateway.Refused{
		RequestID: "1", Operation: evil, Action: evil, Resource: evil, Because: evil, Region: evil, SourceIP: evil, Omitted: 1, OmittedGrants: 1,
		Principal: gateway.RefusedPrincipal{Kind: "role session", ARN: evil, RoleARN: evil, AccessKeyID: evil},
		Statements: []gateway.RefusedStatement{
			{Document: evil, Sid: evil, Effect: "Allow", Failed: "Condition", Condition: &gateway.RefusedCondition{Operator: "Null", Key: evil, Wanted: []string{evil}}},
			{Document: evil, Effect: "Deny", Applied: true},
			{Document: evil, Effect: "Allow", Failed: "InertStatement"},
			{Document: evil, Effect: "Allow", Failed: "Action"},
		},
		Grants: []gateway.RefusedGrant{
			{Grant: "g1", To: "user", Failed: "EncryptionContext", Pair: &gateway.RefusedPair{Key: evil, Wanted: &evil}},
			{Grant: "g2", To: "user"},
			{Grant: "g3", To: "user", Failed: "Action"},
			{Grant: "g4", To: "user", Failed: "SourceArn"},
		},
		Alternatives: [][]gateway.RefusedChange{
			{{Text: evil, Document: evil, Conditions: []gateway.RefusedCondition{{Operator: "Null", Key: evil, Got: []string{evil}}}}},
			{{Text: evil, Add: []byte(`{"a":["b"]}`)}},
		},
	})
	printAccess(&b, &gateway.KeyAccess{Principals: []gateway.PrincipalAccess{{
		Access: []gateway.ActionAccess{{Actions: []string{"kms:Encrypt"}, Conditional: true, Through: evil, And: evil, Conditions: []string{evil}}, {Conditional: true, Through: value}},
	}}})
	for line := range strings.Lines(b.String()) {
		if text := strings.TrimSuffix(line, "\n"); text != plain(text) {
			t.Errorf("line %q is not plain text", text)
		}
		if strings.HasPrefix(line, "c") {
			t.Errorf("line %q was begun by a name", line)
		}
	}
	for _, want := range []string{
		"does not apply to anything", "for its Action is another", "the request does not have it", "covers the request, but something else denies it",
		"is for other operations", "for its SourceArn is another", "1 more did not fit", "1 more statements did not fit", "\nOr:\n", "unless a Deny with conditions",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in what was printed:\n%s", want, b.String())
		}
	}
	b.Reset()
	printRefused(&b, &gateway.Refused{Resource: "", AlternativesOmitted: true})
	printRefused(&b, &gateway.Refused{Resource: "*"})
	printRefused(&b, &gateway.Refused{Resource: "arn"})
	for _, want := range []string{"the key of a ciphertext", "too many ways", "no resource in particular", "No change of policies", "which is not there", "No statement of any policy"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in what was printed:\n%s", want, b.String())
		}
	}
}

func TestDays(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{24 * time.Hour: "1 day", 720 * time.Hour: "30 days", 90 * time.Minute: "1h30m0s"} {
		if got := days(d); got != want {
			t.Errorf("%s in days: %q, want %q", d, got, want)
		}
	}
}
