package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/sigv4"
)

// benchCall is one request of the load, before it is signed.
type benchCall struct {
	// Service is the service of the signature's scope. Empty: a GET of Path
	// without a signature.
	Service string `json:"service,omitempty"`
	// Target is the X-Amz-Target. Empty for the Query protocol.
	Target string `json:"target,omitempty"`
	Path   string `json:"path,omitempty"`
	Body   []byte `json:"body,omitempty"`
	// By signs it. Nil: the account's root.
	By *benchKey `json:"by,omitempty"`
}

// benchSigner signs requests as the Go SDK does: the same headers, the same of
// them signed.
type benchSigner struct {
	Address   string `json:"address"`
	Region    string `json:"region"`
	AccessKey string `json:"accessKey"`
	Secret    []byte `json:"secret"`
}

// benchUserAgent is as long as those of SDKs are.
const benchUserAgent = "aws-sdk-go-v2/1.47.8 ua/2.1 os/linux lang/go#1.26 md/GOOS#linux md/GOARCH#amd64 api/kms#1.62.4 m/E,e,kmsgate-bench"

// field is a header, its name in lower case.
type field struct{ name, value string }

// request returns the request as it goes over the wire.
func (s *benchSigner) request(c benchCall, now time.Time) []byte {
	if c.Service == "" {
		return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", c.Path, s.Address)
	}
	now = now.UTC()
	signed := s.signedFields(c, now)
	var b bytes.Buffer
	b.WriteString("POST / HTTP/1.1\r\n")
	for _, f := range signed {
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
	}
	fmt.Fprintf(&b, "user-agent: %s\r\naccept-encoding: identity\r\nauthorization: %s\r\n\r\n",
		benchUserAgent, s.authorization(c, now, signed))
	b.Write(c.Body)
	return b.Bytes()
}

// signedFields are the headers that are signed, in the order of their names.
func (s *benchSigner) signedFields(c benchCall, now time.Time) []field {
	contentType := "application/x-amz-json-1.1"
	if c.Target == "" {
		contentType = "application/x-www-form-urlencoded"
	}
	fields := []field{
		{"amz-sdk-invocation-id", uuid.NewString()},
		{"amz-sdk-request", "attempt=1; max=3"},
		{"content-length", strconv.Itoa(len(c.Body))},
		{"content-type", contentType},
		{"host", s.Address},
		{"x-amz-date", now.Format("20060102T150405Z")},
	}
	if c.Target != "" {
		fields = append(fields, field{"x-amz-target", c.Target})
	}
	return fields
}

// authorization is the header of that name: AWS General Reference, "Create a
// signed AWS API request".
func (s *benchSigner) authorization(c benchCall, now time.Time, signed []field) string {
	var canonical, names bytes.Buffer
	canonical.WriteString("POST\n/\n\n")
	for i, f := range signed {
		fmt.Fprintf(&canonical, "%s:%s\n", f.name, f.value)
		if i > 0 {
			names.WriteByte(';')
		}
		names.WriteString(f.name)
	}
	fmt.Fprintf(&canonical, "\n%s\n%x", names.Bytes(), sha256.Sum256(c.Body))
	date := now.Format("20060102")
	scope := date + "/" + s.Region + "/" + c.Service + "/aws4_request"
	text := fmt.Sprintf("%s\n%s\n%s\n%x", sigv4.Algorithm, now.Format("20060102T150405Z"), scope, sha256.Sum256(canonical.Bytes()))
	by := benchKey{s.AccessKey, s.Secret}
	if c.By != nil {
		by = *c.By
	}
	key := sigv4.DeriveKey(by.Secret, date, s.Region, c.Service)
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(text))
	return fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		sigv4.Algorithm, by.AccessKey, scope, names.Bytes(), hex.EncodeToString(mac.Sum(nil)))
}
