// Package kmsapi has the words of the AWS KMS API: one request and one
// response type per operation, the enums, the error codes and the texts that
// go with them, and the constraints that AWS's model puts on each member.
//
// It knows neither JSON bytes nor HTTP (gateway/awsjson has the first, gateway
// the second), and it decides nothing that depends on state: what a request
// says is checked here only as far as the request alone can tell.
//
// Member names are the json tags and are exact. In requests a scalar is a
// pointer, because a member that was not sent differs from one that was sent
// empty (KeyId "" breaks two constraints, no KeyId one other); [Or] reads one
// that has a default. Members that the constraints require are not nil after
// [Validate]. In responses scalars are plain, and zero ones are left out of
// the encoding unless AWS always sends them.
//
// AWS KMS API Reference, version 2014-11-01, as of aws-sdk-go-v2/service/kms
// v1.62.4; a test holds the types against that package.
package kmsapi

// Or is what p points to, or absent if the member was not sent.
func Or[T any](p *T, absent T) T {
	if p == nil {
		return absent
	}
	return *p
}

// Empty is the response of an operation that has no output shape. Its encoding
// is an empty body.
type Empty struct{}

// Trial is embedded in the requests that can be tried without effect.
type Trial struct {
	// DryRun asks for every check and no effect; the answer is always an error.
	DryRun *bool `json:"DryRun,omitzero"`
}

// IsDryRun tells whether the request asks for a trial only.
func (t Trial) IsDryRun() bool { return Or(t.DryRun, false) }

// Page is embedded in the responses that come in pages.
type Page struct {
	// NextMarker is the Marker of the next page; set only if Truncated.
	NextMarker string `json:"NextMarker,omitzero"`
	// Truncated tells whether there is a next page. It is always sent.
	Truncated bool `json:"Truncated"`
}
