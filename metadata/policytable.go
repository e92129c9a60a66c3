package metadata

import (
	"encoding/json"
	"fmt"

	"kmsgate/policy"
)

// sharedPolicy is a policy document, what its principals are bound to, and what it
// compiles to, shared by all keys that have it: most keys of an account have the
// default policy.
type sharedPolicy struct {
	document string
	bindings map[string]string
	policy   *policy.Policy
	key      policyKey
	holders  int // entries of the cache; guarded by the cache's mu
}

// policyKey is a document and its bindings as Postgres prints them.
type policyKey struct{ document, bindings string }

// compilePolicy parses a document that was checked when it was put.
func compilePolicy(key policyKey) (*sharedPolicy, error) {
	p, err := policy.Parse(key.document)
	if err != nil {
		return nil, fmt.Errorf("stored policy: %w", err)
	}
	shared := &sharedPolicy{document: key.document, key: key}
	if err := json.Unmarshal([]byte(key.bindings), &shared.bindings); err != nil {
		return nil, fmt.Errorf("stored bindings of a policy: %w", err)
	}
	shared.policy = p.Bind(shared.bindings)
	return shared, nil
}

// compiledFactor is how many bytes a document takes with its compiled form, for each
// of its own: 8 for most, 38 for one that is made of wildcards.
const compiledFactor = 16

// size estimates the bytes of a document and its compiled form.
func (p *sharedPolicy) size() int { return compiledFactor * (len(p.document) + len(p.key.bindings)) }

// policyTable has the policies that entries of the cache hold. Its owner locks.
type policyTable map[policyKey]*sharedPolicy

// hold counts one more holder and returns by how many bytes that makes the cache
// larger. p may be nil.
func (t policyTable) hold(p *sharedPolicy) int {
	if p == nil {
		return 0
	}
	p.holders++
	if t[p.key] == nil {
		t[p.key] = p
	}
	if p.holders > 1 {
		return 0
	}
	return p.size()
}

// release counts one holder less and returns by how many bytes that makes the
// cache smaller. p may be nil.
func (t policyTable) release(p *sharedPolicy) int {
	if p == nil {
		return 0
	}
	p.holders--
	if p.holders > 0 {
		return 0
	}
	if t[p.key] == p {
		delete(t, p.key)
	}
	return p.size()
}
