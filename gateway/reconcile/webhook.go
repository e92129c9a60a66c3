package reconcile

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kmsgate/gateway/kmsapi"
)

// WebhookConfig says where events are posted.
type WebhookConfig struct {
	// URL is https; http on this host only.
	URL string
	// Secret signs what is posted.
	Secret kmsapi.Secret
	// Timeout bounds one post. Optional: 10s.
	Timeout time.Duration
	// Roots are the authorities that the receiver's certificate may be of. Optional: the
	// system's.
	Roots *x509.CertPool
}

// Webhook posts events to the site (specification "Standard Webhooks" 1.0.0). Safe
// for concurrent use.
type Webhook struct {
	url     string
	secret  []byte
	timeout time.Duration
	client  *http.Client
}

const (
	defaultTimeout = 10 * time.Second
	minSecret      = 24      // bytes, as the specification has it
	maxAnswer      = 4 << 10 // of an answer is read, so that the connection is used again
	secretPrefix   = "whsec_"
)

// NewWebhook checks the configuration. Redirects are not followed and no proxy is
// asked: what is configured is all that is connected to.
func NewWebhook(c WebhookConfig) (*Webhook, error) {
	if err := CheckWebhookURL(c.URL); err != nil {
		return nil, err
	}
	if len(c.Secret) < minSecret {
		return nil, fmt.Errorf("webhook: the secret has %d bytes, want at least %d", len(c.Secret), minSecret)
	}
	w := &Webhook{url: c.URL, secret: bytes.Clone(c.Secret), timeout: c.Timeout}
	if w.timeout == 0 {
		w.timeout = defaultTimeout
	}
	w.client = &http.Client{
		Timeout:       w.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: eventsAtOnce, MaxConnsPerHost: eventsAtOnce, IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	return w, nil
}

// Format prints "webhook", whatever the verb: the URL may be as secret as the secret.
func (w *Webhook) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "webhook") } // fmt reports its own write errors

// CheckWebhookURL refuses where events cannot be posted to. The error does not name
// the URL, whose path may be a secret.
func CheckWebhookURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return errors.New("webhook: not a URL")
	case u.User != nil || u.Fragment != "":
		return errors.New("webhook: the URL has a user or a fragment")
	case u.Scheme == "https", u.Scheme == "http" && onLoopback(u.Hostname()):
		return nil
	}
	return errors.New("webhook: the URL is not https; http is for this host only")
}

func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// ParseSecret reads a secret: after "whsec_" in Base64, as the specification has it,
// or any other text as it is, without the space around it.
func ParseSecret(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return []byte(text), nil
	}
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("webhook: the secret is not Base64 after " + secretPrefix) // the cause quotes it
	}
	return secret, nil
}

// post posts a message once. Nil means that the receiver has it: it answered with
// 2xx. Errors do not name the URL.
func (w *Webhook) post(ctx context.Context, id string, body []byte, now time.Time) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("webhook: not a URL")
	}
	timestamp := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "kmsgate")
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", timestamp)
	r.Header.Set("Webhook-Signature", w.sign(id, timestamp, body))
	answer, err := w.client.Do(r)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err
		}
		return fmt.Errorf("webhook: %w", err)
	}
	defer answer.Body.Close()                                          //nolint:errcheck // nothing is written
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // its status is all that counts
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("webhook: answered with status %d", answer.StatusCode)
	}
	return nil
}

// sign is the signature over id, time and body.
func (w *Webhook) sign(id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, w.secret)
	for _, part := range []string{id, ".", timestamp, "."} {
		_, _ = io.WriteString(mac, part) // never fails (package hash)
	}
	_, _ = mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Close closes the connections that nobody uses.
func (w *Webhook) Close() { w.client.CloseIdleConnections() }
