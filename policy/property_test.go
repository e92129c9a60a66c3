package policy_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kmsgate/policy"
)

// element draws one member of a statement.
func element(t *rapid.T, name string, values ...string) string {
	return rapid.SampledFrom(values).Draw(t, name)
}

// drawStatement draws a statement that has a fair chance to match.
func drawStatement(t *rapid.T, resourceBased bool, effects ...string) string {
	members := []string{
		`"Effect": "` + element(t, "effect", effects...) + `"`,
		element(t, "action", `"Action": "*"`, `"Action": "kms:E*"`, `"Action": ["kms:Decrypt", "kms:Encrypt"]`, `"NotAction": "kms:Decrypt"`, `"NotAction": "kms:Enc*"`),
		element(t, "resource", `"Resource": "*"`, `"Resource": "`+keyARN+`"`, `"Resource": "arn:aws:kms:*:*:key/${a:key, '1*'}"`, `"NotResource": "arn:aws:kms:*:*:alias/*"`),
	}
	if resourceBased {
		members = append(members, element(t, "principal", `"Principal": "*"`, `"Principal": `+aws(account), `"Principal": `+aws(userARN, roleARN),
			`"Principal": `+aws(sessionARN, other), `"Principal": `+aws(otherUser), `"NotPrincipal": `+aws(account, userARN)))
	}
	if rapid.Bool().Draw(t, "conditional") {
		members = append(members, `"Condition": {"`+element(t, "operator", "StringLike", "StringNotEquals", "StringEqualsIfExists", "ForAnyValue:StringEquals", "ForAllValues:StringNotLike")+
			`": {"a:k": "`+element(t, "wanted", "x", "y", "${a:k, 'x'}")+`"}}`)
	}
	return "{" + strings.Join(members, ", ") + "}"
}

func drawStatements(t *rapid.T, resourceBased bool) []string {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
		return drawStatement(t, resourceBased, "Allow", "Allow", "Allow", "Deny")
	}), 1, 4).Draw(t, "statements")
}

func joined(statements []string) string {
	return `{"Version": "2012-10-17", "Statement": [` + strings.Join(statements, ", ") + `]}`
}

// question is an Input whose documents can still be changed.
type question struct {
	in        policy.Input
	documents [4][]string // key policy, identity, boundary, session; nil for none
}

func drawQuestion(t *rapid.T) *question {
	q := &question{in: policy.Input{
		Caller:       rapid.SampledFrom(slices.SortedFunc(mapValues(callers), func(a, b policy.Principal) int { return strings.Compare(a.ARN, b.ARN) })).Draw(t, "caller"),
		Action:       element(t, "action", "kms:Encrypt", "kms:Decrypt"),
		Resource:     keyARN,
		Owner:        account,
		CrossAccount: rapid.Bool().Draw(t, "cross account"),
	}}
	if values := rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y"}), 0, 2).Draw(t, "values"); len(values) > 0 {
		q.in.Context = policy.Facts{{"a:k", values}}
	}
	q.in.Grants, q.in.AccountGrants = drawGrants(t, "grants"), drawGrants(t, "account's grants")
	if q.in.Caller.Kind == policy.RoleSession {
		q.in.RoleGrants = drawGrants(t, "role's grants")
	}
	q.in.Granted.EncryptionContext = rapid.SampledFrom([]map[string]string{nil, pairs("a", "b"), pairs("a", "b", "c", "d")}).Draw(t, "encryption context")
	for i := range q.documents {
		if i == 0 || rapid.Bool().Draw(t, fmt.Sprint("document ", i)) {
			q.documents[i] = drawStatements(t, i == 0)
		}
	}
	return q
}

func mapValues(m map[string]policy.Principal) func(func(policy.Principal) bool) {
	return func(yield func(policy.Principal) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// input compiles the documents.
func (q *question) input(tb rapid.TB) policy.Input {
	var compiled [4]*policy.Policy
	for i, statements := range q.documents {
		if statements == nil {
			continue
		}
		parse := policy.ParseIdentity
		if i == 0 {
			parse = policy.Parse
		}
		p, err := parse(joined(statements))
		if err != nil {
			tb.Fatalf("parse %s: %v", joined(statements), err)
		}
		compiled[i] = p
	}
	in := q.in
	in.KeyPolicy, in.Boundary = compiled[0], compiled[2]
	if compiled[1] != nil {
		in.Identity = []*policy.Policy{compiled[1]}
	}
	if compiled[3] != nil {
		in.Session = []*policy.Policy{compiled[3]}
	}
	return in
}

// put puts a statement at a random place of one document.
func (q *question) put(t *rapid.T, document int, statement string) {
	at := rapid.IntRange(0, len(q.documents[document])).Draw(t, "at")
	q.documents[document] = slices.Insert(slices.Clone(q.documents[document]), at, statement)
}

func TestAnExplicitDenyAlwaysWins(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t)
		document := rapid.IntRange(0, 3).Draw(t, "document")
		principal := `"Principal": "*", `
		if document > 0 {
			principal = ""
		}
		q.put(t, document, `{"Effect": "Deny", `+principal+`"Action": "*", "Resource": "*"}`)
		if d := policy.Authorize(q.input(t)); d.Allowed {
			t.Fatalf("Authorize = %+v, want refused", d)
		}
	})
}

func TestAnotherAllowNeverTakesAway(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t)
		before := policy.Authorize(q.input(t))
		document := rapid.IntRange(0, 3).Draw(t, "document")
		if q.documents[document] == nil && document > 1 {
			return // a first boundary or session policy does limit
		}
		q.put(t, document, drawStatement(t, document == 0, "Allow"))
		if after := policy.Authorize(q.input(t)); before.Allowed && !after.Allowed {
			t.Fatalf("Authorize = %+v, and with another Allow %+v", before, after)
		}
	})
}

func TestWithoutAnyAllowNothingIsAllowed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t)
		q.documents[0] = []string{drawStatement(t, true, "Deny")}
		q.in.Grants, q.in.RoleGrants, q.in.AccountGrants = nil, nil, nil
		if d := policy.Authorize(q.input(t)); d.Allowed {
			t.Fatalf("Authorize = %+v, want refused", d)
		}
	})
}

func TestForeignersNeedBothSides(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t)
		q.in.Caller = callers["other user"]
		in := q.input(t)
		if !policy.Authorize(in).Allowed {
			return
		}
		if !in.CrossAccount || in.Identity == nil {
			t.Fatal("allowed across accounts without both sides")
		}
		in.CrossAccount = false
		if d := policy.Authorize(in); d.Allowed {
			t.Fatalf("Authorize without CrossAccount = %+v, want refused", d)
		}
	})
}

func TestExplainAgreesWithAuthorize(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := drawQuestion(t).input(t)
		d, trace := policy.Explain(in)
		if want := policy.Authorize(in); d != want {
			t.Fatalf("Explain = %+v, Authorize = %+v", d, want)
		}
		for _, s := range trace.Statements {
			if s.Matched() && s.Deny && d.Allowed {
				t.Fatalf("allowed against %+v", s)
			}
			if d.Source == s.Source && d.Document == s.Document && d.Statement == s.Statement && !s.Matched() {
				t.Fatalf("decided by %+v, which does not match", s)
			}
		}
	})
}

func TestFormatChangesNothingButTheLayout(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		doc := joined(drawStatements(t, true))
		checkFormat(t, doc)
	})
}

// checkFormat holds that the formatted document is the same JSON, stays as it
// is when formatted again, and compiles to the same policy.
func checkFormat(tb rapid.TB, doc string) {
	formatted, err := policy.Format(doc)
	if err != nil {
		tb.Fatalf("Format(%s) = %v", doc, err)
	}
	if again, err := policy.Format(formatted); err != nil || again != formatted {
		tb.Fatalf("Format(Format(%q)) = %q, %v, want %q", doc, again, err, formatted)
	}
	if before, after := decode(tb, doc), decode(tb, formatted); !reflect.DeepEqual(before, after) {
		tb.Fatalf("Format(%s) (-want +got):\n%s", doc, cmp.Diff(before, after))
	}
	p, err := policy.Parse(doc)
	again, formattedErr := policy.Parse(formatted)
	if text(err) != text(formattedErr) {
		tb.Fatalf("Parse = %v, of the formatted document %v", err, formattedErr)
	}
	if err == nil && !cmp.Equal(p.Principals(), again.Principals()) {
		tb.Fatalf("Principals = %v, of the formatted document %v", p.Principals(), again.Principals())
	}
}

func decode(tb rapid.TB, doc string) (v any) {
	dec := json.NewDecoder(strings.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		tb.Fatalf("Decode(%s) = %v", doc, err)
	}
	return v
}

func TestWildcardsMatchWhatTheirRegexpMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune("ab*?é")), 0, 12, -1).Draw(t, "pattern")
		value := rapid.StringOfN(rapid.RuneFrom([]rune("abé")), 0, 16, -1).Draw(t, "value")
		re := strings.NewReplacer("*", ".*", "?", ".").Replace(pattern)
		want := regexp.MustCompile("(?s)^" + re + "$").MatchString(value)

		p, err := policy.Parse(document(`"Condition": {"StringLike": {"a:k": "` + pattern + `"}}`))
		if err != nil {
			t.Fatalf("Parse with %q = %v", pattern, err)
		}
		in := policy.Input{Caller: callers["root"], Action: "kms:Encrypt", Resource: keyARN, Owner: account, KeyPolicy: p}
		in.Context = policy.Facts{{"a:k", []string{value}}}
		if got := policy.Authorize(in).Allowed; got != want {
			t.Fatalf("%q matches %q = %t, want %t", pattern, value, got, want)
		}
	})
}

func TestActionWildcardsMatchWhatTheirRegexpMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune("aB*?")), 1, 12, -1).Draw(t, "pattern")
		action := rapid.StringOfN(rapid.RuneFrom([]rune("aAbB")), 1, 16, -1).Draw(t, "action")
		re := strings.NewReplacer("*", ".*", "?", ".").Replace(pattern)
		want := regexp.MustCompile("(?i)^" + re + "$").MatchString(action)

		p, err := policy.Parse(`{"Statement": {"Effect": "Allow", "Principal": "*", "Resource": "*", "Action": "kms:` + pattern + `"}}`)
		if err != nil {
			t.Fatalf("Parse with %q = %v", pattern, err)
		}
		in := policy.Input{Caller: callers["root"], Action: "kms:" + action, Resource: keyARN, Owner: account, KeyPolicy: p}
		if got := policy.Authorize(in).Allowed; got != want {
			t.Fatalf("%q matches %q = %t, want %t", pattern, action, got, want)
		}
	})
}
