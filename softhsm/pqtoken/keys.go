package pqtoken

import (
	"bytes"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"

	"filippo.io/mldsa"
	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// Key types.
const (
	ckkMLKEM = 0x49
	ckkMLDSA = 0x4A
)

// parameterSet is a row of FIPS 203 or FIPS 204.
type parameterSet struct {
	keyType, number uint64 // CKK_ and CKP_
	oid             asn1.ObjectIdentifier
	signatures      sign.Scheme // nil for ML-KEM
	sign            signFunc    // nil for ML-KEM
	mu              *muRow      // nil for ML-KEM
	encapsulations  kem.Scheme  // nil for ML-DSA
}

// signFunc signs with the key of a seed.
type signFunc func(seed, message, context []byte, hedged bool) ([]byte, error)

var parameterSets = []*parameterSet{
	{
		ckkMLDSA, 1, nistOID(3, 17), mldsa44.Scheme(), signer(mldsa44.NewKeyFromSeed, mldsa44.SignTo, mldsa44.SignatureSize),
		&muRow{mldsa.MLDSA44(), 4, 4, 39, 78, 80, 17, (modulus - 1) / 88, 32, 6}, nil,
	},
	{
		ckkMLDSA, 2, nistOID(3, 18), mldsa65.Scheme(), signer(mldsa65.NewKeyFromSeed, mldsa65.SignTo, mldsa65.SignatureSize),
		&muRow{mldsa.MLDSA65(), 6, 5, 49, 196, 55, 19, (modulus - 1) / 32, 48, 4}, nil,
	},
	{
		ckkMLDSA, 3, nistOID(3, 19), mldsa87.Scheme(), signer(mldsa87.NewKeyFromSeed, mldsa87.SignTo, mldsa87.SignatureSize),
		&muRow{mldsa.MLDSA87(), 8, 7, 60, 120, 75, 19, (modulus - 1) / 32, 64, 4}, nil,
	},
	{ckkMLKEM, 1, nistOID(4, 1), nil, nil, nil, mlkem512.Scheme()},
	{ckkMLKEM, 2, nistOID(4, 2), nil, nil, nil, mlkem768.Scheme()},
	{ckkMLKEM, 3, nistOID(4, 3), nil, nil, nil, mlkem1024.Scheme()},
}

// nistOID is an algorithm of NIST's: arc 3 has signatures, arc 4 KEMs.
func nistOID(arc, algorithm int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, arc, algorithm}
}

// signer makes one function of what circl has for a parameter set.
func signer[P, K interface{}](derive func(*[32]byte) (*P, *K), signTo func(*K, []byte, []byte, bool, []byte) error, size int) signFunc {
	return func(seed, message, context []byte, hedged bool) ([]byte, error) {
		_, key := derive((*[32]byte)(seed))
		signature := make([]byte, size)
		return signature, signTo(key, message, context, hedged, signature)
	}
}

// verify verifies with an encoded public key.
func (p *parameterSet) verify(publicKey, message, context, signature []byte) (bool, error) {
	key, err := p.signatures.UnmarshalBinaryPublicKey(publicKey)
	if err != nil {
		return false, err
	}
	return p.signatures.Verify(key, message, signature, &sign.SignatureOpts{Context: string(context)}), nil
}

// lookupSet finds a parameter set by its number; the number's absence is one of
// a template's.
func lookupSet(keyType uint64, o *object) (*parameterSet, error) {
	n, ok := o.number(ckaParameterSet)
	if !ok {
		return nil, ckrTemplateIncomplete
	}
	for _, p := range parameterSets {
		if p.keyType == keyType && p.number == n {
			return p, nil
		}
	}
	return nil, ckrParameterSetNotSupported
}

// marshaler is a key of circl's.
type marshaler interface{ MarshalBinary() ([]byte, error) }

// derive is the pair of a seed, as FIPS 203 and FIPS 204 encode keys.
func (p *parameterSet) derive(seed []byte) (publicKey, privateKey []byte, err error) {
	var pub, priv marshaler
	if p.signatures != nil {
		pub, priv = p.signatures.DeriveKey(seed)
	} else {
		pub, priv = p.encapsulations.DeriveKeyPair(seed)
	}
	if publicKey, err = pub.MarshalBinary(); err != nil {
		return nil, nil, err
	}
	privateKey, err = priv.MarshalBinary()
	return publicKey, privateKey, err
}

func (p *parameterSet) seedBytes() int {
	if p.signatures != nil {
		return p.signatures.SeedSize()
	}
	return p.encapsulations.SeedSize()
}

// isPublicKey tells whether this is the encoding of a public key.
func (p *parameterSet) isPublicKey(encoded []byte) bool {
	var err error
	if p.signatures != nil {
		_, err = p.signatures.UnmarshalBinaryPublicKey(encoded)
	} else {
		_, err = p.encapsulations.UnmarshalBinaryPublicKey(encoded)
	}
	return err == nil
}

// subjectPublicKeyInfo encodes a public key (RFC 9881, RFC 9935).
func (p *parameterSet) subjectPublicKeyInfo(publicKey []byte) ([]byte, error) {
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: p.oid}, asn1.BitString{Bytes: publicKey, BitLength: 8 * len(publicKey)}})
}

// privateKeyInfo is RFC 5958's, of version 0 and without attributes.
type privateKeyInfo struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	PrivateKey []byte
}

// seedTag is that of the seed in the choice of private keys' forms (RFC 9881,
// RFC 9935, section 6): [0] IMPLICIT OCTET STRING.
const seedTag = 0

func (p *parameterSet) wrapSeed(seed []byte) ([]byte, error) {
	inner, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: seedTag, Bytes: seed})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(privateKeyInfo{Algorithm: pkix.AlgorithmIdentifier{Algorithm: p.oid}, PrivateKey: inner})
}

// maxPadding is what key wrap with padding adds, in bytes (RFC 5649). SoftHSM
// leaves it in a secret that it unwraps.
const maxPadding = 7

// unwrapSeed is wrapSeed's inverse, of a key of this type.
func unwrapSeed(der []byte, keyType uint64) (*parameterSet, []byte, error) {
	var info privateKeyInfo
	var inner asn1.RawValue
	rest, err := asn1.Unmarshal(der, &info)
	if err != nil || len(rest) > maxPadding || len(bytes.Trim(rest, "\x00")) > 0 || info.Version != 0 || len(info.Algorithm.Parameters.FullBytes) > 0 {
		return nil, nil, ckrWrappedKeyInvalid
	}
	rest, err = asn1.Unmarshal(info.PrivateKey, &inner)
	if err != nil || len(rest) > 0 || inner.Class != asn1.ClassContextSpecific || inner.Tag != seedTag || inner.IsCompound {
		return nil, nil, ckrWrappedKeyInvalid
	}
	i := slices.IndexFunc(parameterSets, func(p *parameterSet) bool {
		return p.keyType == keyType && p.oid.Equal(info.Algorithm.Algorithm) && p.seedBytes() == len(inner.Bytes)
	})
	if i < 0 {
		return nil, nil, ckrWrappedKeyInvalid
	}
	return parameterSets[i], inner.Bytes, nil
}

func (p *parameterSet) newSeed() []byte {
	seed := make([]byte, p.seedBytes())
	rand.Read(seed) //nolint:errcheck // it never fails
	return seed
}

// become makes an object the key of a seed, or of a public key.
func (o *object) become(p *parameterSet, seed, publicKey []byte) (err error) {
	o.set = p
	o.attributes[ckaParameterSet] = ulongs(p.number)
	if o.on == private {
		o.attributes[ckaSeed] = slices.Clone(seed)
		if publicKey, o.attributes[ckaValue], err = p.derive(seed); err != nil {
			return err
		}
	} else {
		o.attributes[ckaValue] = slices.Clone(publicKey)
	}
	o.attributes[ckaPublicKeyInfo], err = p.subjectPublicKeyInfo(publicKey)
	return err
}

// noMechanism is CKA_KEY_GEN_MECHANISM of keys that were not generated here:
// CK_UNAVAILABLE_INFORMATION.
const noMechanism = ^uint64(0)

// remember notes how an object came to be.
func (o *object) remember(mechanism uint64) {
	local := mechanism != noMechanism
	o.attributes[ckaLocal] = truth(local)
	o.attributes[ckaKeyGenMechanism] = ulongs(mechanism)
	if o.on == private {
		o.attributes[ckaAlwaysSensitive] = truth(local && o.is(ckaSensitive))
		o.attributes[ckaNeverExtractable] = truth(local && !o.is(ckaExtractable))
	}
}

func truth(b bool) []byte {
	if b {
		return yes
	}
	return no
}
