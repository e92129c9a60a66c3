package der

import (
	"bytes"
	"math/big"

	"kmsgate/hsm/keyspec"
)

// curveNumbers are the field, b and the base point of a curve y² = x³ + ax + b,
// where a is -3, or 0 for secp256k1 (SEC 2).
type curveNumbers struct {
	p, a, b, x, y *big.Int
}

func (c *curve) numbers() curveNumbers {
	if named, ok := nistCurves[c.spec]; ok {
		of := named.elliptic.Params()
		return curveNumbers{of.P, big.NewInt(-3), of.B, of.Gx, of.Gy}
	}
	return curveNumbers{k1Prime, new(big.Int), big.NewInt(7), k1X, k1Y}
}

var (
	k1X = number("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
	k1Y = number("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8")
)

// BasePoint is the base point of an EC spec, uncompressed; nil for other specs.
func BasePoint(spec keyspec.Spec) []byte {
	c, ok := curveOf(spec)
	if !ok {
		return nil
	}
	of := c.numbers()
	return c.point(of.x, of.y)
}

// PointsOf are the two points of an EC spec's curve that have an x-coordinate,
// uncompressed; nil if none has.
func PointsOf(spec keyspec.Spec, x []byte) [][]byte {
	c, ok := curveOf(spec)
	if !ok || len(x) != c.bytes {
		return nil
	}
	var points [][]byte
	for _, form := range []byte{2, 3} {
		if p := c.uncompressed(append([]byte{form}, x...)); p != nil {
			points = append(points, p)
		}
	}
	return points
}

// uncompressed is a point (SEC 1, section 2.3.4) as 0x04, X and Y; nil if it is not
// one of the curve.
func (c *curve) uncompressed(point []byte) []byte {
	if len(point) != 1+c.bytes || point[0] != 2 && point[0] != 3 {
		if !c.has(point) {
			return nil
		}
		return bytes.Clone(point)
	}
	of, x := c.numbers(), new(big.Int).SetBytes(point[1:])
	if x.Cmp(of.p) >= 0 {
		return nil
	}
	// y² = x³ + ax + b; the fields are all 3 modulo 4.
	y := new(big.Int).Exp(x, big.NewInt(3), of.p)
	y.Add(y, new(big.Int).Mul(of.a, x)).Add(y, of.b).Mod(y, of.p)
	root := new(big.Int).Add(of.p, big.NewInt(1))
	y.Exp(y, root.Rsh(root, 2), of.p)
	if y.Bit(0) != uint(point[0]&1) {
		y.Sub(of.p, y)
	}
	if full := c.point(x, y); c.has(full) {
		return full
	}
	return nil
}

func (c *curve) point(x, y *big.Int) []byte {
	b := make([]byte, 1+2*c.bytes)
	b[0] = 4
	x.FillBytes(b[1 : 1+c.bytes])
	y.FillBytes(b[1+c.bytes:])
	return b
}
