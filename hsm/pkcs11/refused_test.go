package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// stillServes fails the test if the engine looked for trouble, or has any.
func stillServes(t *testing.T, e *Engine, epoch uint64) {
	t.Helper()
	if s := e.Stats(); s.Epoch != epoch || !s.Serving || s.Poisoned != 0 {
		t.Errorf("after bad data: %+v, want epoch %d and no trouble", s, epoch)
	}
}

func TestBadSignaturesAreRefusedBeforeTheTokenIsAsked(t *testing.T) {
	e := openWithKeys(t, nil)
	k := makeKey(t, e, keyspec.ECCNISTP256, keyspec.SignVerify)
	digest := sha256.Sum256([]byte("message"))
	good, err := e.Sign(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Digest, digest[:])
	must(t, err)
	var n struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(good, &n)
	must(t, err)
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	encode := func(r, s *big.Int) []byte {
		b, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		must(t, err)
		return b
	}
	neg := func(x *big.Int) *big.Int { return new(big.Int).Neg(x) }
	zero := new(big.Int)
	raw, err := der.ECDSAFromDER(keyspec.ECCNISTP256, good)
	must(t, err)
	verified := e.Stats().Misses
	for name, bad := range map[string][]byte{
		"empty": {}, "one byte": {0x30}, "raw r and s": raw, "cut": good[:len(good)-1], "trailing byte": append(bytes.Clone(good), 0),
		"r zero": encode(zero, n.S), "s zero": encode(n.R, zero), "both zero": encode(zero, zero),
		"r negative": encode(neg(n.R), n.S), "s negative": encode(n.R, neg(n.S)),
		"r the order": encode(order, n.S), "s the order": encode(n.R, order),
		"r plus the order": encode(new(big.Int).Add(n.R, order), n.S), "s plus the order": encode(n.R, new(big.Int).Add(n.S, order)),
		"huge":  encode(new(big.Int).Lsh(big.NewInt(1), 4000), n.S),
		"a set": append([]byte{0x31}, good[1:]...), "long form": append([]byte{0x30, 0x81}, good[1:]...),
		"indefinite": append(append([]byte{0x30, 0x80}, good[2:]...), 0, 0),
		"zeros":      make([]byte, 72),
	} {
		if err := e.Verify(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Digest, digest[:], bad); !errors.Is(err, hsm.ErrInvalidSignature) {
			t.Errorf("Verify of %s = %v, want %v", name, err, hsm.ErrInvalidSignature)
		}
	}
	if got := e.Stats().Misses; got != verified {
		t.Errorf("the public key was brought into service for signatures that cannot be valid")
	}
	must(t, e.Verify(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Digest, digest[:], good))
	swapped := encode(n.S, n.R)
	if err := e.Verify(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Digest, digest[:], swapped); !errors.Is(err, hsm.ErrInvalidSignature) {
		t.Errorf("Verify with r and s swapped = %v", err)
	}
	stillServes(t, e, 1)
}

func TestEveryChangedSignatureIsRefused(t *testing.T) {
	e := openWithKeys(t, nil)
	for _, c := range []struct {
		spec keyspec.Spec
		a    keyspec.Algorithm
	}{
		{keyspec.RSA2048, keyspec.RSASSAPKCS1V15SHA256},
		{keyspec.RSA2048, keyspec.RSASSAPSSSHA384},
		{keyspec.ECCSECGP256K1, keyspec.ECDSASHA256},
		{keyspec.ECCNISTP521, keyspec.ECDSASHA512},
		{keyspec.ECCNISTEdwards25519, keyspec.Ed25519SHA512},
	} {
		k := makeKey(t, e, c.spec, keyspec.SignVerify)
		good, err := e.Sign(t.Context(), client, k, c.a, keyspec.Raw, []byte("message"))
		must(t, err)
		verify := func(message, signature []byte) error {
			return e.Verify(t.Context(), client, k, c.a, keyspec.Raw, message, signature)
		}
		for bit := 0; bit < 8*len(good); bit += 37 {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := verify([]byte("message"), bad); !errors.Is(err, hsm.ErrInvalidSignature) {
				t.Errorf("%s: Verify with bit %d flipped = %v", c.a, bit, err)
			}
		}
		for name, bad := range map[string][]byte{"empty": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "huge": make([]byte, 6144)} {
			if err := verify([]byte("message"), bad); !errors.Is(err, hsm.ErrInvalidSignature) {
				t.Errorf("%s: Verify of a signature that is %s = %v", c.a, name, err)
			}
		}
		if err := verify([]byte("another"), good); !errors.Is(err, hsm.ErrInvalidSignature) {
			t.Errorf("%s: Verify of another message = %v", c.a, err)
		}
		must(t, verify([]byte("message"), good))
	}
	stillServes(t, e, 1)
}

// TestEd25519SignaturesHaveOneForm: the order added to S gives what a lax verifier
// takes for another signature of the same message.
func TestEd25519SignaturesHaveOneForm(t *testing.T) {
	e := openWithKeys(t, nil)
	k := makeKey(t, e, keyspec.ECCNISTEdwards25519, keyspec.SignVerify)
	good, err := e.Sign(t.Context(), client, k, keyspec.Ed25519SHA512, keyspec.Raw, []byte("message"))
	must(t, err)
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	little := func(n *big.Int) []byte {
		b := n.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		return b
	}
	s := bytes.Clone(good[32:])
	slices.Reverse(s)
	before := e.Stats().Misses
	for name, s := range map[string]*big.Int{
		"plus the order": new(big.Int).Add(new(big.Int).SetBytes(s), order), "the order": order,
		"the largest number": new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1)),
	} {
		bad := append(bytes.Clone(good[:32]), little(s)...)
		if err := e.Verify(t.Context(), client, k, keyspec.Ed25519SHA512, keyspec.Raw, []byte("message"), bad); !errors.Is(err, hsm.ErrInvalidSignature) {
			t.Errorf("Verify with S %s = %v, want %v", name, err, hsm.ErrInvalidSignature)
		}
	}
	if e.Stats().Misses != before {
		t.Error("the public key was brought into service for signatures that cannot be valid")
	}
	below := append(bytes.Clone(good[:32]), little(new(big.Int).Sub(order, big.NewInt(1)))...)
	if _, err := ed25519Form(k.Spec, below); err != nil {
		t.Errorf("S one below the order is refused: %v", err)
	}
	must(t, e.Verify(t.Context(), client, k, keyspec.Ed25519SHA512, keyspec.Raw, []byte("message"), good))
}

// TestFailuresOfDecryptionLookAlike: whatever is wrong with a ciphertext, in the
// token or outside, the answer is the same error and no byte.
func TestFailuresOfDecryptionLookAlike(t *testing.T) {
	e := openWithKeys(t, nil)
	k := makeKey(t, e, keyspec.RSA2048, keyspec.EncryptDecrypt)
	known, err := x509.ParsePKIXPublicKey(k.PublicKey)
	must(t, err)
	public := known.(*rsa.PublicKey)
	raise := func(em []byte) []byte { // raw RSA of any block
		c := new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(65537), public.N)
		return c.FillBytes(make([]byte, 256))
	}
	pkcs1 := raise(append(append([]byte{0, 2}, bytes.Repeat([]byte{9}, 247)...), []byte("\x00secret")...))
	labelled, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("secret"), []byte("label"))
	must(t, err)
	ones := bytes.Repeat([]byte{0xff}, 256)
	ones[0] = 0
	for _, a := range []keyspec.Algorithm{keyspec.RSAESOAEPSHA1, keyspec.RSAESOAEPSHA256} {
		good, err := e.EncryptAsymmetric(t.Context(), client, k, a, []byte("secret"))
		must(t, err)
		other, err := e.EncryptAsymmetric(t.Context(), client, k, map[keyspec.Algorithm]keyspec.Algorithm{
			keyspec.RSAESOAEPSHA1: keyspec.RSAESOAEPSHA256, keyspec.RSAESOAEPSHA256: keyspec.RSAESOAEPSHA1,
		}[a], []byte("secret"))
		must(t, err)
		texts := map[string]bool{}
		for name, bad := range map[string][]byte{
			"nothing": nil, "short": good[1:], "long": append([]byte{0}, good...), "zero": make([]byte, 256), "one": raise([]byte{1}),
			"the modulus": public.N.Bytes(), "all ones": bytes.Repeat([]byte{0xff}, 256), "PKCS #1 v1.5": pkcs1, "another hash": other,
			"a label": labelled, "block of ones": raise(ones), "block of zeros": raise(make([]byte, 256)), "flipped": append(bytes.Clone(good[:255]), good[255]^1),
		} {
			got, err := e.DecryptAsymmetric(t.Context(), client, k, a, bad)
			if !errors.Is(err, hsm.ErrInvalidCiphertext) || len(got) != 0 {
				t.Errorf("%s of %s = %x, %v", a, name, got, err)
				continue
			}
			texts[err.Error()] = true
		}
		if len(texts) != 1 {
			t.Errorf("%s tells failures apart: %v", a, texts)
		}
		if got, err := e.DecryptAsymmetric(t.Context(), client, k, a, good); err != nil || string(got) != "secret" {
			t.Errorf("%s of the good one = %q, %v", a, got, err)
		}
	}
	stillServes(t, e, 1)
}

func TestPeersThatAreNotPointsOfTheCurveAreRefused(t *testing.T) {
	e := openWithKeys(t, nil)
	k := makeKey(t, e, keyspec.ECCNISTP256, keyspec.KeyAgreement)
	spki := func(c ecdh.Curve) []byte {
		key, err := c.GenerateKey(rand.Reader)
		must(t, err)
		b, err := x509.MarshalPKIXPublicKey(key.PublicKey())
		must(t, err)
		return b
	}
	good := spki(ecdh.P256())
	off, infinity := bytes.Clone(good), bytes.Clone(good)
	off[len(off)-1] ^= 1
	clear(infinity[len(infinity)-64:])
	rsaKey := makeKey(t, e, keyspec.RSA2048, keyspec.SignVerify)
	k1 := makeKey(t, e, keyspec.ECCSECGP256K1, keyspec.SignVerify)
	for name, peer := range map[string][]byte{
		"nothing": nil, "not DER": []byte("public key"), "off the curve": off, "zeros": infinity, "P-384": spki(ecdh.P384()), "X25519": spki(ecdh.X25519()),
		"RSA": rsaKey.PublicKey, "secp256k1": k1.PublicKey, "trailing byte": append(bytes.Clone(good), 0), "cut": good[:len(good)-1], "the point alone": good[26:],
	} {
		got, err := e.DeriveSecret(t.Context(), client, k, peer)
		if !errors.Is(err, hsm.ErrInvalidPublicKey) || got != nil {
			t.Errorf("DeriveSecret with %s = %x, %v, want %v", name, got, err, hsm.ErrInvalidPublicKey)
		}
	}
	stillServes(t, e, 1)
}

func TestPublicKeyOfAnotherPairIsRefused(t *testing.T) {
	e := openWithKeys(t, nil)
	for spec, usage := range map[keyspec.Spec]keyspec.Usage{
		keyspec.RSA2048: keyspec.SignVerify, keyspec.ECCNISTP256: keyspec.SignVerify, keyspec.ECCSECGP256K1: keyspec.SignVerify,
		keyspec.ECCNISTP384: keyspec.KeyAgreement, keyspec.ECCNISTEdwards25519: keyspec.SignVerify,
	} {
		k, other := makeKey(t, e, spec, usage), makeKey(t, e, spec, usage)
		forged := cloneKey(k)
		forged.PublicKey = other.PublicKey
		for name, use := range map[string]func(*hsm.Key) error{
			"PublicKey": func(k *hsm.Key) error { _, err := e.PublicKey(t.Context(), client, k); return err },
			"Present":   func(k *hsm.Key) error { return e.Present(t.Context(), client, k) },
		} {
			if err := use(&forged); !errors.Is(err, hsm.ErrBinding) {
				t.Errorf("%s of %s with another's public key = %v, want %v", name, spec, err, hsm.ErrBinding)
			}
		}
		// Somebody who has the PIN binds the wrong public key: the private key
		// does not prove itself.
		must(t, ownSession(t, e).bind(&forged))
		if err := e.Present(t.Context(), client, &forged); !errors.Is(err, hsm.ErrWrongMaterial) {
			t.Errorf("Present of %s bound to another's public key = %v, want %v", spec, err, hsm.ErrWrongMaterial)
		}
	}
}

// TestEditedPublicKeyIsSaidSoWhateverIsAsked: no answer that a public key gives is
// given before its row is verified.
func TestEditedPublicKeyIsSaidSoWhateverIsAsked(t *testing.T) {
	e := openWithKeys(t, nil)
	k, other := makeKey(t, e, keyspec.RSA2048, keyspec.EncryptDecrypt), makeKey(t, e, keyspec.RSA2048, keyspec.EncryptDecrypt)
	signs, otherSigns := makeKey(t, e, keyspec.RSA2048, keyspec.SignVerify), makeKey(t, e, keyspec.RSA2048, keyspec.SignVerify)
	for name, public := range map[string][2][]byte{
		"another's": {other.PublicKey, otherSigns.PublicKey}, "none": {}, "not DER": {[]byte("key"), []byte("key")},
	} {
		k, signs := cloneKey(k), cloneKey(signs)
		k.PublicKey, signs.PublicKey = public[0], public[1]
		for _, a := range []keyspec.Algorithm{keyspec.RSAESOAEPSHA1, keyspec.RSAESOAEPSHA256} {
			if _, err := e.EncryptAsymmetric(t.Context(), client, &k, a, []byte("x")); !errors.Is(err, hsm.ErrBinding) {
				t.Errorf("EncryptAsymmetric with %s and the public key %s = %v, want %v", a, name, err, hsm.ErrBinding)
			}
			if _, err := e.DecryptAsymmetric(t.Context(), client, &k, a, bytes.Repeat([]byte{0xff}, 256)); !errors.Is(err, hsm.ErrBinding) {
				t.Errorf("DecryptAsymmetric with %s and the public key %s = %v, want %v", a, name, err, hsm.ErrBinding)
			}
		}
		if err := e.Verify(t.Context(), client, &signs, keyspec.RSASSAPSSSHA256, keyspec.Raw, []byte("x"), make([]byte, 256)); !errors.Is(err, hsm.ErrBinding) {
			t.Errorf("Verify with the public key %s = %v, want %v", name, err, hsm.ErrBinding)
		}
	}
}

func TestMissingResidentKeyIsSaidSoAndComesBack(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Resident = []string{testStore} })
	k := makeKey(t, e, keyspec.ECCNISTP256, keyspec.SignVerify)
	sign := func() error {
		_, err := e.Sign(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Raw, []byte("x"))
		return err
	}
	must(t, sign())
	kind, err := typeOf(k)
	must(t, err)
	s := ownSession(t, e)
	key, err := s.admitResident(&kind, k, 0)
	must(t, err)
	must(t, e.module.lib.destroy(s.handle, key))
	for range 3 {
		if err := sign(); !errors.Is(err, hsm.ErrMissing) {
			t.Fatalf("Sign with a key that is gone = %v, want %v", err, hsm.ErrMissing)
		}
	}
	stillServes(t, e, 1)
	encryptWorks(t, e, makeKey(t, e, keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
}

// TestNoKeyGivesItselfOut looks at the objects of every kind of key, in both
// residencies, as they are in use.
func TestNoKeyGivesItselfOut(t *testing.T) {
	for name, resident := range map[string][]string{"wrapped": nil, "resident": {testStore}} {
		t.Run(name, func(t *testing.T) {
			e := openWithKeys(t, func(c *Config) { c.Resident = resident })
			s := ownSession(t, e)
			for _, found := range e.Profile().Keys {
				if found.Residency != Nowhere && sameFamily[found.Spec] == "" {
					s.givesNothing(t, makeKey(t, e, found.Spec, found.Usage))
				}
			}
		})
	}
}

// givesNothing looks at the object of a key in use.
func (s *session) givesNothing(t *testing.T, k *hsm.Key) {
	t.Helper()
	e := s.engine
	en, err := e.handles.get(t.Context(), k, secretPart)
	must(t, err)
	defer en.release()
	kind, err := typeOf(k)
	must(t, err)
	for _, want := range []struct {
		attribute uint
		value     byte
	}{{pkcs11.CKA_SENSITIVE, 1}, {pkcs11.CKA_EXTRACTABLE, 0}, {pkcs11.CKA_PRIVATE, 1}, {pkcs11.CKA_TOKEN, boolByte(k.Residency == hsm.Resident)}} {
		if got, err := s.read(en.handle, want.attribute); err != nil || len(got) != 1 || got[0] != want.value {
			t.Errorf("%s (%s): attribute 0x%X = %v, %v, want %d", k.Spec, k.Residency, want.attribute, got, err, want.value)
		}
	}
	for _, part := range slices.Concat(privateParts[kind.template.keyType], privateParts[pkcs11.CKK_EC]) {
		if got, err := s.read(en.handle, part.attribute); err == nil && len(got) > 0 {
			t.Errorf("%s (%s): the token gives out attribute 0x%X", k.Spec, k.Residency, part.attribute)
		}
	}
	domain, _ := e.service.Load().find(testStore, hsm.DomainKey, 1)
	if n, err := e.module.lib.wrap(s.handle, domain.wrapMech, domain.handle, en.handle, make([]byte, maxBlobBytes)); err == nil {
		t.Errorf("%s (%s): the token wraps it again, to %d bytes", k.Spec, k.Residency, n)
	}
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
