// Package der is how keys and signatures are encoded outside a token:
// SubjectPublicKeyInfo (RFC 5280), PKCS#8 (RFC 5958) and DER signatures on one
// side, what PKCS#11 wants instead on the other. It is pure; all functions are
// safe for concurrent use.
package der

import (
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"

	"kmsgate/hsm/keyspec"
)

// Errors, to be asked for with errors.Is. None says more than that.
var (
	// ErrPublicKey: not the one encoding of a valid key of a known spec.
	ErrPublicKey = errors.New("der: public key is not valid")
	// ErrPrivateKey: the parts do not make a private key of the spec.
	ErrPrivateKey = errors.New("der: private key is not valid")
	// ErrSignature: not the one encoding of a signature that could be valid.
	ErrSignature = errors.New("der: signature is not valid")
	// ErrOAEP: the block is not one of RSAES-OAEP, whatever the reason.
	ErrOAEP = errors.New("der: block is not OAEP-encoded")
)

// Tags of DER (X.690).
const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagSequence    = 0x30
)

// curve is what the package knows of a Weierstrass curve.
type curve struct {
	spec  keyspec.Spec
	oid   asn1.ObjectIdentifier // SEC 2; RFC 5480
	bytes int                   // of a field element, and of a scalar
	order *big.Int
}

// curves is read only.
var curves = []curve{
	{
		keyspec.ECCNISTP256,
		asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7},
		32,
		number("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"),
	},
	{
		keyspec.ECCNISTP384,
		asn1.ObjectIdentifier{1, 3, 132, 0, 34},
		48,
		number("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973"),
	},
	{
		keyspec.ECCNISTP521,
		asn1.ObjectIdentifier{1, 3, 132, 0, 35},
		66,
		number("01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409"),
	},
	{
		keyspec.ECCSECGP256K1,
		asn1.ObjectIdentifier{1, 3, 132, 0, 10},
		32,
		number("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"),
	},
}

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // RFC 8017
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}     // RFC 5480
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}             // RFC 8410
)

// rawKey is a spec whose public key is a byte string of one length.
type rawKey struct {
	spec  keyspec.Spec
	oid   asn1.ObjectIdentifier
	bytes int
	seed  int               // bytes of the private key's seed in PKCS#8; zero: not given out
	valid func([]byte) bool // nil if every string of the length is a key
}

// rawKeys is read only.
var rawKeys = []rawKey{
	{keyspec.ECCNISTEdwards25519, oidEd25519, 32, 32, isEdwardsPoint},
	{keyspec.MLDSA44, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, 1312, 0, nil}, // RFC 9881; FIPS 204
	{keyspec.MLDSA65, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, 1952, 0, nil},
	{keyspec.MLDSA87, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, 2592, 0, nil},
	{keyspec.MLKEM512, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 1}, 800, 64, isReduced}, // RFC 9935; FIPS 203
	{keyspec.MLKEM768, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}, 1184, 64, isReduced},
	{keyspec.MLKEM1024, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 3}, 1568, 64, isReduced},
}

// number reads a constant of this package.
func number(hex string) *big.Int {
	n, ok := new(big.Int).SetString(hex, 16)
	if !ok {
		panic("der: bad constant")
	}
	return n
}

func curveOf(spec keyspec.Spec) (curve, bool) {
	i := slices.IndexFunc(curves, func(c curve) bool { return c.spec == spec })
	if i < 0 {
		return curve{}, false
	}
	return curves[i], true
}

func rawKeyOf(spec keyspec.Spec) (rawKey, bool) {
	i := slices.IndexFunc(rawKeys, func(r rawKey) bool { return r.spec == spec })
	if i < 0 {
		return rawKey{}, false
	}
	return rawKeys[i], true
}

// FieldBytes is the length of a field element of an EC spec, and so of r, s and
// an ECDH secret; zero for other specs.
func FieldBytes(spec keyspec.Spec) int {
	c, _ := curveOf(spec)
	return c.bytes
}

// tlv is a DER value: tag, length and content.
func tlv(tag byte, contents ...[]byte) []byte {
	n := 0
	for _, c := range contents {
		n += len(c)
	}
	b := make([]byte, 0, n+5)
	b = append(b, tag)
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default: // nothing here is longer than 64 KiB
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	for _, c := range contents {
		b = append(b, c...)
	}
	return b
}

// secretTLV is tlv, and clears the contents.
func secretTLV(tag byte, contents ...[]byte) []byte {
	b := tlv(tag, contents...)
	for _, c := range contents {
		clear(c)
	}
	return b
}

// trim is a big-endian number without leading zeros; nothing is left of zero.
func trim(n []byte) []byte {
	for len(n) > 0 && n[0] == 0 {
		n = n[1:]
	}
	return n
}

// integer is an INTEGER of a non-negative number, big-endian.
func integer(n []byte) []byte {
	n = trim(n)
	if len(n) == 0 || n[0] >= 0x80 {
		return tlv(tagInteger, []byte{0}, n)
	}
	return tlv(tagInteger, n)
}

// oidDER is an OBJECT IDENTIFIER.
func oidDER(oid asn1.ObjectIdentifier) []byte {
	b, err := asn1.Marshal(oid)
	if err != nil {
		panic("der: bad constant")
	}
	return b
}
