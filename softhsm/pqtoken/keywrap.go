package pqtoken

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"errors"
)

// errKeyWrap: what SoftHSM has wrapped does not open here.
var errKeyWrap = errors.New("pqtoken: AES key wrap does not open")

// unwrapPadded opens AES key wrap with padding (RFC 5649, section 4.2) of more
// than eight bytes.
func unwrapPadded(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	const half = 8
	n := uint64(len(wrapped))/half - 1
	if len(wrapped) < 3*half || len(wrapped)%half != 0 {
		return nil, errKeyWrap
	}
	out := bytes.Clone(wrapped)
	var b [2 * half]byte
	for t := 6 * n; t > 0; t-- {
		register := out[half*((t-1)%n+1):][:half]
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(out)^t)
		copy(b[half:], register)
		block.Decrypt(b[:], b[:])
		copy(out, b[:half])
		copy(register, b[half:])
	}
	length := int(binary.BigEndian.Uint32(out[4:]))
	padded := out[half:]
	if !bytes.Equal(out[:4], []byte{0xA6, 0x59, 0x59, 0xA6}) || length > len(padded) || length <= len(padded)-half ||
		len(bytes.Trim(padded[length:], "\x00")) > 0 {
		return nil, errKeyWrap
	}
	return padded[:length], nil
}
