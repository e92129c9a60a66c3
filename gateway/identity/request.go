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

// maxItems is how many items a page has unless MaxItems says less (IAM API
// Reference, "ListUsers").
const maxItems = 100

// start is where a page begins, after the item of a name that is empty at the
// beginning, and how many items it has.
func (p *PageRequest) start() (after string, limit int, err error) {
	limit = maxItems
	if p.MaxItems != nil {
		limit = int(*p.MaxItems)
	}
	if p.Marker == nil {
		return "", limit, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(*p.Marker)
	after, ok := strings.CutPrefix(string(raw), markerVersion)
	if err != nil || !ok || !utf8.ValidString(after) || strings.ContainsRune(after, 0) {
		return "", 0, &kmsapi.Error{Code: awsquery.ValidationError, Message: "Invalid Marker."}
	}
	return after, limit, nil
}

// markerVersion begins every marker, so that they may change.
const markerVersion = "1\x00"

// Paged is the end of every list (IAM API Reference, "ListUsers").
type Paged struct {
	IsTruncated bool
	Marker      string `xml:",omitempty"`
}

// pageOf is a page of a list: of the items that read returns, at most limit after the
// one of a name. Their names are in order.
func pageOf[T any](p *PageRequest, name func(T) string, read func(after string, limit int) ([]T, error)) ([]T, Paged, error) {
	after, limit, err := p.start()
	if err != nil {
		return nil, Paged{}, err
	}
	items, err := read(after, limit+1) // one more tells that the list goes on
	if err != nil || len(items) <= limit {
		return items, Paged{}, err
	}
	marker := markerVersion + name(items[limit-1])
	return items[:limit], Paged{IsTruncated: true, Marker: base64.RawURLEncoding.EncodeToString([]byte(marker))}, nil
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
