package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// makeKey makes a key of a spec and usage.
func makeKey(t testing.TB, e *Engine, spec keyspec.Spec, usage keyspec.Usage) *hsm.Key {
	t.Helper()
	k := newKey(string(spec))
	k.Spec, k.Usage = spec, usage
	made, err := e.Generate(t.Context(), hsm.Call{Account: client.Account, Class: hsm.Generation}, k)
	if err != nil {
		t.Fatalf("Generate(%s, %s) = %v", spec, usage, err)
	}
	return &made
}

// uses does with a key everything that its usage allows, and checks it outside.
var uses = map[keyspec.Usage]func(t *testing.T, e *Engine, k *hsm.Key, a keyspec.Algorithm){
	keyspec.EncryptDecrypt: func(t *testing.T, e *Engine, k *hsm.Key, a keyspec.Algorithm) {
		if k.Spec == keyspec.SymmetricDefault {
			encryptWorks(t, e, k)
			return
		}
		sealed, err := e.EncryptAsymmetric(t.Context(), client, k, a, []byte("secret"))
		must(t, err)
		got, err := e.DecryptAsymmetric(t.Context(), client, k, a, sealed)
		if err != nil || string(got) != "secret" {
			t.Errorf("DecryptAsymmetric = %q, %v", got, err)
		}
		sealed[5] ^= 1
		if got, err := e.DecryptAsymmetric(t.Context(), client, k, a, sealed); !errors.Is(err, hsm.ErrInvalidCiphertext) || got != nil {
			t.Errorf("DecryptAsymmetric of a changed ciphertext = %q, %v", got, err)
		}
	},
	keyspec.SignVerify: func(t *testing.T, e *Engine, k *hsm.Key, a keyspec.Algorithm) {
		row, _ := keyspec.LookupAlgorithm(a)
		for as, n := range row.Messages {
			if n == 0 {
				n = 20
			}
			message := bytes.Repeat([]byte{1}, n)
			signature, err := e.Sign(t.Context(), client, k, a, as, message)
			must(t, err)
			must(t, e.Verify(t.Context(), client, k, a, as, message, signature))
			if public, _ := publicOf(k); public != nil {
				sig, err := newSignature(k.Spec, a, as, message)
				must(t, err)
				if _, ok := public.Go(); ok {
					must(t, sig.verifyHere(public, sig.message, signature))
				}
			}
			signature[len(signature)-1] ^= 1
			if err := e.Verify(t.Context(), client, k, a, as, message, signature); !errors.Is(err, hsm.ErrInvalidSignature) {
				t.Errorf("Verify of a changed signature = %v", err)
			}
		}
	},
	keyspec.GenerateVerifyMAC: func(t *testing.T, e *Engine, k *hsm.Key, a keyspec.Algorithm) {
		mac, err := e.GenerateMAC(t.Context(), client, k, a, []byte("message"))
		must(t, err)
		must(t, e.VerifyMAC(t.Context(), client, k, a, []byte("message"), mac))
		mac[0] ^= 1
		if err := e.VerifyMAC(t.Context(), client, k, a, []byte("message"), mac); !errors.Is(err, hsm.ErrInvalidSignature) {
			t.Errorf("VerifyMAC of a changed MAC = %v", err)
		}
	},
	keyspec.KeyAgreement: func(t *testing.T, e *Engine, k *hsm.Key, _ keyspec.Algorithm) { agreeWith(t, e, k) },
}

// agreeWith agrees on a secret with a key, compares it with Go's, and returns
// it and the peer's public key.
func agreeWith(t *testing.T, e *Engine, k *hsm.Key) (secret, peer []byte) {
	t.Helper()
	ours, err := curvesOfGo[k.Spec].GenerateKey(rand.Reader)
	must(t, err)
	peer, err = x509.MarshalPKIXPublicKey(ours.PublicKey())
	must(t, err)
	secret, err = e.DeriveSecret(t.Context(), client, k, peer)
	must(t, err)
	public, err := publicOf(k)
	must(t, err)
	theirs, err := curvesOfGo[k.Spec].NewPublicKey(public.Point)
	must(t, err)
	want, err := ours.ECDH(theirs)
	must(t, err)
	if !bytes.Equal(secret, want) {
		t.Errorf("DeriveSecret = %x, want %x", secret, want)
	}
	return secret, peer
}

func TestEveryKeyTypeIsUsedInBothResidencies(t *testing.T) {
	for name, resident := range map[string][]string{"wrapped": nil, "resident": {testStore}} {
		t.Run(name, func(t *testing.T) {
			e := openWithKeys(t, func(c *Config) { c.Resident = resident })
			for _, found := range e.Profile().Keys {
				if found.Residency == Nowhere || sameFamily[found.Spec] != "" {
					continue
				}
				k := makeKey(t, e, found.Spec, found.Usage)
				if resident != nil && k.Residency != hsm.Resident {
					t.Errorf("%s for %s is %s", found.Spec, found.Usage, k.Residency)
				}
				row, _ := keyspec.Lookup(found.Spec)
				for _, a := range row.Algorithms[found.Usage] {
					if e.findings.ways[wayID{found.Spec, a}].Private == Nowhere {
						continue
					}
					t.Run(string(found.Spec)+" "+string(a), func(t *testing.T) { uses[found.Usage](t, e, k, a) })
				}
				must(t, e.Present(t.Context(), client, k))
			}
		})
	}
}

func TestDataKeyPairsAreReadByTheStandardLibrary(t *testing.T) {
	e := openWithKeys(t, nil)
	for _, p := range e.Profile().DataKeyPairs {
		if want := pairUsage[p.Spec] == keyspec.SignVerify; p.Works != want { // no ML-KEM here
			t.Errorf("data key pairs of %s: %t (%s), want %t", p.Spec, p.Works, p.Problem, want)
			continue
		}
		if !p.Works || sameFamily[p.Spec] != "" {
			continue
		}
		pair, err := e.GenerateDataKeyPair(t.Context(), client, p.Spec)
		if err != nil {
			t.Errorf("GenerateDataKeyPair(%s) = %v", p.Spec, err)
			continue
		}
		if p.Spec == keyspec.ECCSECGP256K1 {
			continue
		}
		private, err := x509.ParsePKCS8PrivateKey(pair.Private)
		if err != nil {
			t.Errorf("%s: %v in %x", p.Spec, err, pair.Private)
			continue
		}
		public, err := x509.MarshalPKIXPublicKey(private.(crypto.Signer).Public())
		if err != nil || !bytes.Equal(public, pair.Public) {
			t.Errorf("%s: the private key's public key is %x (%v), want %x", p.Spec, public, err, pair.Public)
		}
	}
}
