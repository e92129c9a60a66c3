package pkcs11

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"fmt"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// DeriveSecret is ECDH without a key derivation function. See [hsm.Token].
func (e *Engine) DeriveSecret(ctx context.Context, on hsm.Call, k *hsm.Key, peer []byte) ([]byte, error) {
	if _, err := e.findings.way(k, keyspec.KeyAgreement, keyspec.ECDH, secretPart, ""); err != nil {
		return nil, err
	}
	public, err := der.ParsePublic(peer)
	if err != nil || public.Spec != k.Spec {
		return nil, hsm.ErrInvalidPublicKey
	}
	w := work{mechanism: "derive", in: [3][]byte{public.Point}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		return s.derive(key, public.Spec, in[0])
	}}
	return e.do(ctx, on, k, &w)
}

// derive makes the secret in the token, reads it and destroys it there.
func (s *session) derive(key handle, spec keyspec.Spec, point []byte) (out []byte, err error) {
	width := der.FieldBytes(spec)
	secret, err := s.engine.module.lib.derive(s.handle, key, der.ECPointForToken(point, s.engine.findings.derivesDER), readableSecret(width))
	if err != nil {
		return nil, err // not the peer's fault: its point is on the curve
	}
	return s.takeSecret(secret, width)
}

// readableSecret is the template of a secret that its caller gets.
func readableSecret(width int) template {
	return template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, may: mayBeRead, valueLen: uint(width)}
}

// takeSecret reads a secret and destroys its object. Leading zeros that a token
// leaves out are put back.
func (s *session) takeSecret(secret handle, width int) (out []byte, err error) {
	defer func() {
		s.destroyAfter(secret, &err)
		if err != nil {
			clear(out)
			out = nil
		}
	}()
	out = make([]byte, width)
	n, err := s.engine.module.lib.attribute(s.handle, secret, pkcs11.CKA_VALUE, out)
	if err != nil {
		return nil, err
	}
	copy(out[width-n:], out[:n])
	clear(out[:width-n])
	return out, nil
}

// curvesOfGo are the curves whose ECDH the standard library can do too.
var curvesOfGo = map[keyspec.Spec]ecdh.Curve{
	keyspec.ECCNISTP256: ecdh.P256(), keyspec.ECCNISTP384: ecdh.P384(), keyspec.ECCNISTP521: ecdh.P521(),
}

// proveAgreement has a private key agree with a fresh one of ours.
func (s *session) proveAgreement(_ *keyType, key handle, k *hsm.Key) error {
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	curve, ok := curvesOfGo[k.Spec]
	if !ok {
		return fmt.Errorf("%w: key agreement with %s", hsm.ErrUnsupported, k.Spec)
	}
	ours, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	theirs, err := curve.NewPublicKey(public.Point)
	if err != nil {
		return hsm.ErrWrongMaterial
	}
	want, err := ours.ECDH(theirs)
	if err != nil {
		return hsm.ErrWrongMaterial
	}
	defer clear(want)
	got, err := s.derive(key, k.Spec, ours.PublicKey().Bytes())
	defer clear(got)
	if err == nil && subtle.ConstantTimeCompare(got, want) != 1 {
		err = hsm.ErrWrongMaterial
	}
	return err
}
