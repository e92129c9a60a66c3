package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
)

// sent sends an operation on a key.
func (f *fixture) sent(t *testing.T, operation, key string, more ...string) answer {
	t.Helper()
	a, err := f.call(t.Context(), account1, operation, `{"KeyId":"`+key+`"`+strings.Join(append([]string{""}, more...), ",")+`}`)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestKeyIsDeletedByTheGateway has time pass for a gateway that does its periodic work.
func TestKeyIsDeletedByTheGateway(t *testing.T) {
	f := newFixture(t, nil)
	key, kept := f.createKey(t, account1, "{}"), f.createKey(t, account1, "{}")
	if a := f.sent(t, "ScheduleKeyDeletion", key, `"PendingWindowInDays":7`); a.status != http.StatusOK {
		t.Fatalf("ScheduleKeyDeletion: %s", a.body)
	}
	f.skew.Add(int64(7*24*time.Hour + time.Minute))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	f.reconciler.Fit = func(context.Context) error { return nil } // though the clocks are a week apart
	go func() {
		defer close(ended)
		f.Run(ctx)
	}()
	for f.sent(t, "DescribeKey", key).code != string(kmsapi.NotFoundException) {
		time.Sleep(20 * time.Millisecond)
		if t.Context().Err() != nil {
			t.Fatal("the key is there still")
		}
	}
	stop()
	<-ended
	for _, operation := range []string{"CancelKeyDeletion", "ScheduleKeyDeletion", "EnableKey", "GetKeyPolicy"} {
		if a := f.sent(t, operation, key); a.code != string(kmsapi.NotFoundException) {
			t.Errorf("%s of a deleted key: %s, want NotFoundException", operation, a.body)
		}
	}
	if a := f.sent(t, "Encrypt", kept, `"Plaintext":"AA=="`); a.status != http.StatusOK {
		t.Errorf("Encrypt with another key: %s", a.body)
	}
}

// TestPendingWindowIsAFactForPolicies has a policy that lets nobody be quick.
func TestPendingWindowIsAFactForPolicies(t *testing.T) {
	f := newFixture(t, nil)
	const policy = `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%[1]s:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Principal":"*","Action":"kms:ScheduleKeyDeletion","Resource":"*","Condition":{"NumericLessThan":{"kms:ScheduleKeyDeletionPendingWindowInDays":"14"}}}]}`
	key := f.createKey(t, account1, "{}")
	f.mustCall(t, "PutKeyPolicy", map[string]any{"KeyId": key, "Policy": fmt.Sprintf(policy, account1)})
	if a := f.sent(t, "ScheduleKeyDeletion", key, `"PendingWindowInDays":13`); a.code != string(kmsapi.AccessDeniedException) {
		t.Errorf("13 days: %s, want a refusal", a.body)
	}
	for _, window := range []string{"", `"PendingWindowInDays":14`} { // the first has the default
		var more []string
		if window != "" {
			more = []string{window}
		}
		if a := f.sent(t, "ScheduleKeyDeletion", key, more...); a.status != http.StatusOK {
			t.Errorf("ScheduleKeyDeletion with %q: %s", window, a.body)
		}
		if a := f.sent(t, "CancelKeyDeletion", key); a.status != http.StatusOK {
			t.Errorf("CancelKeyDeletion: %s", a.body)
		}
	}
}
