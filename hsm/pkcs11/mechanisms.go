package pkcs11

import (
	"crypto"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// Mechanisms and key types, PKCS#11 v2.40, v3.0 and v3.2, and vendors' headers.
const (
	mechAESKeyGen     = pkcs11.CKM_AES_KEY_GEN
	mechGenericKeyGen = pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	mechRSAKeyGen     = pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
	mechECKeyGen      = pkcs11.CKM_EC_KEY_PAIR_GEN
	mechEdwardsKeyGen = 0x1055 // CKM_EC_EDWARDS_KEY_PAIR_GEN, v3.0
	mechMLDSAKeyGen   = 0x1C   // CKM_ML_DSA_KEY_PAIR_GEN, v3.2
	mechMLKEMKeyGen   = 0x0F   // CKM_ML_KEM_KEY_PAIR_GEN, v3.2
	mechAESGCM        = pkcs11.CKM_AES_GCM
	mechHMACSHA256    = pkcs11.CKM_SHA256_HMAC
	mechRSAPKCS       = pkcs11.CKM_RSA_PKCS
	mechRSAPSS        = pkcs11.CKM_RSA_PKCS_PSS
	mechRSAOAEP       = pkcs11.CKM_RSA_PKCS_OAEP
	mechRSARaw        = pkcs11.CKM_RSA_X_509
	mechECDSA         = pkcs11.CKM_ECDSA
	mechECDH          = pkcs11.CKM_ECDH1_DERIVE
	mechEdDSA         = 0x1057 // CKM_EDDSA, v3.0
	mechMLDSA         = 0x1D   // CKM_ML_DSA, v3.2
	mechMLDSAMu       = 0x403C // CKM_ML_DSA_EXTERNAL_MU, numbered for v3.3
	mechMLKEM         = 0x17   // CKM_ML_KEM, v3.2
	mechAESKeyWrap    = pkcs11.CKM_AES_KEY_WRAP
	mechAESKeyWrapPad = pkcs11.CKM_AES_KEY_WRAP_PAD
	mechAESKeyWrapKWP = 0x210B     // CKM_AES_KEY_WRAP_KWP, v3.0
	mechLunaAESKWP    = 0x80000171 // CKM_AES_KWP of Thales Luna

	keyTypeEdwards = 0x40 // CKK_EC_EDWARDS, v3.0
	keyTypeMLKEM   = 0x49 // CKK_ML_KEM, v3.2
	keyTypeMLDSA   = 0x4A // CKK_ML_DSA, v3.2

	attrParameterSet = 0x61D // CKA_PARAMETER_SET, v3.2
	attrEncapsulate  = 0x633 // CKA_ENCAPSULATE, v3.2
	attrDecapsulate  = 0x634 // CKA_DECAPSULATE, v3.2
	attrSeed         = 0x637 // CKA_SEED, v3.2
)

// hashNumbers are what mechanisms and their parameters call a hash.
var hashNumbers = map[crypto.Hash]struct{ hash, mgf, hmac uint }{
	crypto.SHA1:   {pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKM_SHA_1_HMAC},
	crypto.SHA224: {pkcs11.CKM_SHA224, pkcs11.CKG_MGF1_SHA224, pkcs11.CKM_SHA224_HMAC},
	crypto.SHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKM_SHA256_HMAC},
	crypto.SHA384: {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, pkcs11.CKM_SHA384_HMAC},
	crypto.SHA512: {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, pkcs11.CKM_SHA512_HMAC},
}

// signing is how an algorithm signs in a token. Messages are hashed before.
type signing struct {
	kind    uint                                                 // mechanism
	mu      uint                                                 // mechanism for message representatives; zero: none
	params  func(h crypto.Hash) []byte                           // nil: none
	prepare func(h crypto.Hash, digest []byte) ([]byte, error)   // input of the mechanism; nil: the digest or message itself
	encode  func(spec keyspec.Spec, raw []byte) ([]byte, error)  // AWS's form of the token's; nil: the same
	decode  func(spec keyspec.Spec, sent []byte) ([]byte, error) // and back
}

func pkcs1Signing() signing { return signing{kind: mechRSAPKCS, prepare: der.DigestInfo} }

func pssSigning() signing { return signing{kind: mechRSAPSS, params: pssParams} }

func ecdsaSigning() signing {
	return signing{kind: mechECDSA, encode: der.ECDSAToDER, decode: der.ECDSAFromDER}
}

// pssParams is CK_RSA_PKCS_PSS_PARAMS; AWS's salt is as long as the hash.
func pssParams(h crypto.Hash) []byte {
	return ulongs(hashNumbers[h].hash, hashNumbers[h].mgf, uint(h.Size()))
}

// oaep is RSAES-OAEP with CK_RSA_PKCS_OAEP_PARAMS: MGF1 of the same hash, and an
// empty label (CKZ_DATA_SPECIFIED).
func oaep(h crypto.Hash) mechanism {
	return mechanism{mechRSAOAEP, ulongs(hashNumbers[h].hash, hashNumbers[h].mgf, 1, 0, 0)}
}

// prehash is CK_EDDSA_PARAMS with phFlag: Ed25519ph without a context.
func prehash(crypto.Hash) []byte {
	return append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, ulongs(0, 0)...)
}

// signings are the signing algorithms.
var signings = map[keyspec.Algorithm]signing{
	keyspec.RSASSAPKCS1V15SHA256: pkcs1Signing(),
	keyspec.RSASSAPKCS1V15SHA384: pkcs1Signing(),
	keyspec.RSASSAPKCS1V15SHA512: pkcs1Signing(),
	keyspec.RSASSAPSSSHA256:      pssSigning(),
	keyspec.RSASSAPSSSHA384:      pssSigning(),
	keyspec.RSASSAPSSSHA512:      pssSigning(),
	keyspec.ECDSASHA256:          ecdsaSigning(),
	keyspec.ECDSASHA384:          ecdsaSigning(),
	keyspec.ECDSASHA512:          ecdsaSigning(),
	keyspec.Ed25519SHA512:        {kind: mechEdDSA, decode: ed25519Form},
	keyspec.Ed25519PHSHA512:      {kind: mechEdDSA, params: prehash, decode: ed25519Form},
	keyspec.MLDSASHAKE256:        {kind: mechMLDSA, mu: mechMLDSAMu},
}

// ed25519Order is the order of Ed25519's base point, little-endian.
var ed25519Order = [32]byte{
	0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10,
}

// ed25519Form refuses signatures that are not 64 bytes or whose S is not below
// the order (RFC 8032, section 5.1.7): adding the order to S makes another
// signature of the same message, which not every token refuses.
func ed25519Form(_ keyspec.Spec, sent []byte) ([]byte, error) {
	if len(sent) != 64 {
		return nil, der.ErrSignature
	}
	for i := 31; i >= 0; i-- {
		if s := sent[32+i]; s != ed25519Order[i] {
			if s < ed25519Order[i] {
				return sent, nil
			}
			break
		}
	}
	return nil, der.ErrSignature
}

// mechanism is the algorithm's mechanism with its parameters.
func (s *signing) mechanism(h crypto.Hash) mechanism {
	m := mechanism{kind: s.kind}
	if s.params != nil {
		m.params = s.params(h)
	}
	return m
}

// signatureBytes is the length of a token's signature by the key's spec.
func signatureBytes(spec keyspec.Spec) int {
	switch n := der.FieldBytes(spec); {
	case n > 0:
		return 2 * n
	default:
		return fixedSignatures[spec]
	}
}

// fixedSignatures are the lengths of the signatures that are not on a
// Weierstrass curve.
var fixedSignatures = map[keyspec.Spec]int{
	keyspec.RSA2048: 256, keyspec.RSA3072: 384, keyspec.RSA4096: 512,
	keyspec.ECCNISTEdwards25519: 64,
	keyspec.MLDSA44:             2420, keyspec.MLDSA65: 3309, keyspec.MLDSA87: 4627,
}

// encapsulationBytes are the lengths of ML-KEM's encapsulations (FIPS 203).
var encapsulationBytes = map[keyspec.Spec]int{keyspec.MLKEM512: 768, keyspec.MLKEM768: 1088, keyspec.MLKEM1024: 1568}
