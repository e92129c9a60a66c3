package pkcs11

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
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
		return p.unwrapMade(mechAESKeyWrap, []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6})
	}},
	{"AES key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_PAD", func(p *prober) error {
		return p.unwrapMade(mechAESKeyWrapPad, []byte{0xa6, 0x59, 0x59, 0xa6, 0, 0, 0, 32})
	}},
	{"AES key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_KWP", func(p *prober) error {
		return p.unwrapMade(mechAESKeyWrapKWP, []byte{0xa6, 0x59, 0x59, 0xa6, 0, 0, 0, 32})
	}},
	{"AES key under RSA by C_UnwrapKey with CKM_RSA_PKCS_OAEP, SHA-1", func(p *prober) error { return p.unwrapOAEP(keyspec.RSAESOAEPSHA1) }},
	{"AES key under RSA by C_UnwrapKey with CKM_RSA_PKCS_OAEP, SHA-256", func(p *prober) error { return p.unwrapOAEP(keyspec.RSAESOAEPSHA256) }},
	{"private key under AES under RSA by CKM_RSA_AES_KEY_WRAP", func(p *prober) error {
		info, err := p.engine.module.mechanismInfo(p.engine.slot, pkcs11.CKM_RSA_AES_KEY_WRAP)
		if err == nil && info.Flags&pkcs11.CKF_UNWRAP == 0 {
			err = errors.New("it is listed, but not for unwrapping")
		}
		return err
	}},
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
func (p *prober) isKnown(key handle) error {
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
	got, err := p.decrypt(key, iv, sealed, nil)
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

// unwrapMade brings the known key in, wrapped here under a key that is known too.
func (p *prober) unwrapMade(mechanism uint, initial []byte) (err error) {
	outer := bytes.Repeat([]byte{0x42}, 32)
	t := template{
		class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayWrap,
		more: []valueAttr{{pkcs11.CKA_VALUE, outer}},
	}
	lib := p.engine.module.lib
	wrapping, err := lib.create(p.handle, t)
	if err != nil {
		return err
	}
	defer p.destroyAfter(wrapping, &err)
	blob, err := keyWrap(outer, initial, knownKey[:])
	if err != nil {
		return err
	}
	opening := keyTypeAES
	if !p.engine.unwrapNeedsLength {
		opening.valueLen = 0
	}
	key, err := lib.unwrap(p.handle, mechanism, wrapping, blob, opening)
	if err != nil {
		return err
	}
	defer p.destroyAfter(key, &err)
	return p.isKnown(key)
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
func (p *prober) unwrapOAEP(a keyspec.Algorithm) error {
	row, _ := keyspec.LookupAlgorithm(a)
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
		blob, err := rsa.EncryptOAEP(row.Hash.New(), rand.Reader, rsaKey, knownKey[:], nil)
		if err != nil {
			return err
		}
		n := hashNumbers[row.Hash]
		m := []*pkcs11.Mechanism{pkcs11.NewMechanism(mechRSAOAEP, pkcs11.NewOAEPParams(n.hash, n.mgf, pkcs11.CKZ_DATA_SPECIFIED, nil))}
		unwrapped, err := p.engine.module.ctx.UnwrapKey(pkcs11.SessionHandle(p.handle), m, pkcs11.ObjectHandle(key), blob, []*pkcs11.Attribute{
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
