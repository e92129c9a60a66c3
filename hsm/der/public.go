package der

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
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
	N, E  []byte // RSA: modulus and public exponent, big-endian without leading zeros; E is 65537
	Point []byte // EC: 0x04, X and Y in full width (SEC 1, section 2.3.3)
	Raw   []byte // Ed25519, ML-DSA, ML-KEM: as their standards have it
}

// rsaSpecs are the RSA specs by the modulus' length in bytes.
var rsaSpecs = map[int]keyspec.Spec{256: keyspec.RSA2048, 384: keyspec.RSA3072, 512: keyspec.RSA4096}

// exponent is the only public one that AWS makes: 65537.
var exponent = []byte{0x01, 0x00, 0x01}

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
	if !p.isRSA() {
		return nil, ErrPublicKey
	}
	return info(oidRSA, []byte{5, 0}, tlv(tagSequence, integer(p.N), integer(p.E))), nil
}

// info is a SubjectPublicKeyInfo.
func info(algorithm asn1.ObjectIdentifier, parameters, key []byte) []byte {
	return tlv(tagSequence, tlv(tagSequence, oidDER(algorithm), parameters), tlv(tagBitString, []byte{0}, key))
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
		p.Spec, p.N, p.E = rsaSpecs[len(public.N.Bytes())], public.N.Bytes(), big.NewInt(int64(public.E)).Bytes()
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
// does not know, and for what is not a valid key of its spec. It shares nothing
// with p.
func (p *Public) Go() (crypto.PublicKey, bool) {
	if c, ok := nistCurves[p.Spec]; ok {
		if key, err := ecdsa.ParseUncompressedPublicKey(c.elliptic, p.Point); err == nil {
			return key, true
		}
		return nil, false
	}
	switch {
	case p.Spec == keyspec.ECCNISTEdwards25519 && isEdwardsPoint(p.Raw):
		return ed25519.PublicKey(bytes.Clone(p.Raw)), true
	case p.isRSA():
		return &rsa.PublicKey{N: new(big.Int).SetBytes(p.N), E: int(new(big.Int).SetBytes(p.E).Int64())}, true
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
// section 2.3.3; from some tokens a BIT STRING, or the point as it is, when isDER
// is false. [ErrPublicKey] if it is none of them; whether the point is on its
// curve shows when it is encoded.
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
