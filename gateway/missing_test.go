package gateway

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
)

// TestMissingKeysBecomeUnavailable destroys token objects behind the gateway's
// back. Whoever uses such a key hears that it is unavailable; the first one puts
// it into that state, once, in a change of the gateway's own.
func TestMissingKeysBecomeUnavailable(t *testing.T) {
	f := newFixtureOn(t, newEngine(t, testStore), nil)
	signing, symmetric, disabled := f.createKey(t, account1, ofPair), f.createKey(t, account1, "{}"), f.createKey(t, account1, ofPair)
	sign := map[string]any{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}
	f.mustCall(t, "Sign", sign)
	f.mustCall(t, "DisableKey", map[string]any{"KeyId": disabled})
	f.destroy(t, signing)
	f.destroy(t, disabled)

	body := `{"KeyId":"` + signing + `","Message":"AA==","SigningAlgorithm":"ECDSA_SHA_256"}`
	unavailable := `{"__type":"KMSInvalidStateException","message":"` + signing + ` is unavailable."}`
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			a, err := f.call(t.Context(), account1, "Sign", body)
			if err != nil || a.status != http.StatusBadRequest || a.body != unavailable {
				t.Errorf("Sign: %d %s, %v; want 400 %s", a.status, a.body, err, unavailable)
				return
			}
			f.wantRecord(t, a, kmsapi.KMSInvalidStateException)
		})
	}
	group.Wait()
	f.wantState(t, signing, "Unavailable")
	if log := f.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "does not have the key") {
		t.Errorf("no alarm in the log:\n%s", log)
	}

	// A key that is switched off stays so: nobody switches it on by finding it.
	a, err := f.call(t.Context(), account1, "GetPublicKey", `{"KeyId":"`+disabled+`"}`)
	if err != nil || a.code != string(kmsapi.KMSInvalidStateException) || !strings.Contains(a.body, disabled+" is unavailable.") {
		t.Errorf("GetPublicKey of a disabled key: %d %s, %v; want it unavailable", a.status, a.body, err)
	}
	f.wantState(t, disabled, "Disabled")
	f.wantState(t, symmetric, "Enabled")
	f.mustCall(t, "Encrypt", map[string]any{"KeyId": symmetric, "Plaintext": "AA=="})

	var changes []event
	for _, e := range f.events(t) {
		if e.EventName == keyUnavailable {
			changes = append(changes, e)
		}
	}
	if len(changes) != 1 {
		t.Fatalf("%d records of keys becoming unavailable, want one", len(changes))
	}
	if e := changes[0]; e.EventType != "AwsServiceEvent" || e.RecipientAccountID != account1 || e.UserIdentity.AccountID != account1 ||
		e.RequestID != "" || e.ServiceEventDetails.KeyID == "" || !strings.HasSuffix(signing, e.ServiceEventDetails.KeyID) {
		t.Errorf("record %+v, want one of the service for %s", e, signing)
	}
	f.wantIdle(t)
}

// destroy removes a resident key from the token, and nothing else.
func (f *fixture) destroy(t *testing.T, keyARN string) {
	t.Helper()
	_, id, _ := strings.Cut(keyARN, ":key/")
	key, err := f.store.View().Key(t.Context(), testRegion, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.engine.Destroy(t.Context(), hsm.Call{}, &key.Current().Key); err != nil {
		t.Fatal(err)
	}
}

// wantState checks what DescribeKey says of a key.
func (f *fixture) wantState(t *testing.T, keyARN, state string) {
	t.Helper()
	if a := f.mustCall(t, "DescribeKey", map[string]any{"KeyId": keyARN}); !strings.Contains(a.body, `"KeyState":"`+state+`"`) {
		t.Errorf("DescribeKey: %s, want the state %s", a.body, state)
	}
}
