package der

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/big"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"kmsgate/hsm/keyspec"
)

// A berStyle is one of the ways to write a value in BER.
type berStyle struct {
	indefinite bool // what can be is of indefinite length
	zeros      int  // bytes more than a length needs; at least one makes it long
	segment    int  // bytes of a string in each of its segments; zero: in one piece
	nested     bool // of segments, each is constructed itself
	inner      bool // only what a PKCS#8's OCTET STRING holds is written so
	outer      bool // only what is around it
	openSSL    bool // OpenSSL 3.0 reads it, which knows no bit strings in segments
}

var berStyles = map[string]berStyle{
	"indefinite lengths":          {indefinite: true, openSSL: true},
	"a long length":               {zeros: 1},
	"longer lengths":              {zeros: 5},
	"the longest of lengths":      {zeros: 120, inner: true},
	"segments":                    {segment: 7},
	"segments of a byte":          {segment: 1, inner: true},
	"one segment":                 {segment: 3000, openSSL: true},
	"segments of segments":        {segment: 20, nested: true},
	"indefinite, in segments":     {indefinite: true, segment: 10},
	"everything":                  {indefinite: true, zeros: 2, segment: 100, nested: true},
	"the outer, indefinite":       {indefinite: true, outer: true, openSSL: true},
	"the inner, indefinite":       {indefinite: true, inner: true, openSSL: true},
	"the outer, in segments":      {segment: 16, outer: true, openSSL: true},
	"the inner, in segments":      {segment: 16, inner: true},
	"the inner, with long length": {zeros: 2, inner: true},
}

// value writes a tag and contents.
func (s berStyle) value(tag byte, contents ...[]byte) []byte {
	content := slices.Concat(contents...)
	if s.indefinite && tag&constructedBit != 0 {
		return slices.Concat([]byte{tag, 0x80}, content, []byte{0, 0})
	}
	if s.zeros == 0 {
		return tlv(tag, content)
	}
	n := len(content)
	return slices.Concat([]byte{tag, byte(0x80 + s.zeros + 2)}, make([]byte, s.zeros), []byte{byte(n >> 8), byte(n)}, content)
}

// string writes a string, in segments of a universal tag if so. A bit string's have
// their unused bits, none, in front.
func (s berStyle) string(tag, universal byte, head, content []byte) []byte {
	if s.segment == 0 {
		return s.value(tag, head, content)
	}
	var segments [][]byte
	for part := range slices.Chunk(content, s.segment) {
		one := s.value(universal, head, part)
		if s.nested {
			one = s.value(universal|constructedBit, one)
		}
		segments = append(segments, one)
	}
	return s.value(tag|constructedBit, segments...)
}

// write writes what is in DER in the style. The OCTET STRING of a PKCS#8 holds DER, too.
func (s berStyle) write(t testing.TB, der []byte, isInfo bool) []byte {
	t.Helper()
	around, within := s, s
	if s.inner {
		around = berStyle{}
	}
	if s.outer {
		within = berStyle{}
	}
	if !isInfo {
		around = within
	}
	var all []byte
	for r := (reader{rest: der}); len(r.rest) > 0; {
		tag := r.next()
		content := r.take(tag)
		if r.bad {
			t.Fatalf("%x is not DER", der)
		}
		switch {
		case tag == tagOctetString && isInfo:
			all = append(all, around.string(tag, tag, nil, within.write(t, content, false))...)
		case tag == tagOctetString:
			all = append(all, around.string(tag, tag, nil, content)...)
		case tag == tagBitString, tag == tagOuterKey:
			all = append(all, around.string(tag, tagBitString, content[:1], content[1:])...)
		case tag&constructedBit != 0:
			all = append(all, around.value(tag, s.write(t, content, isInfo))...)
		default:
			all = append(all, around.value(tag, content)...)
		}
	}
	return all
}

// berSamples are private keys in DER with everything that there may be of one.
func berSamples(t testing.TB) map[keyspec.Spec][][]byte {
	t.Helper()
	all := map[keyspec.Spec][][]byte{}
	for spec, text := range samples(t) {
		p, err := ParsePrivate(spec, text)
		if err != nil {
			t.Fatal(err)
		}
		attributes := tlv(tagAttributes, tlv(tagSequence, oidDER(oidEC), tlv(0x31, tlv(0x0c, []byte("name")))))
		all[spec] = [][]byte{text, second(t, text, attributes, tlv(tagOuterKey, publicBits(t, p)))}
	}
	return all
}

// TestParsePrivateReadsBER as the same key in DER, which is what it is written as.
// OpenSSL reads the same key of it, too.
func TestParsePrivateReadsBER(t *testing.T) {
	t.Parallel()
	for spec, texts := range berSamples(t) {
		for version, text := range texts {
			want, err := ParsePrivate(spec, text)
			if err != nil {
				t.Fatal(err)
			}
			public := openSSLReads(t, text)
			if version == 0 && public == nil {
				t.Fatalf("openssl does not read the key of %s", spec)
			}
			for name, style := range berStyles {
				ber := style.write(t, text, true)
				given := bytes.Clone(ber)
				got, err := ParsePrivate(spec, ber)
				if err != nil || !samePrivate(got, want) {
					t.Errorf("ParsePrivate of %s, version %d, with %s = %v", spec, version+1, name, err)
				}
				if !bytes.Equal(ber, given) {
					t.Errorf("%s with %s is changed", spec, name)
				}
				if style.openSSL && version == 0 && !bytes.Equal(openSSLReads(t, ber), public) {
					t.Errorf("openssl reads another key of %s with %s", spec, name)
				}
			}
		}
	}
}

func samePrivate(a, b *Private) bool {
	same := bytes.Equal(a.Point, b.Point) && bytes.Equal(a.Raw, b.Raw) && bytes.Equal(a.N, b.N) && bytes.Equal(a.E, b.E)
	for _, part := range [][2][]byte{{a.D, b.D}, {a.P, b.P}, {a.Q, b.Q}, {a.DP, b.DP}, {a.DQ, b.DQ}, {a.QInv, b.QInv}, {a.Seed, b.Seed}} {
		same = same && bytes.Equal(part[0], part[1])
	}
	return same
}

// openSSLReads is the public key of a private one as OpenSSL reads it; nil for a
// OneAsymmetricKey of version 2, which OpenSSL 3.0 does not read.
func openSSLReads(t *testing.T, key []byte) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", "pkey", "-inform", "DER", "-outform", "DER", "-pubout")
	cmd.Stdin = bytes.NewReader(key)
	public, err := cmd.Output()
	if err != nil {
		return nil
	}
	return public
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ ber, want string }{
		"DER":                           {"300602010004010a", "300602010004010a"},
		"nothing in it":                 {"3000", "3000"},
		"nothing, indefinite":           {"30800000", "3000"},
		"indefinite":                    {"308002010004010a0000", "300602010004010a"},
		"indefinite in indefinite":      {"3080308002010000000000", "30053003020100"},
		"indefinite in definite":        {"30073080020100" + "0000", "30053003020100"},
		"zeros that end nothing":        {"308004020000" + "0000", "300404020000"},
		"a long length":                 {"30810602010004010a", "300602010004010a"},
		"leading zeros":                 {"308400000003020100", "3003020100"},
		"a long length of a primitive":  {"0482000101", "040101"},
		"a string in segments":          {"2406040112040134", "04021234"},
		"an indefinite one":             {"2480040112040134" + "0000", "04021234"},
		"segments in segments":          {"240e" + "2406040112040134" + "240404025678", "0404" + "12345678"},
		"no segments":                   {"2400", "0400"},
		"empty segments":                {"24040400" + "0400", "0400"},
		"a bit string in segments":      {"230803020012" + "03020034", "0303001234"},
		"context-specific":              {"a0808101070000", "a003810107"},
		"an integer, however it is":     {"020200" + "01", "02020001"},
		"a bit string with unused bits": {"03020780", "03020780"},
	} {
		got, ok := canonical(unhexed(t, c.ber))
		if !ok || hex.EncodeToString(got) != c.want {
			t.Errorf("%s: canonical(%s) = %x, %t, want %s", name, c.ber, got, ok, c.want)
		}
	}
}

func TestCanonicalRefuses(t *testing.T) {
	t.Parallel()
	for name, ber := range map[string]string{
		"nothing":                          "",
		"a tag":                            "30",
		"two values":                       "30003000",
		"a byte more":                      "300000",
		"a byte more, indefinite":          "3080000000",
		"the end of nothing":               "0000",
		"an end in a definite value":       "30020000",
		"no end":                           "3080020100",
		"half an end":                      "308002010000",
		"an end with content":              "3080000100" + "0000",
		"an end with a long length":        "308000810000",
		"a primitive of indefinite length": "04800000",
		"an indefinite integer":            "0280010000",
		"one that the other's end ends":    "308004800000",
		"the reserved length":              "30ff" + strings.Repeat("00", 127),
		"half a length":                    "308200",
		"a length without content":         "3003",
		"content that is cut off":          "3003020100"[:8],
		"an inner value that is longer":    "3003020200",
		"a length beyond everything":       "3088ffffffffffffffff",
		"a length that wraps":              "3089010000000000000000",
		"a long tag":                       "1f8101" + "00",
		"a long tag, constructed":          "3f01" + "00",
		"a segment of another type":        "2403020101",
		"a bit string as a segment":        "240403020012",
		"a string as a bit string's":       "230304" + "0112",
		"a segment of unused bits":         "230403020710",
		"a segment without its first byte": "23020300",
		"a bit string of no segments":      "2300",
		"an indefinite one of none":        "23800000",
	} {
		if got, ok := canonical(unhexed(t, ber)); ok || got != nil {
			t.Errorf("%s: canonical(%s) = %x, %t", name, ber, got, ok)
		}
	}
}

// TestCanonicalIsBounded in depth and in length.
func TestCanonicalIsBounded(t *testing.T) {
	t.Parallel()
	for _, style := range []berStyle{{}, {indefinite: true}, {zeros: 1}} {
		for _, tag := range []byte{tagSequence, tagOctetString | constructedBit} {
			nested := []byte{tagOctetString, 0}
			for range deepestBER - 1 {
				nested = style.value(tag, nested)
			}
			if _, ok := canonical(nested); !ok {
				t.Errorf("canonical refuses %x", nested)
			}
			if _, ok := canonical(style.value(tag, nested)); ok {
				t.Errorf("canonical takes %x, which is one deeper", nested)
			}
		}
	}
	long := tlv(tagOctetString, make([]byte, mostBER-4))
	if got, ok := canonical(long); !ok || !bytes.Equal(got, long) {
		t.Errorf("canonical of %d bytes = %t", len(long), ok)
	}
	if _, ok := canonical(tlv(tagOctetString, make([]byte, mostBER-3))); ok {
		t.Errorf("canonical takes more than %d bytes", mostBER)
	}
}

// TestParsePrivateOfBERIsStrict: cut anywhere or with something behind it, at every
// place where there can be, a key in BER is refused.
func TestParsePrivateOfBERIsStrict(t *testing.T) {
	t.Parallel()
	text := samples(t)[keyspec.ECCNISTP256]
	for name, style := range berStyles {
		ber := style.write(t, text, true)
		for n := range ber {
			if _, err := ParsePrivate(keyspec.ECCNISTP256, ber[:n]); !errors.Is(err, ErrPrivateKey) {
				t.Fatalf("ParsePrivate of %d bytes with %s = %v", n, name, err)
			}
		}
		for _, more := range [][]byte{{0}, {0, 0}, {tagOctetString, 0}} {
			if _, err := ParsePrivate(keyspec.ECCNISTP256, append(bytes.Clone(ber), more...)); !errors.Is(err, ErrPrivateKey) {
				t.Errorf("ParsePrivate with %s and %x behind it = %v", name, more, err)
			}
		}
	}
}

func unhexed(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// isDER tells whether b is values, each with the shortest of lengths, and no strings in
// segments.
func isDER(b []byte, depth int) bool {
	for len(b) > 0 {
		tag := b[0]
		if depth == 0 || tag == 0 || tag&longTag == longTag || inSegments[tag] != 0 || len(b) < 2 {
			return false
		}
		head, n := 2, int(b[1])
		if n >= 0x80 {
			head += n - 0x80
			if n == 0x80 || n > 0x82 || len(b) < head {
				return false
			}
			n = int(new(big.Int).SetBytes(b[2:head]).Int64())
		}
		if len(b) < head+n || len(tlv(tag, b[head:head+n])) != head+n || tag&constructedBit != 0 && !isDER(b[head:head+n], depth-1) {
			return false
		}
		b = b[head+n:]
	}
	return true
}

func FuzzCanonical(f *testing.F) {
	f.Add([]byte{0x30, 0x80, 0x24, 0x80, 4, 1, 7, 0, 0, 0, 0})
	f.Add([]byte{0x23, 0x84, 0, 0, 0, 8, 3, 2, 0, 1, 3, 2, 0, 2})
	for _, texts := range berSamples(f) {
		for _, style := range berStyles {
			f.Add(style.write(f, texts[1], true))
		}
		f.Add(texts[0])
	}
	f.Fuzz(func(t *testing.T, ber []byte) {
		given := bytes.Clone(ber)
		once, ok := canonical(ber)
		if !bytes.Equal(ber, given) {
			t.Fatalf("canonical changes %x", given)
		}
		one := reader{rest: ber}
		one.take(one.next())
		if der := one.ended() && isDER(ber, deepestBER) && len(ber) <= mostBER; der && (!ok || !bytes.Equal(once, ber)) {
			t.Fatalf("canonical of DER, %x, = %x, %t", ber, once, ok)
		}
		if !ok {
			return
		}
		if !isDER(once, deepestBER) || len(once) > len(ber) {
			t.Fatalf("canonical(%x) = %x", ber, once)
		}
		if twice, ok := canonical(once); !ok || !bytes.Equal(once, twice) {
			t.Fatalf("canonical of canonical(%x) = %x, %t, want %x", ber, twice, ok, once)
		}
		for spec := range samplesOf {
			a, err := ParsePrivate(spec, ber)
			b, again := ParsePrivate(spec, once)
			if (err == nil) != (again == nil) || err == nil && !samePrivate(a, b) {
				t.Fatalf("ParsePrivate of %x as %s = %v, and in DER %v", ber, spec, err, again)
			}
		}
	})
}
