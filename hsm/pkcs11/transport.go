package pkcs11

import (
	"context"

	"kmsgate/hsm"
)

// Send wraps a key for another token. See [hsm.Token].
func (e *Engine) Send(context.Context, hsm.Call, *hsm.Key, *hsm.Key) ([]byte, error) {
	return nil, hsm.ErrUnsupported
}

// Receive brings in a key that another token has sent. See [hsm.Token].
func (e *Engine) Receive(context.Context, hsm.Call, *hsm.Key, []byte, hsm.Key) (hsm.Key, error) {
	return hsm.Key{}, hsm.ErrUnsupported
}
