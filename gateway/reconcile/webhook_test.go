package reconcile

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSignatureIsTheSpecifications compares with the example of the specification
// "Standard Webhooks".
func TestSignatureIsTheSpecifications(t *testing.T) {
	t.Parallel()
	secret, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	if err != nil {
		t.Fatal(err)
	}
	w := newWebhook(t, "https://example.com/", secret)
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := w.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`)); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func newWebhook(t *testing.T, url string, secret []byte) *Webhook {
	t.Helper()
	w, err := NewWebhook(WebhookConfig{URL: url, Secret: secret, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

var testSecret = []byte("a secret of thirty-two bytes....")

func TestWebhookIsNotPrinted(t *testing.T) {
	t.Parallel()
	c := WebhookConfig{URL: "https://example.com/hidden", Secret: testSecret}
	w := newWebhook(t, c.URL, c.Secret)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text := fmt.Sprintf(verb+" "+verb, w, Config{Webhook: w})
		secret := fmt.Sprintf(verb, []byte(testSecret))
		if strings.Contains(text, "hidden") || strings.Contains(text, secret) || strings.Contains(fmt.Sprintf(verb, c), secret) {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func TestWebhooksThatCannotBe(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"https://example.com/hook?x=y": true, "http://127.0.0.1:8080/": true, "http://[::1]/": true, "https://10.0.0.1/": true,
		"": false, "http://example.com/": false, "http://localhost.example.com/": false, "http://127.0.0.1.example.com/": false,
		"http://10.0.0.1/": false, "https://": false, "https:example.com": false, "https://u:p@example.com/": false, "ftp://127.0.0.1/": false,
		"https://example.com/#x": false, "file:///etc/passwd": false, "unix://127.0.0.1/": false, "https://exa mple.com/": false,
	} {
		_, err := NewWebhook(WebhookConfig{URL: url, Secret: testSecret})
		if (err == nil) != ok {
			t.Errorf("NewWebhook(%q) = %v, want success %v", url, err, ok)
		}
	}
	if _, err := NewWebhook(WebhookConfig{URL: "https://example.com/", Secret: testSecret[:23]}); err == nil {
		t.Error("a short secret is taken")
	}
	if _, err := ParseSecret("whsec_!hidden!"); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("ParseSecret = %v, want an error that does not quote the secret", err)
	}
	if s, err := ParseSecret("whsec_" + base64.StdEncoding.EncodeToString(testSecret)); err != nil || string(s) != string(testSecret) {
		t.Errorf("ParseSecret = %q, %v", s, err)
	}
}

// TestWebhookGoesNowhereElse answers with redirects and what else is no success:
// nothing but the URL is asked, and none of it counts as posted.
func TestWebhookGoesNowhereElse(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var status atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", other.URL)
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, strings.Repeat("x", 100_000)) // more than is read
	}))
	defer server.Close()
	w := newWebhook(t, server.URL+"/secret-path", testSecret)
	for code, ok := range map[int]bool{200: true, 202: true, 301: false, 302: false, 307: false, 308: false, 400: false, 401: false, 429: false, 500: false} {
		status.Store(int64(code))
		if err := w.post(t.Context(), "id", []byte("{}"), time.Unix(1, 0)); (err == nil) != ok {
			t.Errorf("post answered with %d = %v, want success %v", code, err, ok)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went where redirects point", n)
	}
	server.Close()
	if err := w.post(t.Context(), "id", []byte("{}"), time.Unix(1, 0)); err == nil || strings.Contains(err.Error(), "secret-path") {
		t.Errorf("post to nobody = %v, want an error without the URL", err)
	}
}

// TestWebhookVerifiesTheReceiver posts to a server whose certificate is of no
// authority that is known, and of one that is.
func TestWebhookVerifiesTheReceiver(t *testing.T) {
	t.Parallel()
	var posts atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { posts.Add(1) }))
	server.Config.ErrorLog = discarded()
	server.StartTLS()
	defer server.Close()
	w := newWebhook(t, server.URL, testSecret)
	if err := w.post(t.Context(), "id", []byte("{}"), time.Unix(1, 0)); err == nil || posts.Load() != 0 {
		t.Errorf("post to a stranger = %v, %d arrived", err, posts.Load())
	}
	known, err := NewWebhook(WebhookConfig{URL: server.URL, Secret: testSecret, Roots: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	if err := known.post(t.Context(), "id", []byte("{}"), time.Unix(1, 0)); err != nil || posts.Load() != 1 {
		t.Errorf("post to the receiver = %v, %d arrived", err, posts.Load())
	}
}
