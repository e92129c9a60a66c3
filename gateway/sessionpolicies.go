package gateway

import (
	"crypto/sha256"
	"sync"

	"kmsgate/policy"
)

// maxSessionPolicies bounds the sessions whose policies are kept compiled. Beyond it
// the cache starts anew.
const maxSessionPolicies = 10_000

// sessionPolicies caches the compiled policies of sessions by the hash of their
// token, which says all that is in it. Safe for concurrent use.
type sessionPolicies struct {
	mu       sync.RWMutex
	compiled map[[sha256.Size]byte][]*policy.Policy // guarded by mu
}

func (s *sessionPolicies) get(token [sha256.Size]byte) ([]*policy.Policy, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.compiled[token]
	return p, ok
}

func (s *sessionPolicies) put(token [sha256.Size]byte, compiled []*policy.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.compiled == nil || len(s.compiled) >= maxSessionPolicies {
		s.compiled = map[[sha256.Size]byte][]*policy.Policy{}
	}
	s.compiled[token] = compiled
}

// sessionPolicies are the policies that a session was made with, compiled; nil for
// none.
func (c *call) sessionPolicies(by signer) ([]*policy.Policy, error) {
	documents := by.claims.Policies
	if len(documents) == 0 {
		return nil, nil
	}
	if compiled, ok := c.gateway.sessionDocs.get(by.token); ok {
		return compiled, nil
	}
	compiled := make([]*policy.Policy, 0, len(documents))
	for _, document := range documents {
		p, err := policy.ParseIdentity(document)
		if err != nil {
			return nil, err // it was parsed when the session was made
		}
		compiled = append(compiled, p)
	}
	c.gateway.sessionDocs.put(by.token, compiled)
	return compiled, nil
}
