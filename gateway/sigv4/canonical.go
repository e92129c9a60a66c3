package sigv4

import (
	"net/http"
	"strings"
)

// canonicalize writes the canonical request, but for the hash of the body. What
// makes a matching signature impossible or worthless is returned as a flaw.
func (s *Signature) canonicalize(r *http.Request, path string, q query, c claim) *Error {
	if !isHexHash(c.sum) {
		return mismatch("the signature is not 64 lower-case hexadecimal digits")
	}
	signed := strings.Split(c.signedHeaders, ";")
	if !isSortedLower(signed) {
		return refuse(Invalid, "SignedHeaders must be in lower case, sorted and without repetition.")
	}
	if name := unsigned(r, signed, c.presigned); name != "" {
		return refuse(Invalid, "'"+echo(name, maxEcho)+"' must be a 'SignedHeader' in the AWS Authorization.")
	}
	if s.contentSHA = r.Header.Get("X-Amz-Content-Sha256"); s.contentSHA != "" && !isHexHash(s.contentSHA) {
		return mismatch("X-Amz-Content-Sha256 is not the hash of a body: unsigned and streamed payloads are not served")
	}
	b := make([]byte, 0, 1024+len(path)+len(c.token))
	b = append(append(b, r.Method...), '\n')
	b, ok := appendPath(b, path)
	if !ok {
		return mismatch("the path climbs above its root")
	}
	b = append(q.append(append(b, '\n')), '\n')
	for _, name := range signed {
		b = append(append(b, name...), ':')
		if name == "host" {
			s.host = span{len(b), len(b) + len(r.Host)}
			b = append(b, r.Host...)
		} else if b, ok = appendValues(b, values(r.Header, name)); !ok {
			return absent(name)
		}
		b = append(b, '\n')
	}
	b = append(append(append(b, '\n'), c.signedHeaders...), '\n')
	s.canonical, s.hashAt = b, len(b)
	return nil
}

func absent(name string) *Error {
	if name == "content-length" {
		return mismatch("content-length is signed but did not arrive: was the request sent in chunks, or by a proxy that re-chunks?")
	}
	return mismatch("signed header " + echo(name, maxEcho) + " did not arrive")
}

func isSortedLower(names []string) bool {
	last := ""
	for _, name := range names {
		if name <= last || name != strings.ToLower(name) {
			return false
		}
		last = name
	}
	return true
}

// unsigned finds a header that changes what a request means and is not signed.
// The second hyphen matters: load balancers add x-amzn-trace-id. A content
// type without a body, in the query form, means nothing.
func unsigned(r *http.Request, signed []string, presigned bool) string {
	for name := range r.Header {
		matters := strings.HasPrefix(name, "X-Amz-") ||
			name == "Content-Type" && !(presigned && r.ContentLength == 0)
		if matters && !isSigned(signed, name) {
			return name
		}
	}
	return ""
}

func isSigned(signed []string, name string) bool {
	for _, n := range signed {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// values are the lines of the header that is called name in SignedHeaders.
func values(h http.Header, name string) []string {
	var buf [maxHeaderNameBytes]byte
	if len(name) > len(buf) {
		return nil
	}
	key, first := append(buf[:0], name...), true
	for i, c := range key {
		if first && 'a' <= c && c <= 'z' {
			key[i] = c - 'a' + 'A'
		}
		first = c == '-'
	}
	return h[string(key)]
}

// appendValues appends the lines of one header, joined by commas in the order
// they came. ok is false if there are none.
func appendValues(b []byte, lines []string) (_ []byte, ok bool) {
	for i, line := range lines {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTrimmed(b, line)
	}
	return b, len(lines) > 0
}

// appendTrimmed appends a header line without blanks at its ends and with each
// run of blanks made one space. A blank is a space or a tab; other white space
// of Unicode is data.
func appendTrimmed(b []byte, line string) []byte {
	line = strings.Trim(line, " \t")
	if strings.IndexByte(line, '\t') < 0 && !strings.Contains(line, "  ") {
		return append(b, line...)
	}
	blank := false
	for _, c := range []byte(line) {
		isBlank := c == ' ' || c == '\t'
		if isBlank {
			c = ' '
		}
		if !isBlank || !blank {
			b = append(b, c)
		}
		blank = isBlank
	}
	return b
}

// appendPath appends the path as it was on the wire, normalised and escaped
// (once more, if the client has escaped it). ok is false if ".." climbs above
// the root.
func appendPath(b []byte, path string) (_ []byte, ok bool) {
	if path == "/" {
		return append(b, '/'), true
	}
	var segments []string
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "", ".":
		case "..":
			if len(segments) == 0 {
				return b, false
			}
			segments = segments[:len(segments)-1]
		default:
			segments = append(segments, segment)
		}
	}
	for _, segment := range segments {
		b = append(b, '/')
		for _, c := range []byte(segment) {
			b = appendEscaped(b, c)
		}
	}
	if len(segments) == 0 || strings.HasSuffix(path, "/") {
		b = append(b, '/')
	}
	return b, true
}

// appendEscaped appends one byte, escaped unless it is unreserved (RFC 3986,
// section 2.3).
func appendEscaped(b []byte, c byte) []byte {
	const digits = "0123456789ABCDEF"
	switch {
	case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '~':
		return append(b, c)
	}
	return append(b, '%', digits[c>>4], digits[c&15])
}

// isHexHash tells whether s is a SHA-256 sum in lower-case hexadecimal.
func isHexHash(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
