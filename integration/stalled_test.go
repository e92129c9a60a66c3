package integration_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stalledClients are more than the requests that are worked on at once.
const stalledClients = 600

// TestStalledClients has clients that send the headers of a request that could be
// good, the beginning of its body, and then nothing more.
func TestStalledClients(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "-accounts", own)
	key := g.createKey(t, own)
	encrypt := func() { g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA=="}) }
	encrypt()
	const inFlight, requests = "kmsgate_requests_in_flight", "kmsgate_requests_total"
	connections, answered := g.number(t, "process_open_fds"), g.number(t, requests)

	body := bytes.Repeat([]byte(" "), 100<<10) // both protocols take as much
	r, err := http.NewRequest(http.MethodPost, g.endpoint+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	g.signAs(t, r, g.keys[own], body, "sts", region, time.Now())
	beginnings := []string{text(t, g.sign(t, own, "Encrypt", body)), text(t, r)}
	stalled := make([]net.Conn, stalledClients)
	for n := range stalled {
		stalled[n] = g.dial(t)
		whole := beginnings[n%len(beginnings)]
		if _, err := io.WriteString(stalled[n], whole[:len(whole)-len(body)+10]); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all that stall have come", func() bool {
		return g.number(t, inFlight)+g.number(t, requests)-answered >= stalledClients
	})
	for range 20 {
		encrypt()
	}
	for _, conn := range stalled {
		_ = conn.Close() // the server may have closed it
	}
	eventually(t, "nothing is left of them", func() bool {
		return g.number(t, inFlight) == 0 && g.number(t, "process_open_fds") < connections+stalledClients/10
	})
	encrypt()
	served := 0
	for _, e := range g.audit(t) {
		if e.EventName == "Encrypt" && e.ErrorCode == "" {
			served++
		}
	}
	if served != 22 {
		t.Errorf("%d records of an Encrypt that was served, want 22", served)
	}
}

// number is the sum of a metric over its labels.
func (i *instance) number(t testing.TB, metric string) (sum float64) {
	t.Helper()
	for line := range strings.Lines(string(get(t, i.admin+"/metrics").body)) {
		fields := strings.Fields(line) // no label has a blank in its value
		if name, _, _ := strings.Cut(fields[0], "{"); name != metric {
			continue
		}
		n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum += n
	}
	return sum
}
