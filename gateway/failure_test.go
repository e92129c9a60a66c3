package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"kmsgate/gateway/kmsapi"
)

// TestPanicsGiveRoomBack has requests that panic before anything is decided, with
// bodies that take room of what all bodies may take.
func TestPanicsGiveRoomBack(t *testing.T) {
	f := newFixture(t, nil)
	f.handle("PanicInReceive", nothing)
	f.routes[route{serviceKMS, "PanicInReceive"}].complete = func(any) error { panic("for this test") }
	a, err := f.call(t.Context(), account1, "PanicInReceive", strings.Repeat(" ", 10*firstBodyBytes)+"{}")
	if err != nil || a.status != http.StatusInternalServerError {
		t.Errorf("%d %s, %v; want 500", a.status, a.body, err)
	}
	f.wantRecord(t, a, kmsapi.KMSInternalException)
	f.wantIdle(t)
}

// TestCountsOutliveAFailedFlush has refusals before and after a flush that fails:
// one more flush, as the last one at the end, records them all.
func TestCountsOutliveAFailedFlush(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxInFlight = 1 })
	f.inFlight <- struct{}{} // the only place
	f.handle("Early", nothing)
	f.handle("Late", nothing)
	f.want(t, account1, "Early", http.StatusBadRequest, kmsapi.ThrottlingException)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	end := f.now().Add(time.Minute)
	if err := f.noise.flush(gone, f.store, end); err == nil {
		t.Error("flush with a context that has ended = nil, want an error")
	}
	f.want(t, account1, "Late", http.StatusBadRequest, kmsapi.ThrottlingException)
	f.flushNoise(t.Context(), end)
	counts := map[string]int64{}
	for _, e := range f.throttled(t) {
		counts[e.EventName] += e.AdditionalEventData.Count
	}
	if counts["Early"] != 1 || counts["Late"] != 1 {
		t.Errorf("counted %v, want Early and Late once each", counts)
	}
}

// TestUnknownFormsAreThrottled has a known caller sign forms that name no operation:
// they draw on a rate like any other request.
func TestUnknownFormsAreThrottled(t *testing.T) {
	var f *fixture
	f = newFixture(t, func(c *Config) {
		c.Throttling, c.Clock = true, func() time.Time { return f.standstill() }
	})
	const form = "Action=Nope&Version=2011-06-15"
	for n := range otherRate + 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.server.URL+"/", strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", formMedia)
		hash := sha256.Sum256([]byte(form))
		if err := v4.NewSigner().SignHTTP(t.Context(), f.keys[account1], r, hex.EncodeToString(hash[:]), "sts", testRegion, f.now()); err != nil {
			t.Fatal(err)
		}
		response, err := f.server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		want := "<Code>InvalidAction</Code>"
		if n >= otherRate {
			want = "<Code>Throttling</Code>"
		}
		if !strings.Contains(string(body), want) {
			t.Errorf("form %d: %d %s, want %s", n, response.StatusCode, body, want)
		}
	}
	f.wantIdle(t)
}
