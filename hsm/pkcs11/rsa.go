package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// modulusBytes are the lengths of RSA's ciphertexts.
var modulusBytes = map[keyspec.Spec]int{keyspec.RSA2048: 256, keyspec.RSA3072: 384, keyspec.RSA4096: 512}

// EncryptAsymmetric encrypts with RSAES-OAEP. See [hsm.Token].
func (e *Engine) EncryptAsymmetric(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, plaintext []byte) ([]byte, error) {
	way, err := e.findings.way(k, keyspec.EncryptDecrypt, a, publicPart, "")
	if err != nil {
		return nil, err
	}
	row, _ := keyspec.LookupAlgorithm(a)
	if len(plaintext) > modulusBytes[k.Spec]-2*row.Hash.Size()-2 {
		return nil, fmt.Errorf("%w: plaintext of %d bytes", hsm.ErrUnsupported, len(plaintext))
	}
	w := work{mechanism: "oaep-encrypt", part: publicPart, in: [3][]byte{plaintext}}
	w.run = func(s *session, key handle, in [3][]byte) ([]byte, error) {
		if way == InToken {
			return s.oaepEncrypt(key, s.entry.key.Spec, row.Hash, in[0])
		}
		public, err := publicOf(&s.entry.key)
		if err != nil {
			return nil, err
		}
		return encryptHere(public, row.Hash, in[0])
	}
	return e.do(ctx, on, k, &w)
}

func (s *session) oaepEncrypt(key handle, spec keyspec.Spec, h crypto.Hash, plaintext []byte) ([]byte, error) {
	out := make([]byte, modulusBytes[spec])
	n, err := s.engine.module.lib.encrypt(s.handle, key, oaep(h), plaintext, out)
	if err != nil {
		return nil, err
	}
	return out, exactly("C_Encrypt", out, n, len(out))
}

// encryptHere encrypts with Go's standard library.
func encryptHere(public *der.Public, h crypto.Hash, plaintext []byte) ([]byte, error) {
	known, _ := public.Go()
	key, ok := known.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: encryption with %s", hsm.ErrUnsupported, public.Spec)
	}
	out, err := rsa.EncryptOAEP(h.New(), rand.Reader, key, plaintext, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnsupported, err)
	}
	return out, nil
}

// DecryptAsymmetric opens a ciphertext of RSAES-OAEP. See [hsm.Token].
func (e *Engine) DecryptAsymmetric(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, ciphertext []byte) ([]byte, error) {
	way, err := e.findings.way(k, keyspec.EncryptDecrypt, a, secretPart, "")
	if err != nil {
		return nil, err
	}
	if len(ciphertext) != modulusBytes[k.Spec] {
		return nil, hsm.ErrInvalidCiphertext
	}
	row, _ := keyspec.LookupAlgorithm(a)
	w := work{mechanism: "oaep-decrypt", in: [3][]byte{ciphertext}}
	w.run = func(s *session, key handle, in [3][]byte) ([]byte, error) {
		public, err := publicOf(&s.entry.key)
		if err != nil {
			return nil, err
		}
		if !belowModulus(public, in[0]) {
			return nil, hsm.ErrInvalidCiphertext
		}
		out, err := s.oaepDecrypt(key, way, row.Hash, in[0])
		if undecided(err) && s.proveDecrypter(nil, key, &s.entry.key) == nil {
			// The token opens what is good, and has one more try with this.
			if out, err = s.oaepDecrypt(key, way, row.Hash, in[0]); undecided(err) {
				err = hsm.ErrInvalidCiphertext
			}
		}
		return out, err
	}
	return e.do(ctx, on, k, &w)
}

// belowModulus tells whether a ciphertext is less than the modulus (RFC 8017,
// section 5.1.2).
func belowModulus(public *der.Public, n []byte) bool {
	return new(big.Int).SetBytes(n).Cmp(new(big.Int).SetBytes(public.N)) < 0
}

// oaepDecrypt decrypts in the token or, where it lacks the hash, has it do the
// raw RSA step and takes the padding off here. The failures of both say the same.
func (s *session) oaepDecrypt(key handle, way string, h crypto.Hash, ciphertext []byte) ([]byte, error) {
	m := oaep(h)
	if way == RawInToken {
		m = mechanism{kind: mechRSARaw}
	}
	out := make([]byte, len(ciphertext))
	n, err := s.engine.module.lib.decrypt(s.handle, key, m, ciphertext, out)
	if err != nil {
		return nil, s.judge(err, s.engine.findings.badOAEP, hsm.ErrInvalidCiphertext)
	}
	if way != RawInToken {
		return out[:n:n], nil
	}
	defer clear(out)
	plaintext, err := unpadRaw(h, out, n)
	if err == nil {
		return plaintext, nil
	}
	// Asked again, so that no damage on the way is taken for a verdict.
	again := make([]byte, len(ciphertext))
	defer clear(again)
	length, err := s.engine.module.lib.decrypt(s.handle, key, m, ciphertext, again)
	if err != nil {
		return nil, err
	}
	if length != n || subtle.ConstantTimeCompare(out, again) != 1 {
		return nil, errNotTheSame
	}
	return nil, hsm.ErrInvalidCiphertext
}

// unpadRaw takes the padding off the n bytes of a raw decryption, whose leading
// zeros some tokens leave out.
func unpadRaw(h crypto.Hash, out []byte, n int) ([]byte, error) {
	em := make([]byte, len(out))
	copy(em[len(em)-n:], out[:n])
	return der.UnpadOAEP(h, em)
}

// proveDecrypter has a private key open what the row's public key encrypted.
func (s *session) proveDecrypter(_ *keyType, key handle, k *hsm.Key) error {
	way, h, err := s.engine.findings.anyOAEP(k.Spec)
	if err != nil {
		return err
	}
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	ciphertext, err := encryptHere(public, h, canary[:])
	if err != nil {
		return err
	}
	got, err := s.oaepDecrypt(key, way, h, ciphertext)
	if isNotForKey(err) { // or a token in trouble: only twice is no
		got, err = s.oaepDecrypt(key, way, h, ciphertext)
	}
	if isNotForKey(err) || err == nil && subtle.ConstantTimeCompare(got, canary[:]) != 1 {
		return hsm.ErrWrongMaterial
	}
	return err
}

// isNotForKey tells whether a key cannot open what was encrypted for another: tokens
// have words of their own for a ciphertext that is greater than the modulus.
func isNotForKey(err error) bool {
	return errors.Is(err, hsm.ErrInvalidCiphertext) || err != nil && classOf(err, false) == classUnsupported
}
