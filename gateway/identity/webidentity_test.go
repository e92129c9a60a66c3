package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// pairs are the keys of all tests: RSA takes long to make.
var pairs = sync.OnceValue(func() map[string]any {
	weak, err1 := rsa.GenerateKey(rand.Reader, 1024)
	r, err2 := rsa.GenerateKey(rand.Reader, 2048)
	p256, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err4 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err5 := ed25519.GenerateKey(rand.Reader)
	other, err6 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		panic(err)
	}
	return map[string]any{"weak": weak, "rsa": r, "p256": p256, "p384": p384, "ed": ed, "other": other}
})

// setOf is the set of the public keys with these names.
func setOf(t testing.TB, names ...string) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, name := range names {
		private := jose.JSONWebKey{Key: pairs()[name], KeyID: name, Use: "sig"}
		set.Keys = append(set.Keys, private.Public())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// claims are those of a Kubernetes service account, with changes; nil removes one.
func claims(issuer string, changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": issuer, "sub": "system:serviceaccount:shop:web", "aud": []string{"sts.amazonaws.com"},
		"iat": noon.Unix(), "nbf": noon.Unix(), "exp": noon.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "shop"},
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// token signs claims with a key and its id.
func token(t testing.TB, algorithm jose.SignatureAlgorithm, key any, keyID string, c any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	if keyID != "" {
		options.WithHeader("kid", keyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// verify reads and verifies a token of a provider.
func (i *Issuers) verify(ctx context.Context, now time.Time, p *metadata.Provider, text string) (*WebIdentity, error) {
	t, err := ParseIDToken(text)
	if err != nil {
		return nil, err
	}
	return i.Verify(ctx, now, p, t)
}

// wantRefused checks the code of an error.
func wantRefused(t *testing.T, err error, code kmsapi.Code) {
	t.Helper()
	if failed, ok := errors.AsType[*IssuerError](err); ok {
		err = failed.Wire()
	}
	wire, ok := errors.AsType[*kmsapi.Error](err)
	if !ok || wire.Code != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

const issuerURL = "https://oidc.example.com/cluster"

// uploaded is a provider with uploaded keys, whose issuer is never asked.
func uploaded(t testing.TB) *metadata.Provider {
	t.Helper()
	return &metadata.Provider{
		Account: "111122223333", URL: "oidc.example.com/cluster", ClientIDs: []string{"other", "sts.amazonaws.com"},
		JWKS: setOf(t, "rsa", "p256", "p384", "ed", "weak"),
	}
}

func TestVerifyTakesEveryAlgorithm(t *testing.T) {
	t.Parallel()
	i, p := NewIssuers(nil, false), uploaded(t)
	for algorithm, key := range map[jose.SignatureAlgorithm]string{
		jose.RS256: "rsa", jose.RS384: "rsa", jose.RS512: "rsa", jose.PS256: "rsa", jose.PS384: "rsa", jose.PS512: "rsa",
		jose.ES256: "p256", jose.ES384: "p384", jose.EdDSA: "ed",
	} {
		w, err := i.verify(t.Context(), noon, p, token(t, algorithm, pairs()[key], key, claims(issuerURL, nil)))
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		if w.Subject != "system:serviceaccount:shop:web" || w.Audience != "sts.amazonaws.com" || w.Issuer != issuerURL || w.Provider != p.ARN() {
			t.Errorf("%s: %+v", algorithm, w)
		}
	}
}

func TestVerifyRefusesClaims(t *testing.T) {
	t.Parallel()
	i, p := NewIssuers(nil, false), uploaded(t)
	at := func(d time.Duration) any { return noon.Add(d).Unix() }
	for name, tc := range map[string]struct {
		changes map[string]any
		want    kmsapi.Code // empty: it is taken
	}{
		"as it is":              {nil, ""},
		"one audience":          {map[string]any{"aud": "other"}, ""},
		"expired a little":      {map[string]any{"exp": at(-59 * time.Second)}, ""},
		"no nbf":                {map[string]any{"nbf": nil}, ""},
		"fractions of a second": {map[string]any{"exp": 1772370000.5}, ""},
		"expired":               {map[string]any{"exp": at(-time.Minute)}, awsquery.ExpiredIdentityToken},
		"no end":                {map[string]any{"exp": nil}, awsquery.InvalidIdentityToken},
		"an end that is text":   {map[string]any{"exp": "4000000000"}, awsquery.InvalidIdentityToken},
		"an endless end":        {map[string]any{"exp": 1e300}, awsquery.InvalidIdentityToken},
		"a negative start":      {map[string]any{"iat": -1}, awsquery.InvalidIdentityToken},
		"no start":              {map[string]any{"iat": nil}, awsquery.InvalidIdentityToken},
		"issued in the future":  {map[string]any{"iat": at(2 * time.Minute)}, awsquery.IDPRejectedClaim},
		"not valid yet":         {map[string]any{"nbf": at(2 * time.Minute)}, awsquery.IDPRejectedClaim},
		"nbf that is none":      {map[string]any{"nbf": "soon"}, awsquery.IDPRejectedClaim},
		"wrong audience":        {map[string]any{"aud": "kubernetes"}, awsquery.InvalidIdentityToken},
		"no audience":           {map[string]any{"aud": nil}, awsquery.InvalidIdentityToken},
		"audience of numbers":   {map[string]any{"aud": []int{1}}, awsquery.InvalidIdentityToken},
		"no subject":            {map[string]any{"sub": nil}, awsquery.IDPRejectedClaim},
		"empty subject":         {map[string]any{"sub": ""}, awsquery.IDPRejectedClaim},
		"subject in capitals":   {map[string]any{"sub": nil, "SUB": "x"}, awsquery.IDPRejectedClaim},
		"long subject":          {map[string]any{"sub": strings.Repeat("s", 256)}, awsquery.IDPRejectedClaim},
		"subject with NUL":      {map[string]any{"sub": "a\x00b"}, awsquery.IDPRejectedClaim},
		"foreign issuer":        {map[string]any{"iss": "https://oidc.example.com/other"}, awsquery.InvalidIdentityToken},
		"issuer without scheme": {map[string]any{"iss": "oidc.example.com/cluster"}, awsquery.InvalidIdentityToken},
		"issuer with a slash":   {map[string]any{"iss": issuerURL + "/"}, awsquery.InvalidIdentityToken},
		"no issuer":             {map[string]any{"iss": nil}, awsquery.InvalidIdentityToken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := i.verify(t.Context(), noon, p, token(t, jose.ES256, pairs()["p256"], "p256", claims(issuerURL, tc.changes)))
			if tc.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tc.want != "" {
				wantRefused(t, err, tc.want)
			}
		})
	}
}

func TestVerifyRefusesSignatures(t *testing.T) {
	t.Parallel()
	i, p := NewIssuers(nil, false), uploaded(t)
	c := claims(issuerURL, nil)
	good := token(t, jose.ES256, pairs()["p256"], "p256", c)
	encode := base64.RawURLEncoding.EncodeToString
	_, payload, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(payload, ".")
	public, err := x509.MarshalPKIXPublicKey(&pairs()["rsa"].(*rsa.PrivateKey).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	for name, text := range map[string]string{
		"nothing":                    "",
		"no token":                   "AKIA",
		"cut off":                    good[:len(good)-4],
		"without signature":          good[:strings.LastIndexByte(good, '.')+1],
		"alg none":                   encode([]byte(`{"alg":"none","kid":"p256"}`)) + "." + payload + ".",
		"alg none with signature":    encode([]byte(`{"alg":"none","kid":"p256"}`)) + "." + payload + "." + signature,
		"HS256 with the public key":  token(t, jose.HS256, publicPEM, "rsa", c),
		"HS256 with the public DER":  token(t, jose.HS256, public, "rsa", c),
		"another key under that id":  token(t, jose.ES256, pairs()["other"], "p256", c),
		"the id of another key":      token(t, jose.ES256, pairs()["p256"], "p384", c),
		"an id that there is not":    token(t, jose.ES256, pairs()["p256"], "nobody", c),
		"no id":                      token(t, jose.ES256, pairs()["p256"], "", c),
		"another algorithm's header": encode([]byte(`{"alg":"RS256","kid":"p256"}`)) + "." + payload + "." + signature,
		"RSA of 1024 bits":           weakToken(t, c),
		"other claims":               token(t, jose.ES256, pairs()["p256"], "p256", c)[:20] + "." + payload + "." + signature,
		"claims that are a list":     token(t, jose.ES256, pairs()["p256"], "p256", []string{"a"}),
		"an unknown critical header": encode([]byte(`{"alg":"ES256","kid":"p256","crit":["x"],"x":1}`)) + "." + payload + "." + signature,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := i.verify(t.Context(), noon, p, text)
			wantRefused(t, err, awsquery.InvalidIdentityToken)
		})
	}
}

// TestKeysForOtherAlgorithms: a key that says what it is for is for nothing else.
func TestKeysForOtherAlgorithms(t *testing.T) {
	t.Parallel()
	i, p := NewIssuers(nil, false), uploaded(t)
	p.JWKS = strings.Replace(setOf(t, "rsa"), `"use":"sig"`, `"use":"sig","alg":"PS256"`, 1)
	if _, err := i.verify(t.Context(), noon, p, token(t, jose.PS256, pairs()["rsa"], "rsa", claims(issuerURL, nil))); err != nil {
		t.Errorf("its algorithm: %v", err)
	}
	_, err := i.verify(t.Context(), noon, p, token(t, jose.RS256, pairs()["rsa"], "rsa", claims(issuerURL, nil)))
	wantRefused(t, err, awsquery.InvalidIdentityToken)
}

// weakToken is signed with a key that is too short.
func weakToken(t testing.TB, c any) string {
	t.Helper()
	return token(t, jose.RS256, pairs()["weak"], "weak", c)
}

// idp is an OIDC issuer on loopback.
type idp struct {
	*httptest.Server
	asked  atomic.Int32 // for its keys
	answer atomic.Pointer[string]
	// configuration is what discovery says; empty: what it should.
	configuration string
	// open lets answers out again, once it is closed; nil: they come at once.
	open atomic.Pointer[chan struct{}]
}

func newIDP(t *testing.T, set string) *idp {
	t.Helper()
	p := &idp{}
	p.answer.Store(&set)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		text := p.configuration
		if text == "" {
			text = `{"issuer":"` + p.URL + `","jwks_uri":"` + p.URL + `/jwks"}`
		}
		_, _ = w.Write([]byte(text))
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		if open := p.open.Load(); open != nil {
			<-*open
		}
		set := *p.answer.Load()
		if set == "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = w.Write([]byte(set))
	})
	mux.Handle("GET /elsewhere", http.RedirectHandler("http://127.0.0.1:1/jwks", http.StatusFound))
	mux.Handle("GET /moved", http.RedirectHandler("/jwks", http.StatusFound))
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *idp) provider() *metadata.Provider {
	return &metadata.Provider{Account: "111122223333", URL: strings.TrimPrefix(p.URL, "http://"), ClientIDs: []string{"sts.amazonaws.com"}}
}

func (p *idp) token(t *testing.T, key string, changes map[string]any) string {
	t.Helper()
	return token(t, jose.ES256, pairs()[key], key, claims(p.URL, changes))
}

// TestIssuerIsAskedSeldom lets an issuer change its keys and go away.
func TestIssuerIsAskedSeldom(t *testing.T) {
	t.Parallel()
	p := newIDP(t, setOf(t, "p256"))
	i, ctx := NewIssuers(nil, true), t.Context()
	later := map[string]any{"exp": noon.Add(100 * time.Hour).Unix()}
	for range 3 {
		if _, err := i.verify(ctx, noon, p.provider(), p.token(t, "p256", nil)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, n int32) {
		t.Helper()
		if got := p.asked.Load(); got != n {
			t.Errorf("%s: the issuer was asked %d times, want %d", what, got, n)
		}
	}
	want("the same key", 1)
	_, err := i.verify(ctx, noon.Add(59*time.Second), p.provider(), p.token(t, "other", nil))
	wantRefused(t, err, awsquery.InvalidIdentityToken)
	want("an unknown key at once", 1)
	both := setOf(t, "p256", "other")
	p.answer.Store(&both)
	if _, err := i.verify(ctx, noon.Add(time.Minute), p.provider(), p.token(t, "other", nil)); err != nil {
		t.Errorf("a new key: %v", err)
	}
	want("an unknown key a minute later", 2)
	p.answer.Store(new(string))
	if _, err := i.verify(ctx, noon.Add(2*time.Hour), p.provider(), p.token(t, "other", later)); err != nil {
		t.Errorf("two hours later, while the issuer does not answer: %v", err)
	}
	want("old keys", 3)
	if _, err := i.verify(ctx, noon.Add(2*time.Hour+time.Second), p.provider(), p.token(t, "other", later)); err != nil {
		t.Errorf("a second after the issuer did not answer: %v", err)
	}
	want("an issuer that did not answer", 3)
	for range 2 {
		_, err = i.verify(ctx, noon.Add(26*time.Hour), p.provider(), p.token(t, "other", later))
		wantRefused(t, err, awsquery.IDPCommunicationError)
	}
	want("keys of yesterday", 4)
}

// TestAskingOutlivesTheRequest: one that has no time left, for it was sent slowly,
// does not use up the one question a minute in vain.
func TestAskingOutlivesTheRequest(t *testing.T) {
	t.Parallel()
	p, i := newIDP(t, setOf(t, "p256")), NewIssuers(nil, true)
	late, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = i.verify(late, noon, p.provider(), p.token(t, "p256", nil)) // whatever becomes of it
	if _, err := i.verify(t.Context(), noon, p.provider(), p.token(t, "p256", nil)); err != nil {
		t.Errorf("another request: %v", err)
	}
}

// TestSlowIssuersKeepNobodyElseWaiting has an issuer not answer while many ask, and
// some of them with keys of two hours ago.
func TestSlowIssuersKeepNobodyElseWaiting(t *testing.T) {
	t.Parallel()
	slow, quick, i := newIDP(t, setOf(t, "p256")), newIDP(t, setOf(t, "p256")), NewIssuers(nil, true)
	later := map[string]any{"exp": noon.Add(100 * time.Hour).Unix()}
	ask := func(ctx context.Context, at time.Time, account string, p *idp, key string) error {
		provider := p.provider()
		provider.Account = account
		_, err := i.verify(ctx, at, provider, p.token(t, key, later))
		return err
	}
	const account, other = "111122223333", "444455556666"
	if err := ask(t.Context(), noon, account, slow, "p256"); err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	slow.open.Store(&open)
	at := noon.Add(2 * time.Hour)
	answers := make(chan error, maxWaiting+1)
	for range maxWaiting + 1 {
		go func() { answers <- ask(t.Context(), at, account, slow, "other") }()
	}
	for range maxWaiting + 1 - maxWaitingEach {
		wantRefused(t, <-answers, awsquery.IDPCommunicationError)
	}
	if err := ask(t.Context(), at, account, slow, "p256"); err != nil {
		t.Errorf("with a key of two hours ago: %v", err)
	}
	if err := ask(t.Context(), at, other, quick, "p256"); err != nil {
		t.Errorf("in another account: %v", err)
	}
	close(open)
	for range maxWaitingEach {
		if err := <-answers; err == nil {
			t.Error("a token under a key that the issuer does not have is good")
		}
	}
}

func TestIssuersAreNotFollowedEverywhere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		configuration func(url string) string
		loopback      bool
		want          kmsapi.Code
	}{
		"as it should":                        {func(string) string { return "" }, true, ""},
		"redirected on its host":              {func(url string) string { return `{"issuer":"` + url + `","jwks_uri":"` + url + `/moved"}` }, true, ""},
		"redirected elsewhere":                {func(url string) string { return `{"issuer":"` + url + `","jwks_uri":"` + url + `/elsewhere"}` }, true, awsquery.IDPCommunicationError},
		"another issuer":                      {func(url string) string { return `{"issuer":"https://x","jwks_uri":"` + url + `/jwks"}` }, true, awsquery.IDPCommunicationError},
		"keys without TLS elsewhere":          {func(url string) string { return `{"issuer":"` + url + `","jwks_uri":"http://example.com/jwks"}` }, true, awsquery.IDPCommunicationError},
		"keys in a file":                      {func(url string) string { return `{"issuer":"` + url + `","jwks_uri":"file:///etc/passwd"}` }, true, awsquery.IDPCommunicationError},
		"no JSON":                             {func(string) string { return "<html>" }, true, awsquery.IDPCommunicationError},
		"too long":                            {func(string) string { return `{"x":"` + strings.Repeat("x", maxIssuerBytes) + `"}` }, true, awsquery.IDPCommunicationError},
		"without TLS where it is not allowed": {func(string) string { return "" }, false, awsquery.InvalidIdentityToken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newIDP(t, setOf(t, "p256"))
			p.configuration = tc.configuration(p.URL)
			_, err := NewIssuers(nil, tc.loopback).verify(t.Context(), noon, p.provider(), p.token(t, "p256", nil))
			if tc.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tc.want != "" {
				wantRefused(t, err, tc.want)
			}
		})
	}
}

// TestIssuerOfAnotherAuthority wants the issuer's certificate to be of the roots.
func TestIssuerOfAnotherAuthority(t *testing.T) {
	t.Parallel()
	p := newIDP(t, setOf(t, "p256"))
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.Config.Handler.ServeHTTP(w, r) }))
	t.Cleanup(secure.Close)
	p.URL = secure.URL
	provider := &metadata.Provider{Account: "111122223333", URL: strings.TrimPrefix(p.URL, "https://"), ClientIDs: []string{"sts.amazonaws.com"}}
	_, err := NewIssuers(nil, false).verify(t.Context(), noon, provider, p.token(t, "p256", nil))
	wantRefused(t, err, awsquery.IDPCommunicationError)
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	if _, err := NewIssuers(roots, false).verify(t.Context(), noon, provider, p.token(t, "p256", nil)); err != nil {
		t.Errorf("with its authority among the roots: %v", err)
	}
}

func TestFetchedKeySets(t *testing.T) {
	t.Parallel()
	symmetric := `{"kty":"oct","kid":"s","k":"c2VjcmV0"}`
	for name, tc := range map[string]struct {
		set  string
		keys int // less than none: an error
	}{
		"empty":            {`{"keys":[]}`, 0},
		"no set":           {`[]`, -1},
		"no JSON":          {`keys`, -1},
		"a symmetric key":  {`{"keys":[` + symmetric + `]}`, 0},
		"an unknown kind":  {`{"keys":[{"kty":"XYZ","kid":"x"}]}`, 0},
		"too many":         {`{"keys":[` + strings.Repeat(symmetric+",", maxIssuerKeys) + symmetric + `]}`, -1},
		"for encryption":   {strings.Replace(setOf(t, "p256"), `"use":"sig"`, `"use":"enc"`, 1), 0},
		"known and others": {strings.Replace(setOf(t, "p256"), `{"keys":[`, `{"keys":[`+symmetric+`,`, 1), 1},
	} {
		keys, err := parseKeys([]byte(tc.set))
		if len(keys) != max(tc.keys, 0) || (err != nil) != (tc.keys < 0) {
			t.Errorf("%s: %d keys, %v; want %d", name, len(keys), err, tc.keys)
		}
	}
}

// FuzzIDToken: no text makes the reader of tokens panic, and none is verified that
// nobody signed.
func FuzzIDToken(f *testing.F) {
	i, p := NewIssuers(nil, false), uploaded(f)
	f.Add(weakToken(f, claims(issuerURL, nil)))
	f.Add("e30.e30.e30")
	f.Add("eyJhbGciOiJFUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://oidc.example.com/cluster"}`)) + ".AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if w, err := i.verify(t.Context(), noon, p, text); err == nil {
			t.Errorf("%q is verified: %+v", text, w)
		}
	})
}
