// Package keyspec is the table of what a KMS key can be: its spec, what it may
// be used for, and the algorithms of each. It is pure data in AWS's spelling
// (KMS API Reference, CreateKey; KMS Developer Guide, "Key spec reference"),
// imported by every floor and importing nothing.
//
// The tables are package variables that nobody writes; all functions are safe
// for concurrent use.
package keyspec

import "slices"

// Spec is a key's type, for example SYMMETRIC_DEFAULT or RSA_2048.
type Spec string

// Usage is the one family of operations a key serves; it never changes.
type Usage string

// Algorithm is an encryption, signing, MAC, key agreement or encapsulation algorithm.
type Algorithm string

// Origin says where a key's material comes from.
type Origin string

// Key specs of the KMS API, the ones no token here can make included.
const (
	SymmetricDefault    Spec = "SYMMETRIC_DEFAULT"
	RSA2048             Spec = "RSA_2048"
	RSA3072             Spec = "RSA_3072"
	RSA4096             Spec = "RSA_4096"
	ECCNISTP256         Spec = "ECC_NIST_P256"
	ECCNISTP384         Spec = "ECC_NIST_P384"
	ECCNISTP521         Spec = "ECC_NIST_P521"
	ECCSECGP256K1       Spec = "ECC_SECG_P256K1"
	ECCNISTEdwards25519 Spec = "ECC_NIST_EDWARDS25519"
	HMAC224             Spec = "HMAC_224"
	HMAC256             Spec = "HMAC_256"
	HMAC384             Spec = "HMAC_384"
	HMAC512             Spec = "HMAC_512"
	SM2                 Spec = "SM2"
	MLDSA44             Spec = "ML_DSA_44"
	MLDSA65             Spec = "ML_DSA_65"
	MLDSA87             Spec = "ML_DSA_87"
	MLKEM512            Spec = "ML_KEM_512"
	MLKEM768            Spec = "ML_KEM_768"
	MLKEM1024           Spec = "ML_KEM_1024"
)

// Key usages of the KMS API.
const (
	EncryptDecrypt         Usage = "ENCRYPT_DECRYPT"
	SignVerify             Usage = "SIGN_VERIFY"
	GenerateVerifyMAC      Usage = "GENERATE_VERIFY_MAC"
	KeyAgreement           Usage = "KEY_AGREEMENT"
	EncapsulateDecapsulate Usage = "ENCAPSULATE_DECAPSULATE"
)

// Origins of key material.
const (
	AWSKMS           Origin = "AWS_KMS"
	External         Origin = "EXTERNAL"
	AWSCloudHSM      Origin = "AWS_CLOUDHSM"
	ExternalKeyStore Origin = "EXTERNAL_KEY_STORE"
)

// Row is what the table says of one key spec.
type Row struct {
	Spec Spec
	// Algorithms by usage, in the order AWS lists them in KeyMetadata. A usage
	// that is absent is not allowed for the spec.
	Algorithms map[Usage][]Algorithm
	// Bits is the size of the secret key, or of the modulus or field of a pair;
	// for ML-DSA and ML-KEM the number in the parameter set's name.
	Bits int
	// SlowToMake: a token in software takes seconds to make such a key.
	SlowToMake bool
}

// IsSlowToMake tells whether making a key of a spec takes long; false for specs
// that there are not.
func IsSlowToMake(s Spec) bool {
	row, _ := Lookup(s)
	return row.SlowToMake
}

// Usages are the usages that the spec allows, in AWS's order.
func (r Row) Usages() []Usage {
	var allowed []Usage
	for _, u := range Usages {
		if _, ok := r.Algorithms[u]; ok {
			allowed = append(allowed, u)
		}
	}
	return allowed
}

// Lookup returns the row of a spec; ok is false if there is no such spec.
func Lookup(s Spec) (row Row, ok bool) {
	i := slices.IndexFunc(Specs, func(r Row) bool { return r.Spec == s })
	if i < 0 {
		return Row{}, false
	}
	return Specs[i], true
}

// Usages are all usages, in the order in which AWS prints the enum.
var Usages = []Usage{EncryptDecrypt, SignVerify, GenerateVerifyMAC, KeyAgreement, EncapsulateDecapsulate}

// Origins are all origins, in the order in which AWS prints the enum.
var Origins = []Origin{AWSKMS, External, AWSCloudHSM, ExternalKeyStore}
