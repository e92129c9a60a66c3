package pkcs11

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"reflect"

	"kmsgate/hsm"
)

// halfBlock is the size of RFC 3394's registers.
const halfBlock = aes.BlockSize / 2

// unwrapPadded opens what was wrapped by RFC 5649, more than eight bytes, with
// nothing left of the key and of what comes out but the result, which is the
// caller's to clear. [hsm.ErrInvalidCiphertext] whatever is wrong.
func unwrapPadded(key, wrapped []byte) ([]byte, error) {
	n := len(wrapped)/halfBlock - 1
	if len(wrapped)%halfBlock != 0 || n < 2 {
		return nil, hsm.ErrInvalidCiphertext
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, hsm.ErrInvalidCiphertext
	}
	defer forget(block)
	out := bytes.Clone(wrapped)
	defer clear(out)
	unwrapSteps(block, out, n)
	padded, size := out[halfBlock:], binary.BigEndian.Uint32(out[4:])
	good := subtle.ConstantTimeCompare(out[:4], []byte{0xa6, 0x59, 0x59, 0xa6})
	if good != 1 || int64(size) > int64(len(padded)) || int64(size) <= int64(len(padded)-halfBlock) || !allZero(padded[size:]) {
		return nil, hsm.ErrInvalidCiphertext
	}
	return bytes.Clone(padded[:size]), nil
}

// unwrapSteps is the unwrapping function of RFC 3394, section 2.2.2, in place.
func unwrapSteps(block cipher.Block, out []byte, n int) {
	var buffer [aes.BlockSize]byte
	defer clear(buffer[:])
	for step := 6 * n; step > 0; step-- {
		part := out[((step-1)%n+1)*halfBlock:][:halfBlock]
		binary.BigEndian.PutUint64(buffer[:], binary.BigEndian.Uint64(out)^uint64(step))
		copy(buffer[halfBlock:], part)
		block.Decrypt(buffer[:], buffer[:])
		copy(out[:halfBlock], buffer[:])
		copy(part, buffer[halfBlock:])
	}
}

// forget clears a cipher, which holds its key in another form.
func forget(block cipher.Block) { reflect.ValueOf(block).Elem().SetZero() }
