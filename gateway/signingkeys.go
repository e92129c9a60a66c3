package gateway

import (
	"crypto/sha256"
	"sync"

	"kmsgate/gateway/sigv4"
)

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

// signingKey derives the key that the request must have been signed with. That of
// a session is not kept: its secret is at hand, and another one every time.
func (c *call) signingKey(by signer, s *sigv4.Signature) ([sha256.Size]byte, error) {
	if by.claims != nil {
		return sigv4.DeriveKey(by.claims.Secret, s.Date, s.Region, s.Service), nil
	}
	key := by.key
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
