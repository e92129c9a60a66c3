package session

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

const accessKey = "ASIAIOSFODNN7EXAMPLE"

// newTestKey makes a key of 32 like bytes.
func newTestKey(t testing.TB, id uint32, fill byte) *Key {
	t.Helper()
	k, err := NewKey(id, bytes.Repeat([]byte{fill}, KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fullClaims has every member.
func fullClaims() *Claims {
	return &Claims{
		AccessKeyID: accessKey, Secret: []byte("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
		IssuedAt: noon, ExpiresAt: noon.Add(time.Hour), Account: "111122223333", RoleName: "deployer", UserName: "u",
		PrincipalID: "AROAEXAMPLE", SessionName: "ci", SourceIdentity: "alice",
		Tags: map[string]string{"team": "blue", "": "", "ü": "ß"}, TransitiveTags: []string{"team"},
		Policies: []string{`{"Version":"2012-10-17"}`, ""}, PolicyARNs: []string{"arn:aws:iam::111122223333:policy/p"},
		Chained: true, MFA: true, Provider: "arn:aws:iam::111122223333:oidc-provider/issuer", Subject: "sub", Audience: "aud",
	}
}

// root is a session of an account's root, which has next to nothing.
func root() *Claims {
	return &Claims{AccessKeyID: accessKey, Secret: []byte("je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY"), IssuedAt: noon, ExpiresAt: noon.Add(time.Hour), Account: "111122223333"}
}

func seal(t testing.TB, k *Key, c *Claims) string {
	t.Helper()
	token, err := Seal(k, c, 0)
	if err != nil {
		t.Fatalf("Seal = %v", err)
	}
	return token
}

func open(k *Key, token, accessKeyID string, now time.Time) (*Claims, error) {
	parsed, err := Parse(token)
	if err != nil {
		return nil, err
	}
	return parsed.Open(k, accessKeyID, now)
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	t.Parallel()
	k := newTestKey(t, 7, 1)
	if k.ID() != 7 {
		t.Errorf("ID = %d, want 7", k.ID())
	}
	for name, c := range map[string]*Claims{"full": fullClaims(), "root": root()} {
		token := seal(t, k, c)
		parsed, err := Parse(token)
		if err != nil || parsed.KeyID() != 7 {
			t.Fatalf("%s: Parse = key %d, %v, want 7", name, parsed.KeyID(), err)
		}
		got, err := parsed.Open(k, accessKey, noon.Add(time.Hour-time.Nanosecond))
		if err != nil {
			t.Fatalf("%s: Open = %v", name, err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("%s: Open (-want +got):\n%s", name, diff)
		}
		if again := seal(t, k, c); again == token {
			t.Errorf("%s: sealed twice, the token is the same", name)
		}
		if strings.Contains(token, string(c.Secret)) {
			t.Errorf("%s: the token shows the secret", name)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	k := newTestKey(t, 7, 1)
	token := seal(t, k, fullClaims())
	raw, _ := base64.StdEncoding.DecodeString(token)
	encoded := base64.StdEncoding.EncodeToString
	changed := func(at int) string {
		b := bytes.Clone(raw)
		b[at] ^= 1
		return encoded(b)
	}
	for name, tc := range map[string]struct {
		key              *Key
		token, accessKey string
		at               time.Time
		want             error
	}{
		"nothing":                {k, "", accessKey, noon, ErrInvalid},
		"no base64":              {k, "?" + token[1:], accessKey, noon, ErrInvalid},
		"truncated":              {k, token[:len(token)-8], accessKey, noon, ErrInvalid},
		"cut to its header":      {k, encoded(raw[:headerBytes+nonceBytes+tagBytes-1]), accessKey, noon, ErrInvalid},
		"something after it":     {k, token + "\n", accessKey, noon, ErrInvalid},
		"too long":               {k, strings.Repeat("A", MaxToken+4), accessKey, noon, ErrInvalid},
		"other version":          {k, changed(0), accessKey, noon, ErrInvalid},
		"other key id":           {k, changed(4), accessKey, noon, ErrInvalid},
		"other nonce":            {k, changed(headerBytes), accessKey, noon, ErrInvalid},
		"other claims":           {k, changed(headerBytes + nonceBytes), accessKey, noon, ErrInvalid},
		"other tag":              {k, changed(len(raw) - 1), accessKey, noon, ErrInvalid},
		"another access key":     {k, token, "ASIAIOSFODNN7EXAMPLF", noon, ErrInvalid},
		"no access key":          {k, token, "", noon, ErrInvalid},
		"another key":            {newTestKey(t, 7, 2), token, accessKey, noon, ErrInvalid},
		"at its end":             {k, token, accessKey, noon.Add(time.Hour), ErrExpired},
		"long after its end":     {k, token, accessKey, noon.Add(1000 * time.Hour), ErrExpired},
		"another, after its end": {k, token, "ASIAIOSFODNN7EXAMPLF", noon.Add(2 * time.Hour), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c, err := open(tc.key, tc.token, tc.accessKey, tc.at); !errors.Is(err, tc.want) || c != nil {
				t.Errorf("Open = %v, %v, want %v", c, err, tc.want)
			}
		})
	}
}

// TestOpenRefusesEveryChangedBit changes each bit of a token in turn.
func TestOpenRefusesEveryChangedBit(t *testing.T) {
	t.Parallel()
	k := newTestKey(t, 7, 1)
	raw, _ := base64.StdEncoding.DecodeString(seal(t, k, root()))
	for i := range 8 * len(raw) {
		b := bytes.Clone(raw)
		b[i/8] ^= 1 << (i % 8)
		if _, err := open(k, base64.StdEncoding.EncodeToString(b), accessKey, noon); !errors.Is(err, ErrInvalid) {
			t.Fatalf("bit %d changed: %v, want ErrInvalid", i, err)
		}
	}
}

// sealRaw seals whatever bytes as claims.
func sealRaw(k *Key, claims []byte) string {
	token := append([]byte{version, 0, 0, 0, byte(k.id)}, make([]byte, nonceBytes)...)
	sealed := k.aead.Seal(token, token[headerBytes:], claims, additional(token[:headerBytes], accessKey))
	return base64.StdEncoding.EncodeToString(sealed)
}

func TestOpenRefusesClaimsThatAreNone(t *testing.T) {
	t.Parallel()
	k := newTestKey(t, 7, 1)
	good := root().append(nil)
	if _, err := open(k, sealRaw(k, good), accessKey, noon); err != nil {
		t.Fatalf("Open = %v", err)
	}
	for n := range good {
		if _, err := open(k, sealRaw(k, good[:n]), accessKey, noon); !errors.Is(err, ErrInvalid) {
			t.Errorf("the first %d bytes: %v, want ErrInvalid", n, err)
		}
	}
	const flags, secret = 17, 18 // offsets
	replaced := func(at int, by ...byte) []byte {
		return append(append(bytes.Clone(good[:at]), by...), good[at+1:]...)
	}
	for name, claims := range map[string][]byte{
		"something after them": append(bytes.Clone(good), 0, 1),
		"another version":      replaced(0, 2),
		"an unknown flag":      replaced(flags, 4),
		"an endless length":    replaced(secret, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF),
		"a huge length":        replaced(secret, 0xFF, 0xFF, 0xFF, 0x7F),
		"a key without value":  append(bytes.Clone(good[:len(good)-1]), 1, 1, 'k'),
		"tags cut off":         append(bytes.Clone(good[:len(good)-1]), 2, 1, 'k'),
	} {
		if _, err := open(k, sealRaw(k, claims), accessKey, noon); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func TestSealRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	k := newTestKey(t, 7, 1)
	c := root()
	bare := len(c.append(nil))
	c.Policies = []string{strings.Repeat("x", maxClaims-bare-2)} // two bytes are its length
	if token := seal(t, k, c); len(token) != MaxToken {
		t.Errorf("the longest token has %d characters, want %d", len(token), MaxToken)
	}
	if got := PackedPercent(c); got != 100 {
		t.Errorf("PackedPercent of the largest session = %d, want 100", got)
	}
	c.Policies[0] += "x"
	if _, err := Seal(k, c, 0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Seal of one byte more = %v, want ErrTooLarge", err)
	}
}

func TestSealPadsToALength(t *testing.T) {
	t.Parallel()
	k := newTestKey(t, 7, 1)
	for _, least := range []int{0, 1, 1000, 1001, 1002, 1003, MaxToken - 1, MaxToken, MaxToken + 1} {
		token, err := Seal(k, root(), least)
		if err != nil {
			t.Fatalf("Seal to %d = %v", least, err)
		}
		if n := len(token); n < min(least, MaxToken) || n > max(200, least+3) || n > MaxToken {
			t.Errorf("a token of at least %d has %d characters", least, n)
		}
		c, err := open(k, token, accessKey, noon)
		if diff := cmp.Diff(root(), c); diff != "" || err != nil {
			t.Errorf("Open of a padded token: %v (-want +got):\n%s", err, diff)
		}
	}
}

func TestPackedPercent(t *testing.T) {
	t.Parallel()
	c := root()
	if got := PackedPercent(c); got != 0 {
		t.Errorf("PackedPercent without policies and tags = %d, want 0", got)
	}
	c.Tags = map[string]string{"k": "v"}
	if got := PackedPercent(c); got != 1 {
		t.Errorf("PackedPercent of a tag = %d, want 1", got)
	}
	c.Policies = []string{strings.Repeat("x", maxClaims/2)}
	if got := PackedPercent(c); got < 50 || got > 60 {
		t.Errorf("PackedPercent of a large policy = %d, want a little more than 50", got)
	}
}

func TestNewKeyRefusesOtherLengths(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 16, 24, 31, 33} {
		if k, err := NewKey(1, make([]byte, n)); err == nil || k != nil {
			t.Errorf("NewKey of %d bytes = %v, %v, want an error", n, k, err)
		}
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	c := fullClaims()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if text, secret := fmt.Sprintf(verb, c), fmt.Sprintf(verb, []byte(c.Secret)); strings.Contains(text, secret) {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	c := fullClaims()
	copied := c.Clone()
	if diff := cmp.Diff(c, copied); diff != "" {
		t.Errorf("Clone (-want +got):\n%s", diff)
	}
	clear(copied.Secret)
	clear(copied.Tags)
	copied.TransitiveTags[0], copied.Policies[0], copied.PolicyARNs[0] = "", "", ""
	if diff := cmp.Diff(fullClaims(), c); diff != "" {
		t.Errorf("the original changed with its clone (-want +got):\n%s", diff)
	}
}
