package keyspec

import (
	"crypto"
	_ "crypto/sha1" // what the table's hashes need
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// Algorithms of the KMS API. AlgorithmSymmetricDefault is AES-256-GCM with the
// encryption context as additional data.
const (
	AlgorithmSymmetricDefault Algorithm = "SYMMETRIC_DEFAULT"
	RSAESOAEPSHA1             Algorithm = "RSAES_OAEP_SHA_1"
	RSAESOAEPSHA256           Algorithm = "RSAES_OAEP_SHA_256"
	RSASSAPKCS1V15SHA256      Algorithm = "RSASSA_PKCS1_V1_5_SHA_256"
	RSASSAPKCS1V15SHA384      Algorithm = "RSASSA_PKCS1_V1_5_SHA_384"
	RSASSAPKCS1V15SHA512      Algorithm = "RSASSA_PKCS1_V1_5_SHA_512"
	RSASSAPSSSHA256           Algorithm = "RSASSA_PSS_SHA_256"
	RSASSAPSSSHA384           Algorithm = "RSASSA_PSS_SHA_384"
	RSASSAPSSSHA512           Algorithm = "RSASSA_PSS_SHA_512"
	ECDSASHA256               Algorithm = "ECDSA_SHA_256"
	ECDSASHA384               Algorithm = "ECDSA_SHA_384"
	ECDSASHA512               Algorithm = "ECDSA_SHA_512"
	Ed25519SHA512             Algorithm = "ED25519_SHA_512"
	Ed25519PHSHA512           Algorithm = "ED25519_PH_SHA_512"
	MLDSASHAKE256             Algorithm = "ML_DSA_SHAKE_256"
	HMACSHA224                Algorithm = "HMAC_SHA_224"
	HMACSHA256                Algorithm = "HMAC_SHA_256"
	HMACSHA384                Algorithm = "HMAC_SHA_384"
	HMACSHA512                Algorithm = "HMAC_SHA_512"
	ECDH                      Algorithm = "ECDH"
	MLKEM                     Algorithm = "ML_KEM"
	SM2PKE                    Algorithm = "SM2PKE"
	SM2DSA                    Algorithm = "SM2DSA"
)

// MessageType says what the message of Sign and Verify is.
type MessageType string

// Message types of the KMS API.
const (
	Raw        MessageType = "RAW"         // the message, to be hashed
	Digest     MessageType = "DIGEST"      // its digest
	ExternalMu MessageType = "EXTERNAL_MU" // mu of ML-DSA (FIPS 204, section 6.2)
)

// MaxMessageBytes bounds the messages of Sign, Verify, GenerateMac and VerifyMac.
const MaxMessageBytes = 4096

// AlgorithmRow is what the table says of one algorithm.
type AlgorithmRow struct {
	Algorithm Algorithm
	Usage     Usage
	// Hash is that of the message, of OAEP with its MGF1, or of the HMAC; zero
	// where there is none to choose.
	Hash crypto.Hash
	// Messages are the message types that Sign and Verify take, with the length
	// that the message must have in bytes; zero for 1 to [MaxMessageBytes].
	Messages map[MessageType]int
}

// LookupAlgorithm returns the row of an algorithm; ok is false if there is no
// such algorithm or it is not served here (those of SM2).
func LookupAlgorithm(a Algorithm) (row AlgorithmRow, ok bool) {
	for _, r := range Algorithms {
		if r.Algorithm == a {
			return r, true
		}
	}
	return AlgorithmRow{}, false
}

func hashes(a Algorithm, h crypto.Hash) AlgorithmRow {
	return AlgorithmRow{Algorithm: a, Usage: SignVerify, Hash: h, Messages: map[MessageType]int{Raw: 0, Digest: h.Size()}}
}

// Algorithms is the table of algorithms that keys here are used with.
var Algorithms = []AlgorithmRow{
	{Algorithm: AlgorithmSymmetricDefault, Usage: EncryptDecrypt},
	{Algorithm: RSAESOAEPSHA1, Usage: EncryptDecrypt, Hash: crypto.SHA1},
	{Algorithm: RSAESOAEPSHA256, Usage: EncryptDecrypt, Hash: crypto.SHA256},
	hashes(RSASSAPKCS1V15SHA256, crypto.SHA256),
	hashes(RSASSAPKCS1V15SHA384, crypto.SHA384),
	hashes(RSASSAPKCS1V15SHA512, crypto.SHA512),
	hashes(RSASSAPSSSHA256, crypto.SHA256),
	hashes(RSASSAPSSSHA384, crypto.SHA384),
	hashes(RSASSAPSSSHA512, crypto.SHA512),
	hashes(ECDSASHA256, crypto.SHA256),
	hashes(ECDSASHA384, crypto.SHA384),
	hashes(ECDSASHA512, crypto.SHA512),
	{Algorithm: Ed25519SHA512, Usage: SignVerify, Messages: map[MessageType]int{Raw: 0}},
	// AWS hashes the 64 bytes of the digest again: they are the message of Ed25519ph.
	{Algorithm: Ed25519PHSHA512, Usage: SignVerify, Messages: map[MessageType]int{Digest: 64}},
	{Algorithm: MLDSASHAKE256, Usage: SignVerify, Messages: map[MessageType]int{Raw: 0, ExternalMu: 64}},
	{Algorithm: HMACSHA224, Usage: GenerateVerifyMAC, Hash: crypto.SHA224},
	{Algorithm: HMACSHA256, Usage: GenerateVerifyMAC, Hash: crypto.SHA256},
	{Algorithm: HMACSHA384, Usage: GenerateVerifyMAC, Hash: crypto.SHA384},
	{Algorithm: HMACSHA512, Usage: GenerateVerifyMAC, Hash: crypto.SHA512},
	{Algorithm: ECDH, Usage: KeyAgreement},
	{Algorithm: MLKEM, Usage: EncapsulateDecapsulate},
}
