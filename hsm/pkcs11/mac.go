package pkcs11

import (
	"context"
	"crypto"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// GenerateMAC makes an HMAC. See [hsm.Token].
func (e *Engine) GenerateMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message []byte) ([]byte, error) {
	row, err := e.macRow(k, a, message)
	if err != nil {
		return nil, err
	}
	w := work{mechanism: "mac", in: [3][]byte{message}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		return s.hmac(key, row.Hash, in[0])
	}}
	return e.do(ctx, on, k, &w)
}

// VerifyMAC makes the HMAC again and compares. See [hsm.Token].
func (e *Engine) VerifyMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message, mac []byte) error {
	row, err := e.macRow(k, a, message)
	if err != nil {
		return err
	}
	if len(mac) != row.Hash.Size() {
		return hsm.ErrInvalidSignature
	}
	w := work{mechanism: "mac-verify", in: [3][]byte{message, mac}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		good, err := agreed(func() ([]byte, error) { return s.hmac(key, row.Hash, in[0]) }, in[1])
		if err == nil && !good {
			err = hsm.ErrInvalidSignature
		}
		return nil, err
	}}
	_, err = e.do(ctx, on, k, &w)
	return err
}

func (e *Engine) macRow(k *hsm.Key, a keyspec.Algorithm, message []byte) (row keyspec.AlgorithmRow, err error) {
	if _, err := e.findings.way(k, keyspec.GenerateVerifyMAC, a, secretPart, ""); err != nil {
		return row, err
	}
	row, _ = keyspec.LookupAlgorithm(a)
	return row, tooLong(message)
}

// hmac is an HMAC in the token.
func (s *session) hmac(key handle, h crypto.Hash, input []byte) ([]byte, error) {
	out := make([]byte, h.Size())
	n, err := s.engine.module.lib.sign(s.handle, key, mechanism{kind: hashNumbers[h].hmac}, input, out)
	if err != nil {
		return nil, err
	}
	return out, exactly("C_Sign", out, n, len(out))
}

// checkHMAC proves that key is the one that made the check value.
func (s *session) checkHMAC(key handle, h crypto.Hash, check, input []byte) error {
	good, err := agreed(func() ([]byte, error) { return s.hmac(key, h, input) }, check)
	if err == nil && !good {
		err = hsm.ErrWrongMaterial
	}
	return err
}
