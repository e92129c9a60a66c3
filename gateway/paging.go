package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"

	"kmsgate/gateway/kmsapi"
)

// page is where a list operation goes on and how far.
type page struct {
	after string // the last item already seen; empty at the beginning
	limit int
	scope string // what the marker is good for: this list of this account
}

// markerSum is how much of a marker ties it to its list, in bytes.
const markerSum = 16

// page reads Limit and Marker. A marker that another list made, or nobody,
// answers InvalidMarkerException. filter is what else narrows the list down.
func (c *call) page(limit *int32, marker *string, defaultLimit int, filter string) (page, error) {
	p := page{limit: defaultLimit, scope: c.op.name + "\x00" + c.caller.Account + "\x00" + c.region + "\x00" + filter}
	if limit != nil {
		p.limit = int(*limit)
	}
	if marker == nil {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(*marker)
	if err != nil || len(raw) <= markerSum {
		return page{}, kmsapi.InvalidMarker()
	}
	p.after = string(raw[markerSum:])
	if strings.ContainsFunc(p.after, unicode.IsControl) || !utf8.ValidString(p.after) {
		return page{}, kmsapi.InvalidMarker()
	}
	if subtle.ConstantTimeCompare(raw[:markerSum], p.sum(p.after)) == 0 {
		return page{}, kmsapi.InvalidMarker()
	}
	return p, nil
}

// next is the marker to go on after an item.
func (p page) next(after string) string {
	return base64.RawURLEncoding.EncodeToString(append(p.sum(after), after...))
}

func (p page) sum(after string) []byte {
	sum := sha256.Sum256([]byte(p.scope + "\x00" + after))
	return sum[:markerSum]
}

// cut shortens a list that was read with one item more than the page holds.
func cut[T any](items []T, p page) ([]T, bool) {
	if len(items) <= p.limit {
		return items, false
	}
	return items[:p.limit], true
}
