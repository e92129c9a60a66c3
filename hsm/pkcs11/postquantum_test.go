package pkcs11

import (
	"bytes"
	"crypto/mlkem"
	"crypto/sha3"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"testing"

	"filippo.io/mldsa"
	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm/pqtoken"
)

// mldsaSpecs are the specs that sign, with what verifies outside.
var mldsaSpecs = map[keyspec.Spec]mldsa.Parameters{
	keyspec.MLDSA44: mldsa.MLDSA44(), keyspec.MLDSA65: mldsa.MLDSA65(), keyspec.MLDSA87: mldsa.MLDSA87(),
}

// mlkemSpecs are the specs that encapsulate, with the length of that.
var mlkemSpecs = map[keyspec.Spec]int{keyspec.MLKEM512: 768, keyspec.MLKEM768: 1088, keyspec.MLKEM1024: 1568}

// postQuantumSpecs are both, with their usage.
func postQuantumSpecs() map[keyspec.Spec]keyspec.Usage {
	specs := map[keyspec.Spec]keyspec.Usage{}
	for spec := range mldsaSpecs {
		specs[spec] = keyspec.SignVerify
	}
	for spec := range mlkemSpecs {
		specs[spec] = keyspec.EncapsulateDecapsulate
	}
	return specs
}

// postQuantum is a token for post-quantum keys and its configuration.
type postQuantum struct {
	*Engine
	cfg  Config
	rows []hsm.ServiceKey
}

// openPostQuantum opens an engine, with service keys, on such a token.
func openPostQuantum(t *testing.T, c pqtoken.Config) *postQuantum {
	t.Helper()
	softHSM := newToken(t)
	token, err := pqtoken.New(t.TempDir(), c)
	must(t, err)
	t.Cleanup(func() { must(t, token.Close()) })
	p := &postQuantum{cfg: configFor(softHSM)}
	p.cfg.Module = token.Module
	p.Engine, err = Open(t.Context(), p.cfg)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	p.rows, err = p.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1))
	must(t, err)
	return p
}

// make makes a key of a spec.
func (p *postQuantum) make(t *testing.T, spec keyspec.Spec) *hsm.Key {
	t.Helper()
	k := newKey(string(spec))
	k.Spec, k.Usage = spec, postQuantumSpecs()[spec]
	made, err := p.Generate(t.Context(), client, k)
	if err != nil {
		t.Fatalf("Generate %s = %v", spec, err)
	}
	return &made
}

// raw is the public key of a key, out of its SubjectPublicKeyInfo.
func raw(t *testing.T, k *hsm.Key) []byte {
	t.Helper()
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil || public.Spec != k.Spec {
		t.Fatalf("public key of %s: %+v, %v", k.Spec, public, err)
	}
	return public.Raw
}

// residencies are the kinds of token by what becomes of keys there.
var residencies = map[hsm.Residency]pqtoken.Config{hsm.Resident: {}, hsm.Wrapped: {Wraps: true}}

func TestPostQuantumKeysLiveWhereTheTokenLets(t *testing.T) {
	for residency, c := range residencies {
		t.Run(string(residency), func(t *testing.T) {
			p := openPostQuantum(t, c)
			for spec := range postQuantumSpecs() {
				k := p.make(t, spec)
				if k.Residency != residency {
					t.Errorf("%s is %s, want %s", spec, k.Residency, residency)
				}
				raw(t, k)
				if got, err := p.PublicKey(t.Context(), client, k); err != nil || !bytes.Equal(got, k.PublicKey) {
					t.Errorf("PublicKey of %s = %x, %v, want that of the row", spec, got, err)
				}
			}
			if err := p.Check(t.Context()); err != nil {
				t.Errorf("Check = %v", err)
			}
		})
	}
}

func TestMLDSASignaturesVerifyOutside(t *testing.T) {
	for residency, c := range residencies {
		t.Run(string(residency), func(t *testing.T) {
			p := openPostQuantum(t, c)
			for spec, parameters := range mldsaSpecs {
				k := p.make(t, spec)
				outside, err := mldsa.NewPublicKey(parameters, raw(t, k))
				must(t, err)
				for _, message := range [][]byte{{0}, []byte("message"), make([]byte, keyspec.MaxMessageBytes)} {
					signature, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Raw, message)
					if err != nil {
						t.Fatalf("Sign with %s = %v", spec, err)
					}
					if err := mldsa.Verify(outside, message, signature, nil); err != nil {
						t.Errorf("%s: the signature of %d bytes does not verify outside: %v", spec, len(message), err)
					}
					if err := p.Verify(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Raw, message, signature); err != nil {
						t.Errorf("Verify with %s = %v", spec, err)
					}
				}
			}
		})
	}
}

func TestMLDSAVerifyRefusesWhatWasChanged(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{})
	for spec := range mldsaSpecs {
		k, other := p.make(t, spec), p.make(t, spec)
		message := []byte("message")
		signature, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Raw, message)
		must(t, err)
		refused := func(what string, k *hsm.Key, message, signature []byte) {
			t.Helper()
			if err := p.Verify(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Raw, message, signature); !errors.Is(err, hsm.ErrInvalidSignature) {
				t.Errorf("%s: Verify of %s = %v, want %v", spec, what, err, hsm.ErrInvalidSignature)
			}
		}
		for bit := 0; bit < 8*len(signature); bit += 1501 {
			changed := bytes.Clone(signature)
			changed[bit/8] ^= 1 << (bit % 8)
			refused(fmt.Sprint("bit ", bit), k, message, changed)
		}
		refused("another message", k, []byte("massage"), signature)
		refused("another's signature", other, message, signature)
		for _, n := range []int{0, 1, 64, len(signature) - 1} {
			refused(fmt.Sprint(n, " bytes"), k, message, signature[:n])
		}
		refused("more bytes", k, message, append(bytes.Clone(signature), 0))
		if _, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Digest, make([]byte, 64)); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%s: Sign of a digest = %v, want %v", spec, err, hsm.ErrUnsupported)
		}
	}
}

// mu is the message representative of FIPS 204 for an empty context.
func mu(publicKey, message []byte) []byte {
	h := sha3.NewSHAKE256()
	for _, part := range [][]byte{sha3.SumSHAKE256(publicKey, 64), {0, 0}, message} {
		h.Write(part)
	}
	out := make([]byte, 64)
	h.Read(out)
	return out
}

// TestRepresentativesAreNeverSignedAsMessages: a token without a mechanism for
// mu would make a signature of mu itself, which is one of another message.
func TestRepresentativesAreNeverSignedAsMessages(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{})
	k := p.make(t, keyspec.MLDSA44)
	representative := mu(raw(t, k), []byte("message"))
	if _, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.ExternalMu, representative); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("Sign of mu = %v, want %v", err, hsm.ErrUnsupported)
	}
	signature, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Raw, representative)
	must(t, err)
	if err := p.Verify(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.ExternalMu, representative, signature); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("Verify of mu = %v, want %v", err, hsm.ErrUnsupported)
	}
}

func TestRepresentativesAreSignedWhereTheTokenCan(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{ExternalMu: true})
	message := []byte("message")
	for spec, parameters := range mldsaSpecs {
		k := p.make(t, spec)
		outside, err := mldsa.NewPublicKey(parameters, raw(t, k))
		must(t, err)
		inputs := map[keyspec.MessageType][]byte{keyspec.Raw: message, keyspec.ExternalMu: mu(raw(t, k), message)}
		for as, input := range inputs {
			signature, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, as, input)
			if err != nil {
				t.Fatalf("%s: Sign as %s = %v", spec, as, err)
			}
			if err := mldsa.Verify(outside, message, signature, nil); err != nil {
				t.Errorf("%s: signed as %s: does not verify outside: %v", spec, as, err)
			}
			for other, input := range inputs {
				if err := p.Verify(t.Context(), client, k, keyspec.MLDSASHAKE256, other, input, signature); err != nil {
					t.Errorf("%s: signed as %s: Verify as %s = %v", spec, as, other, err)
				}
			}
			wrong := bytes.Clone(inputs[keyspec.ExternalMu])
			wrong[63] ^= 1
			if err := p.Verify(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.ExternalMu, wrong, signature); !errors.Is(err, hsm.ErrInvalidSignature) {
				t.Errorf("%s: Verify of another mu = %v, want %v", spec, err, hsm.ErrInvalidSignature)
			}
		}
	}
}

// encapsulateOutside makes a secret and its encapsulation without the token; ok
// is false for ML-KEM-512, which Go has not.
func encapsulateOutside(t *testing.T, spec keyspec.Spec, publicKey []byte) (secret, encapsulation []byte, ok bool) {
	t.Helper()
	switch spec {
	case keyspec.MLKEM768:
		key, err := mlkem.NewEncapsulationKey768(publicKey)
		must(t, err)
		secret, encapsulation = key.Encapsulate()
	case keyspec.MLKEM1024:
		key, err := mlkem.NewEncapsulationKey1024(publicKey)
		must(t, err)
		secret, encapsulation = key.Encapsulate()
	}
	return secret, encapsulation, secret != nil
}

func TestMLKEMSecretsComeBack(t *testing.T) {
	for residency, c := range residencies {
		t.Run(string(residency), func(t *testing.T) {
			p := openPostQuantum(t, c)
			for spec, encapsulationBytes := range mlkemSpecs {
				k := p.make(t, spec)
				secret, encapsulation, err := p.Encapsulate(t.Context(), client, k)
				if err != nil {
					t.Fatalf("Encapsulate with %s = %v", spec, err)
				}
				if len(secret) != 32 || len(encapsulation) != encapsulationBytes {
					t.Errorf("%s: secret of %d bytes and encapsulation of %d, want 32 and %d", spec, len(secret), len(encapsulation), encapsulationBytes)
				}
				p.decapsulates(t, k, encapsulation, secret)
				other, _, err := p.Encapsulate(t.Context(), client, k)
				if err != nil || bytes.Equal(other, secret) {
					t.Errorf("%s: Encapsulate twice gives one secret, %v", spec, err)
				}
				if secret, encapsulation, ok := encapsulateOutside(t, spec, raw(t, k)); ok {
					p.decapsulates(t, k, encapsulation, secret)
				}
			}
		})
	}
}

func (p *postQuantum) decapsulates(t *testing.T, k *hsm.Key, encapsulation, want []byte) {
	t.Helper()
	if got, err := p.Decapsulate(t.Context(), client, k, encapsulation); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: Decapsulate = %x, %v, want %x", k.Spec, got, err, want)
	}
}

func TestMLKEMRejectsImplicitly(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{})
	for spec := range mlkemSpecs {
		k, other := p.make(t, spec), p.make(t, spec)
		secret, encapsulation, err := p.Encapsulate(t.Context(), client, k)
		must(t, err)
		seen := map[string]bool{string(secret): true}
		for _, bit := range []int{0, 999, 8*len(encapsulation) - 1} {
			changed := bytes.Clone(encapsulation)
			changed[bit/8] ^= 1 << (bit % 8)
			got, err := p.Decapsulate(t.Context(), client, k, changed)
			if err != nil || len(got) != 32 || seen[string(got)] {
				t.Errorf("%s: Decapsulate with bit %d changed = %x, %v, want a secret of its own", spec, bit, got, err)
			}
			seen[string(got)] = true
			p.decapsulates(t, k, changed, got)
		}
		if got, err := p.Decapsulate(t.Context(), client, other, encapsulation); err != nil || len(got) != 32 || seen[string(got)] {
			t.Errorf("%s: Decapsulate with another key = %x, %v, want a secret of its own", spec, got, err)
		}
		for _, n := range []int{0, 1, len(encapsulation) - 1, len(encapsulation) + 1, 4096} {
			if _, err := p.Decapsulate(t.Context(), client, k, make([]byte, n)); !errors.Is(err, hsm.ErrInvalidCiphertext) {
				t.Errorf("%s: Decapsulate of %d bytes = %v, want %v", spec, n, err, hsm.ErrInvalidCiphertext)
			}
		}
	}
}

// seedOf is the seed in the PKCS#8 of an ML-KEM key (RFC 9935, section 6).
func seedOf(t *testing.T, pkcs8 []byte) []byte {
	t.Helper()
	var info struct {
		Version    int
		Algorithm  pkix.AlgorithmIdentifier
		PrivateKey []byte
	}
	var seed asn1.RawValue
	rest, err := asn1.Unmarshal(pkcs8, &info)
	if err != nil || len(rest) > 0 || info.Version != 0 || len(info.Algorithm.Parameters.FullBytes) > 0 {
		t.Fatalf("PKCS#8 of version %d and parameters %x, %d bytes behind it: %v", info.Version, info.Algorithm.Parameters.FullBytes, len(rest), err)
	}
	rest, err = asn1.Unmarshal(info.PrivateKey, &seed)
	if err != nil || len(rest) > 0 || seed.Class != asn1.ClassContextSpecific || seed.Tag != 0 || seed.IsCompound || len(seed.Bytes) != 64 {
		t.Fatalf("private key of class %d, tag %d and %d bytes, %d behind it: %v", seed.Class, seed.Tag, len(seed.Bytes), len(rest), err)
	}
	return seed.Bytes
}

func TestMLKEMDataKeyPairsBelongTogether(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{})
	before := sessionObjects(t, p.Engine)
	for spec := range mlkemSpecs {
		pair, err := p.GenerateDataKeyPair(t.Context(), client, spec)
		if err != nil {
			t.Fatalf("GenerateDataKeyPair %s = %v", spec, err)
		}
		public, err := der.ParsePublic(pair.Public)
		if err != nil || public.Spec != spec {
			t.Fatalf("GenerateDataKeyPair %s gives the public key %+v, %v", spec, public, err)
		}
		seed := seedOf(t, pair.Private)
		var encoded []byte
		switch spec {
		case keyspec.MLKEM512: // Go has it not; the token's own test compares seeds
			encoded = public.Raw
		case keyspec.MLKEM768:
			key, err := mlkem.NewDecapsulationKey768(seed)
			must(t, err)
			encoded = key.EncapsulationKey().Bytes()
		case keyspec.MLKEM1024:
			key, err := mlkem.NewDecapsulationKey1024(seed)
			must(t, err)
			encoded = key.EncapsulationKey().Bytes()
		}
		if !bytes.Equal(encoded, public.Raw) {
			t.Errorf("%s: the private key is that of another public key", spec)
		}
	}
	if n := sessionObjects(t, p.Engine) - before; n != 0 {
		t.Errorf("%d session objects are left in the token", n)
	}
}

func TestPostQuantumKeysOutliveTheEngine(t *testing.T) {
	for residency, c := range residencies {
		t.Run(string(residency), func(t *testing.T) {
			p := openPostQuantum(t, c)
			signing, capsules := p.make(t, keyspec.MLDSA65), p.make(t, keyspec.MLKEM768)
			message := []byte("message")
			signature, err := p.Sign(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, message)
			must(t, err)
			secret, encapsulation, err := p.Encapsulate(t.Context(), client, capsules)
			must(t, err)
			must(t, p.Close())
			p.Engine, err = Open(t.Context(), p.cfg)
			must(t, err)
			must(t, p.LoadServiceKeys(t.Context(), p.rows))
			if err := p.Verify(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, message, signature); err != nil {
				t.Errorf("Verify after a restart = %v", err)
			}
			if _, err := p.Sign(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, message); err != nil {
				t.Errorf("Sign after a restart = %v", err)
			}
			p.decapsulates(t, capsules, encapsulation, secret)
		})
	}
}

// TestPostQuantumKeysOutliveAReconnect: after C_Finalize the token's handles are
// others, and session objects are gone.
func TestPostQuantumKeysOutliveAReconnect(t *testing.T) {
	for residency, c := range residencies {
		t.Run(string(residency), func(t *testing.T) {
			p := openPostQuantum(t, c)
			signing, capsules := p.make(t, keyspec.MLDSA44), p.make(t, keyspec.MLKEM1024)
			use := func() {
				t.Helper()
				signature, err := p.Sign(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, []byte("x"))
				must(t, err)
				must(t, p.Verify(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, []byte("x"), signature))
				secret, encapsulation, err := p.Encapsulate(t.Context(), client, capsules)
				must(t, err)
				p.decapsulates(t, capsules, encapsulation, secret)
			}
			use()
			epoch := p.Stats().Epoch
			other := foreign(t, p.Engine)
			must(t, other.Finalize())
			must(t, other.Initialize())
			use()
			if p.Stats().Epoch == epoch {
				t.Error("the engine has not noticed that the module was initialised again")
			}
		})
	}
}

func TestMissingResidentKeysAreTold(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{})
	k := p.make(t, keyspec.MLDSA44)
	c := foreign(t, p.Engine)
	s, err := c.OpenSession(p.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	must(t, c.FindObjectsInit(s, []*pkcs11.Attribute{attribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}))
	found, _, err := c.FindObjects(s, 10)
	must(t, err)
	must(t, c.FindObjectsFinal(s))
	if len(found) != 1 {
		t.Fatalf("%d private keys in the token, want the one", len(found))
	}
	must(t, c.DestroyObject(s, found[0]))
	must(t, c.CloseSession(s))
	if _, err := p.Sign(t.Context(), client, k, keyspec.MLDSASHAKE256, keyspec.Raw, []byte("x")); !errors.Is(err, hsm.ErrMissing) {
		t.Errorf("Sign with a key that is gone = %v, want %v", err, hsm.ErrMissing)
	}
}

func TestPostQuantumWorkLeavesNoObjects(t *testing.T) {
	p := openPostQuantum(t, pqtoken.Config{})
	signing, capsules := p.make(t, keyspec.MLDSA44), p.make(t, keyspec.MLKEM512)
	work := func() {
		signature, err := p.Sign(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, []byte("x"))
		must(t, err)
		must(t, p.Verify(t.Context(), client, signing, keyspec.MLDSASHAKE256, keyspec.Raw, []byte("x"), signature))
		_, encapsulation, err := p.Encapsulate(t.Context(), client, capsules)
		must(t, err)
		_, err = p.Decapsulate(t.Context(), client, capsules, encapsulation)
		must(t, err)
	}
	work()
	before := sessionObjects(t, p.Engine)
	for range 5 {
		work()
	}
	if n := sessionObjects(t, p.Engine) - before; n != 0 {
		t.Errorf("%d session objects were left in the token", n)
	}
}
