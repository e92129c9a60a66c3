package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// lastUsage is what GetKeyLastUsage says of a key.
type lastUsage struct {
	KeyID                              string `json:"KeyId"`
	KeyCreationDate, TrackingStartDate float64
	KeyLastUsage                       map[string]any
}

func (f *fixture) lastUsage(t *testing.T, key string) (u lastUsage) {
	t.Helper()
	a, err := f.call(t.Context(), account1, "GetKeyLastUsage", `{"KeyId":"`+key+`"}`)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("GetKeyLastUsage: %d %s, %v", a.status, a.body, err)
	}
	if err := json.Unmarshal([]byte(a.body), &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// TestLastUsageAndTrailingDays uses a key: the use is told once the log is counted,
// and for 30 days after it a policy keeps the key from being disabled.
func TestLastUsageAndTrailingDays(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	got := f.lastUsage(t, key)
	if len(got.KeyLastUsage) != 0 || got.KeyLastUsage == nil || got.KeyID != key || got.TrackingStartDate != got.KeyCreationDate || got.KeyCreationDate == 0 {
		t.Errorf("of a key that was not used: %+v, want an empty last usage since its creation", got)
	}
	f.skew.Add(int64(40 * 24 * time.Hour))
	used, err := f.call(t.Context(), account1, "Encrypt", `{"KeyId":"`+key+`","Plaintext":"AA=="}`)
	if err != nil || used.status != http.StatusOK {
		t.Fatalf("Encrypt: %d %s, %v", used.status, used.body, err)
	}
	f.call(t.Context(), account1, "Decrypt", `{"KeyId":"`+key+`","CiphertextBlob":"AA=="}`) //nolint:errcheck // a failure is no use
	for deadline := time.Now().Add(time.Minute); len(got.KeyLastUsage) == 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		got = f.lastUsage(t, key)
	}
	at, _ := got.KeyLastUsage["Timestamp"].(float64)
	event, _ := got.KeyLastUsage["CloudTrailEventId"].(string)
	if got.KeyLastUsage["Operation"] != "Encrypt" || got.KeyLastUsage["KmsRequestId"] != used.requestID || len(event) != 36 ||
		f.now().Sub(time.Unix(int64(at), 0)).Abs() > time.Hour {
		t.Errorf("last usage %v, want the Encrypt of request %s", got.KeyLastUsage, used.requestID)
	}

	document := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Principal":"*","Action":["kms:DisableKey","kms:ScheduleKeyDeletion"],"Resource":"*","Condition":{"NumericLessThan":{"kms:TrailingDaysWithoutKeyUsage":"30"}}}]}`
	f.mustCall(t, "PutKeyPolicy", map[string]any{"KeyId": key, "Policy": document})
	const denied, days = "AccessDeniedException", 24 * time.Hour
	for _, step := range []struct {
		later time.Duration
		code  string
	}{{0, denied}, {29*days + 12*time.Hour, denied}, {13 * time.Hour, ""}} {
		f.skew.Add(int64(step.later))
		for _, operation := range []string{"DisableKey", "ScheduleKeyDeletion"} {
			a, err := f.call(t.Context(), account1, operation, `{"KeyId":"`+key+`"}`)
			if err != nil || a.code != step.code {
				t.Errorf("%s %v after the step before: %d %s, %v; want %q", operation, step.later, a.status, a.body, err, step.code)
			}
		}
	}
	f.wantUnreadRefused(t, key)
}

// wantUnreadRefused checks that a call whose condition key cannot be worked out is
// not decided without it.
func (f *fixture) wantUnreadRefused(t *testing.T, key string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	document, err := policy.Parse(`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},
		{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*","Condition":{"NumericLessThan":{"kms:TrailingDaysWithoutKeyUsage":"30"}}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	c := &call{gateway: f.Gateway, ctx: ctx, now: f.now(), op: f.routes[route{serviceKMS, "DisableKey"}], caller: identity.Root(account1, "AKIA0")}
	entry := &metadata.KeyEntry{Key: metadata.Key{Account: account1, Region: testRegion, ID: key, CreatedAt: f.now()}, Policy: document}
	r := resource{target: &c.op.targets[0], arn: key, account: account1, key: entry}
	q := c.question(&r, &kmsapi.DisableKeyRequest{})
	if err := c.decideOn(&r, &q); err == nil {
		t.Errorf("decided %+v without the time of the last use", r.decision)
	}
}
