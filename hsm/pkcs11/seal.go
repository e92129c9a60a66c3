package pkcs11

import (
	"context"
	"fmt"

	"kmsgate/hsm"
)

const (
	maxSealedBytes = 4096 // of a secret
	maxStoreName   = 64
)

// A sealed value is: version, length and name of the store, generation of the
// sealing key (4 bytes, big-endian), length of the IV, all of which are
// additional data; then IV, ciphertext and tag.
func sealHeader(store string, generation int32, ivLen int) []byte {
	return append(hsm.SealedBeginning(store, generation), byte(ivLen))
}

func sealAAD(header, aad []byte) []byte {
	return fields(nil).text(labelSeal).add(header).add(aad)
}

// Seal encrypts a secret under the store's newest sealing key. See [hsm.Token].
func (e *Engine) Seal(ctx context.Context, on hsm.Call, store string, secret, aad []byte) ([]byte, error) {
	if len(secret) > maxSealedBytes {
		return nil, fmt.Errorf("%w: a secret of %d bytes", hsm.ErrUnsupported, len(secret))
	}
	if err := tooLong(aad); err != nil {
		return nil, err
	}
	w := work{mechanism: "seal", in: [3][]byte{secret, aad}, run: func(s *session, _ handle, in [3][]byte) ([]byte, error) {
		key, ok := s.engine.service.Load().newestSealing(store)
		if !ok {
			return nil, fmt.Errorf("%w: store %s has no sealing key here", hsm.ErrUnavailable, store)
		}
		header := sealHeader(store, key.row.Generation, s.engine.cfg.IV.ivLength())
		sealed, err := s.encrypt(key.handle, in[0], sealAAD(header, in[1]))
		return append(header, sealed...), err
	}}
	return e.do(ctx, on, nil, &w)
}

// Open opens what Seal made. See [hsm.Token].
func (e *Engine) Open(ctx context.Context, on hsm.Call, sealed, aad []byte) ([]byte, error) {
	v, ok := parseSealed(sealed)
	if !ok || len(v.data) > maxSealedBytes+tagBytes || tooLong(aad) != nil {
		return nil, hsm.ErrInvalidCiphertext
	}
	e.learnSealing(ctx, &v)
	w := work{mechanism: "open", in: [3][]byte{v.iv, v.data, sealAAD(v.header, aad)}}
	w.run = func(s *session, _ handle, in [3][]byte) ([]byte, error) {
		key, ok := s.engine.service.Load().find(v.store, hsm.SealingKey, v.generation)
		if !ok {
			return nil, hsm.ErrInvalidCiphertext
		}
		return s.decrypt(key.handle, in[0], in[1], in[2])
	}
	return e.do(ctx, on, nil, &w)
}

// sealedValue is a parsed sealed value; its slices point into it.
type sealedValue struct {
	store            string
	generation       int32
	header, iv, data []byte
}

func parseSealed(b []byte) (v sealedValue, ok bool) {
	if v.store, v.generation, ok = hsm.SealedUnder(b); !ok {
		return v, false
	}
	head := 2 + len(v.store) + 4 + 1
	if len(b) < head {
		return v, false
	}
	v.header = b[:head]
	ivLen := int(b[head-1])
	if (ivLen != ivBytes && ivLen != ivBytesLong) || len(b) < head+ivLen+tagBytes {
		return v, false
	}
	v.iv, v.data = b[head:head+ivLen], b[head+ivLen:]
	return v, true
}
