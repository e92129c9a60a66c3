package hsm

import "encoding/binary"

// sealedVersion is the first byte of what Seal makes.
const sealedVersion = 1

// SealedBeginning is what everything begins with that is sealed under a generation of a
// store's sealing key. A store's name has at most 255 bytes.
func SealedBeginning(store string, generation int32) []byte {
	begin := append([]byte{sealedVersion, byte(len(store))}, store...)
	return binary.BigEndian.AppendUint32(begin, uint32(generation))
}

// SealedUnder tells which generation of which store's sealing key a sealed value was
// made with, by what it says itself; ok is false if it is none. A sealed value begins
// with a byte for its version, the length of the store's name, a byte, and the name,
// and the generation of the sealing key, four bytes, the highest first.
func SealedUnder(sealed []byte) (store string, generation int32, ok bool) {
	if len(sealed) < 2 || sealed[0] != sealedVersion {
		return "", 0, false
	}
	name, rest := sealed[2:], int(sealed[1])
	if len(name) < rest+4 {
		return "", 0, false
	}
	return string(name[:rest]), int32(binary.BigEndian.Uint32(name[rest:])), true
}
