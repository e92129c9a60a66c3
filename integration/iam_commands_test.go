package integration_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
)

// kmsgate runs a command on the gateway's configuration.
func (i *instance) kmsgate(t testing.TB, arguments ...string) ran {
	t.Helper()
	return run(t, i.binary, slices.Insert(arguments, 2, "-config", i.config())...)
}

// wantAdminEvent checks that the audit log has an operator's event about a thing.
func (i *instance) wantAdminEvent(t testing.TB, name, parameter, value string) {
	t.Helper()
	eventually(t, name+" in the audit log", func() bool {
		return slices.ContainsFunc(i.audit(t), func(e event) bool {
			return e.EventName == name && e.EventSource == "kmsgate.local" && e.RequestParameters[parameter] == value
		})
	})
}

func TestUploadedKeysOfProviders(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.roleClient(own)
	made, err := c.CreateOpenIDConnectProvider(t.Context(), &iam.CreateOpenIDConnectProviderInput{
		Url: aws.String("https://uploaded.example.com"), ClientIDList: []string{"one", "two"},
	})
	if err != nil {
		t.Fatal(err)
	}
	arn := *made.OpenIDConnectProviderArn
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	base64url := base64.RawURLEncoding.EncodeToString
	write := func(name string, keys ...m) string {
		t.Helper()
		text, err := json.Marshal(m{"keys": keys})
		path := filepath.Join(t.TempDir(), name)
		if err := errors.Join(err, os.WriteFile(path, text, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	public := m{"kty": "EC", "crv": "P-256", "kid": "first", "alg": "ES256", "use": "sig", "x": base64url(point[1:33]), "y": base64url(point[33:])}
	show := func(want string) {
		t.Helper()
		r := g.kmsgate(t, "oidc", "show", "-account", own)
		r.wantSuccess(t, "oidc show")
		if _, after, ok := strings.Cut(r.stdout, arn+"\n"); !ok || !strings.HasPrefix(after, "  client ids: one, two\n"+want) {
			t.Errorf("oidc show prints\n%s\nwant %s with %s", r.stdout, arn, want)
		}
	}
	const asked, uploaded = "  keys: those of the issuer, which is asked\n", "  keys: uploaded, the issuer is not asked\n    kid \"first\", alg \"ES256\", SHA-256 "
	show(asked)
	r := g.kmsgate(t, "oidc", "set-keys", "-provider", arn, "-jwks", write("public", public))
	r.wantSuccess(t, "oidc set-keys")
	if !strings.HasPrefix(r.stdout, uploaded) {
		t.Errorf("oidc set-keys prints %q, want %q", r.stdout, uploaded)
	}
	show(uploaded)
	g.wantAdminEvent(t, "SetOpenIDConnectProviderKeys", "openIDConnectProviderArn", arn)

	private := m{"kty": "EC", "crv": "P-256", "x": public["x"], "y": public["y"], "d": base64url(make([]byte, 31)) + "AQ"}
	for what, c := range map[string]struct {
		path string
		want []string
	}{
		"a private key":   {write("private", private), []string{"key 1"}},
		"a symmetric key": {write("symmetric", public, m{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"}), []string{"key 2: a symmetric key"}},
		"no keys":         {write("none"), []string{"0 keys"}},
		"no file":         {filepath.Join(t.TempDir(), "none"), []string{"no such file"}},
	} {
		r := g.kmsgate(t, "oidc", "set-keys", "-provider", arn, "-jwks", c.path)
		r.wantFailure(t, what, 1, c.want...)
		if strings.Contains(r.stdout+r.stderr, "c2VjcmV0") {
			t.Errorf("%s is printed: %s%s", what, r.stdout, r.stderr)
		}
	}
	show(uploaded)
	g.kmsgate(t, "oidc", "set-keys", "-provider", arn+"/none", "-clear").wantFailure(t, "no provider", 1, "there is no OIDC provider "+arn+"/none", "oidc show")
	g.kmsgate(t, "oidc", "set-keys", "-provider", arn, "-clear").wantSuccess(t, "oidc set-keys -clear")
	show(asked)
}

func TestRevokedSessionsEnd(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.roleClient(own)
	role := createRole(t, c, "revoked-role")
	if _, err := c.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: role.RoleName, PolicyName: aws.String("list"), PolicyDocument: aws.String(allowing("kms:ListAliases"))}); err != nil {
		t.Fatal(err)
	}
	s := &sessions{g, assuming(t, c, "revoked-user"), *role.Arn}
	session := s.assume(t)
	if err := s.use(t, session); err != nil {
		t.Fatalf("before: %v", err)
	}
	g.kmsgate(t, "iam", "revoke-sessions", "-role", *role.Arn, "-before", "2020-01-01T00:00:00Z").wantSuccess(t, "of long ago")
	if err := s.use(t, session); err != nil {
		t.Errorf("after those of long ago were revoked: %v", err)
	}
	g.kmsgate(t, "iam", "revoke-sessions", "-role", *role.Arn).wantSuccess(t, "iam revoke-sessions")
	eventually(t, "the end of the session", func() bool {
		refusal, ok := errors.AsType[smithy.APIError](s.use(t, session))
		return ok && refusal.ErrorCode() == "UnrecognizedClientException"
	})
	g.wantAdminEvent(t, "RevokeRoleSessions", "roleArn", *role.Arn)
	eventually(t, "a new session", func() bool { return s.use(t, s.assume(t)) == nil })
	none := strings.Replace(*role.Arn, "revoked", "unknown", 1)
	for _, arn := range []string{none, strings.Replace(*role.Arn, "role/", "role/path/", 1)} {
		g.kmsgate(t, "iam", "revoke-sessions", "-role", arn).wantFailure(t, "no role", 1, "there is no role "+arn)
	}
	if time.Since(*session.Expiration) > 0 {
		t.Error("the session had ended anyway")
	}
}

// TestSessionsEndWhileTheAccountIsBusy: who is about to revoke sessions must not have
// to wait for others to leave the account alone.
func TestSessionsEndWhileTheAccountIsBusy(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	role := createRole(t, g.roleClient(third), "busy-role")
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	defer busy.Wait()
	defer stop()
	for range 4 {
		key, c := g.createKey(t, third), g.clients(g.keys[third]).kms
		busy.Go(func() {
			for n := 0; ctx.Err() == nil; n++ { // some are throttled
				_, _ = c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String(fmt.Sprint(n))})
			}
		})
	}
	for range 10 {
		g.kmsgate(t, "iam", "revoke-sessions", "-role", *role.Arn).wantSuccess(t, "iam revoke-sessions")
	}
}
