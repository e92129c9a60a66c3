package hsmtest

import (
	"crypto/rand"
	"encoding/asn1"
	"math/big"

	"kmsgate/hsm/keyspec"
)

// secp256k1 is the curve y² = x³ + 7 (SEC 2, section 2.4.1), which Go's standard
// library does not have. Its arithmetic here is for public values: how long it
// takes depends on them.
type secp256k1 struct {
	prime, order *big.Int
	base         point
}

// point is a point in affine coordinates; x is nil for the one at infinity.
type point struct{ x, y *big.Int }

func newSecp256k1() *secp256k1 {
	return &secp256k1{
		prime: number("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f"),
		order: curveOrders[keyspec.ECCSECGP256K1],
		base: point{
			number("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
			number("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"),
		},
	}
}

// has tells whether the curve's equation holds.
func (c *secp256k1) has(p point) bool {
	right := new(big.Int).Exp(p.x, big.NewInt(3), c.prime)
	right.Add(right, big.NewInt(7)).Mod(right, c.prime)
	left := new(big.Int).Exp(p.y, big.NewInt(2), c.prime)
	return p.x.Cmp(c.prime) < 0 && p.y.Cmp(c.prime) < 0 && left.Cmp(right) == 0
}

// add adds two points (SEC 1, section 2.2.1).
func (c *secp256k1) add(p, q point) point {
	if p.x == nil {
		return q
	}
	if q.x == nil {
		return p
	}
	var slope *big.Int
	if p.x.Cmp(q.x) == 0 {
		if p.y.Cmp(q.y) != 0 || p.y.Sign() == 0 {
			return point{}
		}
		slope = new(big.Int).Mul(big.NewInt(3), new(big.Int).Mul(p.x, p.x))
		slope.Mul(slope, new(big.Int).ModInverse(new(big.Int).Lsh(p.y, 1), c.prime))
	} else {
		run := new(big.Int).Sub(q.x, p.x)
		slope = new(big.Int).Sub(q.y, p.y)
		slope.Mul(slope, new(big.Int).ModInverse(run.Mod(run, c.prime), c.prime))
	}
	x := new(big.Int).Mul(slope, slope)
	x.Sub(x, p.x).Sub(x, q.x).Mod(x, c.prime)
	y := new(big.Int).Sub(p.x, x)
	y.Mul(y, slope).Sub(y, p.y).Mod(y, c.prime)
	return point{x, y}
}

// multiply is n times p.
func (c *secp256k1) multiply(n *big.Int, p point) (sum point) {
	for bit := n.BitLen() - 1; bit >= 0; bit-- {
		sum = c.add(sum, sum)
		if n.Bit(bit) == 1 {
			sum = c.add(sum, p)
		}
	}
	return sum
}

// parse reads an uncompressed point.
func (c *secp256k1) parse(b []byte) (point, bool) {
	if len(b) != 65 || b[0] != 4 {
		return point{}, false
	}
	p := point{new(big.Int).SetBytes(b[1:33]), new(big.Int).SetBytes(b[33:])}
	return p, c.has(p)
}

// verifySecp256k1 verifies an ECDSA signature (SEC 1, section 4.1.4) of a digest of
// 32 bytes.
func verifySecp256k1(public, digest, signature []byte) bool {
	c := newSecp256k1()
	q, ok := c.parse(public)
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signature, &sig); !ok || err != nil || len(rest) > 0 {
		return false
	}
	for _, n := range []*big.Int{sig.R, sig.S} {
		if n.Sign() <= 0 || n.Cmp(c.order) >= 0 {
			return false
		}
	}
	inverse := new(big.Int).ModInverse(sig.S, c.order)
	u1 := new(big.Int).Mul(new(big.Int).SetBytes(digest), inverse)
	u2 := new(big.Int).Mul(sig.R, inverse)
	r := c.add(c.multiply(u1.Mod(u1, c.order), c.base), c.multiply(u2.Mod(u2, c.order), q))
	return r.x != nil && new(big.Int).Mod(r.x, c.order).Cmp(sig.R) == 0
}

// sign signs a digest of 32 bytes with a key that is thrown away. It is not for
// others: how long it takes depends on the key.
func (c *secp256k1) sign(d *big.Int, digest []byte) []byte {
	for {
		n, err := rand.Int(rand.Reader, c.order)
		if err != nil || n.Sign() == 0 {
			continue
		}
		r := new(big.Int).Mod(c.multiply(n, c.base).x, c.order)
		sum := new(big.Int).Mul(r, d)
		sum.Add(sum, new(big.Int).SetBytes(digest))
		sum.Mul(sum, n.ModInverse(n, c.order)).Mod(sum, c.order)
		if r.Sign() != 0 && sum.Sign() != 0 {
			return sequence(r, sum)
		}
	}
}
