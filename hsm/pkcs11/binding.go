package pkcs11

import (
	"encoding/binary"
	"fmt"

	"kmsgate/hsm"
)

// Labels of what is authenticated, so that nothing made for one purpose passes
// for another.
const (
	labelBinding  = "kmsgate/binding/v1"
	labelCheck    = "kmsgate/check/v1"
	labelService  = "kmsgate/service-key/v1"
	labelSeal     = "kmsgate/seal/v1"
	labelMaterial = "kmsgate/imported-material/v1"
	labelImported = "kmsgate/imported-object/v1"
)

const macBytes = 32 // HMAC-SHA-256

// canary is the plaintext of every check value made with AES-GCM.
var canary = [32]byte([]byte("kmsgate canary, 32 fixed bytes.."))

// fields writes byte strings so that no two lists give the same bytes: each
// with its length in front, four bytes, big-endian.
type fields []byte

func (f fields) add(b []byte) fields {
	f = binary.BigEndian.AppendUint32(f, uint32(len(b)))
	return append(f, b...)
}

func (f fields) text(s string) fields {
	f = binary.BigEndian.AppendUint32(f, uint32(len(s)))
	return append(f, s...)
}

func (f fields) number(n int32) fields {
	return f.add(binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// bindingInput is what a key's binding authenticates: everything but itself.
func bindingInput(k *hsm.Key) []byte {
	f := make(fields, 0, 512+len(k.Blob)+len(k.PublicKey))
	f = f.text(labelBinding).text(k.Region).text(k.Account).text(k.KeyID).add(k.MaterialID[:])
	f = f.text(string(k.Spec)).text(string(k.Usage)).text(string(k.Origin)).text(k.Store)
	return f.text(string(k.Residency)).number(k.Generation).add(k.PublicKey).add(k.CheckValue).add(k.Blob)
}

// checkInput is the additional data of a material's canary.
func checkInput(k *hsm.Key) []byte {
	return fields(nil).text(labelCheck).text(k.KeyID).add(k.MaterialID[:])
}

// serviceInput is what a service key's check value is made over.
func serviceInput(k *hsm.ServiceKey) []byte {
	return fields(nil).text(labelService).text(k.Store).text(string(k.Kind)).number(k.Generation).add(k.ID)
}

// mac is HMAC-SHA-256 in the token.
func (s *session) mac(key handle, input []byte) ([]byte, error) {
	out := make([]byte, macBytes)
	n, err := s.engine.module.lib.sign(s.handle, key, mechanism{kind: mechHMACSHA256}, input, out)
	if err != nil {
		return nil, err
	}
	return out, exactly("C_Sign", out, n, macBytes)
}

// verifyBinding refuses a key that is not, in every field, what the token bound.
func (s *session) verifyBinding(k *hsm.Key) error {
	if k.Generation < 1 {
		return fmt.Errorf("%w: key %s", hsm.ErrBinding, k.KeyID)
	}
	key, err := s.bindingKey(k)
	if err != nil {
		return err
	}
	good, err := s.bindingIs(key, bindingInput(k), k.Binding)
	if err != nil {
		return err
	}
	if !good {
		return fmt.Errorf("%w: key %s", hsm.ErrBinding, k.KeyID)
	}
	return nil
}
