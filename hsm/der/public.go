package der

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"

	"kmsgate/hsm/keyspec"
)

// Public is a public key taken apart. Exactly the members of its spec are set.
type Public struct {
	Spec  keyspec.Spec
	N, E  []byte // RSA: modulus and public exponent, big-endian without leading zeros
	Point []byte // EC: 0x04, X and Y in full width (SEC 1, section 2.3.3)
	Raw   []byte // Ed25519, ML-DSA, ML-KEM: as their standards have it
}

// rsaSpecs are the RSA specs by the modulus' size in bits.
var rsaSpecs = map[int]keyspec.Spec{2048: keyspec.RSA2048, 3072: keyspec.RSA3072, 4096: keyspec.RSA4096}

// publicExponent is the only one that AWS makes.
const publicExponent = 65537

// Encode is the key's SubjectPublicKeyInfo, with a named curve.
// [ErrPublicKey] if it is not a valid key of its spec.
func (p *Public) Encode() ([]byte, error) {
	if c, ok := curveOf(p.Spec); ok {
		if !c.has(p.Point) {
			return nil, ErrPublicKey
		}
		return info(oidEC, oidDER(c.oid), p.Point), nil
	}
	if r, ok := rawKeyOf(p.Spec); ok {
		if !r.has(p.Raw) {
			return nil, ErrPublicKey
		}
		return info(r.oid, nil, p.Raw), nil
	}
	n := new(big.Int).SetBytes(p.N)
	if spec, ok := rsaSpecs[n.BitLen()]; !ok || spec != p.Spec || n.Bit(0) == 0 || new(big.Int).SetBytes(p.E).Cmp(big.NewInt(publicExponent)) != 0 {
		return nil, ErrPublicKey
	}
	return info(oidRSA, []byte{5, 0}, tlv(tagSequence, integer(p.N), integer(p.E))), nil
}

// info is a SubjectPublicKeyInfo.
func info(algorithm asn1.ObjectIdentifier, parameters, key []byte) []byte {
	return tlv(tagSequence, tlv(tagSequence, oidDER(algorithm), parameters), tlv(tagBitString, []byte{0}, key))
}

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

// has tells whether a key has the right length.
func (r *rawKey) has(key []byte) bool { return len(key) == r.bytes }

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

// ParsePublic reads a SubjectPublicKeyInfo. It takes only what [Public.Encode]
// writes: one encoding for each key, on a named curve, the point uncompressed
// and on that curve. [ErrPublicKey] for everything else.
func ParsePublic(spki []byte) (*Public, error) {
	var outer struct {
		Algorithm struct {
			OID        asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &outer); err != nil || len(rest) != 0 {
		return nil, ErrPublicKey
	}
	p := &Public{}
	switch oid, key := outer.Algorithm.OID, outer.Key.RightAlign(); {
	case oid.Equal(oidRSA):
		public, err := x509.ParsePKCS1PublicKey(key)
		if err != nil {
			return nil, ErrPublicKey
		}
		p.Spec, p.N, p.E = rsaSpecs[public.N.BitLen()], public.N.Bytes(), big.NewInt(int64(public.E)).Bytes()
	case oid.Equal(oidEC):
		i := slices.IndexFunc(curves, func(c curve) bool { return bytes.Equal(outer.Algorithm.Parameters.FullBytes, oidDER(c.oid)) })
		if i < 0 {
			return nil, ErrPublicKey
		}
		p.Spec, p.Point = curves[i].spec, bytes.Clone(key)
	default:
		i := slices.IndexFunc(rawKeys, func(r rawKey) bool { return r.oid.Equal(oid) })
		if i < 0 {
			return nil, ErrPublicKey
		}
		p.Spec, p.Raw = rawKeys[i].spec, bytes.Clone(key)
	}
	if again, err := p.Encode(); err != nil || !bytes.Equal(again, spki) {
		return nil, ErrPublicKey
	}
	return p, nil
}

// Go is the key as the standard library has it: *rsa.PublicKey,
// *ecdsa.PublicKey or ed25519.PublicKey. It is false for keys that the library
// does not know.
func (p *Public) Go() (crypto.PublicKey, bool) {
	switch c, ok := nistCurves[p.Spec]; {
	case ok:
		key, err := ecdsa.ParseUncompressedPublicKey(c.elliptic, p.Point)
		return key, err == nil
	case p.Spec == keyspec.ECCNISTEdwards25519:
		return ed25519.PublicKey(p.Raw), true
	case len(p.N) > 0:
		return &rsa.PublicKey{N: new(big.Int).SetBytes(p.N), E: publicExponent}, true
	}
	return nil, false
}

// CurveParameters is CKA_EC_PARAMS: the curve's object identifier in DER; nil
// for specs that are not on a curve.
func CurveParameters(spec keyspec.Spec) []byte {
	if c, ok := curveOf(spec); ok {
		return oidDER(c.oid)
	}
	if spec == keyspec.ECCNISTEdwards25519 {
		return oidDER(oidEd25519)
	}
	return nil
}

// pointBytes is the length of an EC public key as it stands in CKA_EC_POINT.
func pointBytes(spec keyspec.Spec) int {
	if c, ok := curveOf(spec); ok {
		return 1 + 2*c.bytes
	}
	if spec == keyspec.ECCNISTEdwards25519 {
		return 32
	}
	return 0
}

// ECPointFromToken reads CKA_EC_POINT: a DER OCTET STRING by PKCS#11 v2.40
// section 2.3.3, the raw point from some tokens. [ErrPublicKey] if it is
// neither; whether the point is on its curve shows when it is encoded.
func ECPointFromToken(spec keyspec.Spec, value []byte) (point []byte, isDER bool, err error) {
	n := pointBytes(spec)
	if n == 0 || len(value) < n {
		return nil, false, ErrPublicKey
	}
	raw := value[len(value)-n:]
	switch {
	case len(value) == n:
		return bytes.Clone(raw), false, nil
	case bytes.Equal(value, tlv(tagOctetString, raw)), bytes.Equal(value, tlv(tagBitString, []byte{0}, raw)):
		return bytes.Clone(raw), true, nil
	}
	return nil, false, ErrPublicKey
}

// ECPointForToken writes CKA_EC_POINT, as a DER OCTET STRING or raw.
func ECPointForToken(point []byte, asDER bool) []byte {
	if asDER {
		return tlv(tagOctetString, point)
	}
	return bytes.Clone(point)
}
