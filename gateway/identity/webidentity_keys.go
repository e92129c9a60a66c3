package identity

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

const (
	issuerTimeout  = 5 * time.Second // for all that is asked of an issuer at once
	maxIssuerBytes = 256 << 10       // of each of its documents
	maxIssuerKeys  = 100
	maxRedirects   = 3
	leastRSABits   = 2048
	// keysFresh is how long an issuer's keys are used without asking again, keysStale
	// how long while it does not answer.
	keysFresh = time.Hour
	keysStale = 24 * time.Hour
	// askEvery is how often an issuer is asked at most.
	askEvery = time.Minute
	// maxWaiting bounds the requests that wait for issuers at once, maxWaitingEach
	// those for the issuers of one account, so that slow ones are its own trouble.
	maxWaiting     = 32
	maxWaitingEach = maxWaiting / 4
	// maxIssuers bounds the issuers whose keys are kept.
	maxIssuers = 1000
)

// Issuers are the keys of OIDC issuers, fetched over HTTPS and kept for a while.
// Safe for concurrent use.
type Issuers struct {
	client   *http.Client
	loopback bool

	mu      sync.Mutex
	known   map[string]*issuer // by URL; guarded by mu, as all below
	waiting map[string]int     // requests that wait for an issuer, by account
	all     int                // of them
}

// issuer is what is known of one.
type issuer struct {
	asking sync.Mutex // held while it is asked

	mu      sync.Mutex
	keys    []jose.JSONWebKey // guarded by mu, as all below
	fetched time.Time         // when it gave the keys
	asked   time.Time         // when it was asked last
}

// NewIssuers makes an empty cache. Roots are the authorities that issuers'
// certificates may be of, nil for the system's. With loopback, issuers on this machine
// may do without TLS: for tests and trials.
func NewIssuers(roots *x509.CertPool, loopback bool) *Issuers {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ResponseHeaderTimeout: issuerTimeout,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxResponseHeaderBytes: 64 << 10,
	}
	return &Issuers{
		client:   &http.Client{Transport: transport, CheckRedirect: sameHost, Timeout: issuerTimeout},
		loopback: loopback, known: map[string]*issuer{}, waiting: map[string]int{},
	}
}

// sameHost follows redirects on one host only.
func sameHost(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		return errors.New("redirected elsewhere")
	}
	return nil
}

// keys returns the keys of a token's issuer that the token can be signed with. The
// issuer is asked if they are not known or have been for long, on behalf of the
// account whose provider it is.
func (i *Issuers) keys(ctx context.Context, now time.Time, account string, t *IDToken) ([]jose.JSONWebKey, error) {
	if !i.mayAsk(t.issuer) {
		return nil, invalidToken("Issuer must use HTTPS")
	}
	is := i.of(t.issuer)
	if found, age := is.get(now, t); len(found) > 0 && age < keysFresh {
		return found, nil
	}
	failure := i.ask(ctx, now, account, is, t)
	found, age := is.get(now, t)
	switch {
	case len(found) > 0 && age < keysStale:
		return found, nil
	case failure == nil && age < keysFresh:
		return nil, unknownKey()
	}
	return nil, &IssuerError{cmp.Or(failure, errors.New("it did not answer less than a minute ago"))}
}

// ask has an issuer asked for its keys, unless another request has just done so. It
// does not end with the request that it is for: that may have no time left, and the
// issuer is not asked again soon.
func (i *Issuers) ask(ctx context.Context, now time.Time, account string, is *issuer, t *IDToken) error {
	if !i.wait(account) {
		return errors.New("too many requests wait for issuers")
	}
	defer i.leave(account)
	is.asking.Lock()
	defer is.asking.Unlock()
	if !is.mayAskAgain(now, t) {
		return nil
	}
	keys, err := i.fetch(context.WithoutCancel(ctx), t.issuer)
	if err == nil {
		is.set(keys, now)
	}
	return err
}

// wait takes a place among the requests that wait for issuers; leave gives it back.
func (i *Issuers) wait(account string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.all >= maxWaiting || i.waiting[account] >= maxWaitingEach {
		return false
	}
	i.all++
	i.waiting[account]++
	return true
}

func (i *Issuers) leave(account string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.all--
	if i.waiting[account]--; i.waiting[account] == 0 {
		delete(i.waiting, account)
	}
}

// get returns the keys that a token can be signed with, and how old all keys are.
func (is *issuer) get(now time.Time, t *IDToken) ([]jose.JSONWebKey, time.Duration) {
	is.mu.Lock()
	defer is.mu.Unlock()
	return usable(is.keys, t), now.Sub(is.fetched)
}

func (is *issuer) set(keys []jose.JSONWebKey, now time.Time) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.keys, is.fetched = keys, now
}

// mayAskAgain tells whether the issuer is to be asked now, and notes that it is:
// not if another request has just got the keys.
func (is *issuer) mayAskAgain(now time.Time, t *IDToken) bool {
	is.mu.Lock()
	defer is.mu.Unlock()
	if len(usable(is.keys, t)) > 0 && now.Sub(is.fetched) < keysFresh || now.Sub(is.asked) < askEvery {
		return false
	}
	is.asked = now
	return true
}

func (i *Issuers) of(url string) *issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	is, ok := i.known[url]
	if !ok {
		if len(i.known) >= maxIssuers {
			clear(i.known)
		}
		is = &issuer{}
		i.known[url] = is
	}
	return is
}

// IssuerError says that an issuer did not give its keys. Its cause is for the log.
type IssuerError struct{ cause error }

func (e *IssuerError) Error() string { return fmt.Sprintf("ask the issuer for its keys: %v", e.cause) }

// Wire is what the caller is told; clients try again.
func (e *IssuerError) Wire() *kmsapi.Error {
	return &kmsapi.Error{
		Code:    awsquery.IDPCommunicationError,
		Message: "Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements",
	}
}

func unknownKey() *kmsapi.Error {
	return invalidToken("The key that the token is signed with is not one of the issuer's")
}

// usable are the keys that a token can be signed with: of its key id, and for its
// algorithm. A token without a key id is for an issuer that has one key.
func usable(keys []jose.JSONWebKey, t *IDToken) (found []jose.JSONWebKey) {
	id := t.keyID()
	for _, k := range keys {
		if (k.KeyID == id || id == "" && len(keys) == 1) && (k.Algorithm == "" || k.Algorithm == t.algorithm()) {
			found = append(found, k)
		}
	}
	return found
}

// mayAsk tells whether an issuer, or the place of its keys, may be asked.
func (i *Issuers) mayAsk(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Hostname() == "" {
		return false
	}
	return u.Scheme == "https" || i.loopback && u.Scheme == "http" && isLoopback(u.Hostname())
}

// discovery is the part of an issuer's configuration that is used (OpenID Connect
// Discovery 1.0, section 3).
type discovery struct {
	Issuer  string `json:"issuer"`
	JWKSURI string `json:"jwks_uri"`
}

// fetch asks an issuer for its keys.
func (i *Issuers) fetch(ctx context.Context, issuer string) ([]jose.JSONWebKey, error) {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	text, err := i.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	var d discovery
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", issuer, err)
	}
	if d.Issuer != issuer || !i.mayAsk(d.JWKSURI) {
		return nil, fmt.Errorf("configuration of %s names another issuer, or a jwks_uri that is not HTTPS", issuer)
	}
	if text, err = i.get(ctx, d.JWKSURI); err != nil {
		return nil, err
	}
	return parseKeys(text)
}

func (i *Issuers) get(ctx context.Context, address string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := i.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // nothing is written
	text, err := io.ReadAll(io.LimitReader(response.Body, maxIssuerBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", address, err)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s", address, response.Status)
	case len(text) > maxIssuerBytes:
		return nil, fmt.Errorf("%s answers more than %d bytes", address, maxIssuerBytes)
	}
	return text, nil
}

// parseKeys reads a JWK set (RFC 7517). Keys of kinds that are not known, for
// encryption, or too short are left out.
func parseKeys(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("read a JWK set: %w", err)
	}
	if len(set.Keys) > maxIssuerKeys {
		return nil, fmt.Errorf("a JWK set has more than %d keys", maxIssuerKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) == nil && verifies(&k) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func verifies(k *jose.JSONWebKey) bool {
	if !k.Valid() || !k.IsPublic() || k.Use != "" && k.Use != "sig" {
		return false
	}
	r, ok := k.Key.(*rsa.PublicKey)
	return !ok || r.N.BitLen() >= leastRSABits
}
