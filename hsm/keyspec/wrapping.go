package keyspec

import "crypto"

// WrappingAlgorithm is how imported key material is encrypted on its way (KMS API
// Reference, GetParametersForImport).
type WrappingAlgorithm string

// Wrapping algorithms of the KMS API.
const (
	WrapRSAPKCS1V15      WrappingAlgorithm = "RSAES_PKCS1_V1_5"
	WrapOAEPSHA1         WrappingAlgorithm = "RSAES_OAEP_SHA_1"
	WrapOAEPSHA256       WrappingAlgorithm = "RSAES_OAEP_SHA_256"
	WrapRSAAESSHA1       WrappingAlgorithm = "RSA_AES_KEY_WRAP_SHA_1"
	WrapRSAAESSHA256     WrappingAlgorithm = "RSA_AES_KEY_WRAP_SHA_256"
	WrapSM2PKE           WrappingAlgorithm = "SM2PKE"
	maxImportedHMACBytes                   = 128
)

// ImportWrapping is the usage of the pairs that imported material is wrapped to. It
// is not one of AWS's: no KMS key has it.
const ImportWrapping Usage = "IMPORT_WRAPPING"

// Transport is the usage of the pairs that a token makes so that another can wrap
// material to it, RSA_3072 or RSA_4096. What such a token takes stands in the place of
// the pair's check value. It is no usage of the API's.
const Transport Usage = "TRANSPORT"

// WrappingRow is what the table says of one wrapping algorithm.
type WrappingRow struct {
	Algorithm WrappingAlgorithm
	Hash      crypto.Hash // of OAEP and of its MGF1
	// Hybrid: RSA encrypts an AES key, under which the material is wrapped
	// (RFC 5649).
	Hybrid bool
}

// WrappingAlgorithms is the table of wrapping algorithms that are served. AWS has
// withdrawn RSAES_PKCS1_V1_5; SM2PKE is China's.
var WrappingAlgorithms = []WrappingRow{
	{Algorithm: WrapOAEPSHA1, Hash: crypto.SHA1},
	{Algorithm: WrapOAEPSHA256, Hash: crypto.SHA256},
	{Algorithm: WrapRSAAESSHA1, Hash: crypto.SHA1, Hybrid: true},
	{Algorithm: WrapRSAAESSHA256, Hash: crypto.SHA256, Hybrid: true},
}

// LookupWrapping returns the row of a wrapping algorithm; ok is false for those
// that are not served.
func LookupWrapping(a WrappingAlgorithm) (row WrappingRow, ok bool) {
	for _, r := range WrappingAlgorithms {
		if r.Algorithm == a {
			return r, true
		}
	}
	return WrappingRow{}, false
}

// WrapsSpec tells whether material of a spec may be sent under the algorithm: an
// RSA private key is too long for OAEP alone.
func (r WrappingRow) WrapsSpec(s Spec) bool {
	row, ok := Lookup(s)
	return ok && row.Importable() && (r.Hybrid || row.Algorithms[SignVerify] == nil || !row.SlowToMake)
}

// Importable tells whether AWS takes material for keys of the spec: all but SM2
// and those of the post-quantum algorithms.
func (r Row) Importable() bool {
	_, encapsulates := r.Algorithms[EncapsulateDecapsulate]
	for _, a := range r.Algorithms[SignVerify] {
		if a == MLDSASHAKE256 {
			return false
		}
	}
	return !encapsulates && r.Spec != SM2
}

// ImportedBytes are the fewest and the most bytes that imported material of a
// secret key's spec has; zero for pairs.
func (r Row) ImportedBytes() (least, most int) {
	if _, ok := r.Algorithms[GenerateVerifyMAC]; ok {
		return r.Bits / 8, maxImportedHMACBytes
	}
	if r.Spec == SymmetricDefault {
		return r.Bits / 8, r.Bits / 8
	}
	return 0, 0
}
