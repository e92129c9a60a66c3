package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-jose/go-jose/v4"

	"kmsgate/metadata"
)

// issuer signs the tokens of service accounts, with a key that its provider has.
type issuer struct {
	url string
	key *ecdsa.PrivateKey
}

// addIssuer makes an issuer whose keys are uploaded, so that it is never asked.
func (f *fixture) addIssuer(t *testing.T) *issuer {
	t.Helper()
	key := newKeyPair(t)
	public := jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k1", Use: "sig"}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}})
	if err != nil {
		t.Fatal(err)
	}
	provider := metadata.Provider{Account: account1, URL: "OIDC.example.com/c1", ClientIDs: []string{"sts.amazonaws.com"}, CreatedAt: f.now()}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return errors.Join(tx.InsertProvider(ctx, provider), tx.SetJWKS(ctx, account1, provider.URL, string(set)))
	})
	return &issuer{"https://" + provider.URL, key}
}

// token is that of a subject, valid for an hour from a time on.
func (i *issuer) token(t *testing.T, subject string, at time.Time) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(map[string]any{
		"iss": i.url, "sub": subject, "aud": "sts.amazonaws.com", "iat": at.Unix(), "exp": at.Add(time.Hour).Unix(),
	})
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

const serviceAccount = "system:serviceaccount:shop:web"

// trustServiceAccount is a trust policy for one subject of addIssuer's issuer.
const trustServiceAccount = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
	"Principal":{"Federated":"arn:aws:iam::` + account1 + `:oidc-provider/OIDC.example.com/c1"},"Action":"sts:AssumeRoleWithWebIdentity",
	"Condition":{"StringEquals":{"OIDC.example.com/c1:sub":"` + serviceAccount + `","OIDC.example.com/c1:aud":"sts.amazonaws.com"}}}]}`

// exchange asks for a session of a role with a token.
func (f *fixture) exchange(t *testing.T, role, token string) (*awssts.AssumeRoleWithWebIdentityOutput, error) {
	t.Helper()
	return f.sts("nobody").AssumeRoleWithWebIdentity(t.Context(), &awssts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: aws.String("pod-1"), WebIdentityToken: &token,
	})
}

func TestWebIdentityGetsARole(t *testing.T) {
	f := newFixture(t, nil)
	i := f.addIssuer(t)
	role := f.addRole(t, "shop", trustServiceAccount, mayList)
	token := i.token(t, serviceAccount, f.now())
	out, err := f.exchange(t, role, token)
	if err != nil {
		t.Fatal(err)
	}
	if *out.SubjectFromWebIdentityToken != serviceAccount || *out.Audience != "sts.amazonaws.com" || *out.Provider != i.url {
		t.Errorf("subject %s, audience %s, provider %s", *out.SubjectFromWebIdentityToken, *out.Audience, *out.Provider)
	}
	f.keys["pod-1"] = credentialsOf(out.Credentials)
	f.want(t, "pod-1", "ListKeys", http.StatusOK, "")
	log := f.auditText(t)
	for _, want := range []string{
		`"userIdentity":{"type":"WebIdentityUser","principalId":"OIDC.example.com/c1:sts.amazonaws.com:` + serviceAccount + `","userName":"` + serviceAccount +
			`","identityProvider":"arn:aws:iam::` + account1 + `:oidc-provider/OIDC.example.com/c1"}`,
		`"accessKeyId":"` + *out.Credentials.AccessKeyId + `"`,
		`"webIdFederationData":{"federatedProvider":"arn:aws:iam::` + account1 + `:oidc-provider/OIDC.example.com/c1"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit log does not have %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, token) || strings.Contains(f.log.String(), token) {
		t.Error("the token is in a log")
	}
}

func TestWebIdentityIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	i := f.addIssuer(t)
	role := f.addRole(t, "shop", trustServiceAccount, mayList)
	other := f.addRole(t, "other", trustAccount("sts:AssumeRole"), mayList)
	good := i.token(t, serviceAccount, f.now())
	stranger := &issuer{"https://elsewhere.example.com", i.key}
	foreign := strings.Replace(role, account1, account2, 1)
	for name, tc := range map[string]struct{ role, token, code string }{
		"another subject":             {role, i.token(t, "system:serviceaccount:shop:db", f.now()), "AccessDenied"},
		"a role that does not trust":  {other, good, "AccessDenied"},
		"a role that there is not":    {role + "x", good, "AccessDenied"},
		"no role":                     {"arn:aws:iam::" + account1 + ":user/shop", good, "ValidationError"},
		"an account without provider": {foreign, good, "InvalidIdentityToken"},
		"an unknown issuer":           {role, stranger.token(t, serviceAccount, f.now()), "InvalidIdentityToken"},
		"expired":                     {role, i.token(t, serviceAccount, f.now().Add(-2*time.Hour)), "ExpiredTokenException"},
		"not a token":                 {role, "AAAA", "InvalidIdentityToken"},
	} {
		_, err := f.exchange(t, tc.role, tc.token)
		wantCode(t, name, err, tc.code)
	}
	_, err := f.sts("nobody").AssumeRoleWithWebIdentity(t.Context(), &awssts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: aws.String("pod-1"), WebIdentityToken: &good, ProviderId: aws.String("www.amazon.com"),
	})
	wantCode(t, "a provider of OAuth 2.0", err, "ValidationError")
	if _, err := f.exchange(t, role, good); err != nil {
		t.Errorf("the good token at last: %v", err)
	}
}

// credentials asks for the credentials of a container.
func (f *fixture) containerCredentials(t *testing.T, token string) (status int, body map[string]string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL+credentialsPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	response, err := f.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing is written
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if media := response.Header.Get("Content-Type"); media != "application/json" {
		t.Errorf("Content-Type = %s, want application/json", media)
	}
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("body %s: %v", text, err)
	}
	return response.StatusCode, body
}

func TestCredentialsOfContainers(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Associations = []Association{
			{Issuer: "https://OIDC.example.com/c1", Subject: serviceAccount, Role: "arn:aws:iam::" + account1 + ":role/shop"},
			{Issuer: "https://OIDC.example.com/c1", Subject: "x", Role: "arn:aws:iam::" + account1 + ":role/shop"},
		}
	})
	i := f.addIssuer(t)
	f.addRole(t, "shop", trustServiceAccount, mayList)
	status, body := f.containerCredentials(t, i.token(t, serviceAccount, f.now()))
	if status != http.StatusOK || body["AccountId"] != account1 || body["Expiration"] == "" {
		t.Fatalf("answer %d with the members %d of account %s, want credentials", status, len(body), body["AccountId"])
	}
	f.keys["container"] = aws.Credentials{AccessKeyID: body["AccessKeyId"], SecretAccessKey: body["SecretAccessKey"], SessionToken: body["Token"]}
	f.want(t, "container", "ListKeys", http.StatusOK, "")
	who, err := f.sts("container").GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
	if want := "arn:aws:sts::" + account1 + ":assumed-role/shop/system-serviceaccount-shop-web"; err != nil || *who.Arn != want {
		t.Errorf("GetCallerIdentity = %v, %v, want %s", who, err, want)
	}
	if log := f.auditText(t); !strings.Contains(log, `"eventSource":"sts.amazonaws.com","eventName":"AssumeRoleWithWebIdentity"`) ||
		!strings.Contains(log, `"accessKeyId":"`+body["AccessKeyId"]+`"`) || strings.Contains(log, body["Token"]) {
		t.Error("the record is not one of AssumeRoleWithWebIdentity")
	}
	for name, tc := range map[string]struct {
		token, code string
		status      int
	}{
		"no token":                   {"", "InvalidIdentityToken", http.StatusBadRequest},
		"no association":             {i.token(t, "somebody", f.now()), "AccessDenied", http.StatusForbidden},
		"not trusted":                {i.token(t, "x", f.now()), "AccessDenied", http.StatusForbidden},
		"expired":                    {i.token(t, serviceAccount, f.now().Add(-2*time.Hour)), "ExpiredTokenException", http.StatusBadRequest},
		"another issuer's signature": {(&issuer{i.url, newKeyPair(t)}).token(t, serviceAccount, f.now()), "InvalidIdentityToken", http.StatusBadRequest},
	} {
		if status, body := f.containerCredentials(t, tc.token); status != tc.status || body["code"] != tc.code || body["message"] == "" || len(body) != 2 {
			t.Errorf("%s: %d %v, want %d %s", name, status, body, tc.status, tc.code)
		}
	}
	if log := f.auditText(t); strings.Count(log, `"roleArn":"arn:aws:iam::`+account1+`:role/shop"`) != 4 {
		t.Errorf("a role is recorded that is not the caller's: %s", log)
	}
	// Who only claims to be somebody does not learn whether that one has a role.
	forger := &issuer{i.url, newKeyPair(t)}
	_, with := f.containerCredentials(t, forger.token(t, serviceAccount, f.now()))
	_, without := f.containerCredentials(t, forger.token(t, "somebody", f.now()))
	if !maps.Equal(with, without) {
		t.Errorf("a forged token of one who has a role: %v, of one who has none: %v", with, without)
	}
	_, unknown := f.containerCredentials(t, (&issuer{"https://elsewhere.example.com", i.key}).token(t, serviceAccount, f.now()))
	if unknown["code"] != "InvalidIdentityToken" {
		t.Errorf("a token of an unknown issuer: %v, want InvalidIdentityToken", unknown)
	}
}

func newKeyPair(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSessionNames(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		serviceAccount: "system-serviceaccount-shop-web", "x": "x-session", "ü|me@example.com": "--me@example.com",
		strings.Repeat("a", 100) + ":end": strings.Repeat("a", 60) + "-end",
	} {
		if got := sessionNameOf(subject); got != want {
			t.Errorf("sessionNameOf(%q) = %q, want %q", subject, got, want)
		}
	}
}
