package integration_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	secp256k1ecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// hashOfName is the hash in an algorithm's name; none for Ed25519, whose names
// tell the hash within.
func hashOfName(algorithm string) crypto.Hash {
	if strings.HasPrefix(algorithm, "ED25519") {
		return 0
	}
	for suffix, hash := range map[string]crypto.Hash{"SHA_1": crypto.SHA1, "SHA_224": crypto.SHA224, "SHA_256": crypto.SHA256, "SHA_384": crypto.SHA384, "SHA_512": crypto.SHA512} {
		if strings.HasSuffix(algorithm, suffix) {
			return hash
		}
	}
	return 0
}

func digestOf(hash crypto.Hash, message []byte) []byte {
	h := hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// verifiesOutside tells, without the gateway, whether a signature is that of a
// message, or of a digest.
func verifiesOutside(t testing.TB, public any, algorithm string, isDigest bool, message, signature []byte) bool {
	t.Helper()
	hash, digest := hashOfName(algorithm), message
	if hash != 0 && !isDigest {
		digest = digestOf(hash, message)
	}
	switch public := public.(type) {
	case *rsa.PublicKey:
		if strings.HasPrefix(algorithm, "RSASSA_PSS") {
			return rsa.VerifyPSS(public, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, signature)
	case ed25519.PublicKey:
		if isDigest { // AWS hashes what it is given once more
			again := sha512.Sum512(message)
			return ed25519.VerifyWithOptions(public, again[:], signature, &ed25519.Options{Hash: crypto.SHA512}) == nil
		}
		return ed25519.Verify(public, message, signature)
	case *secp256k1.PublicKey:
		parsed, err := secp256k1ecdsa.ParseDERSignature(signature)
		return err == nil && parsed.Verify(digest, public)
	}
	t.Fatalf("no way to verify with a %T", public)
	return false
}

// unsupportedOnSoftHSM are the algorithms that SoftHSM has no mechanism for.
var unsupportedOnSoftHSM = []string{"ED25519_PH_SHA_512"}

// TestSignaturesVerifyOutside signs by every algorithm, raw and digested, and has
// others verify; and each way has the gateway verify what it has signed the other way.
func TestSignaturesVerifyOutside(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kindsOf(signs) {
		for _, algorithm := range k.algorithms {
			t.Run(fmt.Sprint(k.spec, "/", algorithm), func(t *testing.T) {
				t.Parallel()
				key := g.ready(t, k.spec, signs)
				if slices.Contains(unsupportedOnSoftHSM, algorithm) {
					g.refused(t, own, "Sign", m{"KeyId": key, "SigningAlgorithm": algorithm, "MessageType": "DIGEST", "Message": make([]byte, 64)},
						"UnsupportedOperationException", "Algorithm "+algorithm+" is not supported by this key store: its HSM has no mechanism for it. kmsgate hsm probe shows what it can do.")
					return
				}
				g.signBothWays(t, key, algorithm)
			})
		}
	}
}

func (i *instance) signBothWays(t *testing.T, key, algorithm string) {
	t.Helper()
	c := i.newClient(own)
	public := parsePublicKey(t, i.publicKey(t, key))
	for _, message := range [][]byte{{0}, hide([]byte("a message that nobody records")), bytes.Repeat([]byte("x"), 4096)} {
		ways := []types.MessageType{types.MessageTypeRaw}
		inputs := map[types.MessageType][]byte{"": message, types.MessageTypeRaw: message}
		if hash := hashOfName(algorithm); hash != 0 {
			ways = append(ways, types.MessageTypeDigest, "")
			inputs[types.MessageTypeDigest] = digestOf(hash, message)
		}
		for _, way := range ways {
			signed, err := c.Sign(t.Context(), &kms.SignInput{
				KeyId: &key, Message: inputs[way], MessageType: way, SigningAlgorithm: types.SigningAlgorithmSpec(algorithm),
			})
			if err != nil {
				t.Fatalf("Sign as %q: %v", way, err)
			}
			c.wantMembers(t, "KeyId", "Signature", "SigningAlgorithm")
			if *signed.KeyId != key || string(signed.SigningAlgorithm) != algorithm {
				t.Errorf("Sign says %s, %s; want %s, %s", *signed.KeyId, signed.SigningAlgorithm, key, algorithm)
			}
			hide(signed.Signature)
			if !verifiesOutside(t, public, algorithm, way == types.MessageTypeDigest, inputs[way], signed.Signature) {
				t.Errorf("the signature of %d bytes as %q does not verify outside", len(inputs[way]), way)
			}
			for _, other := range ways {
				verified, err := c.Verify(t.Context(), &kms.VerifyInput{
					KeyId: &key, Message: inputs[other], MessageType: other, Signature: signed.Signature, SigningAlgorithm: types.SigningAlgorithmSpec(algorithm),
				})
				if err != nil {
					t.Errorf("Verify as %q what was signed as %q: %v", other, way, err)
					continue
				}
				c.wantMembers(t, "KeyId", "SignatureValid", "SigningAlgorithm")
				if *verified.KeyId != key || !verified.SignatureValid || string(verified.SigningAlgorithm) != algorithm {
					t.Errorf("Verify says %s", c.last.body)
				}
			}
		}
	}
}

// oaepLimits are the largest plaintexts, in bytes.
var oaepLimits = map[types.KeySpec]map[string]int{
	types.KeySpecRsa2048: {"RSAES_OAEP_SHA_1": 214, "RSAES_OAEP_SHA_256": 190},
	types.KeySpecRsa3072: {"RSAES_OAEP_SHA_1": 342, "RSAES_OAEP_SHA_256": 318},
	types.KeySpecRsa4096: {"RSAES_OAEP_SHA_1": 470, "RSAES_OAEP_SHA_256": 446},
}

func TestEncryptionWithPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for spec, limits := range oaepLimits {
		for algorithm, limit := range limits {
			t.Run(fmt.Sprint(spec, "/", algorithm), func(t *testing.T) {
				t.Parallel()
				c := g.newClient(own)
				key := g.ready(t, spec, encrypts)
				public := parsePublicKey(t, g.publicKey(t, key)).(*rsa.PublicKey)
				with := types.EncryptionAlgorithmSpec(algorithm)
				for _, plaintext := range [][]byte{{0}, hide([]byte("some secret for a pair")), bytes.Repeat([]byte("y"), limit)} {
					sealed, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: plaintext, EncryptionAlgorithm: with})
					if err != nil {
						t.Fatal(err)
					}
					c.wantMembers(t, "CiphertextBlob", "KeyId", "EncryptionAlgorithm")
					if *sealed.KeyId != key || sealed.EncryptionAlgorithm != with || len(sealed.CiphertextBlob) != public.Size() {
						t.Errorf("Encrypt: %s, %s, %d bytes; want %s, %s, %d", *sealed.KeyId, sealed.EncryptionAlgorithm, len(sealed.CiphertextBlob), key, with, public.Size())
					}
					hash := hashOfName(algorithm)
					outside, err := rsa.EncryptOAEP(hash.New(), rand.Reader, public, plaintext, nil)
					if err != nil {
						t.Fatal(err)
					}
					for _, blob := range [][]byte{sealed.CiphertextBlob, outside} {
						opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &key, CiphertextBlob: blob, EncryptionAlgorithm: with})
						if err != nil {
							t.Fatal(err)
						}
						c.wantMembers(t, "KeyId", "Plaintext", "EncryptionAlgorithm")
						if *opened.KeyId != key || opened.EncryptionAlgorithm != with || !bytes.Equal(opened.Plaintext, plaintext) {
							t.Errorf("Decrypt: %s, %s, %d bytes; want %s, %s and the plaintext", *opened.KeyId, opened.EncryptionAlgorithm, len(opened.Plaintext), key, with)
						}
					}
				}
				g.refused(t, own, "Encrypt", m{"KeyId": key, "Plaintext": make([]byte, limit+1), "EncryptionAlgorithm": algorithm}, "ValidationException",
					fmt.Sprintf("Algorithm %s and key spec %s cannot encrypt data larger than %d bytes.", algorithm, spec, limit))
			})
		}
	}
}

// TestReEncryptBetweenPairs goes from every kind of key that encrypts to every other.
func TestReEncryptBetweenPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	type side struct {
		key, algorithm string
		context        map[string]string
	}
	symmetric := g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	sides := []side{
		{symmetric, "SYMMETRIC_DEFAULT", map[string]string{"a": "b"}},
		{g.createKey(t, own), "SYMMETRIC_DEFAULT", nil},
		{g.ready(t, types.KeySpecRsa2048, encrypts), oaep[0], nil},
		{g.ready(t, types.KeySpecRsa2048, encrypts), oaep[1], nil},
		{g.ready(t, types.KeySpecRsa3072, encrypts), oaep[1], nil},
	}
	plaintext := hide([]byte("round all keys that encrypt"))
	for _, from := range sides {
		for _, to := range sides {
			t.Run(from.algorithm+"/"+to.algorithm, func(t *testing.T) {
				t.Parallel()
				c := g.newClient(own)
				sealed, err := c.Encrypt(t.Context(), &kms.EncryptInput{
					KeyId: &from.key, Plaintext: plaintext, EncryptionAlgorithm: types.EncryptionAlgorithmSpec(from.algorithm), EncryptionContext: from.context,
				})
				if err != nil {
					t.Fatal(err)
				}
				moved, err := c.ReEncrypt(t.Context(), &kms.ReEncryptInput{
					CiphertextBlob: sealed.CiphertextBlob, SourceKeyId: &from.key, DestinationKeyId: &to.key,
					SourceEncryptionAlgorithm:      types.EncryptionAlgorithmSpec(from.algorithm),
					DestinationEncryptionAlgorithm: types.EncryptionAlgorithmSpec(to.algorithm),
					SourceEncryptionContext:        from.context, DestinationEncryptionContext: to.context,
				})
				if err != nil {
					t.Fatal(err)
				}
				members := []string{"CiphertextBlob", "SourceKeyId", "KeyId", "SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm"}
				if from.algorithm == "SYMMETRIC_DEFAULT" {
					members = append(members, "SourceKeyMaterialId")
				}
				if to.algorithm == "SYMMETRIC_DEFAULT" {
					members = append(members, "DestinationKeyMaterialId")
				}
				c.wantMembers(t, members...)
				if *moved.SourceKeyId != from.key || *moved.KeyId != to.key || string(moved.SourceEncryptionAlgorithm) != from.algorithm || string(moved.DestinationEncryptionAlgorithm) != to.algorithm {
					t.Errorf("answer %s", c.last.body)
				}
				opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{
					CiphertextBlob: moved.CiphertextBlob, KeyId: &to.key, EncryptionAlgorithm: types.EncryptionAlgorithmSpec(to.algorithm), EncryptionContext: to.context,
				})
				if err != nil || !bytes.Equal(opened.Plaintext, plaintext) {
					t.Errorf("Decrypt after ReEncrypt: %v, want the plaintext", err)
				}
			})
		}
	}
	// What fits one key may be too large for another.
	large := make([]byte, 191)
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": symmetric, "Plaintext": large})["CiphertextBlob"]
	in := m{"CiphertextBlob": blob, "DestinationKeyId": sides[2].key, "DestinationEncryptionAlgorithm": oaep[1]}
	tooLarge := "Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than 190 bytes."
	g.refused(t, own, "ReEncrypt", in, "ValidationException", tooLarge)
	in["DryRun"] = true
	g.refused(t, own, "ReEncrypt", in, "ValidationException", tooLarge)
}

// TestEmptyPlaintexts: nobody can have the gateway encrypt nothing, and everybody
// with the public key can.
func TestEmptyPlaintexts(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, symmetric := g.ready(t, types.KeySpecRsa2048, encrypts), g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	public := parsePublicKey(t, g.publicKey(t, key)).(*rsa.PublicKey)
	for _, algorithm := range oaep {
		blob, err := rsa.EncryptOAEP(hashOfName(algorithm).New(), rand.Reader, public, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		opened := g.mustCall(t, own, "Decrypt", m{"KeyId": key, "CiphertextBlob": blob, "EncryptionAlgorithm": algorithm})
		if opened["Plaintext"] != "" {
			t.Errorf("Plaintext %v, want an empty one", opened["Plaintext"])
		}
		moved := g.mustCall(t, own, "ReEncrypt", m{"SourceKeyId": key, "CiphertextBlob": blob, "SourceEncryptionAlgorithm": algorithm, "DestinationKeyId": symmetric})
		if opened := g.mustCall(t, own, "Decrypt", m{"CiphertextBlob": moved["CiphertextBlob"]}); opened["Plaintext"] != "" {
			t.Errorf("Plaintext %v after ReEncrypt, want an empty one", opened["Plaintext"])
		}
	}
}
