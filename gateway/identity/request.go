package identity

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

// Request is what the functions of this package know of a request beyond its
// members.
type Request struct {
	Caller Caller
	Now    time.Time
	Region string
	Store  *metadata.Store
	View   *metadata.View
	// Target is what the request's first target was found to be: the user, group,
	// role, policy or provider that it is on. Zero for an operation without one.
	Target Target
	// Token and KeyStore seal what is secret: those of the request's region.
	Token    hsm.Token
	KeyStore string
	// SealSession makes the token of a session, of at least so many characters.
	SealSession func(ctx context.Context, c *session.Claims, least int) (token string, err error)
}

// Target is a thing of IAM that a request is on. It exists, unless the request is
// to make it.
type Target struct {
	Account string
	Name    string // of a user, group, role or managed policy; of a provider its URL; empty for the account's root
	ARN     string
}

// page is where a list goes on and how far.
type page struct {
	after string // name of the last item that was listed; empty at the beginning
	limit int
}

// maxItems is how many items a page has unless MaxItems says less (IAM API
// Reference, "ListUsers").
const maxItems = 100

// pageOf reads Marker and MaxItems.
func pageOf(marker *string, max *int32) (page, error) {
	p := page{limit: maxItems}
	if max != nil {
		p.limit = int(*max)
	}
	if marker == nil {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(*marker)
	after, ok := strings.CutPrefix(string(raw), markerVersion)
	if err != nil || !ok || !utf8.ValidString(after) || strings.ContainsRune(after, 0) {
		return page{}, &kmsapi.Error{Code: awsquery.ValidationError, Message: "Invalid Marker."}
	}
	p.after = after
	return p, nil
}

// markerVersion begins every marker, so that they may change.
const markerVersion = "1\x00"

// Paged is the end of every list (IAM API Reference, "ListUsers").
type Paged struct {
	IsTruncated bool
	Marker      string `xml:",omitempty"`
}

// cut shortens a list that was read with one item more than the page holds.
func cut[T any](items []T, p page, name func(T) string) ([]T, Paged) {
	if len(items) <= p.limit {
		return items, Paged{}
	}
	items = items[:p.limit]
	last := name(items[len(items)-1])
	return items, Paged{IsTruncated: true, Marker: base64.RawURLEncoding.EncodeToString([]byte(markerVersion + last))}
}

// idLetters are those of unique ids and access key ids.
const idLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// newID makes a unique id: a prefix such as AIDA, and 17 characters that no other
// id has.
func newID(prefix string) string {
	random := make([]byte, 17)
	_, _ = rand.Read(random) // never fails (crypto/rand, since Go 1.24)
	for i, b := range random {
		random[i] = idLetters[int(b)%len(idLetters)]
	}
	return prefix + string(random)
}

// Work is what a function of this package found fit to be done, in two steps as
// the gateway wants them: Do asks the token or reads, Commit changes.
type Work[Out any] struct {
	Do     func(context.Context) (*Out, error)
	Commit func(context.Context, *metadata.Tx) (*Out, error)
}
