package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// errOther: something got in, and is not what was brought.
var errOther = errors.New("another key came out than was brought")

// importTrials are the ways in which key material from outside could get in.
var importTrials = []struct {
	what string
	do   func(p *prober) error
}{
	{"AES key by C_CreateObject", (*prober).importAES},
	{"HMAC key by C_CreateObject", func(p *prober) error { return p.importValue(keyspec.HMAC256, keyspec.GenerateVerifyMAC) }},
	{"RSA private key by C_CreateObject", func(p *prober) error { return p.importRSAKey(0, func(handle, *hsm.Key) error { return nil }) }},
	{"EC private key by C_CreateObject", func(p *prober) error { return p.importValue(keyspec.ECCNISTP256, keyspec.SignVerify) }},
	{"Ed25519 private key by C_CreateObject", func(p *prober) error {
		return p.importValue(keyspec.ECCNISTEdwards25519, keyspec.SignVerify)
	}},
	{"AES key wrapped outside (RFC 3394) by C_UnwrapKey with CKM_AES_KEY_WRAP", func(p *prober) error {
		return p.unwrapMade(mechAESKeyWrap, wrapPlain)
	}},
	{"AES key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_PAD", func(p *prober) error {
		return p.unwrapMade(mechAESKeyWrapPad, wrapPadded)
	}},
	{"AES key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_KWP", func(p *prober) error {
		return p.unwrapMade(mechAESKeyWrapKWP, wrapPadded)
	}},
	{"EC private key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_PAD", func(p *prober) error {
		return p.unwrapPrivate(mechAESKeyWrapPad)
	}},
	{"EC private key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_KWP", func(p *prober) error {
		return p.unwrapPrivate(mechAESKeyWrapKWP)
	}},
	{"AES key under RSA by C_UnwrapKey with CKM_RSA_PKCS_OAEP, SHA-1", func(p *prober) error { return p.unwrapOAEP(crypto.SHA1) }},
	{"AES key under RSA by C_UnwrapKey with CKM_RSA_PKCS_OAEP, SHA-256", func(p *prober) error { return p.unwrapOAEP(crypto.SHA256) }},
	{"AES key under AES under RSA by C_UnwrapKey with CKM_RSA_AES_KEY_WRAP, SHA-1", func(p *prober) error { return p.unwrapHybrid(crypto.SHA1) }},
	{"AES key under AES under RSA by C_UnwrapKey with CKM_RSA_AES_KEY_WRAP, SHA-256", func(p *prober) error { return p.unwrapHybrid(crypto.SHA256) }},
}

func (p *prober) imports() error {
	for _, t := range importTrials {
		if err := p.try(&p.profile.Imports, t.what, func() error { return t.do(p) }); err != nil {
			return err
		}
	}
	return nil
}

// knownKey is the value of the secret keys that are brought in.
var knownKey = [32]byte([]byte("kmsgate: known to everybody here"))

// importAES brings an AES key in and compares an encryption with Go's.
func (p *prober) importAES() (err error) {
	t := keyTypeAES
	t.valueLen = 0
	t.more = []valueAttr{{pkcs11.CKA_VALUE, knownKey[:]}}
	key, err := p.engine.module.lib.create(p.handle, t)
	if err != nil {
		return err
	}
	defer p.destroyAfter(key, &err)
	return p.isKnown(key)
}

// isKnown proves that an AES key is the known one.
func (s *session) isKnown(key handle) error {
	block, err := aes.NewCipher(knownKey[:])
	if err != nil {
		return err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	iv := make([]byte, ivBytes)
	sealed := gcm.Seal(nil, iv, canary[:], nil)
	got, err := s.decrypt(key, iv, sealed, nil)
	if errors.Is(err, hsm.ErrInvalidCiphertext) || err == nil && !bytes.Equal(got, canary[:]) {
		return errOther
	}
	return err
}

// importValue brings a key in whose value is 32 bytes.
func (p *prober) importValue(spec keyspec.Spec, usage keyspec.Usage) (err error) {
	kind := keyTypes[spec][usage]
	making := kind.template
	making.valueLen = 0
	if params := der.CurveParameters(spec); params != nil {
		making.more = append(making.more, curveAttr(spec))
	}
	making.more = append(making.more, valueAttr{pkcs11.CKA_VALUE, knownKey[:]})
	key, err := p.engine.module.lib.create(p.handle, making)
	if err != nil {
		return err
	}
	defer p.destroyAfter(key, &err)
	if !kind.isPair() {
		row, _ := keyspec.LookupAlgorithm(keyspec.HMACSHA256)
		_, err = p.hmac(key, row.Hash, canary[:])
		return err
	}
	sig, err := newSignature(spec, probeAlgorithms[spec], keyspec.Raw, canary[:])
	if err != nil {
		return err
	}
	_, err = p.sign(key, sig, sig.input)
	return err
}

// probeAlgorithms are what imported private keys are tried with.
var probeAlgorithms = map[keyspec.Spec]keyspec.Algorithm{
	keyspec.ECCNISTP256: keyspec.ECDSASHA256, keyspec.ECCNISTEdwards25519: keyspec.Ed25519SHA512,
}

// importRSAKey brings the published RSA key in and does something with it.
func (p *prober) importRSAKey(may uint, do func(key handle, k *hsm.Key) error) (err error) {
	making := keyTypes[keyspec.RSA2048][keyspec.EncryptDecrypt].template
	making.may |= may
	x := &explorer{session: p.session, f: p.engine.findings}
	k := hsm.Key{Spec: keyspec.RSA2048, Usage: keyspec.EncryptDecrypt}
	key, err := x.importRSA(making, &k)
	if err != nil {
		return err
	}
	defer p.destroyAfter(key, &err)
	return do(key, &k)
}

// outerKey is the value of the key that others are wrapped under.
var outerKey = [32]byte([]byte("kmsgate: everybody knows it, too"))

// withOuter brings the outer key in and does something with it.
func (p *prober) withOuter(do func(wrapping handle) error) (err error) {
	t := template{
		class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayWrap,
		more: []valueAttr{{pkcs11.CKA_VALUE, outerKey[:]}},
	}
	wrapping, err := p.engine.module.lib.create(p.handle, t)
	if err != nil {
		return err
	}
	defer p.destroyAfter(wrapping, &err)
	return do(wrapping)
}

// unwrapMade brings the known key in, wrapped here under a key that is known too.
func (p *prober) unwrapMade(mechanism uint, wrap func(key, secret []byte) ([]byte, error)) error {
	return p.withOuter(func(wrapping handle) (err error) {
		blob, err := wrap(outerKey[:], knownKey[:])
		if err != nil {
			return err
		}
		opening := keyTypeAES
		if !p.engine.unwrapNeedsLength {
			opening.valueLen = 0
		}
		key, err := p.engine.module.lib.unwrap(p.handle, mechanism, wrapping, blob, opening)
		if err != nil {
			return err
		}
		defer p.destroyAfter(key, &err)
		return p.isKnown(key)
	})
}

// unwrapPrivate brings a private key in, as PKCS#8 wrapped here, and verifies with
// its public key what it signs.
func (p *prober) unwrapPrivate(mechanism uint) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	blob, err := wrapPadded(outerKey[:], text)
	if err != nil {
		return err
	}
	return p.withOuter(func(wrapping handle) (err error) {
		t := keyTypes[keyspec.ECCNISTP256][keyspec.SignVerify]
		key, err := p.engine.module.lib.unwrap(p.handle, mechanism, wrapping, blob, p.opening(&t, 0))
		if err != nil {
			return err
		}
		defer p.destroyAfter(key, &err)
		sig, err := newSignature(keyspec.ECCNISTP256, keyspec.ECDSASHA256, keyspec.Raw, canary[:])
		if err != nil {
			return err
		}
		signature, err := p.sign(key, sig, sig.input)
		if err == nil && !ecdsa.VerifyASN1(&private.PublicKey, sig.message, signature) {
			err = errOther
		}
		return err
	})
}

// wrapPlain wraps by RFC 3394.
func wrapPlain(key, secret []byte) ([]byte, error) {
	return keyWrap(key, []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}, secret)
}

// wrapPadded wraps by RFC 5649, more than eight bytes.
func wrapPadded(key, secret []byte) ([]byte, error) {
	initial := binary.BigEndian.AppendUint32([]byte{0xa6, 0x59, 0x59, 0xa6}, uint32(len(secret)))
	padded := append(bytes.Clone(secret), make([]byte, (8-len(secret)%8)%8)...)
	return keyWrap(key, initial, padded)
}

// keyWrap is the wrapping function W of RFC 3394, section 2.2.1.
func keyWrap(key, initial, secret []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	const half = 8
	out := slices.Concat(initial, secret)
	n := len(secret) / half
	buffer := make([]byte, 2*half)
	for step := range 6 * n {
		part := out[(step%n+1)*half:][:half]
		copy(buffer, out[:half])
		copy(buffer[half:], part)
		block.Encrypt(buffer, buffer)
		copy(part, buffer[half:])
		binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(buffer)^uint64(step+1))
	}
	return out, nil
}

// unwrapOAEP brings the known key in under the published RSA key.
func (p *prober) unwrapOAEP(h crypto.Hash) error {
	n := hashNumbers[h]
	m := pkcs11.NewMechanism(mechRSAOAEP, pkcs11.NewOAEPParams(n.hash, n.mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))
	return p.unwrapUnderRSA(h, m, knownKey[:], nil)
}

// unwrapHybrid brings the known key in under the outer one, and that under the
// published RSA key.
func (p *prober) unwrapHybrid(h crypto.Hash) error {
	n := hashNumbers[h]
	m := pkcs11.NewMechanism(pkcs11.CKM_RSA_AES_KEY_WRAP, &pkcs11.RSAAESKeyWrapParams{
		AESKeyBits: 8 * uint(len(outerKey)), OAEPParams: *pkcs11.NewOAEPParams(n.hash, n.mgf, pkcs11.CKZ_DATA_SPECIFIED, nil),
	})
	inner, err := wrapPadded(outerKey[:], knownKey[:])
	if err != nil {
		return err
	}
	return p.unwrapUnderRSA(h, m, outerKey[:], inner)
}

// unwrapUnderRSA unwraps the known AES key from a secret under RSA and what follows
// it.
func (p *prober) unwrapUnderRSA(h crypto.Hash, m *pkcs11.Mechanism, secret, rest []byte) error {
	return p.importRSAKey(mayWrap, func(key handle, k *hsm.Key) (err error) {
		public, err := publicOf(k)
		if err != nil {
			return err
		}
		known, _ := public.Go()
		rsaKey, ok := known.(*rsa.PublicKey)
		if !ok {
			return errOther
		}
		blob, err := rsa.EncryptOAEP(h.New(), rand.Reader, rsaKey, secret, nil)
		if err != nil {
			return err
		}
		unwrapped, err := p.engine.module.ctx.UnwrapKey(pkcs11.SessionHandle(p.handle), []*pkcs11.Mechanism{m}, pkcs11.ObjectHandle(key),
			append(blob, rest...), []*pkcs11.Attribute{
				attribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_SECRET_KEY)), attribute(pkcs11.CKA_KEY_TYPE, uint(pkcs11.CKK_AES)),
				attribute(pkcs11.CKA_TOKEN, false), attribute(pkcs11.CKA_PRIVATE, true), attribute(pkcs11.CKA_SENSITIVE, true),
				attribute(pkcs11.CKA_EXTRACTABLE, false), attribute(pkcs11.CKA_ENCRYPT, true), attribute(pkcs11.CKA_DECRYPT, true),
			})
		if err != nil {
			return managed("C_UnwrapKey", err)
		}
		defer p.destroyAfter(handle(unwrapped), &err)
		return p.isKnown(handle(unwrapped))
	})
}
