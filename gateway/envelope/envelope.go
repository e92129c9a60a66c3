// Package envelope has the layout of a symmetric CiphertextBlob and the
// additional data that binds it to its key and its encryption context. It
// encrypts nothing and looks nothing up: it only puts bytes together and takes
// them apart, and trusts none of them. What Open returns is proved by the token,
// which decrypts under AAD of the header found and the context given.
//
// A blob is, in bytes:
//
//	 1  version, 1
//	 1  kind of the key id: 1 a UUID, 2 a multi-Region id (mrk-)
//	16  key id
//	32  key material id
//	 4  CRC-32C of the above, big-endian
//	 1  length of the IV, 12 or 16
//	 …  IV
//	 …  ciphertext, then a tag of 16 bytes
//
// The checksum is no protection. It tells a damaged header, which is an invalid
// ciphertext, from a sound one that names a key unknown here, which is a matter
// of authorisation. The blob names no account and no region, so that related
// multi-Region keys open each other's.
//
// All functions are safe for concurrent use.
package envelope

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"

	"kmsgate/hsm"
)

// MaxBytes is the size of the largest blob (KMS API Reference, CiphertextBlob).
const MaxBytes = 6144

const (
	version     = 1
	idBytes     = 16
	tagBytes    = 16
	sumAt       = 2 + idBytes + len(hsm.MaterialID{})
	headerBytes = sumAt + crc32.Size
)

// Kinds of key ids.
const (
	kindUUID = 1
	kindMRK  = 2
)

const mrkPrefix = "mrk-"

// ErrMalformed is Open's only error: the blob is none of ours, or damaged.
var ErrMalformed = errors.New("malformed ciphertext blob")

// Header says which key, and which of its materials, a blob was made with.
type Header struct {
	// KeyID is a key id as we make them: a UUID or "mrk-" and 32 digits, in
	// lower case. A header with any other id gives a blob that Open refuses.
	KeyID      string
	MaterialID hsm.MaterialID
}

// Seal puts a blob together. c must have been encrypted under AAD of the same
// header.
func Seal(h Header, c hsm.Ciphertext) []byte {
	b := make([]byte, 0, headerBytes+1+len(c.IV)+len(c.Data))
	b = appendHeader(b, h)
	b = append(b, byte(len(c.IV)))
	b = append(b, c.IV...)
	return append(b, c.Data...)
}

// Open takes a blob apart. The slices of the Ciphertext are part of blob.
func Open(blob []byte) (Header, hsm.Ciphertext, error) {
	if len(blob) > MaxBytes || len(blob) <= headerBytes {
		return Header{}, hsm.Ciphertext{}, ErrMalformed
	}
	h, ok := parseHeader(blob[:headerBytes])
	ivBytes, rest := int(blob[headerBytes]), blob[headerBytes+1:]
	if !ok || (ivBytes != 12 && ivBytes != 16) || len(rest) < ivBytes+tagBytes {
		return Header{}, hsm.Ciphertext{}, ErrMalformed
	}
	return h, hsm.Ciphertext{IV: rest[:ivBytes:ivBytes], Data: rest[ivBytes:]}, nil
}

func appendHeader(b []byte, h Header) []byte {
	start := len(b)
	kind, id := packKeyID(h.KeyID)
	b = append(b, version, kind)
	b = append(b, id[:]...)
	b = append(b, h.MaterialID[:]...)
	return binary.BigEndian.AppendUint32(b, checksum(b[start:]))
}

func parseHeader(b []byte) (h Header, ok bool) {
	if b[0] != version || binary.BigEndian.Uint32(b[sumAt:]) != checksum(b[:sumAt]) {
		return Header{}, false
	}
	copy(h.MaterialID[:], b[2+idBytes:])
	h.KeyID, ok = unpackKeyID(b[1], b[2:2+idBytes])
	return h, ok
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// packKeyID gives kind 0 for what is no key id of ours.
func packKeyID(s string) (kind byte, id [idBytes]byte) {
	digits, isMRK := strings.CutPrefix(s, mrkPrefix)
	kind = kindMRK
	if !isMRK {
		kind, digits = kindUUID, strings.ReplaceAll(s, "-", "")
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != idBytes {
		return 0, [idBytes]byte{}
	}
	if back, _ := unpackKeyID(kind, b); back != s {
		return 0, [idBytes]byte{}
	}
	return kind, [idBytes]byte(b)
}

func unpackKeyID(kind byte, id []byte) (s string, ok bool) {
	digits := hex.EncodeToString(id)
	switch kind {
	case kindUUID:
		return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:], true
	case kindMRK:
		return mrkPrefix + digits, true
	}
	return "", false
}
