package integration_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// TestSignRefusals: each refusal of Sign, which Verify has as well, in the order
// in which KMS looks.
func TestSignRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	rsaKey, p256 := g.ready(t, types.KeySpecRsa2048, signs), g.ready(t, types.KeySpecEccNistP256, signs)
	edwards := g.ready(t, types.KeySpecEccNistEdwards25519, signs)
	agreeing, mac := g.ready(t, types.KeySpecEccNistP256, agrees), g.ready(t, types.KeySpecHmac256, macs)
	const failed = "1 validation error detected: Value "
	for _, tc := range []struct {
		name          string
		in            m
		code, message string
	}{
		{"no message", m{"Message": nil}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must not be null"},
		{"empty message", m{"Message": ""}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"long message", m{"Message": make([]byte, 4097)}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"no algorithm", m{"SigningAlgorithm": nil}, "ValidationException", failed + "null at 'signingAlgorithm' failed to satisfy constraint: Member must not be null"},
		{"unknown message type", m{"MessageType": "HASH"}, "ValidationException", failed + "'HASH' at 'messageType' failed to satisfy constraint: Member must satisfy enum value set: [RAW, DIGEST, EXTERNAL_MU]"},
		{"constraints before the key", m{"KeyId": nowhere, "Message": ""}, "ValidationException", failed + "at 'message' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"no such key", m{"KeyId": nowhere}, "NotFoundException", "Key '" + keyARN(own, nowhere) + "' does not exist"},

		{"key that agrees", m{"KeyId": agreeing}, "InvalidKeyUsageException", agreeing + " key usage is KEY_AGREEMENT which is not valid for OPERATION."},
		{"key of HMAC", m{"KeyId": mac}, "InvalidKeyUsageException", mac + " key usage is GENERATE_VERIFY_MAC which is not valid for OPERATION."},
		{"usage before the algorithm", m{"KeyId": mac, "SigningAlgorithm": "RSASSA_PSS_SHA_512"}, "InvalidKeyUsageException", mac + " key usage is GENERATE_VERIFY_MAC which is not valid for OPERATION."},
		{"algorithm of RSA", m{"SigningAlgorithm": "RSASSA_PSS_SHA_256"}, "InvalidKeyUsageException", "Algorithm RSASSA_PSS_SHA_256 is incompatible with key spec ECC_NIST_P256."},
		{"larger hash", m{"SigningAlgorithm": "ECDSA_SHA_384"}, "InvalidKeyUsageException", "Algorithm ECDSA_SHA_384 is incompatible with key spec ECC_NIST_P256."},
		{"SM2", m{"SigningAlgorithm": "SM2DSA"}, "InvalidKeyUsageException", "Algorithm SM2DSA is incompatible with key spec ECC_NIST_P256."},
		{"ML-DSA", m{"SigningAlgorithm": "ML_DSA_SHAKE_256"}, "InvalidKeyUsageException", "Algorithm ML_DSA_SHAKE_256 is incompatible with key spec ECC_NIST_P256."},
		{"no pair's", m{"KeyId": rsaKey, "SigningAlgorithm": "SYMMETRIC_DEFAULT"}, "InvalidKeyUsageException", "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."},
		{"algorithm before the digest", m{"SigningAlgorithm": "ECDSA_SHA_512", "MessageType": "DIGEST"}, "InvalidKeyUsageException", "Algorithm ECDSA_SHA_512 is incompatible with key spec ECC_NIST_P256."},

		{"short digest", m{"MessageType": "DIGEST", "Message": make([]byte, 31)}, "ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256."},
		{"long digest", m{"MessageType": "DIGEST", "Message": make([]byte, 33)}, "ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256."},
		{"digest of another hash", m{"KeyId": rsaKey, "SigningAlgorithm": "RSASSA_PKCS1_V1_5_SHA_384", "MessageType": "DIGEST", "Message": make([]byte, 32)}, "ValidationException", "Digest is invalid length for algorithm RSASSA_PKCS1_V1_5_SHA_384."},
		{"digest of PSS", m{"KeyId": rsaKey, "SigningAlgorithm": "RSASSA_PSS_SHA_512", "MessageType": "DIGEST", "Message": make([]byte, 4096)}, "ValidationException", "Digest is invalid length for algorithm RSASSA_PSS_SHA_512."},
		{"mu of ECDSA", m{"MessageType": "EXTERNAL_MU", "Message": make([]byte, 64)}, "ValidationException", "Message type EXTERNAL_MU is incompatible with key spec ECC_NIST_P256."},
		{"mu of RSA", m{"KeyId": rsaKey, "SigningAlgorithm": "RSASSA_PSS_SHA_512", "MessageType": "EXTERNAL_MU", "Message": make([]byte, 64)}, "ValidationException", "Message type EXTERNAL_MU is incompatible with key spec RSA_2048."},
		{"digest of Ed25519", m{"KeyId": edwards, "SigningAlgorithm": "ED25519_SHA_512", "MessageType": "DIGEST", "Message": make([]byte, 64)}, "ValidationException", "Message type DIGEST is incompatible with algorithm ED25519_SHA_512."},
		{"message of Ed25519ph", m{"KeyId": edwards, "SigningAlgorithm": "ED25519_PH_SHA_512", "Message": make([]byte, 64)}, "ValidationException", "Message type RAW is incompatible with algorithm ED25519_PH_SHA_512."},
		{"short digest of Ed25519ph", m{"KeyId": edwards, "SigningAlgorithm": "ED25519_PH_SHA_512", "MessageType": "DIGEST", "Message": make([]byte, 63)}, "ValidationException", "Digest is invalid length for algorithm ED25519_PH_SHA_512."},

		{"trial with a short digest", m{"MessageType": "DIGEST", "Message": make([]byte, 31), "DryRun": true}, "ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256."},
		{"grant token", m{"GrantTokens": []string{"token"}}, "InvalidGrantTokenException", "The request was rejected because the specified grant token is not valid."},
	} {
		for _, operation := range []string{"Sign", "Verify"} {
			t.Run(operation+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				in := m{"KeyId": p256, "Message": []byte("m"), "SigningAlgorithm": "ECDSA_SHA_256"}
				if operation == "Verify" {
					in["Signature"] = "AA=="
				}
				g.refused(t, own, operation, with(in, tc.in), tc.code, strings.Replace(tc.message, "OPERATION", operation, 1))
			})
		}
	}
	in := m{"KeyId": p256, "Message": []byte("m"), "SigningAlgorithm": "RSAES_OAEP_SHA_256"}
	if enum := string(g.call(t, own, "Sign", in).body); !strings.Contains(enum, failed+"'RSAES_OAEP_SHA_256' at 'signingAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [") {
		t.Errorf("an encryption algorithm: %s", enum)
	}
	in = m{"KeyId": p256, "Message": []byte("m"), "SigningAlgorithm": "ECDSA_SHA_256"}
	g.refused(t, own, "Sign", with(in, m{"DryRun": true}), "DryRunOperationException", dryRunText)
	g.refused(t, own, "Verify", in, "ValidationException", failed+"null at 'signature' failed to satisfy constraint: Member must not be null")
	g.refused(t, own, "Verify", with(in, m{"Signature": make([]byte, 6145)}), "ValidationException", failed+"at 'signature' failed to satisfy constraint: Member must have length less than or equal to 6144")
	signature := g.mustCall(t, own, "Sign", in)["Signature"]
	g.refused(t, own, "Verify", with(in, m{"Signature": signature, "DryRun": true}), "DryRunOperationException", dryRunText)
	g.refused(t, own, "Verify", with(in, m{"Signature": "AA==", "DryRun": true}), "KMSInvalidSignatureException", "")
}

// badSignatures are signatures that are not that of a message, by the right one and
// the public key.
func badSignatures(t testing.TB, public any, right []byte) [][]byte {
	t.Helper()
	bad := wrongBytes(right)
	switch public := public.(type) {
	case *rsa.PublicKey:
		beyond := new(big.Int).Add(new(big.Int).SetBytes(right), public.N) // the same number modulo N
		if beyond.BitLen() <= public.N.BitLen() {
			bad = append(bad, beyond.FillBytes(make([]byte, public.Size())))
		}
		one := make([]byte, public.Size())
		one[len(one)-1] = 1
		return append(bad, one, public.N.Bytes(), new(big.Int).Sub(public.N, big.NewInt(1)).Bytes())
	case *ecdsa.PublicKey:
		return append(bad, badECDSA(t, public.Curve.Params().N, right)...)
	case *secp256k1.PublicKey:
		return append(bad, badECDSA(t, secp256k1.Params().N, right)...)
	}
	// Ed25519: S + L is S to those who do not look (RFC 8032, section 5.1.7).
	l, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := make([]byte, 32)
	for i := range s {
		s[i] = right[63-i]
	}
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), l).FillBytes(make([]byte, 32))
	malleable := bytes.Clone(right)
	for i := range sum {
		malleable[63-i] = sum[i]
	}
	return append(bad, malleable)
}

// badECDSA are encodings and values of r and s that must not pass (RFC 3279,
// section 2.2.3; SEC 1, section 4.1.4).
func badECDSA(t testing.TB, n *big.Int, right []byte) (bad [][]byte) {
	t.Helper()
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(right, &rs); err != nil {
		t.Fatal(err)
	}
	zero, one := new(big.Int), big.NewInt(1)
	plus, minus := new(big.Int).Add(rs.S, n), new(big.Int).Sub(rs.S, n)
	for _, pair := range [][2]*big.Int{
		{zero, zero},
		{zero, rs.S},
		{rs.R, zero},
		{one, one},
		{n, rs.S},
		{rs.R, n},
		{rs.S, rs.R},
		{rs.R, plus},
		{rs.R, minus},
		{new(big.Int).Neg(rs.R), rs.S},
		{rs.R, new(big.Int).Neg(rs.S)},
		{new(big.Int).Add(rs.R, n), rs.S},
		{new(big.Int).Lsh(one, 4000), rs.S},
		{new(big.Int).Add(n, one), new(big.Int).Add(n, one)},
	} {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{pair[0], pair[1]})
		if err != nil {
			t.Fatal(err)
		}
		bad = append(bad, der)
	}
	size := (n.BitLen() + 7) / 8
	raw := append(rs.R.FillBytes(make([]byte, size)), rs.S.FillBytes(make([]byte, size))...)
	var whole asn1.RawValue
	if _, err := asn1.Unmarshal(right, &whole); err != nil {
		t.Fatal(err)
	}
	body := whole.Bytes
	long := append([]byte{0x30, 0x82, 0, byte(len(body))}, body...)       // a length in more bytes than it needs
	indefinite := append(append([]byte{0x30, 0x80}, body...), 0, 0)       // BER
	set := append([]byte{0x31}, right[1:]...)                             // no sequence
	inside := sequence(t, append(bytes.Clone(body), 5, 0))                // a NULL behind s
	padded := sequence(t, append([]byte{2, body[1] + 1, 0}, body[2:]...)) // a zero before r
	return append(bad, raw, long, indefinite, set, inside, padded, []byte{0x30, 0}, []byte{0x30, 0x80, 0, 0})
}

// sequence is a SEQUENCE of whatever is in it.
func sequence(t testing.TB, content []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: content})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestBadSignaturesAreRefused gives all of them one and the same answer, by every
// algorithm.
func TestBadSignaturesAreRefused(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kindsOf(signs) {
		for _, algorithm := range k.algorithms {
			if k.spec == types.KeySpecRsa4096 || algorithm == "ED25519_PH_SHA_512" {
				continue // as the other sizes; made nowhere here
			}
			t.Run(fmt.Sprint(k.spec, "/", algorithm), func(t *testing.T) {
				t.Parallel()
				key := g.ready(t, k.spec, signs)
				in := m{"KeyId": key, "Message": []byte("signed"), "SigningAlgorithm": algorithm}
				right := unbase64(t, g.mustCall(t, own, "Sign", in)["Signature"].(string))
				public := parsePublicKey(t, g.publicKey(t, key))
				for _, wrong := range badSignatures(t, public, right) {
					if a := g.refused(t, own, "Verify", with(in, m{"Signature": wrong}), "KMSInvalidSignatureException", ""); t.Failed() {
						t.Fatalf("signature %x instead of %x: %d", wrong, right, a.status)
					}
				}
				g.mustCall(t, own, "Verify", with(in, m{"Signature": right}))
				g.refused(t, own, "Verify", with(in, m{"Signature": right, "Message": []byte("singed")}), "KMSInvalidSignatureException", "")
			})
		}
	}
	// Of another key, and of another algorithm of the same key.
	first, in := g.ready(t, types.KeySpecRsa2048, signs), m{"Message": []byte("signed"), "SigningAlgorithm": "RSASSA_PSS_SHA_256"}
	signature := g.mustCall(t, own, "Sign", with(in, m{"KeyId": first}))["Signature"]
	g.refused(t, own, "Verify", with(in, m{"KeyId": g.ready(t, types.KeySpecRsa3072, signs), "Signature": signature}), "KMSInvalidSignatureException", "")
	for _, other := range []string{"RSASSA_PSS_SHA_384", "RSASSA_PKCS1_V1_5_SHA_256"} {
		g.refused(t, own, "Verify", with(in, m{"KeyId": first, "Signature": signature, "SigningAlgorithm": other}), "KMSInvalidSignatureException", "")
	}
}

// TestSignaturesOfOthersAreRefused has somebody else sign: the public key does not fit.
func TestSignaturesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("m"))
	signature, err := ecdsa.SignASN1(rand.Reader, stranger, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	g.refused(t, own, "Verify", m{
		"KeyId": g.ready(t, types.KeySpecEccNistP256, signs), "Message": []byte("m"), "SigningAlgorithm": "ECDSA_SHA_256", "Signature": signature,
	}, "KMSInvalidSignatureException", "")
}

// TestBadCiphertextsOfPairsAreRefused gives all of them one and the same answer,
// which says nothing of padding.
func TestBadCiphertextsOfPairsAreRefused(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.ready(t, types.KeySpecRsa2048, encrypts)
	public := parsePublicKey(t, g.publicKey(t, key)).(*rsa.PublicKey)
	other := parsePublicKey(t, g.publicKey(t, g.ready(t, types.KeySpecRsa3072, encrypts))).(*rsa.PublicKey)
	seal := func(public *rsa.PublicKey, label []byte) []byte {
		blob, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("m"), label)
		if err != nil {
			t.Fatal(err)
		}
		return blob
	}
	padded := append([]byte{0, 2}, bytes.Repeat([]byte{1}, public.Size()-4)...) // of PKCS #1, version 1.5
	padded = append(padded, 0, 'm')
	pkcs1 := new(big.Int).Exp(new(big.Int).SetBytes(padded), big.NewInt(int64(public.E)), public.N).FillBytes(make([]byte, public.Size()))
	right := seal(public, nil)
	one := make([]byte, public.Size())
	one[len(one)-1] = 1
	symmetric := unbase64(t, g.mustCall(t, own, "Encrypt", m{"KeyId": g.ready(t, types.KeySpecSymmetricDefault, encrypts), "Plaintext": make([]byte, 256)})["CiphertextBlob"].(string))
	bad := append(wrongBytes(right), seal(other, nil), seal(public, []byte("label")), pkcs1, one, public.N.Bytes(),
		new(big.Int).Sub(public.N, big.NewInt(1)).Bytes(), bytes.Repeat([]byte{0xff}, 384), symmetric, symmetric[:256])
	for n, blob := range bad {
		for _, trial := range []bool{false, true} {
			in := m{"CiphertextBlob": blob, "KeyId": key, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256", "DryRun": trial}
			if g.refused(t, own, "Decrypt", in, "InvalidCiphertextException", ""); t.Failed() {
				t.Fatalf("ciphertext %d: %x", n, blob)
			}
			g.refused(t, own, "ReEncrypt", m{
				"CiphertextBlob": blob, "SourceKeyId": key, "SourceEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "DryRun": trial,
				"DestinationKeyId": g.ready(t, types.KeySpecSymmetricDefault, encrypts),
			}, "InvalidCiphertextException", "")
		}
	}
	in := m{"CiphertextBlob": right, "KeyId": key, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"} // the other hash
	g.refused(t, own, "Decrypt", in, "InvalidCiphertextException", "")
	in["EncryptionAlgorithm"] = "RSAES_OAEP_SHA_256"
	g.mustCall(t, own, "Decrypt", in)
	g.refused(t, own, "Decrypt", with(in, m{"DryRun": true}), "DryRunOperationException", dryRunText)
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": right, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, "InvalidCiphertextException", "")
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": right}, "InvalidCiphertextException", "")
}
