package integration_test

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// get reads a URL.
func get(t testing.TB, address string) answer {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, r)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
		if a := get(t, g.endpoint+path); a.status != http.StatusOK || string(a.body) != want {
			t.Errorf("%s: %d %q, want 200 %q", path, a.status, a.body, want)
		}
	}
}

// numbers are the metrics that dashboards and alarms are made of.
var numbers = []string{
	`kmsgate_requests_total{code="OK",operation="CreateKey"}`,
	`kmsgate_requests_total{code="InvalidCiphertextException",operation="Decrypt"}`,
	`kmsgate_requests_total{code="UnknownOperationException",operation="Unknown"}`,
	`kmsgate_request_duration_seconds_bucket{operation="Encrypt",`,
	"kmsgate_requests_in_flight ", "kmsgate_integrity_alarms_total 0", "kmsgate_refusals_unexplained_total ",
	"go_goroutines ", "process_resident_memory_bytes ",
}

// families are the metrics of token and database, by what must be in their names.
var families = []string{"kmsgate_token_", "session", "cache", "audit", "batch", "lag"}

func TestNumbers(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA=="})
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": "AA=="}, "InvalidCiphertextException", "")
	g.refused(t, own, "MadeUp"+idOf(key), m{}, "UnknownOperationException", "")
	a := get(t, g.admin+"/metrics")
	text := string(a.body)
	if a.status != http.StatusOK {
		t.Fatalf("metrics: %d %s", a.status, text)
	}
	for _, want := range numbers {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	var names strings.Builder
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE kmsgate_"); ok {
			names.WriteString("kmsgate_" + rest)
		}
	}
	for _, want := range families {
		if !strings.Contains(names.String(), want) {
			t.Errorf("no metric with %s in its name:\n%s", want, names.String())
		}
	}
	for _, secret := range []string{idOf(key), own, other, "MadeUp", g.keys[own].accessKey} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics tell of %s: labels must come from closed sets", secret)
		}
	}
}

func TestAdminStaysAtHome(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	at, err := url.Parse(g.admin)
	if err != nil {
		t.Fatal(err)
	}
	if ip := net.ParseIP(at.Hostname()); ip == nil || !ip.IsLoopback() {
		t.Errorf("metrics and pprof on %s, want loopback", at.Host)
	}
	if a := get(t, g.admin+"/debug/pprof/"); a.status != http.StatusOK || !strings.Contains(string(a.body), "goroutine") {
		t.Errorf("pprof: %d %.100s", a.status, a.body)
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"} {
		if a := get(t, g.endpoint+path); a.status != http.StatusForbidden || string(a.body) != notOurs {
			t.Errorf("%s on the public address: %d %.100s, want the refusal of nobody", path, a.status, a.body)
		}
	}
}
