// Package sigv4 verifies requests that were signed with AWS Signature Version
// 4, in the Authorization header or in the query string. It is pure: it reads
// no clock and does no input or output, knows no access keys, and takes nothing
// from the request on trust but the bytes that net/http read.
//
// It is stricter than AWS where no signer needs the laxness: what a request
// says twice, in two forms or unsigned is refused, since whoever can change an
// unsigned x-amz-target, token or content type changes what the request means.
//
// The steps are apart so that whatever can be refused cheaply is refused before
// the body is read and before anything is looked up:
//
//	s, err := sigv4.ParseHeader(r)                 // form, syntax, what must be signed
//	err = s.CheckScope(now, regionServed, "kms")   // time window, region, service
//	// look up s.AccessKeyID, check s.Token, read the body
//	s.SetBody(body)
//	err = s.Verify(sigv4.DeriveKey(secret, s.Date, s.Region, s.Service))
//
// Verify never succeeds when CheckScope or SetBody was left out. Errors are
// always [*Error], in the order in which AWS's JSON services find them.
//
// Source: AWS General Reference, "Create a signed AWS API request".
package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// Algorithm is the only algorithm served. AWS4-ECDSA-P256-SHA256 (SigV4a) is not.
const Algorithm = "AWS4-HMAC-SHA256"

// Bounds on what is read from a request, in bytes. Session tokens dominate.
const (
	maxTargetBytes        = 16 << 10
	maxAuthorizationBytes = 4 << 10
	maxTokenBytes         = 8 << 10
	maxHeaderNameBytes    = 128
	maxAccessKeyBytes     = 128
)

// Signature is the signature of one request and what it claims. It is not safe
// for concurrent use.
type Signature struct {
	// AccessKeyID, Date (yyyymmdd), Region and Service are the credential scope
	// as claimed. They are empty if the credential is malformed, which
	// CheckScope refuses; AccessKeyID is so too if it could not be one (1 to 128
	// letters, digits and underscores), so that it can be logged as it is.
	AccessKeyID, Date, Region, Service string
	// Token is the session token, at most 8192 bytes, or empty. Verify proves
	// that it was signed; that it belongs to the access key is for the caller to
	// check. It is a secret.
	Token string
	// Time is the time of signing that the client claims, to the second, UTC.
	Time time.Time

	amzDate    string        // Time as sent
	credential string        // keyid/date/region/service/term as sent
	terminator string        // last part of credential
	signature  string        // as sent
	validity   time.Duration // after Time
	contentSHA string        // X-Amz-Content-Sha256 as sent; empty if absent
	flaw       *Error        // what CheckScope will refuse after the scope itself

	canonical []byte // the canonical request
	hashAt    int    // where in canonical the hash of the body goes
	host      span   // the value of the host header in canonical
	scoped    bool   // CheckScope succeeded
	bodyFits  bool   // SetBody was called, and contentSHA is not against it
}

// span is a part of the canonical request.
type span struct{ from, to int }

// ParseHeader reads the signature of a request that net/http's server has read
// (RequestURI, Host and Header as they came), without touching its body. It
// refuses what needs no key, no clock and no body to refuse. The Signature
// keeps nothing of r but strings.
func ParseHeader(r *http.Request) (*Signature, error) {
	path, rawQuery, refusal := splitTarget(r.RequestURI)
	if refusal != nil {
		return nil, refusal
	}
	q, ok := parseQuery(rawQuery)
	if !ok {
		return nil, refuse(Invalid, "The query string is malformed.")
	}
	c, refusal := readClaim(r.Header, q)
	if refusal != nil {
		return nil, refusal
	}
	s, refusal := c.signature()
	if refusal != nil {
		return nil, refusal
	}
	if c.presigned {
		q = q.without("X-Amz-Signature")
	}
	s.flaw = s.canonicalize(r, path, q, c)
	return s, nil
}

// SetBody gives the request's body, complete and as received. The body is
// hashed and not kept.
func (s *Signature) SetBody(body []byte) {
	sum := sha256.Sum256(body)
	s.canonical = hex.AppendEncode(s.canonical[:s.hashAt], sum[:])
	s.bodyFits = s.contentSHA == "" || s.contentSHA == string(s.canonical[s.hashAt:])
}

// splitTarget splits the request target as it came on the wire. Only the
// origin form is served: with the absolute form net/http drops the Host line,
// and with it what the client signed.
func splitTarget(target string) (path, query string, refusal *Error) {
	if len(target) > maxTargetBytes {
		return "", "", refuse(Invalid, "The request target is too long.")
	}
	if !strings.HasPrefix(target, "/") {
		return "", "", refuse(Invalid, "The request target must be an absolute path.")
	}
	path, query, _ = strings.Cut(target, "?")
	return path, query, nil
}
