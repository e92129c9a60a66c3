package gateway

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

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
