package policy

import (
	"maps"
	"strings"
)

// Grant is a compiled grant: operations on one key, under constraints. It never
// changes and is safe for concurrent use.
//
// KMS Developer Guide, "Grants in AWS KMS".
type Grant struct {
	id          string
	operations  operations
	constraints GrantConstraints
	// equals and subset are the pairs of the constraints' maps, which are slower
	// to go through.
	equals, subset []pair
}

type pair struct{ key, value string }

// GrantConstraints bound what a grant allows. The zero value bounds nothing.
type GrantConstraints struct {
	// EncryptionContextEquals must be the whole encryption context of a request
	// for an operation that takes one. Nil for none.
	EncryptionContextEquals map[string]string
	// EncryptionContextSubset must all be in the encryption context of a request
	// for an operation that takes one. Nil for none.
	EncryptionContextSubset map[string]string
	// SourceARN is what aws:SourceArn must be. Empty for none.
	SourceARN string
}

// GrantContext is what a request holds against the constraints of grants.
type GrantContext struct {
	// EncryptionContext of the request that goes with this key. Nil is an empty one.
	EncryptionContext map[string]string
	SourceARN         string // aws:SourceArn; empty if the request has none
}

// operations is a set of grant operations, a bit each.
type operations uint32

// unknownOperation stands for all that are not grant operations.
const unknownOperation operations = 1 << 31

// grantOperations are the operations that grants can give, by name.
//
// KMS API Reference, CreateGrant and GrantConstraints.
var grantOperations = map[string]operations{
	"Encrypt":                             1 << 0,
	"Decrypt":                             1 << 1,
	"GenerateDataKey":                     1 << 2,
	"GenerateDataKeyWithoutPlaintext":     1 << 3,
	"GenerateDataKeyPair":                 1 << 4,
	"GenerateDataKeyPairWithoutPlaintext": 1 << 5,
	"ReEncryptFrom":                       1 << 6,
	"ReEncryptTo":                         1 << 7,
	"Sign":                                1 << 8,
	"Verify":                              1 << 9,
	"GenerateMac":                         1 << 10,
	"VerifyMac":                           1 << 11,
	"DeriveSharedSecret":                  1 << 12,
	"Encapsulate":                         1 << 13,
	"Decapsulate":                         1 << 14,
	"GetPublicKey":                        1 << 15,
	"DescribeKey":                         1 << 16,
	"CreateGrant":                         1 << 17,
	"RetireGrant":                         1 << 18,
}

// Sets of grant operations.
const (
	withContext operations = 1<<8 - 1 // take an encryption context, with keys that can have constraints on it
	retirement  operations = 1 << 18
)

// NewGrant compiles a grant; operations are grant operations such as "Decrypt",
// letter case matters. An operation that is not known allows nothing.
func NewGrant(id string, operations []string, constraints GrantConstraints) *Grant {
	g := &Grant{id: id, constraints: GrantConstraints{
		EncryptionContextEquals: maps.Clone(constraints.EncryptionContextEquals),
		EncryptionContextSubset: maps.Clone(constraints.EncryptionContextSubset),
		SourceARN:               constraints.SourceARN,
	}}
	g.equals, g.subset = pairsOf(constraints.EncryptionContextEquals), pairsOf(constraints.EncryptionContextSubset)
	for _, name := range operations {
		bit, known := grantOperations[name]
		if !known {
			bit = unknownOperation
		}
		g.operations |= bit
	}
	return g
}

// Covers tells whether a holder of g may give child to others: no operation that
// g has not, and constraints that are at least as strict.
//
// KMS Developer Guide, "Creating grants", on CreateGrant through a grant.
func (g *Grant) Covers(child *Grant) bool {
	own, its := &g.constraints, &child.constraints
	switch {
	case child.operations&^g.operations != 0 || child.operations&unknownOperation != 0:
		return false
	case own.SourceARN != "" && own.SourceARN != its.SourceARN:
		return false
	case own.EncryptionContextEquals != nil &&
		(its.EncryptionContextEquals == nil || !maps.Equal(own.EncryptionContextEquals, its.EncryptionContextEquals)):
		return false
	}
	return hasPairs(its.EncryptionContextEquals, g.subset) || hasPairs(its.EncryptionContextSubset, g.subset)
}

func pairsOf(m map[string]string) []pair {
	var all []pair
	for k, v := range m {
		all = append(all, pair{k, v})
	}
	return all
}

// hasPairs tells whether m has all pairs.
func hasPairs(m map[string]string, all []pair) bool {
	for i := range all {
		if got, ok := m[all[i].key]; !ok || got != all[i].value {
			return false
		}
	}
	return true
}

// grantOperation is the operation that an action is, 0 if grants can't give it.
func grantOperation(action string) operations {
	name, ok := strings.CutPrefix(action, "kms:")
	if !ok {
		return 0
	}
	return grantOperations[name]
}

// fails tells which part of g does not allow the operation, Nothing if all do.
func (g *Grant) fails(op operations, e *evaluation) Element {
	c := &g.constraints
	switch {
	case g.operations&op == 0:
		return ActionElement
	case e.assumed == against && g.constrains(op):
		return ConditionElement
	case e.assumed != asAsked:
		return Nothing
	case c.SourceARN != "" && op != retirement && c.SourceARN != e.Granted.SourceARN:
		return SourceARNElement
	case op&withContext != 0 && !g.admits(e.Granted.EncryptionContext):
		return EncryptionContextElement
	}
	return Nothing
}

// constrains tells whether there is a constraint on the operation.
func (g *Grant) constrains(op operations) bool {
	c := &g.constraints
	return c.SourceARN != "" && op != retirement ||
		op&withContext != 0 && (c.EncryptionContextEquals != nil || len(c.EncryptionContextSubset) > 0)
}

// admits tells whether an encryption context is within the constraints.
func (g *Grant) admits(context map[string]string) bool {
	exact := g.constraints.EncryptionContextEquals != nil
	return !(exact && len(context) != len(g.equals)) && hasPairs(context, g.equals) && hasPairs(context, g.subset)
}
