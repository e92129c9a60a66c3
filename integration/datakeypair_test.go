package integration_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// pairSpecs are the data key pairs that SoftHSM can make.
var pairSpecs = []types.DataKeyPairSpec{
	types.DataKeyPairSpecRsa2048, types.DataKeyPairSpecRsa3072, types.DataKeyPairSpecRsa4096,
	types.DataKeyPairSpecEccNistP256, types.DataKeyPairSpecEccNistP384, types.DataKeyPairSpecEccNistP521,
	types.DataKeyPairSpecEccSecgP256k1, types.DataKeyPairSpecEccNistEdwards25519,
}

// privateKeyInfo is that of RFC 5958, with an ECPrivateKey of RFC 5915 in it.
type privateKeyInfo struct {
	Version   int
	Algorithm pkix.AlgorithmIdentifier
	Key       []byte
	Rest      []asn1.RawValue `asn1:"optional,tag:0"`
}

type ecPrivateKey struct {
	Version int
	Key     []byte
	Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
	Public  asn1.BitString        `asn1:"optional,explicit,tag:1"`
}

// belongs tells whether a private key, PKCS#8, is that of a public key, and good
// for something.
func belongs(t testing.TB, private []byte, public any) bool {
	t.Helper()
	if k1, ok := public.(*secp256k1.PublicKey); ok {
		var info privateKeyInfo
		var key ecPrivateKey
		_, err := asn1.Unmarshal(private, &info)
		if err == nil {
			_, err = asn1.Unmarshal(info.Key, &key)
		}
		if err != nil || len(key.Key) != 32 {
			t.Errorf("private key of %d bytes: %v", len(key.Key), err)
			return false
		}
		return secp256k1.PrivKeyFromBytes(key.Key).PubKey().IsEqual(k1)
	}
	key, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		t.Errorf("private key: %v", err)
		return false
	}
	if rsaKey, ok := key.(*rsa.PrivateKey); ok {
		if err := rsaKey.Validate(); err != nil {
			t.Errorf("private key: %v", err)
		}
	}
	message := make([]byte, 32)
	hash := crypto.SHA256
	if _, ok := key.(ed25519.PrivateKey); ok {
		hash = 0
	}
	signature, err := key.(crypto.Signer).Sign(rand.Reader, message, hash)
	if err != nil {
		t.Errorf("sign with the private key: %v", err)
		return false
	}
	algorithm := map[bool]string{true: "ED25519", false: "RSASSA_PKCS1_V1_5_SHA_256"}[hash == 0]
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		algorithm = "ECDSA_SHA_256"
	}
	return verifiesOutside(t, public, algorithm, hash != 0, message, signature)
}

// TestDataKeyPairs makes a pair of every spec, both ways.
func TestDataKeyPairs(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	material := g.material(t, own, key)
	forms := g.fourForms(t, own, key)
	context := map[string]string{"purpose": "pairs"}
	for n, spec := range pairSpecs {
		form := forms[n%len(forms)]
		t.Run(string(spec), func(t *testing.T) {
			t.Parallel()
			c := g.newClient(own)
			decrypt := func(blob []byte) []byte {
				opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: context})
				if err != nil {
					t.Fatal(err)
				}
				if *opened.KeyId != key || *opened.KeyMaterialId != material {
					t.Errorf("Decrypt says %s, %s; want %s, %s", *opened.KeyId, *opened.KeyMaterialId, key, material)
				}
				return hide(opened.Plaintext)
			}
			made, err := c.GenerateDataKeyPair(t.Context(), &kms.GenerateDataKeyPairInput{KeyId: &form, KeyPairSpec: spec, EncryptionContext: context})
			if err != nil {
				t.Fatal(err)
			}
			hide(made.PrivateKeyPlaintext)
			c.wantMembers(t, "KeyId", "KeyMaterialId", "KeyPairSpec", "PrivateKeyCiphertextBlob", "PrivateKeyPlaintext", "PublicKey")
			if *made.KeyId != key || *made.KeyMaterialId != material || made.KeyPairSpec != spec {
				t.Errorf("GenerateDataKeyPair says %s, %s, %s", *made.KeyId, *made.KeyMaterialId, made.KeyPairSpec)
			}
			public := parsePublicKey(t, made.PublicKey)
			if !belongs(t, made.PrivateKeyPlaintext, public) || !bytes.Contains([]byte(spec), []byte(sizeOf(public))) {
				t.Errorf("the private key does not belong to the public key, a %s", sizeOf(public))
			}
			if !bytes.Equal(decrypt(made.PrivateKeyCiphertextBlob), made.PrivateKeyPlaintext) {
				t.Error("the ciphertext is not of the private key")
			}
			g.refused(t, own, "Decrypt", m{"CiphertextBlob": made.PrivateKeyCiphertextBlob}, "InvalidCiphertextException", "")

			if spec == types.DataKeyPairSpecRsa4096 || spec == types.DataKeyPairSpecRsa3072 {
				return // the other way costs a token in software as much again
			}
			without, err := c.GenerateDataKeyPairWithoutPlaintext(t.Context(), &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: &form, KeyPairSpec: spec, EncryptionContext: context})
			if err != nil {
				t.Fatal(err)
			}
			c.wantMembers(t, "KeyId", "KeyMaterialId", "KeyPairSpec", "PrivateKeyCiphertextBlob", "PublicKey")
			if *without.KeyId != key || *without.KeyMaterialId != material || without.KeyPairSpec != spec || bytes.Equal(without.PublicKey, made.PublicKey) {
				t.Errorf("GenerateDataKeyPairWithoutPlaintext says %s, %s, %s", *without.KeyId, *without.KeyMaterialId, without.KeyPairSpec)
			}
			if !belongs(t, decrypt(without.PrivateKeyCiphertextBlob), parsePublicKey(t, without.PublicKey)) {
				t.Error("the private key does not belong to the public key")
			}
		})
	}
}

func TestDataKeyPairRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	symmetric, pair := g.ready(t, types.KeySpecSymmetricDefault, encrypts), g.ready(t, types.KeySpecRsa2048, encrypts)
	signing, mac := g.ready(t, types.KeySpecEccNistP256, signs), g.ready(t, types.KeySpecHmac256, macs)
	const failed = "1 validation error detected: Value "
	for _, operation := range []string{"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"} {
		for name, tc := range map[string]struct {
			in            m
			code, message string
		}{
			"no spec":         {m{"KeyPairSpec": nil}, "ValidationException", failed + "null at 'keyPairSpec' failed to satisfy constraint: Member must not be null"},
			"unknown spec":    {m{"KeyPairSpec": "HMAC_256"}, "ValidationException", failed + "'HMAC_256' at 'keyPairSpec' failed to satisfy constraint: Member must satisfy enum value set: [RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, ECC_NIST_EDWARDS25519, SM2, ML_KEM_512, ML_KEM_768, ML_KEM_1024]"},
			"SM2":             {m{"KeyPairSpec": "SM2"}, "UnsupportedOperationException", "KeyPairSpec SM2 is not supported in this Region"},
			"no mechanism":    {m{"KeyPairSpec": "ML_KEM_768"}, "UnsupportedOperationException", "KeyPairSpec ML_KEM_768 is not supported by this key store: its HSM has no mechanism for it. kmsgate hsm probe shows what it can do."},
			"under a pair":    {m{"KeyId": pair}, "InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK"},
			"key that signs":  {m{"KeyId": signing}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for " + operation + "."},
			"key of HMAC":     {m{"KeyId": mac}, "InvalidKeyUsageException", mac + " key usage is GENERATE_VERIFY_MAC which is not valid for " + operation + "."},
			"large context":   {m{"EncryptionContext": m{"k": string(bytes.Repeat([]byte("v"), 8192))}}, "ValidationException", "EncryptionContext must not be larger than 8192 bytes."},
			"no such key":     {m{"KeyId": nowhere}, "NotFoundException", "Key '" + keyARN(own, nowhere) + "' does not exist"},
			"trial":           {m{"DryRun": true}, "DryRunOperationException", dryRunText},
			"trial of RSA":    {m{"DryRun": true, "KeyPairSpec": "RSA_4096"}, "DryRunOperationException", dryRunText},
			"trial of a pair": {m{"DryRun": true, "KeyId": pair}, "InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK"},
		} {
			t.Run(operation+"/"+name, func(t *testing.T) {
				t.Parallel()
				g.refused(t, own, operation, with(m{"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256"}, tc.in), tc.code, tc.message)
			})
		}
	}
	g.refused(t, own, "GenerateDataKeyPair", m{"KeyId": symmetric, "KeyPairSpec": "ECC_NIST_P256", "Recipient": m{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AA=="}},
		"UnsupportedOperationException", recipientText)
	// The same keys make no data keys of other kinds either.
	g.refused(t, own, "GenerateDataKey", m{"KeyId": pair, "KeySpec": "AES_256"}, "InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK")
	g.refused(t, own, "GenerateDataKey", m{"KeyId": mac, "KeySpec": "AES_256"}, "InvalidKeyUsageException", mac+" key usage is GENERATE_VERIFY_MAC which is not valid for GenerateDataKey.")
}
