package gateway

import (
	"encoding/base64"
	"strings"
	"testing"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
)

const tokenKey = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

func TestGrantTokensNameTheirGrant(t *testing.T) {
	t.Parallel()
	for _, key := range []string{tokenKey, arn.KeyARNOf("eu-central-1", account2, "mrk-"+strings.Repeat("0a", 16))} {
		id := newGrantID()
		first, second := newGrantToken(key, id), newGrantToken(key, id)
		if first == second {
			t.Errorf("two tokens of a grant are the same: %s", first)
		}
		for _, token := range []string{first, second} {
			named, err := parseGrantToken(token)
			if err != nil || named.id != id || arn.KeyARNOf(named.key.Region, named.key.Account, named.key.ID) != key {
				t.Errorf("parseGrantToken = %+v, %v, want grant %s on %s", named, err, id, key)
			}
			if len(token) > 8192 || kmsapi.Validate(&kmsapi.RetireGrantRequest{GrantToken: &token}) != nil {
				t.Errorf("a token of %d characters is not one", len(token))
			}
		}
	}
}

func TestOtherTokensAreRefused(t *testing.T) {
	t.Parallel()
	token := newGrantToken(tokenKey, newGrantID())
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	bad := []string{
		"", "token", " " + token, token + "\n", token + "=", token[:len(token)-1], token[1:], strings.Repeat("A", 8192),
		encode([]byte{grantTokenVersion}), newGrantToken("", newGrantID()), newGrantToken("arn:aws:kms:us-east-1:111122223333:alias/a", newGrantID()),
		newGrantToken(tokenKey+"0", newGrantID()), newGrantToken("1234abcd-12ab-34cd-56ef-1234567890ab", newGrantID()),
	}
	for i := range raw { // a checksum over all of it
		changed := append([]byte(nil), raw...)
		changed[i] ^= 1
		bad = append(bad, encode(changed))
	}
	for _, token := range bad {
		if named, err := parseGrantToken(token); err == nil {
			t.Errorf("parseGrantToken(%q) = %+v, want an error", token, named)
		}
	}
}

func FuzzParseGrantToken(f *testing.F) {
	f.Add(newGrantToken(tokenKey, newGrantID()))
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, token string) {
		named, err := parseGrantToken(token)
		if err != nil {
			return
		}
		if err := checkGrantID(named.id); err != nil || named.key.Form != arn.KeyARN {
			t.Errorf("parseGrantToken(%q) = %+v, %v", token, named, err)
		}
	})
}
