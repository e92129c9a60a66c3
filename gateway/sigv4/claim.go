package sigv4

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dateLayout is ISO 8601's basic format, as X-Amz-Date has it.
const dateLayout = "20060102T150405Z"

// Validity of a signature.
const (
	window          = 5 * time.Minute // either side of the time of signing
	maxExpirySecond = 604800          // seven days, X-Amz-Expires
)

// claim is what a request says of its signature, in either form.
type claim struct {
	presigned     bool // in the query string
	credential    string
	signedHeaders string
	sum           string // the signature
	date          string
	token         string
	expires       string // presigned only; empty if absent
	hasExpires    bool
}

// once are the headers that may stand in a request once at most: two of them
// would be read differently by different readers.
var once = [...]string{
	"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Target", "X-Amz-Content-Sha256", "Content-Type",
}

// readClaim finds which form a request is signed in and reads it.
func readClaim(h http.Header, q query) (claim, *Error) {
	_, inHeader := h["Authorization"]
	_, inQuery := q.get("X-Amz-Algorithm")
	if inHeader && inQuery {
		return claim{}, refuse(Invalid, "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.")
	}
	if !inHeader && !inQuery {
		return claim{}, notSigned()
	}
	for _, name := range once {
		if len(h[name]) > 1 {
			return claim{}, refuse(Invalid, "Header '"+name+"' must not occur more than once.")
		}
	}
	if inQuery {
		return readQuery(q)
	}
	return readHeader(h)
}

func notSigned() *Error { return refuse(Missing, "Missing Authentication Token") }

func checkAlgorithm(name string) *Error {
	if name != Algorithm {
		return refuse(Incomplete, "Unsupported AWS 'algorithm': '"+echo(name, maxEcho)+"'.")
	}
	return nil
}

// readHeader reads the header form. Other schemes than AWS's (Basic, Bearer)
// are no signature at all.
func readHeader(h http.Header) (claim, *Error) {
	header := h.Get("Authorization")
	if len(header) > maxAuthorizationBytes {
		return claim{}, refuse(Incomplete, "Authorization header is too long.")
	}
	if !strings.HasPrefix(header, "AWS4-") {
		return claim{}, notSigned()
	}
	algorithm, list, _ := strings.Cut(header, " ")
	if refusal := checkAlgorithm(algorithm); refusal != nil {
		return claim{}, refusal
	}
	c := claim{date: h.Get("X-Amz-Date"), token: h.Get("X-Amz-Security-Token")}
	if strings.Trim(list, " \t") != "" {
		if refusal := c.readParameters(header, list); refusal != nil {
			return claim{}, refusal
		}
	}
	return c, c.checkHeader(header)
}

// readParameters reads "Credential=…, SignedHeaders=…, Signature=…", in any
// order. Parameters with other names have no meaning.
func (c *claim) readParameters(header, list string) *Error {
	var seen []string
	for pair := range strings.SplitSeq(list, ",") {
		pair = strings.Trim(pair, " \t")
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return refuse(Incomplete, "'"+echo(pair, maxEcho)+"' not a valid key=value pair (missing equal-sign) in Authorization header: '"+
				echo(header, maxHeaderEcho)+"'.")
		}
		field := c.parameter(name)
		if field == nil {
			continue
		}
		if slices.Contains(seen, name) {
			return refuse(Incomplete, "Authorization header has more than one '"+name+"' parameter.")
		}
		*field, seen = value, append(seen, name)
	}
	return nil
}

func (c *claim) parameter(name string) *string {
	switch name {
	case "Credential":
		return &c.credential
	case "SignedHeaders":
		return &c.signedHeaders
	case "Signature":
		return &c.sum
	}
	return nil
}

// checkHeader lists what the header form lacks. A Date header alone, which AWS
// still takes, is not enough: X-Amz-Date must be there, and be signed.
func (c *claim) checkHeader(header string) *Error {
	var lacks strings.Builder
	for _, p := range [...]struct{ name, value string }{
		{"Credential", c.credential},
		{"Signature", c.sum},
		{"SignedHeaders", c.signedHeaders},
	} {
		if p.value == "" {
			lacks.WriteString("Authorization header requires '" + p.name + "' parameter. ")
		}
	}
	if c.date == "" {
		lacks.WriteString("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ")
	}
	if lacks.Len() == 0 {
		return nil
	}
	return refuse(Incomplete, lacks.String()+"Authorization="+echo(header, maxHeaderEcho))
}

// readQuery reads the query form. All of it but X-Amz-Signature is signed, the
// token too.
func readQuery(q query) (claim, *Error) {
	c := claim{presigned: true}
	var algorithm string
	var lacks strings.Builder
	for _, p := range [...]struct {
		name     string
		into     *string
		required bool
	}{
		{"X-Amz-Algorithm", &algorithm, true},
		{"X-Amz-Credential", &c.credential, true},
		{"X-Amz-Signature", &c.sum, true},
		{"X-Amz-SignedHeaders", &c.signedHeaders, true},
		{"X-Amz-Date", &c.date, true},
		{"X-Amz-Security-Token", &c.token, false},
		{"X-Amz-Expires", &c.expires, false},
	} {
		n := q.count(p.name)
		if n > 1 {
			return claim{}, refuse(Incomplete, "AWS query-string parameters must include '"+p.name+"' only once.")
		}
		*p.into, _ = q.get(p.name)
		if p.required && *p.into == "" {
			lacks.WriteString("AWS query-string parameters must include '" + p.name + "'. ")
		}
	}
	if lacks.Len() > 0 {
		return claim{}, refuse(Incomplete, lacks.String()+"Re-examine the query-string parameters.")
	}
	_, c.hasExpires = q.get("X-Amz-Expires")
	return c, checkAlgorithm(algorithm)
}

// signature checks the claim's syntax, but leaves a malformed credential for
// CheckScope, since AWS looks at the time first.
func (c *claim) signature() (*Signature, *Error) {
	if !contains(c.signedHeaders, "host") {
		return nil, refuse(Invalid, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	s := &Signature{
		Token: c.token, amzDate: c.date, credential: c.credential, signature: c.sum, validity: window,
	}
	var err error
	// The length keeps out the fractions of seconds that time.Parse lets pass.
	if s.Time, err = time.Parse(dateLayout, c.date); err != nil || len(c.date) != len(dateLayout) {
		return nil, refuse(Incomplete, "Date must be in ISO-8601 'basic format'. Got '"+echo(c.date, maxEcho)+
			"'. See http://en.wikipedia.org/wiki/ISO_8601")
	}
	if c.hasExpires {
		seconds, err := strconv.ParseUint(c.expires, 10, 32)
		if err != nil || seconds < 1 || seconds > maxExpirySecond {
			return nil, refuse(Incomplete, "X-Amz-Expires must be a number of seconds from 1 to "+strconv.Itoa(maxExpirySecond)+".")
		}
		s.validity = time.Duration(seconds) * time.Second
	}
	if strings.Count(c.credential, "/") == 4 {
		rest := c.credential
		for _, part := range [...]*string{&s.AccessKeyID, &s.Date, &s.Region, &s.Service, &s.terminator} {
			*part, rest, _ = strings.Cut(rest, "/")
		}
	}
	if !isAccessKeyID(s.AccessKeyID) {
		s.AccessKeyID = ""
	}
	return s, nil
}

func isAccessKeyID(id string) bool {
	isOther := func(c rune) bool {
		return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_'
	}
	return id != "" && len(id) <= maxAccessKeyBytes && !strings.ContainsFunc(id, isOther)
}

// contains tells whether a list of names separated by semicolons has the name.
func contains(list, name string) bool {
	for n := range strings.SplitSeq(list, ";") {
		if n == name {
			return true
		}
	}
	return false
}
