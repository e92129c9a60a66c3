package der

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/subtle"
	"math/big"
	"slices"

	"kmsgate/hsm/keyspec"
)

// nistCurve is a curve of the standard library.
type nistCurve struct {
	ecdh     ecdh.Curve
	elliptic elliptic.Curve
}

// nistCurves is read only.
var nistCurves = map[keyspec.Spec]nistCurve{
	keyspec.ECCNISTP256: {ecdh.P256(), elliptic.P256()},
	keyspec.ECCNISTP384: {ecdh.P384(), elliptic.P384()},
	keyspec.ECCNISTP521: {ecdh.P521(), elliptic.P521()},
}

var (
	// k1Prime is the field of secp256k1 (SEC 2, section 2.4.1).
	k1Prime = number("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f")
	// edwardsPrime and edwardsD are the field and d of edwards25519 (RFC 8032,
	// section 5.1).
	edwardsPrime = number("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed")
	edwardsD     = number("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3")
)

// has tells whether a point is on the curve, and written as it should be.
func (c *curve) has(point []byte) bool {
	if len(point) != 1+2*c.bytes || point[0] != 4 {
		return false
	}
	if named, ok := nistCurves[c.spec]; ok {
		_, err := named.ecdh.NewPublicKey(point)
		return err == nil
	}
	x, y := new(big.Int).SetBytes(point[1:1+c.bytes]), new(big.Int).SetBytes(point[1+c.bytes:])
	if x.Cmp(k1Prime) >= 0 || y.Cmp(k1Prime) >= 0 {
		return false
	}
	// y² = x³ + 7
	x.Add(new(big.Int).Exp(x, big.NewInt(3), k1Prime), big.NewInt(7)).Mod(x, k1Prime)
	return y.Exp(y, big.NewInt(2), k1Prime).Cmp(x) == 0
}

// isScalar tells whether n is from 1 to the order less 1.
func (c *curve) isScalar(n *big.Int) bool { return n.Sign() > 0 && n.Cmp(c.order) < 0 }

// isSecretScalar is isScalar of a number in the curve's full width, in a time
// that does not depend on the number.
func (c *curve) isSecretScalar(n []byte) bool {
	order := c.order.FillBytes(make([]byte, c.bytes))
	borrow := 0
	for i := c.bytes - 1; i >= 0; i-- {
		borrow = (int(n[i]) - int(order[i]) - borrow) >> 8 & 1
	}
	zero := subtle.ConstantTimeCompare(n, make([]byte, c.bytes))
	return borrow&^zero == 1
}

// has tells whether a key has the right length and is a key.
func (r *rawKey) has(key []byte) bool {
	return len(key) == r.bytes && (r.valid == nil || r.valid(key))
}

// isRSA tells whether the members are an RSA key of the spec.
func (p *Public) isRSA() bool {
	n := p.N
	spec, ok := rsaSpecs[len(n)]
	return ok && spec == p.Spec && n[0] >= 0x80 && n[len(n)-1]&1 == 1 && bytes.Equal(p.E, exponent)
}

// isEdwardsPoint tells whether a key is the one encoding of a point of edwards25519
// (RFC 8032, section 5.1.3), and not of one of the two whose x is zero: they
// are of order 1 and 2, and nobody's keys.
func isEdwardsPoint(key []byte) bool {
	if len(key) != 32 {
		return false
	}
	b := bytes.Clone(key)
	b[31] &= 0x7f // the sign of x
	slices.Reverse(b)
	y := new(big.Int).SetBytes(b)
	if y.Cmp(edwardsPrime) >= 0 {
		return false
	}
	// x² = (y² - 1) / (dy² + 1) must have a root. So does the product of both then.
	one := big.NewInt(1)
	y.Mul(y, y)
	v := new(big.Int).Mul(edwardsD, y)
	x := y.Sub(y, one).Mul(y, v.Add(v, one))
	return big.Jacobi(x.Mod(x, edwardsPrime), edwardsPrime) == 1
}

// isReduced tells whether all coefficients of an ML-KEM key are less than q
// (FIPS 203, section 7.2). They are 12 bits each, and rho's 32 bytes follow.
func isReduced(key []byte) bool {
	const q = 3329
	for b := key[:len(key)-32]; len(b) > 0; b = b[3:] {
		if int(b[0])|int(b[1]&0x0f)<<8 >= q || int(b[1])>>4|int(b[2])<<4 >= q {
			return false
		}
	}
	return true
}
