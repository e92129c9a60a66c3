package sigv4_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"kmsgate/gateway/sigv4"
)

func parsed(t *testing.T, q request) (*sigv4.Signature, []byte) {
	t.Helper()
	r, body := q.read(t)
	s, err := sigv4.ParseHeader(r)
	if err != nil {
		t.Fatalf("ParseHeader(%q) = %v, want nil", q.wire(), err)
	}
	return s, body
}

func checked(t *testing.T, q request) (*sigv4.Signature, []byte) {
	t.Helper()
	s, body := parsed(t, q)
	if err := s.CheckScope(signedAt, isUSEast1, "kms"); err != nil {
		t.Fatalf("CheckScope(%q) = %v, want nil", q.wire(), err)
	}
	return s, body
}

func kmsKey() [32]byte { return sigv4.DeriveKey([]byte(secret), day, "us-east-1", "kms") }

func TestParseHeaderTellsTheClaim(t *testing.T) {
	t.Parallel()
	s, _ := parsed(t, kmsRequest().with("X-Amz-Security-Token: t/+=").signed(kmsScope, "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"))
	got := [...]string{s.AccessKeyID, s.Date, s.Region, s.Service, s.Token}
	want := [...]string{accessKey, day, "us-east-1", "kms", "t/+="}
	if got != want || !s.Time.Equal(signedAt) {
		t.Errorf("claim = %q at %v, want %q at %v", got, s.Time, want, signedAt)
	}
}

func TestVerifyNeedsEveryStep(t *testing.T) {
	t.Parallel()
	q := kmsRequest().signed(kmsScope, kmsSigned)
	s, body := parsed(t, q)
	s.SetBody(body)
	if e := refusal(t, s.Verify(kmsKey())); e.Message != mismatchText {
		t.Errorf("Verify without CheckScope = %q, want a mismatch", e.Message)
	}
	s, _ = checked(t, q)
	if e := refusal(t, s.Verify(kmsKey())); e.Message != mismatchText {
		t.Errorf("Verify without SetBody = %q, want a mismatch", e.Message)
	}
	if err := s.CheckScope(signedAt, isUSEast1, "sts"); err == nil {
		t.Error("CheckScope for another service = nil, want an error")
	}
	s.SetBody(body)
	if e := refusal(t, s.Verify(kmsKey())); e.Message != mismatchText {
		t.Errorf("Verify after CheckScope failed = %q, want a mismatch", e.Message)
	}
}

func TestSetBodyTakesTheLastBody(t *testing.T) {
	t.Parallel()
	s, body := checked(t, kmsRequest().signed(kmsScope, kmsSigned))
	s.SetBody([]byte("another"))
	if err := s.Verify(kmsKey()); err == nil {
		t.Error("Verify with another body = nil, want an error")
	}
	s.SetBody(body)
	if err := s.Verify(kmsKey()); err != nil {
		t.Errorf("Verify with the body = %v, want nil", err)
	}
}

func TestVerifyRefusesAnotherKey(t *testing.T) {
	t.Parallel()
	s, body := checked(t, kmsRequest().signed(kmsScope, kmsSigned))
	s.SetBody(body)
	for bit := range 256 {
		key := kmsKey()
		key[bit/8] ^= 1 << (bit % 8)
		if e := refusal(t, s.Verify(key)); e.Message != mismatchText {
			t.Errorf("Verify with bit %d of the key changed = %q, want a mismatch", bit, e.Message)
		}
	}
}

func TestVerifyKnowsDefaultPorts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		signed, received string
		ok               bool
	}{
		{"kms.example.com", "kms.example.com:443", true},
		{"kms.example.com", "kms.example.com:80", true},
		{"kms.example.com:443", "kms.example.com", true},
		{"kms.example.com:80", "kms.example.com", true},
		{"[::1]", "[::1]:443", true},
		{"[::1]:443", "[::1]", true},
		{"kms.example.com:443", "kms.example.com:443", true},
		{"kms.example.com:8443", "kms.example.com:8443", true},
		{"kms.example.com", "kms.example.com:8443", false},
		{"kms.example.com:8443", "kms.example.com", false},
		{"kms.example.com:443", "kms.example.com:80", false},
		{"kms.example.com:443", "kms.example.com:8443", false},
		{"kms.example.com", "kms.example.org", false},
	} {
		q := kmsRequest()
		q.host = c.signed
		q = q.signed(kmsScope, kmsSigned)
		q.host = c.received
		s, body := checked(t, q)
		s.SetBody(body)
		if err := s.Verify(kmsKey()); (err == nil) != c.ok {
			t.Errorf("Verify of host %q signed as %q = %v, want ok = %t", c.received, c.signed, err, c.ok)
		}
	}
}

func TestVerifyTriesTheHostsGiven(t *testing.T) {
	t.Parallel()
	q := kmsRequest().signed(kmsScope, kmsSigned)
	q.host = "10.0.0.1:4599"
	s, body := checked(t, q)
	s.SetBody(body)
	if err := s.Verify(kmsKey(), "kms.example.org", "kms.example.com"); err != nil {
		t.Errorf("Verify with the host signed = %v, want nil", err)
	}
	if err := s.Verify(kmsKey(), "kms.example.org"); err == nil {
		t.Error("Verify with another host = nil, want an error")
	}
}

// AWS General Reference, "Derive a signing key", example.
func TestDeriveKeyGivesThePublishedExample(t *testing.T) {
	t.Parallel()
	key := sigv4.DeriveKey([]byte("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), "20150830", "us-east-1", "iam")
	const want = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
	if got := hex.EncodeToString(key[:]); got != want {
		t.Errorf("DeriveKey = %s, want %s", got, want)
	}
}

func TestCanonicalHeadersKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ sent, canonical string }{
		{"a \t b", "a b"},
		{"a\tb  c", "a b c"},
		{"\ta b\t ", "a b"},
		{`"a  b"`, `"a b"`},
		{"a\u00a0 \u00a0b", "a\u00a0 \u00a0b"},
	} {
		q := kmsRequest().with("Zebra: "+c.canonical).signed(kmsScope, kmsSigned+";zebra")
		q = q.without("Zebra").with("Zebra: " + c.sent)
		s, body := checked(t, q)
		s.SetBody(body)
		if err := s.Verify(kmsKey()); err != nil {
			t.Errorf("Verify of header %q signed as %q = %v, want nil", c.sent, c.canonical, err)
		}
	}
}

func TestLoadBalancersMayAddTheirTraceID(t *testing.T) {
	t.Parallel()
	q := kmsRequest().signed(kmsScope, kmsSigned).with("X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678")
	r, body := q.read(t)
	if err := verify(r, body, signedAt, "kms"); err != nil {
		t.Errorf("verify = %v, want nil", err)
	}
}

func TestAccessKeysThatCannotBeAreNotTold(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"A-B", "%00", "%FF", "A%0A", strings.Repeat("A", 129)} {
		p := strings.Replace(presigned, accessKey, id, 1) + "&X-Amz-Signature=" + zeros
		if s, _ := parsed(t, at(p)); s.AccessKeyID != "" {
			t.Errorf("AccessKeyID of %q = %q, want none", p, s.AccessKeyID)
		}
	}
}
