package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// keyWith makes a key with a policy and returns its ARN.
func (f *fixture) keyWith(t *testing.T, account, document string) string {
	t.Helper()
	in, err := json.Marshal(map[string]any{"Policy": document, "BypassPolicyLockoutSafetyCheck": true})
	if err != nil {
		t.Fatal(err)
	}
	return f.createKey(t, account, string(in))
}

// whyRefused reads why a request was refused.
func (f *fixture) whyRefused(ctx context.Context, a answer) (*Refused, error) {
	return WhyRefused(ctx, f.store, uuid.MustParse(a.requestID))
}

func TestRefusalTellsTheConditionThatFailed(t *testing.T) {
	f := newFixture(t, nil)
	key := f.keyWith(t, account1, `{"Version":"2012-10-17","Statement":[
		{"Sid":"others","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+account2+`:root"},"Action":"kms:*","Resource":"*"},
		{"Sid":"red only","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+account1+`:root"},"Action":"kms:Encrypt","Resource":"*",
		 "Condition":{"StringEquals":{"kms:EncryptionContext:team":["red","green"]}}},
		{"Sid":"never","Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`)
	a, err := f.call(t.Context(), account1, "Encrypt", `{"KeyId":"`+key+`","Plaintext":"aGVsbG8=","EncryptionContext":{"team":"blue"}}`)
	if err != nil || a.code != string(kmsapi.AccessDeniedException) {
		t.Fatalf("Encrypt: %v %s, want a refusal", err, a.body)
	}
	got, err := f.whyRefused(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	document := "policy of " + key
	want := &Refused{
		RequestID: a.requestID, Time: got.Time, Region: testRegion, SourceIP: "127.0.0.1", Operation: "Encrypt",
		Principal: RefusedPrincipal{
			Kind: "account root", ARN: "arn:aws:iam::" + account1 + ":root", Account: account1, AccessKeyID: f.keys[account1].AccessKeyID,
		},
		Action: "kms:Encrypt", Resource: key, Exists: true,
		Reason: "NoKeyPolicyAllows", Because: "no statement of the key's own policy allows it",
		Statements: []RefusedStatement{
			{Document: document, Statement: 0, Sid: "others", Effect: "Allow", Failed: "Principal"},
			{Document: document, Statement: 1, Sid: "red only", Effect: "Allow", Failed: "Condition", Condition: &RefusedCondition{
				Operator: "StringEquals", Key: "kms:EncryptionContext:team", Wanted: []string{"red", "green"}, Got: []string{"blue"},
			}},
			{Document: document, Statement: 2, Sid: "never", Effect: "Deny", Failed: "Action"},
		},
		Alternatives: [][]RefusedChange{
			{{
				Kind: "MeetConditions", Document: document,
				Text: "Send a request that meets the conditions of Statement[1] (red only) of the key policy, or change them.",
				Conditions: []RefusedCondition{{
					Operator: "StringEquals", Key: "kms:EncryptionContext:team", Wanted: []string{"red", "green"}, Got: []string{"blue"},
				}},
			}},
			{{
				Kind: "AddStatement", Document: document, Text: "Add a statement to the key policy, or to the trust policy of the role.",
				Add: json.RawMessage(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account1 + `:root"},"Action":"kms:Encrypt","Resource":"*"}`),
			}},
			{{
				Kind: "AddGrant", Text: "Create a grant on the key, by CreateGrant with these members.",
				Add: json.RawMessage(`{"KeyId":"` + key + `","GranteePrincipal":"arn:aws:iam::` + account1 + `:root","Operations":["Encrypt"]}`),
			}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refusal (-want +got):\n%s", diff)
	}
}

// TestOnlyRefusalsByPolicyAreKept asks for what is not there, and for what is wrong.
func TestOnlyRefusalsByPolicyAreKept(t *testing.T) {
	f := newFixture(t, nil)
	missing := "arn:aws:kms:" + testRegion + ":" + account1 + ":key/" + uuid.NewString()
	for account, kept := range map[string]bool{account1: false, account2: true} {
		a, err := f.call(t.Context(), account, "DescribeKey", `{"KeyId":"`+missing+`"}`)
		if err != nil || a.status == http.StatusOK {
			t.Fatalf("DescribeKey of no key: %v %s", err, a.body)
		}
		refused, err := f.whyRefused(t.Context(), a)
		switch {
		case !kept && !errors.Is(err, metadata.ErrNotFound):
			t.Errorf("%s by %s is explained: %+v, %v", a.code, account, refused, err)
		case kept && (err != nil || refused.Reason != "Foreign" || refused.Exists):
			t.Errorf("%s by %s: %+v, %v; want the reason Foreign, on what is not there", a.code, account, refused, err)
		}
	}
}

// TestRefusalOfACiphertextThatNamesNoKeyIsKept sends a ciphertext of elsewhere.
func TestRefusalOfACiphertextThatNamesNoKeyIsKept(t *testing.T) {
	f := newFixture(t, nil)
	other := newFixtureOn(t, f.engine, nil)
	key := other.createKey(t, account1, "{}")
	var out struct{ CiphertextBlob string }
	a := other.mustCall(t, "Encrypt", map[string]any{"KeyId": key, "Plaintext": "aGVsbG8="})
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatal(err)
	}
	a, err := f.call(t.Context(), account1, "Decrypt", `{"CiphertextBlob":"`+out.CiphertextBlob+`"}`)
	if err != nil || a.code != string(kmsapi.AccessDeniedException) {
		t.Fatalf("Decrypt: %v %s, want a refusal", err, a.body)
	}
	refused, err := f.whyRefused(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if refused.Resource != "" || refused.Action != "kms:Decrypt" || refused.Reason != "Undecided" {
		t.Errorf("refusal %+v, want one of Decrypt on nothing that is known", refused)
	}
}

func TestRefusalIsCutToItsLimit(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("<", maxShownBytes+1)
	r := Refused{Statements: []RefusedStatement{{Applied: true, Sid: "decided"}}, Alternatives: [][]RefusedChange{{{Kind: "LiftDeny"}}}}
	for i := range 4000 {
		s := RefusedStatement{Statement: i, Document: "policy of a key", Failed: "Action"}
		if i%2 == 0 {
			s.Failed, s.Condition = "Condition", &RefusedCondition{Key: "aws:x", Got: shown([]string{long})}
		}
		r.Statements = append(r.Statements, s)
	}
	document, err := r.encode()
	if err != nil || len(document) > metadata.MaxRefusalBytes {
		t.Fatalf("%d bytes, %v; want at most %d", len(document), err, metadata.MaxRefusalBytes)
	}
	if r.AlternativesOmitted || len(r.Alternatives) != 1 {
		t.Error("the alternatives were left out, before the statements")
	}
	if r.Omitted+len(r.Statements) != 4001 || r.Statements[0].Sid != "decided" || r.Statements[1].Condition == nil {
		t.Errorf("%d statements, %d left out; want 4001 together, and those that failed by a condition first", len(r.Statements), r.Omitted)
	}
	many := make([]RefusedCondition, metadata.MaxRefusalBytes/maxShownBytes+1)
	for i := range many {
		many[i].Got = shown([]string{long})
	}
	r = Refused{Alternatives: [][]RefusedChange{{{Conditions: many}}}, Grants: []RefusedGrant{{}}}
	if document, err = r.encode(); err != nil || len(document) > metadata.MaxRefusalBytes || !r.AlternativesOmitted || r.OmittedGrants != 1 {
		t.Errorf("%d bytes, %v, %d grants left out; want at most %d without alternatives and grants", len(document), err, r.OmittedGrants, metadata.MaxRefusalBytes)
	}
	var values []string
	for i := range maxShownValues + 5 {
		values = append(values, fmt.Sprint(i))
	}
	if got := shown(values); len(got) != maxShownValues+1 || got[maxShownValues] != "…" {
		t.Errorf("shown %q, want the first %d and that there are more", got, maxShownValues)
	}
}

func TestOldRefusalsAreForgotten(t *testing.T) {
	f := newFixture(t, nil)
	a := f.want(t, account1, "DescribeKey", 400, kmsapi.ValidationException)
	key := f.createKey(t, account1, "{}")
	if a, _ = f.call(t.Context(), account2, "DescribeKey", `{"KeyId":"`+key+`"}`); a.code != string(kmsapi.AccessDeniedException) {
		t.Fatalf("DescribeKey: %s, want a refusal", a.body)
	}
	f.forgetRefusals(t.Context(), f.now())
	if _, err := f.whyRefused(t.Context(), a); err != nil {
		t.Errorf("a new refusal: %v", err)
	}
	f.forgetRefusals(t.Context(), f.now().Add(KeepRefusals+1))
	if _, err := f.whyRefused(t.Context(), a); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("an old refusal: %v, want ErrNotFound", err)
	}
}

// TestRefusalTellsOfGrants asks for what a grant is not for.
func TestRefusalTellsOfGrants(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.addUser(t, account1, "alice", "")
	grant := f.addGrant(t, key, arn.User(account1, "/", "alice"))
	red, blue := "red", "blue"
	for body, want := range map[string]RefusedGrant{
		`{"KeyId":"` + key + `","KeySpec":"AES_256","EncryptionContext":{"team":"blue"}}`: {
			Grant: grant, To: "user", Failed: "EncryptionContext", Pair: &RefusedPair{Key: "team", Wanted: &red, Got: &blue},
		},
		`{"KeyId":"` + key + `","KeySpec":"AES_256"}`: {
			Grant: grant, To: "user", Failed: "EncryptionContext", Pair: &RefusedPair{Key: "team", Wanted: &red},
		},
	} {
		a, err := f.call(t.Context(), "alice", "GenerateDataKey", body)
		if err != nil || a.code != string(kmsapi.AccessDeniedException) {
			t.Fatalf("GenerateDataKey: %v %s, want a refusal", err, a.body)
		}
		refused, err := f.whyRefused(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]RefusedGrant{want}, refused.Grants); diff != "" {
			t.Errorf("grants (-want +got):\n%s", diff)
		}
	}
}

// TestManyRefusalsAtOnceAreNotKept has more refusals than are kept.
func TestManyRefusalsAtOnceAreNotKept(t *testing.T) {
	var f *fixture
	f = newFixture(t, func(c *Config) { c.Clock = func() time.Time { return f.standstill() } })
	key := f.createKey(t, account1, "{}")
	last := answer{}
	for range int(rates[explanations]) + 1 {
		a, err := f.call(t.Context(), account2, "DescribeKey", `{"KeyId":"`+key+`"}`)
		if err != nil || a.code != string(kmsapi.AccessDeniedException) {
			t.Fatalf("DescribeKey: %v %s, want a refusal", err, a.body)
		}
		last = a
	}
	if refused, err := f.whyRefused(t.Context(), last); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("one too many: %+v, %v; want ErrNotFound", refused, err)
	}
	if !strings.Contains(f.log.String(), "too many refusals at once") {
		t.Error("the log does not say that it is not kept")
	}
	f.wantRecord(t, last, kmsapi.Code(recordedCodes[kmsapi.AccessDeniedException]))
}

func TestGrantsOfARefusalAreCutToALimit(t *testing.T) {
	t.Parallel()
	grants := make([]policy.GrantTrace, maxShownGrants+5)
	for i := range grants {
		grants[i] = policy.GrantTrace{ID: fmt.Sprint(i), Grantee: policy.Role, Failed: policy.ActionElement}
	}
	grants[maxShownGrants+4].Failed = policy.SourceARNElement
	var r Refused
	r.addGrants(grants)
	if len(r.Grants) != maxShownGrants || r.OmittedGrants != 5 || r.Grants[0].Failed != "SourceArn" || r.Grants[0].To != "role" {
		t.Errorf("%d grants, %d left out, the first %+v; want %d, 5, the one that came closest", len(r.Grants), r.OmittedGrants, r.Grants[0], maxShownGrants)
	}
}

// TestTooManyConditionsHaveNoAlternatives has more statements than are tried out.
func TestTooManyConditionsHaveNoAlternatives(t *testing.T) {
	t.Parallel()
	statements := make([]policy.StatementTrace, maxUnmet+1)
	for i := range statements {
		statements[i].Failed = policy.ConditionElement
	}
	if tooMany(statements[1:]) || !tooMany(statements) {
		t.Errorf("too many: %v for %d, %v for %d", tooMany(statements[1:]), maxUnmet, tooMany(statements), maxUnmet+1)
	}
}
