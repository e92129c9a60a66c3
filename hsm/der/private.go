package der

import (
	"crypto/subtle"
	"slices"

	"kmsgate/hsm/keyspec"
)

// Private is the private key of a pair that is made for a caller. The caller
// clears its slices, with [Private.Clear].
type Private struct {
	Public

	D                  []byte // RSA: private exponent; EC: scalar
	P, Q, DP, DQ, QInv []byte // RSA
	Seed               []byte // Ed25519: 32 bytes (RFC 8032); ML-KEM: 64 bytes, d and z (FIPS 203)
}

// Clear overwrites the secret members.
func (p *Private) Clear() {
	for _, b := range [][]byte{p.D, p.P, p.Q, p.DP, p.DQ, p.QInv, p.Seed} {
		clear(b)
	}
}

// Encode is the key in PKCS#8 (RFC 5958, version 1 as of RFC 5208), which is
// the caller's to clear; no other copy is left. Numbers may have leading zeros or
// lack them, as tokens give them. [ErrPrivateKey] if parts are missing, zero or
// too large. The key is not proved to belong to its public key.
func (p *Private) Encode() ([]byte, error) {
	if _, err := p.Public.Encode(); err != nil {
		return nil, ErrPrivateKey
	}
	if c, ok := curveOf(p.Spec); ok {
		return p.encodeEC(c)
	}
	if r, ok := rawKeyOf(p.Spec); ok {
		if r.seed == 0 || len(p.Seed) != r.seed || subtle.ConstantTimeCompare(p.Seed, make([]byte, r.seed)) == 1 {
			return nil, ErrPrivateKey // a seed of zeros is one that has been cleared
		}
		tag := byte(tagOctetString) // RFC 8410, section 7
		if p.Spec != keyspec.ECCNISTEdwards25519 {
			tag = 0x80 // seed [0] of ML-KEM-PrivateKey (RFC 9935, section 6)
		}
		return pkcs8(oidDER(r.oid), nil, tlv(tag, p.Seed)), nil
	}
	return p.encodeRSA()
}

// encodeEC is the ECPrivateKey of RFC 5915, with the public key as others write it.
func (p *Private) encodeEC(c curve) ([]byte, error) {
	d := trim(p.D)
	if len(d) > c.bytes {
		return nil, ErrPrivateKey
	}
	scalar := make([]byte, c.bytes)
	copy(scalar[c.bytes-len(d):], d)
	if !c.isSecretScalar(scalar) {
		clear(scalar)
		return nil, ErrPrivateKey
	}
	public := tlv(0xA1, tlv(tagBitString, []byte{0}, p.Point))
	key := secretTLV(tagSequence, integer([]byte{1}), secretTLV(tagOctetString, scalar), public)
	return pkcs8(oidDER(oidEC), oidDER(c.oid), key), nil
}

// encodeRSA is the RSAPrivateKey of RFC 8017, appendix A.1.2.
func (p *Private) encodeRSA() ([]byte, error) {
	numbers := [][]byte{p.N, p.E, p.D, p.P, p.Q, p.DP, p.DQ, p.QInv}
	if slices.ContainsFunc(numbers, func(n []byte) bool { return len(trim(n)) == 0 || len(trim(n)) > len(p.N) }) {
		return nil, ErrPrivateKey
	}
	parts := [][]byte{integer(nil)} // version: two primes
	for _, n := range numbers {
		parts = append(parts, integer(n))
	}
	return pkcs8(oidDER(oidRSA), []byte{5, 0}, secretTLV(tagSequence, parts...)), nil
}

// pkcs8 is a PrivateKeyInfo; key is cleared.
func pkcs8(algorithm, parameters, key []byte) []byte {
	return secretTLV(tagSequence, integer(nil), tlv(tagSequence, algorithm, parameters), secretTLV(tagOctetString, key))
}
