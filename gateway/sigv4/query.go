package sigv4

import (
	"cmp"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
)

// query is a query string in canonical form: names and values escaped in one
// way, sorted by name and then by value.
type query []parameter

type parameter struct{ name, value string }

// parseQuery reads a query string. ok is false for a broken escape, and for a
// plus sign: decoders disagree whether that is a space, so two requests of
// different meaning could have one signature.
func parseQuery(raw string) (_ query, ok bool) {
	if raw == "" {
		return nil, true
	}
	var q query
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, ok := reescape(name)
		if !ok {
			return nil, false
		}
		value, ok = reescape(value)
		if !ok {
			return nil, false
		}
		q = append(q, parameter{name, value})
	}
	slices.SortFunc(q, func(a, b parameter) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.value, b.value))
	})
	return q, true
}

// reescape decodes s and escapes it canonically.
func reescape(s string) (_ string, ok bool) {
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			return "", false
		}
		if c == '%' {
			var decoded [1]byte
			if i+2 >= len(s) {
				return "", false
			}
			if _, err := hex.Decode(decoded[:], []byte(s[i+1:i+3])); err != nil {
				return "", false
			}
			c, i = decoded[0], i+2
		}
		b = appendEscaped(b, c)
	}
	return string(b), true
}

// get returns the decoded value of the first parameter of that name.
func (q query) get(name string) (value string, ok bool) {
	i := slices.IndexFunc(q, func(p parameter) bool { return p.name == name })
	if i < 0 {
		return "", false
	}
	value, err := url.PathUnescape(q[i].value)
	return value, err == nil
}

func (q query) count(name string) (n int) {
	for _, p := range q {
		if p.name == name {
			n++
		}
	}
	return n
}

func (q query) without(name string) query {
	return slices.DeleteFunc(q, func(p parameter) bool { return p.name == name })
}

// append appends the canonical query string.
func (q query) append(b []byte) []byte {
	for i, p := range q {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(append(append(b, p.name...), '='), p.value...)
	}
	return b
}
