package pkcs11

import (
	"context"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

func (e *Engine) PublicKey(context.Context, hsm.Call, *hsm.Key) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) Sign(context.Context, hsm.Call, *hsm.Key, keyspec.Algorithm, keyspec.MessageType, []byte) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) Verify(context.Context, hsm.Call, *hsm.Key, keyspec.Algorithm, keyspec.MessageType, []byte, []byte) error {
	return hsm.ErrUnsupported
}
func (e *Engine) GenerateMAC(context.Context, hsm.Call, *hsm.Key, keyspec.Algorithm, []byte) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) VerifyMAC(context.Context, hsm.Call, *hsm.Key, keyspec.Algorithm, []byte, []byte) error {
	return hsm.ErrUnsupported
}
func (e *Engine) EncryptAsymmetric(context.Context, hsm.Call, *hsm.Key, keyspec.Algorithm, []byte) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) DecryptAsymmetric(context.Context, hsm.Call, *hsm.Key, keyspec.Algorithm, []byte) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) DeriveSecret(context.Context, hsm.Call, *hsm.Key, []byte) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) Encapsulate(context.Context, hsm.Call, *hsm.Key) (secret, encapsulation []byte, err error) {
	return nil, nil, hsm.ErrUnsupported
}
func (e *Engine) Decapsulate(context.Context, hsm.Call, *hsm.Key, []byte) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}
func (e *Engine) GenerateDataKeyPair(context.Context, hsm.Call, keyspec.Spec) (hsm.DataKeyPair, error) {
	return hsm.DataKeyPair{}, hsm.ErrUnsupported
}
