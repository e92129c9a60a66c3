package gateway

import (
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"sync"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/sigv4"
	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// maxBodyBytes bounds a request's body. The largest legal one, with a key
// policy of full size and its JSON escapes, is well below.
const maxBodyBytes = 1 << 20

// authenticate finds out who calls, from the signature over the whole request.
// Everything that can be refused without the body is refused before it is read.
func (c *call) authenticate(r *http.Request) error {
	signature, err := sigv4.ParseHeader(r)
	if err != nil {
		return c.signatureError(err)
	}
	c.event.Identity = audit.UserIdentity{Type: audit.Unknown, AccessKeyID: signature.AccessKeyID}
	if err := signature.CheckScope(c.now, c.gateway.serves, string(c.service)); err != nil {
		return c.signatureError(err)
	}
	key, err := c.accessKey(signature)
	if err != nil {
		return err
	}
	if err := c.readBody(r, protocols[c.service].maxBody); err != nil {
		return err
	}
	signature.SetBody(c.body)
	signingKey, err := c.signingKey(key, signature)
	if err != nil {
		return err
	}
	if err := signature.Verify(signingKey); err != nil {
		return c.signatureError(err)
	}
	c.region = c.gateway.regionName(signature.Region)
	c.caller = identity.Root(key.Account, key.ID)
	c.event.Identity, c.event.Region = rootIdentity(key.Account, key.ID), c.region
	c.event.RecipientAccount = key.Account
	return nil
}

// accessKey is the key that the signature claims, if it is one and active.
func (c *call) accessKey(s *sigv4.Signature) (*metadata.AccessKey, error) {
	if s.Token != "" {
		// Long-term keys have no session token: one that came along belongs to
		// another key.
		return nil, kmsapi.UnrecognizedClient()
	}
	return c.activeKey(s.AccessKeyID)
}

func (c *call) activeKey(id string) (*metadata.AccessKey, error) {
	if !isAccessKeyID(id) {
		return nil, kmsapi.UnrecognizedClient()
	}
	key, err := c.view.AccessKey(c.ctx, id)
	if errors.Is(err, metadata.ErrNotFound) || err == nil && key.Status != metadata.AccessKeyActive {
		return nil, kmsapi.UnrecognizedClient()
	}
	return key, err
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

func rootIdentity(account, accessKeyID string) audit.UserIdentity {
	root := identity.Root(account, accessKeyID)
	return audit.UserIdentity{
		Type: audit.Root, PrincipalID: root.UserID, ARN: root.ARN, Account: account, AccessKeyID: accessKeyID,
	}
}

// maxSigningKeys bounds the cache of signing keys. Beyond it the cache starts anew.
const maxSigningKeys = 10_000

// signingKeys caches what SigV4 derives from an access key's secret for one
// day, region and service, so that neither the secret nor the token is needed
// for every request. An entry is good for one sealed secret only. Safe for
// concurrent use.
type signingKeys struct {
	mu   sync.RWMutex
	keys map[signingScope]signingKey // guarded by mu
}

type signingScope struct{ account, accessKey, date, region, service string }

type signingKey struct {
	sealed [sha256.Size]byte // of the sealed secret it was derived from
	key    [sha256.Size]byte
}

func (s *signingKeys) get(scope signingScope) (signingKey, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	k, ok := s.keys[scope]
	return k, ok
}

func (s *signingKeys) put(scope signingScope, k signingKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil || len(s.keys) >= maxSigningKeys {
		s.keys = map[signingScope]signingKey{}
	}
	s.keys[scope] = k
}

// signingKey derives the key that the request must have been signed with.
func (c *call) signingKey(key *metadata.AccessKey, s *sigv4.Signature) ([sha256.Size]byte, error) {
	scope := signingScope{key.Account, key.ID, s.Date, s.Region, s.Service}
	sealed := sha256.Sum256(key.SealedSecret)
	if k, ok := c.gateway.signingKeys.get(scope); ok && k.sealed == sealed {
		return k.key, nil
	}
	secret, err := c.gateway.OpenSecret(c.ctx, key)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer clear(secret)
	derived := sigv4.DeriveKey(secret, s.Date, s.Region, s.Service)
	c.gateway.signingKeys.put(scope, signingKey{sealed: sealed, key: derived})
	return derived, nil
}

// secretAAD binds a sealed secret to the access key it belongs to.
func secretAAD(account, accessKeyID string) []byte {
	return []byte("kmsgate access key\x00" + account + "\x00" + accessKeyID)
}

// sealCall is on whose behalf access keys are sealed and opened.
func sealCall(account string) hsm.Call { return hsm.Call{Account: account} }
