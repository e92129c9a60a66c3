package identity

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// WebIdentity is what a token says that an OIDC provider vouches for, once it is
// verified.
type WebIdentity struct {
	Provider string // ARN
	Issuer   string // URL, as the token has it
	Subject  string
	Audience string // one that the provider's client ids have
	// Claims by the names of their condition keys without the issuer: sub, aud, amr.
	Claims map[string][]string
}

// IDToken is a token of a web identity; nothing of it is known to be true.
type IDToken struct {
	signed  *jose.JSONWebSignature
	text    string
	issuer  string // URL
	subject string
	name    string // the same as providers have it
}

// ClaimsToBe tells whether the token says that it is an issuer's, by URL, and of a
// subject.
func (t *IDToken) ClaimsToBe(issuer, subject string) bool {
	return t.ClaimsIssuer(issuer) && t.subject == subject
}

// ClaimsIssuer tells whether the token says that it is an issuer's, by URL.
func (t *IDToken) ClaimsIssuer(issuer string) bool { return t.issuer == issuer }

// Issuer is who the token says made it: a provider's URL, without its scheme.
func (t *IDToken) Issuer() string { return t.name }

// signatureAlgorithms are those that a token may be signed with: none that has a
// secret that two sides know, and never none.
var signatureAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// leeway is how far the clocks of issuers may be from ours.
const leeway = time.Minute

// maxSubject is how long a subject can be (OpenID Connect Core 1.0, section 2).
const maxSubject = 255

// ParseIDToken reads a token without believing it. InvalidIdentityToken if it is none.
func ParseIDToken(text string) (*IDToken, error) {
	signed, err := jose.ParseSignedCompact(text, signatureAlgorithms)
	if err != nil {
		return nil, notAToken()
	}
	var claims rawClaims
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claims); err != nil {
		return nil, notAToken()
	}
	issuer := claims.text("iss")
	name, ok := IssuerOf(issuer)
	if !ok {
		return nil, invalidToken("Issuer must be a valid URL")
	}
	return &IDToken{signed: signed, text: text, issuer: issuer, subject: claims.text("sub"), name: name}, nil
}

// algorithm and keyID are what the header says.
func (t *IDToken) algorithm() string { return t.signed.Signatures[0].Header.Algorithm }
func (t *IDToken) keyID() string     { return t.signed.Signatures[0].Header.KeyID }

// payload verifies the signature with the keys given; ok is false if it is of none of
// them.
func (t *IDToken) payload(keys []jose.JSONWebKey) (payload []byte, ok bool) {
	for _, k := range keys {
		if payload, err := t.signed.Verify(k.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// rawClaims are the claims of a token by their exact names.
type rawClaims map[string]json.RawMessage

// text is a claim that is a string; empty if it is not there or none.
func (c rawClaims) text(name string) string {
	var s string
	if json.Unmarshal(c[name], &s) != nil {
		return ""
	}
	return s
}

// texts is a claim that is a string or a list of them.
func (c rawClaims) texts(name string) []string {
	if s := c.text(name); s != "" {
		return []string{s}
	}
	var list []string
	if json.Unmarshal(c[name], &list) != nil {
		return nil
	}
	return list
}

// time is a claim that is a number of seconds (RFC 7519, NumericDate).
func (c rawClaims) time(name string) (at time.Time, ok bool) {
	var seconds float64
	if raw := c[name]; len(raw) == 0 || json.Unmarshal(raw, &seconds) != nil || string(raw) == "null" {
		return time.Time{}, false
	}
	if seconds < 0 || seconds > math.MaxInt32*100 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(seconds * 1000)), true
}

// identityOf reads the claims of a token whose signature is the issuer's.
func identityOf(now time.Time, p *metadata.Provider, t *IDToken, payload []byte) (*WebIdentity, error) {
	var claims rawClaims
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, notAToken()
	}
	if claims.text("iss") != t.issuer || t.name != p.URL {
		return nil, invalidToken("The issuer of the token is not the provider's")
	}
	if err := claims.checkTimes(now); err != nil {
		return nil, err
	}
	audiences := slices.DeleteFunc(claims.texts("aud"), func(a string) bool { return !slices.Contains(p.ClientIDs, a) })
	if len(audiences) == 0 {
		return nil, invalidToken("Incorrect token audience")
	}
	subject := claims.text("sub")
	if subject == "" || len(subject) > maxSubject || strings.ContainsRune(subject, 0) {
		return nil, rejectedClaim("The subject of the token must be a text of 1 to " + strconv.Itoa(maxSubject) + " characters")
	}
	w := &WebIdentity{
		Provider: p.ARN(), Issuer: t.issuer, Subject: subject, Audience: audiences[0],
		Claims: map[string][]string{"sub": {subject}, "aud": audiences},
	}
	if methods := claims.texts("amr"); len(methods) > 0 {
		w.Claims["amr"] = methods
	}
	return w, nil
}

func (c rawClaims) checkTimes(now time.Time) error {
	expires, hasEnd := c.time("exp")
	issued, hasStart := c.time("iat")
	switch {
	case !hasEnd:
		return invalidToken("Missing a required claim: exp")
	case !hasStart:
		return invalidToken("Missing a required claim: iat")
	case !now.Before(expires.Add(leeway)):
		return expiredToken(now, expires)
	case issued.After(now.Add(leeway)):
		return rejectedClaim("The token was issued in the future")
	}
	if _, there := c["nbf"]; !there {
		return nil
	}
	if begins, ok := c.time("nbf"); !ok || begins.After(now.Add(leeway)) {
		return rejectedClaim("The token is not valid yet")
	}
	return nil
}

func notAToken() *kmsapi.Error {
	return invalidToken("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
}

// NoProvider says that the role's account has no provider of an issuer.
func NoProvider(t *IDToken) *kmsapi.Error {
	return invalidToken("No OpenIDConnect provider found in your account for " + t.issuer)
}

func invalidToken(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.InvalidIdentityToken, Message: text}
}

func rejectedClaim(text string) *kmsapi.Error {
	return &kmsapi.Error{Code: awsquery.IDPRejectedClaim, Message: text}
}

func expiredToken(now, expires time.Time) *kmsapi.Error {
	return &kmsapi.Error{
		Code: awsquery.ExpiredIdentityToken,
		Message: "Token expired: current date/time " + strconv.FormatInt(now.Unix(), 10) +
			" must be before the expiration date/time " + strconv.FormatInt(expires.Unix(), 10),
	}
}
