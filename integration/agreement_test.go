package integration_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// curves are those of key agreement, in both of the library's forms.
var curves = map[types.KeySpec]struct {
	ecdh     ecdh.Curve
	elliptic elliptic.Curve
	oid      asn1.ObjectIdentifier
	size     int // of the secret, in bytes
}{
	types.KeySpecEccNistP256: {ecdh.P256(), elliptic.P256(), asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, 32},
	types.KeySpecEccNistP384: {ecdh.P384(), elliptic.P384(), asn1.ObjectIdentifier{1, 3, 132, 0, 34}, 48},
	types.KeySpecEccNistP521: {ecdh.P521(), elliptic.P521(), asn1.ObjectIdentifier{1, 3, 132, 0, 35}, 66},
}

// spki is a public key as DeriveSharedSecret takes it.
func spki(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestKeyAgreement agrees with peers whose private keys the test has. One of the
// secrets on P-256 begins with a zero byte, which must not be lost.
func TestKeyAgreement(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kindsOf(agrees) {
		t.Run(string(k.spec), func(t *testing.T) {
			t.Parallel()
			c := g.newClient(own)
			key, curve := g.ready(t, k.spec, agrees), curves[k.spec]
			public, err := parsePublicKey(t, g.publicKey(t, key)).(*ecdsa.PublicKey).ECDH()
			if err != nil {
				t.Fatal(err)
			}
			for n := range 20 {
				peer, err := curve.ecdh.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				want, err := peer.ECDH(public)
				if err != nil {
					t.Fatal(err)
				}
				for n == 0 && want[0] != 0 && curve.size == 32 {
					if peer, err = curve.ecdh.GenerateKey(rand.Reader); err != nil {
						t.Fatal(err)
					}
					if want, err = peer.ECDH(public); err != nil {
						t.Fatal(err)
					}
				}
				hide(want)
				got, err := c.DeriveSharedSecret(t.Context(), &kms.DeriveSharedSecretInput{
					KeyId: &key, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: spki(t, peer.PublicKey()),
				})
				if err != nil {
					t.Fatal(err)
				}
				c.wantMembers(t, "KeyId", "SharedSecret", "KeyAgreementAlgorithm", "KeyOrigin")
				if *got.KeyId != key || got.KeyAgreementAlgorithm != types.KeyAgreementAlgorithmSpecEcdh || got.KeyOrigin != types.OriginTypeAwsKms {
					t.Errorf("DeriveSharedSecret says %s, %s, %s", *got.KeyId, got.KeyAgreementAlgorithm, got.KeyOrigin)
				}
				if !bytes.Equal(got.SharedSecret, want) || len(want) != curve.size {
					t.Errorf("a secret of %d bytes, want the peer's of %d", len(got.SharedSecret), curve.size)
				}
			}
			// Two keys of the gateway agree as well.
			second := g.mustCall(t, own, "CreateKey", m{"KeySpec": k.spec, "KeyUsage": agrees})["KeyMetadata"].(m)["Arn"].(string)
			derive := func(key string, peer []byte) string {
				return g.mustCall(t, own, "DeriveSharedSecret", m{"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": peer})["SharedSecret"].(string)
			}
			if a, b := derive(key, g.publicKey(t, second)), derive(second, g.publicKey(t, key)); hideText(a) != b {
				t.Error("two keys derive two secrets of each other's public keys")
			}
		})
	}
}

// encodedPoint is a SubjectPublicKeyInfo of whatever is said to be a point.
func encodedPoint(t testing.TB, algorithm, curve asn1.ObjectIdentifier, point []byte) []byte {
	t.Helper()
	parameters, err := asn1.Marshal(curve)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(subjectPublicKeyInfo{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: algorithm, Parameters: asn1.RawValue{FullBytes: parameters}},
		Key:       asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// badPeers are public keys that nobody may agree with.
func badPeers(t testing.TB, spec types.KeySpec) map[string][]byte {
	t.Helper()
	curve := curves[spec]
	peer, err := curve.ecdh.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point := peer.PublicKey().Bytes() // 4, x, y
	good := spki(t, peer.PublicKey())
	off := bytes.Clone(point)
	off[len(off)-1] ^= 1
	beyond := bytes.Clone(point)
	curve.elliptic.Params().P.FillBytes(beyond[1 : 1+curve.size]) // x = p
	zero := make([]byte, len(point))
	zero[0] = 4
	bad := map[string][]byte{
		"not DER": []byte("public key"), "one byte": {0x30}, "empty sequence": {0x30, 0},
		"cut": good[:len(good)-1], "trailing byte": append(bytes.Clone(good), 0),
		"off the curve":  encodedPoint(t, oidECPublicKey, curve.oid, off),
		"beyond p":       encodedPoint(t, oidECPublicKey, curve.oid, beyond),
		"zero":           encodedPoint(t, oidECPublicKey, curve.oid, zero),
		"infinity":       encodedPoint(t, oidECPublicKey, curve.oid, []byte{0}),
		"no point":       encodedPoint(t, oidECPublicKey, curve.oid, nil),
		"wrong form":     encodedPoint(t, oidECPublicKey, curve.oid, append([]byte{5}, point[1:]...)),
		"short point":    encodedPoint(t, oidECPublicKey, curve.oid, point[:len(point)-1]),
		"long point":     encodedPoint(t, oidECPublicKey, curve.oid, append(bytes.Clone(point), 0)),
		"bare point":     point,
		"no EC key":      encodedPoint(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, curve.oid, point),
		"unknown curve":  encodedPoint(t, oidECPublicKey, asn1.ObjectIdentifier{1, 2, 3, 4}, point),
		"secp256k1":      encodedPoint(t, oidECPublicKey, oidSECP256K1, point),
		"an RSA key":     spki(t, &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537}),
		"X25519":         spki(t, x25519(t)),
		"8192 bytes":     make([]byte, 8192),
		"long form size": bytes.Replace(good, []byte{0x30, good[1]}, []byte{0x30, 0x81, good[1]}, 1),
	}
	for other, c := range curves {
		if other != spec {
			stranger, err := c.ecdh.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			bad["of "+string(other)] = spki(t, stranger.PublicKey())
			bad["point of "+string(other)] = encodedPoint(t, oidECPublicKey, curve.oid, stranger.PublicKey().Bytes())
		}
	}
	return bad
}

func x25519(t testing.TB) *ecdh.PublicKey {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.PublicKey()
}

// TestBadPeersAreRefused gives all of them one and the same answer.
func TestBadPeersAreRefused(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, k := range kindsOf(agrees) {
		key := g.ready(t, k.spec, agrees)
		for name, peer := range badPeers(t, k.spec) {
			t.Run(string(k.spec)+"/"+name, func(t *testing.T) {
				t.Parallel()
				in := m{"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": peer}
				g.refused(t, own, "DeriveSharedSecret", in, "ValidationException", "")
				in["DryRun"] = true
				g.refused(t, own, "DeriveSharedSecret", in, "ValidationException", "")
			})
		}
	}
}

func TestAgreementRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, signing := g.ready(t, types.KeySpecEccNistP256, agrees), g.ready(t, types.KeySpecEccNistP256, signs)
	symmetric := g.ready(t, types.KeySpecSymmetricDefault, encrypts)
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := m{"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": spki(t, peer.PublicKey())}
	const failed = "1 validation error detected: Value "
	for name, tc := range map[string]struct {
		in            m
		code, message string
	}{
		"no public key":     {m{"PublicKey": nil}, "ValidationException", failed + "null at 'publicKey' failed to satisfy constraint: Member must not be null"},
		"empty public key":  {m{"PublicKey": ""}, "ValidationException", failed + "at 'publicKey' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		"long public key":   {m{"PublicKey": make([]byte, 8193)}, "ValidationException", failed + "at 'publicKey' failed to satisfy constraint: Member must have length less than or equal to 8192"},
		"no algorithm":      {m{"KeyAgreementAlgorithm": nil}, "ValidationException", failed + "null at 'keyAgreementAlgorithm' failed to satisfy constraint: Member must not be null"},
		"unknown algorithm": {m{"KeyAgreementAlgorithm": "DH"}, "ValidationException", failed + "'DH' at 'keyAgreementAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [ECDH]"},
		"key that signs":    {m{"KeyId": signing}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for DeriveSharedSecret."},
		"usage first":       {m{"KeyId": symmetric, "PublicKey": "AA=="}, "InvalidKeyUsageException", symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for DeriveSharedSecret."},
		"recipient":         {m{"Recipient": m{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AA=="}}, "UnsupportedOperationException", recipientText},
		"trial":             {m{"DryRun": true}, "DryRunOperationException", dryRunText},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g.refused(t, own, "DeriveSharedSecret", with(good, tc.in), tc.code, tc.message)
		})
	}
}

// recipientText refuses a Recipient, wherever it stands.
const recipientText = "Recipient is not supported: attestation documents are not verified here."

// TestEncapsulationNeedsItsKeys: SoftHSM makes no ML-KEM keys, so that no key here
// has the usage; what the request alone tells is told first.
func TestEncapsulationNeedsItsKeys(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	const failed = "1 validation error detected: Value "
	for _, k := range kinds {
		key := g.ready(t, k.spec, k.usage)
		for operation, more := range map[string]m{"Encapsulate": nil, "Decapsulate": {"SharedSecretCiphertextBlob": "AA=="}} {
			in := with(m{"KeyId": key, "EncapsulationAlgorithm": "ML_KEM"}, more)
			g.refused(t, own, operation, in, "InvalidKeyUsageException", key+" key usage is "+string(k.usage)+" which is not valid for "+operation+".")
			g.refused(t, own, operation, with(in, m{"DryRun": true}), "InvalidKeyUsageException", key+" key usage is "+string(k.usage)+" which is not valid for "+operation+".")
			g.refused(t, own, operation, with(in, m{"EncapsulationAlgorithm": "RSA"}), "ValidationException",
				failed+"'RSA' at 'encapsulationAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [ML_KEM]")
		}
	}
	g.refused(t, own, "Decapsulate", m{"KeyId": nowhere, "EncapsulationAlgorithm": "ML_KEM"}, "ValidationException",
		failed+"null at 'sharedSecretCiphertextBlob' failed to satisfy constraint: Member must not be null")
}
