package der

// Bounds of what is read as BER.
const (
	mostBER    = 6144 // bytes: what ImportKeyMaterial takes (KMS API reference)
	deepestBER = 16   // values in one another; a PKCS#8 with attributes has five
)

// Bits and values of BER (X.690, sections 8.1.2 and 8.1.3).
const (
	constructedBit   = 0x20
	longTag          = 0x1f // all bits of the number: it goes on in the next byte
	indefiniteLength = 0x80
	reservedLength   = 0xff
)

// inSegments are the strings that BER may write in segments, constructed, by the
// primitive tag that DER writes them with; of context-specific ones only the reader of
// a structure knows. It is read only.
var inSegments = map[byte]byte{
	tagBitString | constructedBit:   tagBitString,
	tagOctetString | constructedBit: tagOctetString,
}

// canonical writes the one value that b is in BER (X.690, section 8) as DER: lengths
// that are definite and short, strings in one piece. DER stays as it is. What a string
// holds is not looked at, and neither are the rules of DER for the content of other
// types, which are for the reader of the value. The copy is the caller's to clear, is
// the only one that is left, and is not longer than b. False if b is more than one
// value, longer than 6144 bytes, nested deeper than 16, or not BER, or if a tag has
// more than a byte.
func canonical(b []byte) ([]byte, bool) {
	r := reader{rest: b, bad: len(b) > mostBER}
	value := r.value(deepestBER)
	if !r.ended() {
		clear(value)
		return nil, false
	}
	return value, true
}

// value is the next value of BER, written as DER.
func (r *reader) value(depth int) []byte {
	tag := r.next()
	n, definite := r.length()
	// The tag zero is that of the end of contents, which has no place here.
	if r.bad || depth == 0 || tag == 0 || tag&longTag == longTag {
		r.bad = true
		return nil
	}
	if tag&constructedBit == 0 {
		r.bad = r.bad || !definite
		return tlv(tag, r.bytes(n))
	}
	inner := r
	if definite {
		inner = &reader{rest: r.bytes(n)}
	}
	values := inner.values(depth-1, definite)
	defer clearAll(values)
	r.bad = r.bad || inner.bad
	if primitive, ok := inSegments[tag]; ok {
		return r.joined(primitive, values)
	}
	return tlv(tag, values...)
}

// values are all values up to the end, which two zeros mark if it is not definite.
func (r *reader) values(depth int, definite bool) (values [][]byte) {
	for !r.bad {
		if definite && len(r.rest) == 0 {
			return values
		}
		if !definite && len(r.rest) >= 2 && r.rest[0] == 0 && r.rest[1] == 0 {
			r.rest = r.rest[2:]
			return values
		}
		values = append(values, r.value(depth))
	}
	return values
}

// joined is a string of segments, which have its primitive tag. Bit strings must have
// some, of whole bytes: no key is anything else.
func (r *reader) joined(primitive byte, segments [][]byte) []byte {
	var head []byte
	if primitive == tagBitString {
		head = []byte{0} // bits that are not used
		r.bad = r.bad || len(segments) == 0
	}
	contents := [][]byte{head}
	for _, segment := range segments {
		s := reader{rest: segment, bad: r.bad}
		content := s.take(primitive)
		if r.bad = s.bad || len(content) < len(head) || len(head) > 0 && content[0] != 0; r.bad {
			return nil
		}
		contents = append(contents, content[len(head):])
	}
	return tlv(primitive, contents...)
}

// length reads a tag of one byte and the length behind it.
func (r *reader) length() (n int, definite bool) {
	head := r.bytes(2)
	if r.bad || head[1] == reservedLength {
		r.bad = true
		return 0, true
	}
	if head[1] == indefiniteLength {
		return 0, false
	}
	if head[1] < indefiniteLength {
		return int(head[1]), true
	}
	for _, b := range r.bytes(int(head[1] &^ indefiniteLength)) {
		if n = n<<8 | int(b); n > mostBER {
			r.bad = true
			return 0, true
		}
	}
	return n, true
}

// bytes are the next n bytes.
func (r *reader) bytes(n int) []byte {
	if r.bad || len(r.rest) < n {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func clearAll(all [][]byte) {
	for _, b := range all {
		clear(b)
	}
}
