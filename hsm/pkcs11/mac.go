package pkcs11

import (
	"context"
	"crypto"
	"crypto/subtle"
	"fmt"

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
		want, err := s.hmac(key, row.Hash, in[0])
		defer clear(want)
		if err == nil && subtle.ConstantTimeCompare(want, in[1]) != 1 {
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
	if n != len(out) {
		return nil, fmt.Errorf("%w: an HMAC with %v has %d bytes", hsm.ErrUnavailable, h, n)
	}
	return out, nil
}

// checkHMAC proves that key is the one that made the check value.
func (s *session) checkHMAC(key handle, h crypto.Hash, check, input []byte) error {
	got, err := s.hmac(key, h, input)
	if err == nil && subtle.ConstantTimeCompare(got, check) != 1 {
		err = hsm.ErrWrongMaterial
	}
	return err
}
