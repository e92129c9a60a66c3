package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// jwk is a key as JSON.
func jwk(t *testing.T, key any, id, algorithm, use string) string {
	t.Helper()
	text, err := jose.JSONWebKey{Key: key, KeyID: id, Algorithm: algorithm, Use: use}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func jwks(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func TestKeySets(t *testing.T) {
	t.Parallel()
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 2048)
	small, err2 := rsa.GenerateKey(rand.Reader, 1024)
	ecKey, err3 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edPublic, edPrivate, err4 := ed25519.GenerateKey(rand.Reader)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	good := jwks(
		jwk(t, &rsaKey.PublicKey, "a", "RS256", "sig"), jwk(t, &ecKey.PublicKey, "b", "ES384", ""), jwk(t, edPublic, "c", "", ""),
	)
	set, err := ParseKeySet([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	var back jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(set.Text), &back); err != nil || len(back.Keys) != 3 || !rsaKey.PublicKey.Equal(back.Keys[0].Key) || back.Keys[1].KeyID != "b" {
		t.Errorf("Text = %s, %v", set.Text, err)
	}
	if len(set.Keys) != 3 || set.Keys[0].ID != "a" || set.Keys[0].Algorithm != "RS256" || len(set.Keys[2].Fingerprint) != 64 {
		t.Errorf("Keys = %+v", set.Keys)
	}
	if _, err := ParseKeySet([]byte(set.Text)); err != nil {
		t.Errorf("its own Text: %v", err)
	}
	if _, err := ParseKeySet([]byte(jwks(jwk(t, edPublic, "", "", "")))); err != nil {
		t.Errorf("one key without a kid: %v", err)
	}

	public := jwk(t, &rsaKey.PublicKey, "a", "RS256", "sig")
	private := jwk(t, rsaKey, "a", "RS256", "sig")
	for what, c := range map[string]struct{ text, want string }{
		"nothing":                {"", "not a JWK set"},
		"a list":                 {"[" + public + "]", "not a JWK set"},
		"a key alone":            {public, "0 keys"},
		"no keys":                {jwks(), "0 keys"},
		"many keys":              {jwks(strings.Split(strings.Repeat("{} ", 100)+"{}", " ")...), "101 keys"},
		"much":                   {good + strings.Repeat(" ", 64<<10), "more than 65536 bytes"},
		"a private RSA key":      {jwks(private), "key 1: a private key"},
		"a private Ed25519 key":  {jwks(jwk(t, edPrivate, "", "", "")), "key 1: a private key"},
		"a private ECDSA key":    {jwks(public, jwk(t, ecKey, "b", "", "")), "key 2: a private key"},
		"a symmetric key":        {jwks(jwk(t, []byte("0123456789abcdef0123456789abcdef"), "a", "HS256", "")), "key 1: a symmetric key"},
		"a key for HMAC":         {jwks(jwk(t, &rsaKey.PublicKey, "a", "HS256", "")), `its alg is "HS256"`},
		"a key for none":         {jwks(jwk(t, &rsaKey.PublicKey, "a", "none", "")), `its alg is "none"`},
		"a key of another curve": {jwks(jwk(t, &ecKey.PublicKey, "a", "ES256", "")), `its alg is "ES256": it must be one of ES384`},
		"a key for encryption":   {jwks(jwk(t, &rsaKey.PublicKey, "a", "", "enc")), `its use is "enc"`},
		"a small RSA key":        {jwks(jwk(t, &small.PublicKey, "a", "", "")), "an RSA key of 1024 bits"},
		"a kid twice":            {jwks(public, jwk(t, edPublic, "a", "", "")), "key 2: its kid is that of an earlier one"},
		"no kid among several":   {jwks(public, jwk(t, edPublic, "", "", "")), "key 2: no kid"},
		"a type there is not":    {jwks(`{"kty":"XYZ"}`), "key 1: not a JWK"},
		"a point off the curve":  {jwks(`{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}`), "key 1: not a JWK"},
	} {
		set, err := ParseKeySet([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || set.Text != "" {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
