package sigv4_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/sigv4"
)

// The credentials and the moment of AWS's test suite.
const (
	accessKey = "AKIDEXAMPLE"
	secret    = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	day       = "20150830"
	amzDate   = "20150830T123600Z"
)

var signedAt = time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)

func isUSEast1(region string) bool { return region == "us-east-1" }

// request is a request as a client writes it.
type request struct {
	method, target, host string
	headers              []string // "Name: value"
	body                 string
}

// kmsRequest is what a client of KMS sends, but for the signature.
func kmsRequest() request {
	return request{
		method: "POST", target: "/", host: "kms.example.com",
		headers: []string{
			"Content-Type: application/x-amz-json-1.1",
			"X-Amz-Date: " + amzDate,
			"X-Amz-Target: TrentService.Encrypt",
		},
		body: `{"KeyId":"alias/a"}`,
	}
}

func (q request) with(headers ...string) request {
	q.headers = append(q.headers[:len(q.headers):len(q.headers)], headers...)
	return q
}

func (q request) wire() string {
	var b strings.Builder
	b.WriteString(q.method + " " + q.target + " HTTP/1.1\r\nHost: " + q.host + "\r\n")
	for _, h := range q.headers {
		b.WriteString(h + "\r\n")
	}
	if q.body != "" {
		b.WriteString("Content-Length: " + strconv.Itoa(len(q.body)) + "\r\n")
	}
	return b.String() + "\r\n" + q.body
}

// read has net/http read the request off the wire.
func (q request) read(t testing.TB) (*http.Request, []byte) {
	t.Helper()
	return readWire(t, q.wire())
}

func readWire(t testing.TB, wire string) (*http.Request, []byte) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		t.Fatalf("ReadRequest(%q): %v", wire, err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("body of %q: %v", wire, err)
	}
	return r, body
}

// signature signs by the book, for the target "/" and headers that stand once
// and without superfluous blanks.
func (q request) signature(scope, signedHeaders string) string {
	var canonical strings.Builder
	canonical.WriteString(q.method + "\n/\n\n")
	for name := range strings.SplitSeq(signedHeaders, ";") {
		canonical.WriteString(name + ":" + q.header(name) + "\n")
	}
	canonical.WriteString("\n" + signedHeaders + "\n" + hexSum(q.body))
	return hexMAC(scope, q.header("x-amz-date"), canonical.String())
}

func (q request) header(name string) string {
	switch name {
	case "host":
		return q.host
	case "content-length":
		return strconv.Itoa(len(q.body))
	}
	for _, h := range q.headers {
		n, v, _ := strings.Cut(h, ": ")
		if strings.EqualFold(n, name) {
			return v
		}
	}
	return ""
}

// signed adds an Authorization header over the headers named.
func (q request) signed(scope, signedHeaders string) request {
	return q.with("Authorization: AWS4-HMAC-SHA256 Credential=" + accessKey + "/" + scope +
		", SignedHeaders=" + signedHeaders + ", Signature=" + q.signature(scope, signedHeaders))
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func hexMAC(scope, date, canonical string) string {
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hexSum(canonical)))
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

const (
	kmsScope  = day + "/us-east-1/kms/aws4_request"
	kmsSigned = "content-type;host;x-amz-date;x-amz-target"
)

// verify walks the whole way for a client of the test credentials.
func verify(r *http.Request, body []byte, now time.Time, service string, hosts ...string) error {
	s, err := sigv4.ParseHeader(r)
	if err != nil {
		return err
	}
	s.SetBody(body)
	if err := s.CheckScope(now, isUSEast1, service); err != nil {
		return err
	}
	if s.AccessKeyID != accessKey {
		return &sigv4.Error{Code: sigv4.Unrecognized}
	}
	return s.Verify(sigv4.DeriveKey([]byte(secret), s.Date, s.Region, s.Service), hosts...)
}

// refusal asserts that err is an Error.
func refusal(t testing.TB, err error) *sigv4.Error {
	t.Helper()
	e, ok := errors.AsType[*sigv4.Error](err)
	if !ok {
		t.Fatalf("error = %v, want a *sigv4.Error", err)
	}
	return e
}

const mismatchText = "The request signature we calculated does not match the signature you provided. " +
	"Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
