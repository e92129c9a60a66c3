package pkcs11

import (
	"context"
	"crypto/subtle"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// capsuleSecretBytes is the length of ML-KEM's secrets (FIPS 203).
const capsuleSecretBytes = 32

// Encapsulate makes a secret for a public key. See [hsm.Token].
func (e *Engine) Encapsulate(ctx context.Context, on hsm.Call, k *hsm.Key) (secret, encapsulation []byte, err error) {
	if _, err := e.findings.way(k, keyspec.EncapsulateDecapsulate, keyspec.MLKEM, publicPart, ""); err != nil {
		return nil, nil, err
	}
	w := work{mechanism: "encapsulate", part: publicPart, run: func(s *session, key handle, _ [3][]byte) ([]byte, error) {
		return s.encapsulate(key, s.entry.key.Spec)
	}}
	both, err := e.do(ctx, on, k, &w)
	if err != nil {
		return nil, nil, err
	}
	return both[:capsuleSecretBytes:capsuleSecretBytes], both[capsuleSecretBytes:], nil
}

// encapsulate returns the secret and its encapsulation in one slice.
func (s *session) encapsulate(public handle, spec keyspec.Spec) ([]byte, error) {
	both := make([]byte, capsuleSecretBytes+encapsulationBytes[spec])
	object, n, err := s.engine.module.lib.encapsulate(s.handle, public, mechMLKEM, readableSecret(capsuleSecretBytes), both[capsuleSecretBytes:])
	if err != nil {
		return nil, err
	}
	secret, err := s.takeSecret(object, capsuleSecretBytes)
	defer clear(secret)
	if err == nil {
		err = exactly("C_EncapsulateKey", both, n, encapsulationBytes[spec])
	}
	copy(both, secret)
	if err != nil {
		clear(both)
		return nil, err
	}
	return both, nil
}

// Decapsulate recovers a secret. See [hsm.Token].
func (e *Engine) Decapsulate(ctx context.Context, on hsm.Call, k *hsm.Key, encapsulation []byte) ([]byte, error) {
	if _, err := e.findings.way(k, keyspec.EncapsulateDecapsulate, keyspec.MLKEM, secretPart, ""); err != nil {
		return nil, err
	}
	if len(encapsulation) != encapsulationBytes[k.Spec] {
		return nil, hsm.ErrInvalidCiphertext
	}
	w := work{mechanism: "decapsulate", in: [3][]byte{encapsulation}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		return s.decapsulate(key, in[0])
	}}
	return e.do(ctx, on, k, &w)
}

func (s *session) decapsulate(key handle, encapsulation []byte) ([]byte, error) {
	object, err := s.engine.module.lib.decapsulate(s.handle, key, mechMLKEM, readableSecret(capsuleSecretBytes), encapsulation)
	if err != nil {
		return nil, err
	}
	return s.takeSecret(object, capsuleSecretBytes)
}

// proveDecapsulation has a private key open what was made for the row's public key.
func (s *session) proveDecapsulation(t *keyType, key handle, k *hsm.Key) (err error) {
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	object, err := s.engine.module.lib.create(s.handle, s.publicTemplate(t, public))
	if err != nil {
		return err
	}
	defer s.destroyAfter(object, &err)
	both, err := s.encapsulate(object, k.Spec)
	if err != nil {
		return err
	}
	defer clear(both)
	got, err := s.decapsulate(key, both[capsuleSecretBytes:])
	defer clear(got)
	if err == nil && subtle.ConstantTimeCompare(got, both[:capsuleSecretBytes]) != 1 {
		err = hsm.ErrWrongMaterial
	}
	return err
}
