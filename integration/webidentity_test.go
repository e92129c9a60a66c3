package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-jose/go-jose/v4"
)

// A cluster signs the tokens of its service accounts, as a Kubernetes API server does.
type cluster struct {
	url string
	key *ecdsa.PrivateKey
	// set is its JWK set, as text.
	set string
}

func newCluster(t testing.TB, url string) *cluster {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, "make a key", err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	must(t, "encode a key", err)
	return &cluster{url: url, key: key, set: string(set)}
}

// listen serves the cluster's discovery document and keys on loopback.
func (c *cluster) listen(t testing.TB) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"issuer":"` + c.url + `","jwks_uri":"` + c.url + `/openid/v1/jwks","response_types_supported":["id_token"]}`))
	})
	mux.HandleFunc("GET /openid/v1/jwks", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(c.set)) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
}

// token is that of a service account, with changes to its claims.
func (c *cluster) token(t testing.TB, namespace, account string, changes m) string {
	t.Helper()
	now := time.Now()
	claims := m{
		"iss": c.url, "sub": "system:serviceaccount:" + namespace + ":" + account, "aud": []string{"sts.amazonaws.com"},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": m{"namespace": namespace, "serviceaccount": m{"name": account, "uid": "11111111-2222-3333-4444-555555555555"}},
	}
	for name, value := range changes {
		claims[name] = value
	}
	signer, err1 := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.key}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	payload, err2 := json.Marshal(claims)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	must(t, "sign", err)
	text, err := signed.CompactSerialize()
	must(t, "serialise", err)
	return hideText(text)
}

// tokenFile is a token in a file, as a projected volume has it.
func tokenFile(t testing.TB, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	must(t, "write a token", os.WriteFile(path, []byte(token), 0o600))
	return path
}

// trust makes a provider of the cluster, and a role for one of its service accounts.
func (c *cluster) trust(t testing.TB, in *iam.Client, role, namespace, account string) string {
	t.Helper()
	made, err := in.CreateOpenIDConnectProvider(t.Context(), &iam.CreateOpenIDConnectProviderInput{
		Url: &c.url, ClientIDList: []string{"sts.amazonaws.com"}, ThumbprintList: []string{strings.Repeat("0", 40)},
	})
	must(t, "CreateOpenIDConnectProvider", err)
	_, name, _ := strings.Cut(c.url, "://")
	condition := `,"Condition":{"StringEquals":{"` + name + `:sub":"system:serviceaccount:` + namespace + ":" + account + `","` + name + `:aud":"sts.amazonaws.com"}}`
	return newRole(t, in, role, trustingTokens(*made.OpenIDConnectProviderArn, condition), allowing("kms:ListAliases"))
}

// webIdentity is the SDK with a token in a file and a role to assume with it.
func (i *instance) webIdentity(t testing.TB, role, token string) *clients {
	t.Helper()
	anonymous := sts.NewFromConfig(aws.Config{Region: region, BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1})
	provider := stscreds.NewWebIdentityRoleProvider(anonymous, role, stscreds.IdentityTokenFile(tokenFile(t, token)),
		func(o *stscreds.WebIdentityRoleOptions) { o.RoleSessionName = "pod" })
	return i.clientsOf(aws.NewCredentialsCache(provider))
}

// exchangeToken sends a token as it is.
func (i *instance) exchangeToken(t testing.TB, role, token string) error {
	t.Helper()
	anonymous := sts.NewFromConfig(aws.Config{Region: region, BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1})
	_, err := anonymous.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: aws.String("pod"), WebIdentityToken: &token,
	})
	return err
}

// TestWebIdentityOfACluster has the issuer asked for its keys.
func TestWebIdentityOfACluster(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	shop := newCluster(t, "")
	shop.listen(t)
	role := shop.trust(t, root.iam, "web-asked", "shop", "web")
	token := shop.token(t, "shop", "web", nil)
	c := g.webIdentity(t, role, token)
	_, err := c.kms.ListAliases(t.Context(), &kms.ListAliasesInput{})
	must(t, "ListAliases by a pod", err)
	c.wantCaller(t, "arn:aws:sts::"+own+":assumed-role/web-asked/pod")
	_, err = c.kms.ListKeys(t.Context(), &kms.ListKeysInput{})
	wantErrorCode(t, "ListKeys by a pod", err, "AccessDeniedException")

	other := newCluster(t, shop.url) // another key of the same name
	for what, c := range map[string]struct{ token, code string }{
		"another service account": {shop.token(t, "shop", "db", nil), "AccessDenied"},
		"another namespace":       {shop.token(t, "shop2", "web", nil), "AccessDenied"},
		"another cluster's key":   {other.token(t, "shop", "web", nil), "InvalidIdentityToken"},
		"another issuer":          {shop.token(t, "shop", "web", m{"iss": "https://elsewhere.example.com"}), "InvalidIdentityToken"},
		"another audience":        {shop.token(t, "shop", "web", m{"aud": "https://kubernetes.default.svc"}), "InvalidIdentityToken"},
		"expired":                 {shop.token(t, "shop", "web", m{"exp": time.Now().Add(-2 * time.Minute).Unix()}), "ExpiredTokenException"},
		"no subject":              {shop.token(t, "shop", "web", m{"sub": ""}), "IDPRejectedClaim"},
		"cut off":                 {token[:len(token)-10], "InvalidIdentityToken"},
	} {
		wantErrorCode(t, what, g.exchangeToken(t, role, c.token), c.code)
	}
	eventually(t, "the record of the pod", func() bool {
		for _, e := range g.audit(t) {
			if strings.Contains(e.text, token) {
				t.Fatal("the token is in the audit log")
			}
			if e.EventName == "AssumeRoleWithWebIdentity" && e.ErrorCode == "" && e.RequestParameters["roleArn"] == role {
				return e.UserIdentity.Type == "WebIdentityUser" && e.RecipientAccountID == own
			}
		}
		return false
	})
}

// TestWebIdentityWithUploadedKeys has no issuer that could be asked.
func TestWebIdentityWithUploadedKeys(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	sealed := newCluster(t, "https://sealed.example.com/cluster")
	role := sealed.trust(t, root.iam, "web-uploaded", "shop", "web")
	wantErrorCode(t, "without keys", g.exchangeToken(t, role, sealed.token(t, "shop", "web", nil)), "IDPCommunicationError")
	path := filepath.Join(t.TempDir(), "jwks.json")
	must(t, "write the keys", os.WriteFile(path, []byte(sealed.set), 0o600))
	provider := "arn:aws:iam::" + own + ":oidc-provider/sealed.example.com/cluster"
	g.kmsgate(t, "oidc", "set-keys", "-provider", provider, "-jwks", path).wantSuccess(t, "oidc set-keys")
	c := g.webIdentity(t, role, sealed.token(t, "shop", "web", nil))
	eventually(t, "the uploaded keys are known", func() bool {
		_, err := c.kms.ListAliases(t.Context(), &kms.ListAliasesInput{})
		return err == nil
	})
}

// TestCredentialsOfAContainer is the SDK with a token alone, as in a pod with
// AWS_CONTAINER_CREDENTIALS_FULL_URI, at a gateway as in production.
func TestCredentialsOfAContainer(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	shop := newCluster(t, "")
	shop.listen(t)
	s.set(t, "#oidc:\n", "oidc:\n  loopback: true\n")
	s.set(t, "#credentials:\n", `credentials:
  - {issuer: "`+shop.url+`", namespace: shop, service_account: web, role: "arn:aws:iam::`+own+`:role/shop"}
`)
	key := s.prepare(t)
	g := s.serve(t, map[string]credentials{own: key})
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
	t.Cleanup(trusting.CloseIdleConnections)
	config := aws.Config{Region: region, Credentials: key, HTTPClient: trusting, BaseEndpoint: &g.endpoint, RetryMaxAttempts: 1}
	shop.trust(t, iam.NewFromConfig(config), "shop", "shop", "web")

	ask := func(token string) aws.CredentialsProvider {
		return endpointcreds.New(g.endpoint+"/v1/credentials", func(o *endpointcreds.Options) {
			o.HTTPClient, o.AuthorizationToken = trusting, token
		})
	}
	config.Credentials = aws.NewCredentialsCache(ask(shop.token(t, "shop", "web", nil)))
	_, err := kms.NewFromConfig(config).ListAliases(t.Context(), &kms.ListAliasesInput{})
	must(t, "ListAliases by a container", err)
	got, err := config.Credentials.Retrieve(t.Context())
	if err != nil || got.AccountID != own || !got.CanExpire || time.Until(got.Expires) > time.Hour {
		t.Errorf("credentials of account %s until %s, %v; want those of an hour", got.AccountID, got.Expires, err)
	}
	for what, token := range map[string]string{
		"no association": shop.token(t, "shop", "db", nil), "expired": shop.token(t, "shop", "web", m{"exp": 1}), "no token": "",
	} {
		if _, err := ask(token).Retrieve(t.Context()); err == nil {
			t.Errorf("%s: there are credentials, want none", what)
		}
	}
}
