package sigv4_test

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"pgregory.net/rapid"
)

// A segment must not be "." or "..": the SDK's signer does not normalise paths.
var (
	segments    = rapid.StringMatching(`[a-zA-Z0-9][^\x00-\x1f\x7f/]{0,8}`)
	texts       = rapid.StringN(0, 12, 40)
	headerNames = rapid.SampledFrom([]string{
		"X-Amz-Meta-A", "X-Amz-Target", "X-K8s-Aws-Id", "Accept", "Zebra", "Amz-Sdk-Invocation-Id", "Cache-Control",
	})
	headerValues = rapid.StringMatching(`[!-~]{1,10}( {1,3}[!-~]{1,10}){0,3}`)
	methods      = rapid.SampledFrom([]string{"GET", "POST", "PUT", "DELETE"})
)

// anyRequest is a request that is not signed yet.
func anyRequest(t *rapid.T) (*http.Request, []byte) {
	u := url.URL{Scheme: "http", Host: rapid.SampledFrom([]string{"kms.example.com", "127.0.0.1:4599", "[::1]:8080"}).Draw(t, "host"), Path: "/"}
	u.Path += strings.Join(rapid.SliceOfN(segments, 0, 3).Draw(t, "path"), "/")
	values := url.Values{}
	for range rapid.IntRange(0, 4).Draw(t, "params") {
		values.Add("p"+texts.Draw(t, "param"), texts.Draw(t, "value"))
	}
	u.RawQuery = values.Encode()
	body := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "body")
	r, err := http.NewRequest(methods.Draw(t, "method"), u.String(), bytes.NewReader(body))
	if err != nil {
		t.Fatalf("NewRequest: %v", err)
	}
	for range rapid.IntRange(0, 5).Draw(t, "headers") {
		name := headerNames.Draw(t, "name")
		if name == "X-Amz-Target" {
			r.Header.Del(name)
		}
		r.Header.Add(name, headerValues.Draw(t, "header"))
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	}
	return r, body
}

func credentials(t *rapid.T) aws.Credentials {
	token := rapid.SampledFrom([]string{"", "FwoGZXIvYXdzEBYaD+/=="}).Draw(t, "token")
	return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secret, SessionToken: token}
}

// signedBySDK signs with AWS's own signer and sends the request down a wire.
func signedBySDK(t *rapid.T, tb testing.TB, presign bool) (*http.Request, []byte) {
	r, body := anyRequest(t)
	signer := v4.NewSigner()
	hash := hexSum(string(body))
	if presign {
		if rapid.Bool().Draw(t, "expires") {
			q := r.URL.Query()
			q.Set("X-Amz-Expires", "60")
			r.URL.RawQuery = q.Encode()
		}
		uri, headers, err := signer.PresignHTTP(t.Context(), credentials(t), r, hash, "kms", "us-east-1", signedAt)
		if err != nil {
			t.Fatalf("PresignHTTP: %v", err)
		}
		if r, err = http.NewRequest(r.Method, uri, bytes.NewReader(body)); err != nil {
			t.Fatalf("NewRequest(%q): %v", uri, err)
		}
		r.Header = headers
	} else if err := signer.SignHTTP(t.Context(), credentials(t), r, hash, "kms", "us-east-1", signedAt); err != nil {
		t.Fatalf("SignHTTP: %v", err)
	}
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatalf("Write: %v", err)
	}
	return readWire(tb, wire.String())
}

func TestVerifyAcceptsWhatTheSDKSigns(t *testing.T) {
	t.Parallel()
	for _, presign := range []bool{false, true} {
		rapid.Check(t, func(rt *rapid.T) {
			r, body := signedBySDK(rt, t, presign)
			if err := verify(r, body, signedAt.Add(time.Minute), "kms"); err != nil {
				rt.Fatalf("verify(%s %s %v) = %v, want nil", r.Method, r.RequestURI, r.Header, err)
			}
		})
	}
}

func TestVerifyRefusesAnyChangedByte(t *testing.T) {
	t.Parallel()
	for _, presign := range []bool{false, true} {
		rapid.Check(t, func(rt *rapid.T) {
			r, body := signedBySDK(rt, t, presign)
			what, changed := changeOneByte(rt, r, body, presign)
			if !changed {
				return
			}
			if err := verify(r, body, signedAt, "kms"); err == nil {
				rt.Fatalf("verify with another %s (%s %s %v) = nil, want an error", what, r.Method, r.RequestURI, r.Header)
			}
		})
	}
}

// changeOneByte changes one byte of what was signed. changed is false where the
// change has no meaning: a blank for a blank, an escape for another of the same
// byte.
func changeOneByte(t *rapid.T, r *http.Request, body []byte, presign bool) (what string, changed bool) {
	signedHeaders := signedHeadersOf(r, presign)
	what = rapid.SampledFrom(append([]string{"method", "target", "body", "host"}, signedHeaders...)).Draw(t, "what")
	switch what {
	case "method":
		r.Method = change(t, r.Method)
	case "target":
		before := r.RequestURI
		r.RequestURI = change(t, before)
		return what, !sameTarget(before, r.RequestURI)
	case "body":
		if len(body) == 0 {
			return what, false
		}
		copy(body, change(t, string(body)))
	case "host":
		r.Host = change(t, r.Host)
	default:
		lines := r.Header[http.CanonicalHeaderKey(what)]
		i := rapid.IntRange(0, len(lines)-1).Draw(t, "line")
		before := slices.Clone(lines)
		lines[i] = change(t, lines[i])
		return what, !slices.EqualFunc(before, lines, sameValue)
	}
	return what, true
}

func signedHeadersOf(r *http.Request, presign bool) []string {
	list := r.URL.Query().Get("X-Amz-SignedHeaders")
	names := []string{}
	if !presign {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
		list, _, _ = strings.Cut(rest, ",")
		names = append(names, "authorization")
	}
	for name := range strings.SplitSeq(list, ";") {
		if name != "host" {
			names = append(names, name)
		}
	}
	return names
}

func change(t *rapid.T, s string) string {
	b := []byte(s)
	i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
	b[i] ^= rapid.ByteRange(1, 255).Draw(t, "xor")
	return string(b)
}

// sameValue tells whether two header lines differ in blanks at most, or are
// Authorization headers that say the same.
func sameValue(a, b string) bool {
	words := func(s string) []string {
		return strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == '\t' })
	}
	return slices.Equal(words(a), words(b))
}

// sameTarget tells whether every decoder reads the same in both targets.
func sameTarget(a, b string) bool {
	pathA, queryA, _ := strings.Cut(a, "?")
	pathB, queryB, _ := strings.Cut(b, "?")
	valuesA, errA := url.ParseQuery(queryA)
	valuesB, errB := url.ParseQuery(queryB)
	return pathA == pathB && errA == nil && errB == nil && !strings.Contains(queryB, "+") && valuesA.Encode() == valuesB.Encode()
}
