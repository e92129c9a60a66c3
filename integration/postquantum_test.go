package integration_test

import (
	"bytes"
	"crypto/mlkem"
	"crypto/sha3"
	"encoding/asn1"
	"fmt"
	"slices"
	"testing"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"kmsgate/softhsm/pqtoken"
)

const encapsulates = types.KeyUsageTypeEncapsulateDecapsulate

// mldsaKinds are the specs that sign, with what verifies outside.
var mldsaKinds = map[types.KeySpec]mldsa.Parameters{
	types.KeySpecMlDsa44: mldsa.MLDSA44(), types.KeySpecMlDsa65: mldsa.MLDSA65(), types.KeySpecMlDsa87: mldsa.MLDSA87(),
}

// mlkemKinds are the specs that encapsulate, with their object identifier in
// NIST's arc and the lengths of public keys and encapsulations.
var mlkemKinds = map[types.KeySpec]struct{ oid, publicBytes, encapsulationBytes int }{
	types.KeySpecMlKem512: {1, 800, 768}, types.KeySpecMlKem768: {2, 1184, 1088}, types.KeySpecMlKem1024: {3, 1568, 1568},
}

// postQuantumGateway is a gateway of the test's own on a token that has ML-DSA
// and ML-KEM.
type postQuantumGateway struct {
	*instance
	site *site
	keys map[types.KeySpec]string // ARN of a key of each spec
}

func newPostQuantumGateway(t *testing.T, c pqtoken.Config) *postQuantumGateway {
	t.Helper()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	token, err := pqtoken.New(s.dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	s.set(t, s.token.Module, token.Module)
	key := s.prepare(t)
	g := &postQuantumGateway{site: s, keys: map[types.KeySpec]string{}}
	g.instance = s.serve(t, map[string]credentials{own: key})
	for spec := range mldsaKinds {
		g.keys[spec] = g.createPair(t, own, spec, signs)
	}
	for spec := range mlkemKinds {
		g.keys[spec] = g.createPair(t, own, spec, encapsulates)
	}
	return g
}

func TestPostQuantumKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]pqtoken.Config{"resident": {}, "wrapped": {Wraps: true, ExternalMu: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newPostQuantumGateway(t, c)
			t.Run("DescribeKey", g.areDescribed)
			t.Run("Sign", g.sign)
			t.Run("SignMu", func(t *testing.T) { g.signRepresentatives(t, c.ExternalMu) })
			t.Run("Encapsulate", g.encapsulate)
			t.Run("Refusals", g.refuse)
			t.Run("GenerateDataKeyPair", g.makePairs)
			signature := g.signature(t, types.KeySpecMlDsa44, "message")
			blob := g.encapsulation(t, types.KeySpecMlKem512)
			if code := g.stop(); code != 0 {
				t.Errorf("serve exits with %d\n%s", code, g.stderr)
			}
			g.instance = g.site.serve(t, g.instance.keys)
			t.Run("AfterRestart", func(t *testing.T) {
				g.mustCall(t, own, "Verify", m{"KeyId": g.keys[types.KeySpecMlDsa44], "Message": []byte("message"), "Signature": signature, "SigningAlgorithm": "ML_DSA_SHAKE_256"})
				g.signature(t, types.KeySpecMlDsa87, "message")
				if got := g.decapsulation(t, types.KeySpecMlKem512, blob.ciphertext); !bytes.Equal(got, blob.secret) {
					t.Error("the encapsulation of before gives another secret")
				}
			})
			for _, problem := range leaks("the log", g.stderr.String()) {
				t.Error(problem)
			}
		})
	}
}

// areDescribed looks at KeyMetadata and at GetPublicKey.
func (g *postQuantumGateway) areDescribed(t *testing.T) {
	c := g.newClient(own)
	for spec, key := range g.keys {
		out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &key})
		if err != nil {
			t.Fatal(err)
		}
		described := out.KeyMetadata
		if described.KeySpec != spec || public.KeySpec != spec || described.KeyUsage != public.KeyUsage {
			t.Errorf("%s is described as %s for %s, and its public key as %s for %s", spec, described.KeySpec, described.KeyUsage, public.KeySpec, public.KeyUsage)
		}
		if parameters, ok := mldsaKinds[spec]; ok {
			want := []types.SigningAlgorithmSpec{types.SigningAlgorithmSpecMlDsaShake256}
			if !slices.Equal(described.SigningAlgorithms, want) || !slices.Equal(public.SigningAlgorithms, want) || described.EncapsulationAlgorithms != nil {
				t.Errorf("%s has the algorithms %v and %v, want %v", spec, described.SigningAlgorithms, public.SigningAlgorithms, want)
			}
			parsed, err := mldsax509.ParsePKIXPublicKey(public.PublicKey)
			if key, ok := parsed.(*mldsa.PublicKey); err != nil || !ok || key.Parameters() != parameters {
				t.Errorf("the public key of %s is a %T: %v", spec, parsed, err)
			}
			continue
		}
		want := []types.EncapsulationAlgorithmSpec{types.EncapsulationAlgorithmSpecMlKem}
		if !slices.Equal(described.EncapsulationAlgorithms, want) || !slices.Equal(public.EncapsulationAlgorithms, want) || described.SigningAlgorithms != nil {
			t.Errorf("%s has the algorithms %v and %v, want %v", spec, described.EncapsulationAlgorithms, public.EncapsulationAlgorithms, want)
		}
		rawMLKEM(t, spec, public.PublicKey)
	}
}

// rawMLKEM takes an encapsulation key out of its SubjectPublicKeyInfo (RFC 9935).
func rawMLKEM(t testing.TB, spec types.KeySpec, der []byte) []byte {
	t.Helper()
	var info subjectPublicKeyInfo
	rest, err := asn1.Unmarshal(der, &info)
	want := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, mlkemKinds[spec].oid}
	if err != nil || len(rest) > 0 || !info.Algorithm.Algorithm.Equal(want) || len(info.Algorithm.Parameters.FullBytes) > 0 ||
		info.Key.BitLength != 8*mlkemKinds[spec].publicBytes {
		t.Fatalf("public key of %s with the algorithm %+v and %d bits, %d bytes behind it: %v", spec, info.Algorithm, info.Key.BitLength, len(rest), err)
	}
	return info.Key.Bytes
}

func (g *postQuantumGateway) signature(t testing.TB, spec types.KeySpec, message string) []byte {
	t.Helper()
	key := g.keys[spec]
	out, err := g.newClient(own).Sign(t.Context(), &kms.SignInput{KeyId: &key, Message: []byte(message), SigningAlgorithm: types.SigningAlgorithmSpecMlDsaShake256})
	if err != nil {
		t.Fatalf("Sign with %s: %v", spec, err)
	}
	return hide(out.Signature)
}

func (g *postQuantumGateway) outside(t testing.TB, spec types.KeySpec) *mldsa.PublicKey {
	t.Helper()
	parsed, err := mldsax509.ParsePKIXPublicKey(g.publicKey(t, g.keys[spec]))
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(*mldsa.PublicKey)
}

// sign signs messages, and has others and the gateway verify them.
func (g *postQuantumGateway) sign(t *testing.T) {
	for spec := range mldsaKinds {
		outside, in := g.outside(t, spec), m{"KeyId": g.keys[spec], "SigningAlgorithm": "ML_DSA_SHAKE_256"}
		for _, message := range []string{"\x00", "a message", string(make([]byte, 4096))} {
			signature := g.signature(t, spec, message)
			if err := mldsa.Verify(outside, []byte(message), signature, nil); err != nil {
				t.Errorf("%s: the signature of %d bytes does not verify outside: %v", spec, len(message), err)
			}
			in := with(in, m{"Message": []byte(message), "Signature": signature})
			if got := g.mustCall(t, own, "Verify", in); got["SignatureValid"] != true {
				t.Errorf("%s: Verify says %v", spec, got)
			}
			g.mustCall(t, own, "Verify", with(in, m{"MessageType": "RAW"}))
			g.refused(t, own, "Verify", with(in, m{"Message": []byte(message + "x")[1:]}), "KMSInvalidSignatureException", "")
			changed := bytes.Clone(signature)
			changed[len(changed)/2] ^= 0x10
			g.refused(t, own, "Verify", with(in, m{"Signature": changed}), "KMSInvalidSignatureException", "")
			g.refused(t, own, "Verify", with(in, m{"Signature": signature[1:]}), "KMSInvalidSignatureException", "")
			g.refused(t, own, "Verify", with(in, m{"Signature": append(changed, 0)}), "KMSInvalidSignatureException", "")
		}
	}
}

// signRepresentatives does so with what is hashed outside (FIPS 204, section 6.2).
func (g *postQuantumGateway) signRepresentatives(t *testing.T, supported bool) {
	for spec := range mldsaKinds {
		outside := g.outside(t, spec)
		mu := sha3.NewSHAKE256()
		for _, part := range [][]byte{sha3.SumSHAKE256(outside.Bytes(), 64), {0, 0}, []byte("message")} {
			_, _ = mu.Write(part)
		}
		representative := make([]byte, 64)
		_, _ = mu.Read(representative)
		in := m{"KeyId": g.keys[spec], "SigningAlgorithm": "ML_DSA_SHAKE_256", "Message": representative, "MessageType": "EXTERNAL_MU"}
		ofMessage := g.signature(t, spec, "message")
		if !supported {
			const text = "Algorithm ML_DSA_SHAKE_256 is not supported by this key store: its HSM has no mechanism for it. kmsgate hsm probe shows what it can do."
			g.refused(t, own, "Sign", in, "UnsupportedOperationException", text)
			g.refused(t, own, "Verify", with(in, m{"Signature": ofMessage}), "UnsupportedOperationException", text)
			continue
		}
		g.mustCall(t, own, "Verify", with(in, m{"Signature": ofMessage}))
		out, err := g.newClient(own).Sign(t.Context(), &kms.SignInput{
			KeyId: new(g.keys[spec]), Message: representative, MessageType: types.MessageTypeExternalMu, SigningAlgorithm: types.SigningAlgorithmSpecMlDsaShake256,
		})
		if err != nil {
			t.Fatalf("%s: Sign as EXTERNAL_MU: %v", spec, err)
		}
		if err := mldsa.Verify(outside, []byte("message"), hide(out.Signature), nil); err != nil {
			t.Errorf("%s: the signature as EXTERNAL_MU does not verify outside: %v", spec, err)
		}
		g.mustCall(t, own, "Verify", m{"KeyId": g.keys[spec], "SigningAlgorithm": "ML_DSA_SHAKE_256", "Message": []byte("message"), "Signature": out.Signature})
		g.refused(t, own, "Verify", with(in, m{"Signature": out.Signature, "Message": make([]byte, 64)}), "KMSInvalidSignatureException", "")
	}
}

// shared is a secret and its encapsulation.
type sharedSecret struct{ secret, ciphertext []byte }

func (g *postQuantumGateway) encapsulation(t testing.TB, spec types.KeySpec) sharedSecret {
	t.Helper()
	c, key := g.newClient(own), g.keys[spec]
	out, err := c.Encapsulate(t.Context(), &kms.EncapsulateInput{KeyId: &key, EncapsulationAlgorithm: types.EncapsulationAlgorithmSpecMlKem})
	if err != nil {
		t.Fatalf("Encapsulate with %s: %v", spec, err)
	}
	c.wantMembers(t, "KeyId", "EncapsulationAlgorithm", "SharedSecret", "SharedSecretCiphertextBlob")
	if *out.KeyId != key || out.EncapsulationAlgorithm != types.EncapsulationAlgorithmSpecMlKem || len(out.SharedSecret) != 32 ||
		len(out.SharedSecretCiphertextBlob) != mlkemKinds[spec].encapsulationBytes {
		t.Errorf("Encapsulate with %s says %s, %s, %d and %d bytes", spec, *out.KeyId, out.EncapsulationAlgorithm, len(out.SharedSecret), len(out.SharedSecretCiphertextBlob))
	}
	return sharedSecret{hide(out.SharedSecret), out.SharedSecretCiphertextBlob}
}

func (g *postQuantumGateway) decapsulation(t testing.TB, spec types.KeySpec, ciphertext []byte) []byte {
	t.Helper()
	c, key := g.newClient(own), g.keys[spec]
	out, err := c.Decapsulate(t.Context(), &kms.DecapsulateInput{
		KeyId: &key, EncapsulationAlgorithm: types.EncapsulationAlgorithmSpecMlKem, SharedSecretCiphertextBlob: ciphertext,
	})
	if err != nil {
		t.Fatalf("Decapsulate with %s: %v", spec, err)
	}
	c.wantMembers(t, "KeyId", "EncapsulationAlgorithm", "SharedSecret")
	if *out.KeyId != key || len(out.SharedSecret) != 32 {
		t.Errorf("Decapsulate with %s says %s and %d bytes", spec, *out.KeyId, len(out.SharedSecret))
	}
	return hide(out.SharedSecret)
}

// encapsulate makes secrets inside and outside and recovers them.
func (g *postQuantumGateway) encapsulate(t *testing.T) {
	for spec := range mlkemKinds {
		made := g.encapsulation(t, spec)
		if got := g.decapsulation(t, spec, made.ciphertext); !bytes.Equal(got, made.secret) {
			t.Errorf("%s: another secret comes back", spec)
		}
		public := rawMLKEM(t, spec, g.publicKey(t, g.keys[spec]))
		var secret, ciphertext []byte
		switch spec {
		case types.KeySpecMlKem768:
			key, err := mlkem.NewEncapsulationKey768(public)
			if err != nil {
				t.Fatal(err)
			}
			secret, ciphertext = key.Encapsulate()
		case types.KeySpecMlKem1024:
			key, err := mlkem.NewEncapsulationKey1024(public)
			if err != nil {
				t.Fatal(err)
			}
			secret, ciphertext = key.Encapsulate()
		default: // Go has no ML-KEM-512
			secret, ciphertext = made.secret, made.ciphertext
		}
		if got := g.decapsulation(t, spec, ciphertext); !bytes.Equal(got, hide(secret)) {
			t.Errorf("%s: another secret comes back of what was made outside", spec)
		}
		ciphertext[7] ^= 1
		rejected := g.decapsulation(t, spec, ciphertext)
		if bytes.Equal(rejected, secret) || !bytes.Equal(rejected, g.decapsulation(t, spec, ciphertext)) {
			t.Errorf("%s: a changed encapsulation gives no secret of its own", spec)
		}
	}
}

// refuse asks for what is refused.
func (g *postQuantumGateway) refuse(t *testing.T) {
	signing, capsules := g.keys[types.KeySpecMlDsa44], g.keys[types.KeySpecMlKem768]
	const algorithm = "ML_DSA_SHAKE_256"
	blob, short := make([]byte, 1088), make([]byte, 1087)
	for _, tc := range []struct {
		name, operation string
		in              m
		code, message   string
	}{
		{"digest", "Sign", m{"KeyId": signing, "Message": make([]byte, 64), "MessageType": "DIGEST", "SigningAlgorithm": algorithm}, "ValidationException", "Message type DIGEST is incompatible with key spec ML_DSA_44."},
		{"digest", "Verify", m{"KeyId": signing, "Message": make([]byte, 64), "MessageType": "DIGEST", "SigningAlgorithm": algorithm, "Signature": "AA=="}, "ValidationException", "Message type DIGEST is incompatible with key spec ML_DSA_44."},
		{"short mu", "Sign", m{"KeyId": signing, "Message": make([]byte, 63), "MessageType": "EXTERNAL_MU", "SigningAlgorithm": algorithm}, "ValidationException", "Digest is invalid length for algorithm ML_DSA_SHAKE_256."},
		{"other algorithm", "Sign", m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256"}, "InvalidKeyUsageException", "Algorithm ECDSA_SHA_256 is incompatible with key spec ML_DSA_44."},
		{"key that encapsulates", "Sign", m{"KeyId": capsules, "Message": "AA==", "SigningAlgorithm": algorithm}, "InvalidKeyUsageException", capsules + " key usage is ENCAPSULATE_DECAPSULATE which is not valid for Sign."},
		{"trial", "Sign", m{"KeyId": signing, "Message": "AA==", "SigningAlgorithm": algorithm, "DryRun": true}, "DryRunOperationException", dryRunText},
		{"long message", "Sign", m{"KeyId": signing, "Message": make([]byte, 4097), "SigningAlgorithm": algorithm}, "ValidationException", "1 validation error detected: Value at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096"},

		{"key that signs", "Encapsulate", m{"KeyId": signing, "EncapsulationAlgorithm": "ML_KEM"}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for Encapsulate."},
		{"trial", "Encapsulate", m{"KeyId": capsules, "EncapsulationAlgorithm": "ML_KEM", "DryRun": true}, "DryRunOperationException", dryRunText},
		{"short", "Decapsulate", m{"KeyId": capsules, "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": short}, "InvalidCiphertextException", ""},
		{"long", "Decapsulate", m{"KeyId": capsules, "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": append(blob, 0)}, "InvalidCiphertextException", ""},
		{"another spec's", "Decapsulate", m{"KeyId": capsules, "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": make([]byte, 768)}, "InvalidCiphertextException", ""},
		{"trial", "Decapsulate", m{"KeyId": capsules, "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": blob, "DryRun": true}, "DryRunOperationException", dryRunText},
		{"key that signs", "Decapsulate", m{"KeyId": signing, "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": blob}, "InvalidKeyUsageException", signing + " key usage is SIGN_VERIFY which is not valid for Decapsulate."},

		{"under a pair", "Encrypt", m{"KeyId": capsules, "Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, "InvalidKeyUsageException", capsules + " key usage is ENCAPSULATE_DECAPSULATE which is not valid for Encrypt."},
	} {
		t.Run(fmt.Sprint(tc.operation, "/", tc.name), func(t *testing.T) {
			g.refused(t, own, tc.operation, tc.in, tc.code, tc.message)
		})
	}
}

// makePairs makes data key pairs of ML-KEM, and reads them as RFC 9935 has them.
func (g *postQuantumGateway) makePairs(t *testing.T) {
	key := g.createKey(t, own)
	c := g.newClient(own)
	open := func(blob []byte) []byte {
		t.Helper()
		out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob})
		if err != nil {
			t.Fatal(err)
		}
		return hide(out.Plaintext)
	}
	for _, spec := range []types.KeySpec{types.KeySpecMlKem512, types.KeySpecMlKem768, types.KeySpecMlKem1024} {
		pair := types.DataKeyPairSpec(spec)
		made, err := c.GenerateDataKeyPair(t.Context(), &kms.GenerateDataKeyPairInput{KeyId: &key, KeyPairSpec: pair})
		if err != nil {
			t.Fatalf("GenerateDataKeyPair %s: %v", spec, err)
		}
		wantMLKEMPair(t, spec, hide(made.PrivateKeyPlaintext), made.PublicKey)
		if !bytes.Equal(open(made.PrivateKeyCiphertextBlob), made.PrivateKeyPlaintext) {
			t.Errorf("%s: the ciphertext is of another private key", spec)
		}
		without, err := c.GenerateDataKeyPairWithoutPlaintext(t.Context(), &kms.GenerateDataKeyPairWithoutPlaintextInput{KeyId: &key, KeyPairSpec: pair})
		if err != nil {
			t.Fatalf("GenerateDataKeyPairWithoutPlaintext %s: %v", spec, err)
		}
		wantMLKEMPair(t, spec, open(without.PrivateKeyCiphertextBlob), without.PublicKey)
	}
}

// wantMLKEMPair checks that a PKCS#8 holds the 64-byte seed of a public key.
func wantMLKEMPair(t testing.TB, spec types.KeySpec, private, public []byte) {
	t.Helper()
	var info privateKeyInfo
	var seed asn1.RawValue
	rest, err := asn1.Unmarshal(private, &info)
	if err == nil && len(rest) == 0 {
		rest, err = asn1.Unmarshal(info.Key, &seed)
	}
	oid := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, mlkemKinds[spec].oid}
	if err != nil || len(rest) > 0 || len(private) != 86 || !info.Algorithm.Algorithm.Equal(oid) || seed.Class != asn1.ClassContextSpecific || seed.Tag != 0 || len(seed.Bytes) != 64 {
		t.Fatalf("%s: PKCS#8 of %d bytes with the algorithm %v and a key of class %d, tag %d, %d bytes: %v",
			spec, len(private), info.Algorithm.Algorithm, seed.Class, seed.Tag, len(seed.Bytes), err)
	}
	want := rawMLKEM(t, spec, public)
	var got []byte
	switch spec {
	case types.KeySpecMlKem768:
		key, err := mlkem.NewDecapsulationKey768(seed.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		got = key.EncapsulationKey().Bytes()
	case types.KeySpecMlKem1024:
		key, err := mlkem.NewDecapsulationKey1024(seed.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		got = key.EncapsulationKey().Bytes()
	default: // Go has no ML-KEM-512
		got = want
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the private key belongs to another public key", spec)
	}
}
