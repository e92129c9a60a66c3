package gateway

import (
	"errors"
	"io"
	"net/http"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/sigv4"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// maxBodyBytes bounds a request's body. The largest legal one, with a key
// policy of full size and its JSON escapes, is well below.
const maxBodyBytes = 1 << 20

// authenticate finds out who calls, from the signature over the whole request.
// Everything that can be refused without the body is refused before it is read.
func (c *call) authenticate(r *http.Request) error {
	if c.service == serviceContainers {
		c.region = c.gateway.regions[0].Name
		return nil
	}
	if c.op == nil && c.query == "" && !isSigned(r) {
		return c.takeUnsigned(r)
	}
	signature, err := sigv4.ParseHeader(r)
	if err != nil {
		return c.signatureError(err)
	}
	c.event.Identity = audit.UserIdentity{Type: audit.Unknown, AccessKeyID: signature.AccessKeyID}
	c.address(signature.Service)
	if err := signature.CheckScope(c.now, c.takesRegion, string(c.service)); err != nil {
		return c.signatureError(err)
	}
	signer, err := c.signerOf(signature)
	if err != nil {
		return err
	}
	defer signer.forget()
	if err := c.readBody(r, c.protocol().maxBody); err != nil {
		return err
	}
	signature.SetBody(c.body)
	signingKey, err := c.signingKey(signer, signature)
	if err != nil {
		return err
	}
	if err := signature.Verify(signingKey); err != nil {
		return c.signatureError(err)
	}
	c.region = c.gateway.regionName(signature.Region)
	c.event.Region = c.region
	if err := c.admitCaller(signer); err != nil {
		return err
	}
	if signer.key != nil {
		c.gateway.keyUses.note(metadata.AccessKeyUse{AccessKeyID: signer.key.ID, At: c.now, Region: c.region, Service: string(c.service)})
	}
	return nil
}

// globalRegion is the region that clients sign for when they call IAM, and STS at
// its global endpoint.
const globalRegion = "us-east-1"

// takesRegion tells whether a request may be signed for a region.
func (c *call) takesRegion(region string) bool {
	return c.gateway.serves(region) || region == globalRegion && c.service != serviceKMS
}

// isSigned tells whether a request claims to be signed, in whichever form.
func isSigned(r *http.Request) bool {
	return len(r.Header["Authorization"]) > 0 || r.URL.Query().Has("X-Amz-Algorithm")
}

// takeUnsigned reads a form that nobody signed. There are operations that prove
// in another way who calls.
func (c *call) takeUnsigned(r *http.Request) error {
	if err := c.readBody(r, c.protocol().maxBody); err != nil {
		return err
	}
	if err := c.name(); err != nil || !c.op.anonymous {
		c.op, c.event.Name = nil, unknownOperation
		return &kmsapi.Error{Code: sigv4.Missing, Message: "Missing Authentication Token"}
	}
	c.region = c.gateway.regions[0].Name
	return nil
}

// readBody reads the whole body, once, or refuses it.
func (c *call) readBody(r *http.Request, limit int) error {
	if c.body != nil {
		return nil
	}
	if r.Header.Get("Content-Encoding") != "" {
		return kmsapi.Serialization("") // no client compresses requests
	}
	if r.ContentLength > int64(limit) {
		return kmsapi.BodyTooLarge(limit)
	}
	c.body = make([]byte, 0, min(max(int(r.ContentLength), 0), firstBodyBytes)+1)
	for {
		if len(c.body) == cap(c.body) && !c.growBody() {
			c.shed = true
			return kmsapi.Throttled()
		}
		n, err := r.Body.Read(c.body[len(c.body):cap(c.body)])
		c.body = c.body[:len(c.body)+n]
		switch {
		case len(c.body) > limit:
			return kmsapi.BodyTooLarge(limit)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return kmsapi.Serialization("") // cut off on its way
		}
	}
}

// firstBodyBytes is the room that a body gets before any of it has come.
const firstBodyBytes = 4 << 10

// maxBodiesBytes bounds what all requests at once hold of bodies beyond their
// first room.
const maxBodiesBytes = 64 << 20

// growBody doubles the room for the body and clears the old one; it does not if
// all bodies together take too much.
func (c *call) growBody() bool {
	more := int64(cap(c.body))
	if c.gateway.bodies.Add(more) > maxBodiesBytes {
		c.gateway.bodies.Add(-more)
		return false
	}
	c.room += more
	larger := make([]byte, len(c.body), 2*cap(c.body))
	copy(larger, c.body)
	clear(c.body)
	c.body = larger
	return true
}

// signatureError is a refusal of the verifier as the caller hears it. What more
// there is to say goes to the log.
func (c *call) signatureError(err error) error {
	refusal, ok := errors.AsType[*sigv4.Error](err)
	if !ok {
		return err
	}
	c.detail = refusal.Detail
	return &kmsapi.Error{Code: kmsapi.Code(refusal.Code), Message: refusal.Message}
}

// isAccessKeyID tells whether a string has the shape of an access key id.
func isAccessKeyID(s string) bool {
	if len(s) < 16 || len(s) > 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
