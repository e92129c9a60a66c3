package hsmtest

import (
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
)

// TestSecp256k1Multiples holds the arithmetic against multiples that are known.
func TestSecp256k1Multiples(t *testing.T) {
	c := newSecp256k1()
	less := new(big.Int).Sub(c.order, big.NewInt(1))
	for _, tc := range []struct {
		n    *big.Int
		want point
	}{
		{big.NewInt(0), point{}},
		{big.NewInt(1), c.base},
		{big.NewInt(2), point{
			number("c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"),
			number("1ae168fea63dc339a3c58419466ceaeef7f632653266d0e1236431a950cfe52a"),
		}},
		{big.NewInt(3), point{
			number("f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"),
			number("388f7b0f632de8140fe337e62a37f3566500a99934c2231b6cb9fd7584b8e672"),
		}},
		{less, point{c.base.x, new(big.Int).Sub(c.prime, c.base.y)}},
		{c.order, point{}},
		{new(big.Int).Add(c.order, big.NewInt(1)), c.base},
	} {
		got := c.multiply(tc.n, c.base)
		same := (got.x == nil) == (tc.want.x == nil)
		if same && got.x != nil {
			same = got.x.Cmp(tc.want.x) == 0 && got.y.Cmp(tc.want.y) == 0 && c.has(got)
		}
		if !same {
			t.Errorf("%v times the base point = %v, want %v", tc.n, got, tc.want)
		}
	}
}

// TestSecp256k1Signatures signs, and verifies what must and what must not verify.
func TestSecp256k1Signatures(t *testing.T) {
	c := newSecp256k1()
	d := new(big.Int).SetBytes(pattern(31))
	q := c.multiply(d, c.base)
	public := slices.Concat([]byte{4}, q.x.FillBytes(make([]byte, 32)), q.y.FillBytes(make([]byte, 32)))
	digest := sha256.Sum256(pattern(100))
	good := c.sign(d, digest[:])
	if !verifySecp256k1(public, digest[:], good) {
		t.Fatalf("a good signature does not verify")
	}
	eachFlip(public, func(bit int) {
		if verifySecp256k1(public, digest[:], good) {
			t.Errorf("the signature verifies with bit %d of the public key flipped", bit)
		}
	})
	other := digest
	someFlips(other[:], 32, func(bit int) {
		if verifySecp256k1(public, other[:], good) {
			t.Errorf("the signature verifies with bit %d of the digest flipped", bit)
		}
	})
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(good, &sig); err != nil {
		t.Fatalf("the signature is no DER: %v", err)
	}
	zero := new(big.Int)
	for name, bad := range map[string][]byte{
		"nothing": nil, "longer": append(slices.Clone(good), 0), "r is zero": sequence(zero, sig.S), "s is zero": sequence(sig.R, zero),
		"r is negative": sequence(new(big.Int).Neg(sig.R), sig.S), "r and s exchanged": sequence(sig.S, sig.R),
		"r plus the order": sequence(new(big.Int).Add(sig.R, c.order), sig.S), "s plus the order": sequence(sig.R, new(big.Int).Add(sig.S, c.order)),
	} {
		if verifySecp256k1(public, digest[:], bad) {
			t.Errorf("a signature verifies: %s", name)
		}
	}
}
