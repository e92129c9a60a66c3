package integration_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// individually is how many requests without a good signature are recorded one by
// one in a second.
const individually = 50

// TestFloodOfStrangers sends more unsigned requests than are recorded one by one.
// The rest is counted, and nothing is lost. No other test runs beside it.
func TestFloodOfStrangers(t *testing.T) {
	g := gateway(t)
	const total = 500
	agent := "flood/1.0"
	begin := len(g.audit(t))
	jobs := make(chan int)
	var work sync.WaitGroup
	for range senders {
		work.Go(func() {
			for n := range jobs {
				r := g.sign(t, own, "Encrypt", []byte("{}"), setHeader("User-Agent", agent))
				code := "MissingAuthenticationTokenException"
				if r.Header.Del("Authorization"); n%2 == 0 {
					r, code = g.sign(t, own, "Decrypt", []byte("{}"), setHeader("User-Agent", agent)), "UnrecognizedClientException"
					authorization(g.keys[own].accessKey, "AKIA0000000000000000")(r)
				}
				a, err := attempt(r)
				if err != nil || a.status != http.StatusBadRequest || !strings.Contains(string(a.body), code) {
					t.Errorf("request %d: %d %s, %v; want 400 %s", n, a.status, a.body, err, code)
				}
			}
		})
	}
	for n := range total {
		jobs <- n
	}
	close(jobs)
	work.Wait()

	var alone, counted int
	for deadline := time.Now().Add(20 * time.Second); alone+counted < total && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		alone, counted = 0, 0
		for _, e := range g.audit(t)[begin:] {
			switch {
			case e.UserAgent == agent:
				alone++
			case e.EventType == "AwsServiceEvent" && e.ErrorCode != "":
				counted += countOf(t, e)
			}
		}
	}
	if alone+counted != total {
		t.Errorf("%d records and %d counted, want %d in all", alone, counted, total)
	}
	if alone < individually || counted == 0 {
		t.Errorf("%d records and %d counted, want at least %d and the rest counted", alone, counted, individually)
	}
	// Those who sign well are not touched by it.
	g.mustCall(t, own, "ListKeys", m{"Limit": 1})
}

// countOf checks a record of several refusals and returns how many they are.
func countOf(t testing.TB, e event) int {
	t.Helper()
	n, _ := e.AdditionalEventData["count"].(float64)
	_, timeErr := time.Parse(time.RFC3339, textOf(e.AdditionalEventData["second"]))
	wantName := map[string]string{"MissingAuthenticationTokenException": "Encrypt", "UnrecognizedClientException": "Decrypt"}[e.ErrorCode]
	if n < 1 || timeErr != nil || e.EventName != wantName || e.RequestID != "" || e.UserIdentity.Type != "Unknown" {
		t.Errorf("record %s, want a count of refusals of %s", e.text, wantName)
	}
	return int(n)
}

// textOf is a member of a JSON object as text, empty if it is none.
func textOf(v any) string {
	s, _ := v.(string)
	return s
}
