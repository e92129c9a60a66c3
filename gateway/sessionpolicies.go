package gateway

import (
	"crypto/sha256"
	"errors"
	"sync"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/session"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// maxSessionPolicyBytes bounds the text of the session policies that are kept compiled,
// which takes up to forty times as much. Beyond it the cache starts anew.
const maxSessionPolicyBytes = 1 << 20

// sessionPolicies caches compiled policies of sessions by the hash of their text, for
// many sessions have the same. Safe for concurrent use.
type sessionPolicies struct {
	mu       sync.RWMutex
	compiled map[[sha256.Size]byte]*policy.Policy // guarded by mu, as all below
	bytes    int                                  // of their text
}

// policy is the policy of a text.
func (s *sessionPolicies) policy(document string) (*policy.Policy, error) {
	hash := sha256.Sum256([]byte(document))
	if p := s.get(hash); p != nil {
		return p, nil
	}
	p, err := policy.ParseIdentity(document)
	if err != nil {
		return nil, err
	}
	s.put(hash, p, len(document))
	return p, nil
}

func (s *sessionPolicies) get(hash [sha256.Size]byte) *policy.Policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.compiled[hash]
}

func (s *sessionPolicies) put(hash [sha256.Size]byte, p *policy.Policy, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.compiled == nil || s.bytes+size > maxSessionPolicyBytes {
		s.compiled, s.bytes = map[[sha256.Size]byte]*policy.Policy{}, 0
	}
	if s.compiled[hash] == nil {
		s.compiled[hash] = p
		s.bytes += size
	}
}

// sessionPolicies are the policies that a session was made with, compiled: those it
// has itself, and the managed ones as they are now. Nil for none.
func (c *call) sessionPolicies(s *session.Claims) ([]*policy.Policy, error) {
	if len(s.Policies)+len(s.PolicyARNs) == 0 {
		return nil, nil
	}
	all := make([]*policy.Policy, 0, len(s.Policies)+len(s.PolicyARNs))
	for _, document := range s.Policies {
		p, err := c.gateway.sessionDocs.policy(document)
		if err != nil {
			return nil, err // it was parsed when the session was made
		}
		all = append(all, p)
	}
	for _, named := range s.PolicyARNs {
		a, _ := arn.ParseIAM(named) // checked when the session was made
		entry, err := c.view.ManagedPolicy(c.ctx, s.Account, a.Name)
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
