package gateway

import (
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
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

// sessionPolicies are the policies that a session was made with, compiled: those it
// has itself, and the managed ones as they are now. Nil for none.
func (c *call) sessionPolicies(by signer) ([]*policy.Policy, error) {
	compiled, err := c.inlinePolicies(by)
	if err != nil || len(by.claims.PolicyARNs) == 0 {
		return compiled, err
	}
	all := slices.Clone(compiled) // what is cached stays as it is
	for _, named := range by.claims.PolicyARNs {
		a, _ := arn.ParseIAM(named) // checked when the session was made
		entry, err := c.view.ManagedPolicy(c.ctx, by.claims.Account, a.Name)
		if errors.Is(err, metadata.ErrNotFound) || err == nil && entry.ARN() != named {
			return nil, kmsapi.UnrecognizedClient() // what it allowed and denied is not known any more
		}
		if err != nil {
			return nil, err
		}
		all = append(all, entry.Policy)
	}
	return all, nil
}

// inlinePolicies are the policies that a session's token has in it.
func (c *call) inlinePolicies(by signer) ([]*policy.Policy, error) {
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
