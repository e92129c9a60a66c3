package envelope

import (
	"encoding/binary"
	"maps"
	"slices"
)

// AAD is the additional data that a blob with this header is encrypted under:
// the header's bytes, the number of pairs of the encryption context, and each
// pair in the order of its keys' bytes, key and value preceded by their lengths
// (big-endian, four bytes). Different headers or contexts have different AADs;
// a nil context is an empty one. Keys and values are bytes: nothing is
// normalised or folded.
func AAD(h Header, context map[string]string) []byte {
	size := headerBytes + 4
	for k, v := range context {
		size += 8 + len(k) + len(v)
	}
	b := appendHeader(make([]byte, 0, size), h)
	b = binary.BigEndian.AppendUint32(b, uint32(len(context)))
	for _, k := range slices.Sorted(maps.Keys(context)) {
		b = appendText(b, k)
		b = appendText(b, context[k])
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
