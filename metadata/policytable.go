package metadata

import (
	"fmt"

	"kmsgate/policy"
)

// sharedPolicy is a policy document and what it compiles to, shared by all keys
// that have it: most keys of an account have the default policy.
type sharedPolicy struct {
	document string
	policy   *policy.Policy
	holders  int // entries of the cache; guarded by the cache's mu
}

// compilePolicy parses a document that was checked when it was put.
func compilePolicy(document string) (*sharedPolicy, error) {
	p, err := policy.Parse(document)
	if err != nil {
		return nil, fmt.Errorf("stored policy: %w", err)
	}
	return &sharedPolicy{document: document, policy: p}, nil
}

// size estimates the bytes of a document and its compiled form.
func (p *sharedPolicy) size() int { return 4 * len(p.document) }

// policyTable has the policies that entries of the cache hold, by document. Its
// owner locks.
type policyTable map[string]*sharedPolicy

// hold counts one more holder and returns by how many bytes that makes the cache
// larger. p may be nil.
func (t policyTable) hold(p *sharedPolicy) int {
	if p == nil {
		return 0
	}
	p.holders++
	if t[p.document] == nil {
		t[p.document] = p
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
	if t[p.document] == p {
		delete(t, p.document)
	}
	return p.size()
}
