package pkcs11

import (
	"context"
	"fmt"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
)

// PublicKey returns a pair's public key. See [hsm.Token].
func (e *Engine) PublicKey(ctx context.Context, on hsm.Call, k *hsm.Key) ([]byte, error) {
	t, err := typeOf(k)
	if err != nil {
		return nil, err
	}
	if !t.isPair() {
		return nil, fmt.Errorf("%w: %s has no public key", hsm.ErrUnsupported, k.Spec)
	}
	if err := e.Present(ctx, on, k); err != nil {
		return nil, err
	}
	return slices.Clone(k.PublicKey), nil
}

// Present proves that a key is what its row says: that the binding verifies,
// the token has the material, and the material is the right one.
// [hsm.ErrMissing], [hsm.ErrBinding] or [hsm.ErrWrongMaterial] if not.
func (e *Engine) Present(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	w := work{mechanism: "present", run: func(*session, handle, [3][]byte) ([]byte, error) { return nil, nil }}
	_, err := e.do(ctx, on, k, &w)
	return err
}

// admit brings a part of a key into service.
func (s *session) admit(k *hsm.Key, part keyPart) (handle, error) {
	if part == publicPart {
		return s.admitPublic(k)
	}
	return s.admitKey(k, 0)
}

// admitPublic makes an object of a pair's public key, once its row is verified.
// The handle is zero where nothing is done with it in the token.
func (s *session) admitPublic(k *hsm.Key) (handle, error) {
	if err := s.verifyBinding(k); err != nil {
		return 0, err
	}
	t, err := typeOf(k)
	if err != nil {
		return 0, err
	}
	public, err := publicOf(k)
	if err != nil {
		return 0, err
	}
	if !s.engine.findings.usesPublic(k.Spec, k.Usage) {
		return 0, nil
	}
	return s.engine.module.lib.create(s.handle, s.publicTemplate(&t, public))
}

// publicOf is the public key of a row whose binding has been verified.
func publicOf(k *hsm.Key) (*der.Public, error) {
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil || public.Spec != k.Spec {
		return nil, fmt.Errorf("%w: public key of key %s", hsm.ErrWrongMaterial, k.KeyID)
	}
	return public, nil
}
