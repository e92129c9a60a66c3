package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kmsgate/hsm"
)

const (
	uuid = "1234abcd-12ab-34cd-56ef-1234567890ab"
	mrk  = "mrk-1234abcd12ab34cd56ef1234567890ab"
)

var material = hsm.MaterialID{0: 0xaa, 31: 0xbb}

var keyIDs = rapid.OneOf(
	rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`),
	rapid.StringMatching(`mrk-[0-9a-f]{32}`),
)

var headers = rapid.Custom(func(t *rapid.T) Header {
	id := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "material")
	return Header{KeyID: keyIDs.Draw(t, "key"), MaterialID: hsm.MaterialID(id)}
})

var ciphertexts = rapid.Custom(func(t *rapid.T) hsm.Ciphertext {
	n := rapid.SampledFrom([]int{12, 16}).Draw(t, "iv bytes")
	return hsm.Ciphertext{
		IV:   rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "iv"),
		Data: rapid.SliceOfN(rapid.Byte(), 16, 300).Draw(t, "data"),
	}
})

var contexts = rapid.MapOfN(rapid.String(), rapid.String(), 0, 5)

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h, c := headers.Draw(t, "header"), ciphertexts.Draw(t, "ciphertext")
		gotH, gotC, err := Open(Seal(h, c))
		if err != nil || gotH != h {
			t.Fatalf("Open(Seal(%v)) = %v, %v, want the same", h, gotH, err)
		}
		if diff := cmp.Diff(c, gotC); diff != "" {
			t.Fatalf("Open(Seal(%v)) differs (-want +got):\n%s", c, diff)
		}
	})
}

// A blob of this layout is in somebody's database: this test never changes.
func TestBlobsKeepTheirLayout(t *testing.T) {
	t.Parallel()
	c := hsm.Ciphertext{IV: []byte("twelve bytes"), Data: []byte("sealed.and 16 bytes tag.")}
	for _, g := range []struct{ keyID, blob string }{
		{uuid, "01011234abcd12ab34cd56ef1234567890ab" + "aa" + strings.Repeat("00", 30) + "bb" + "6de69806" + "0c"},
		{mrk, "01021234abcd12ab34cd56ef1234567890ab" + "aa" + strings.Repeat("00", 30) + "bb" + "20812cf1" + "0c"},
	} {
		want := g.blob + hex.EncodeToString(c.IV) + hex.EncodeToString(c.Data)
		if got := hex.EncodeToString(Seal(Header{g.keyID, material}, c)); got != want {
			t.Errorf("Seal for %s =\n%s, want\n%s", g.keyID, got, want)
		}
	}
	const wantAAD = "01011234abcd12ab34cd56ef1234567890ab" + "aa" + "000000000000000000000000000000000000000000000000000000000000" + "bb" + "6de69806" +
		"00000002" + "00000001" + "41" + "00000003" + "c3a961" + "00000001" + "61" + "00000000"
	if got := hex.EncodeToString(AAD(Header{uuid, material}, map[string]string{"a": "", "A": "\u00e9a"})); got != wantAAD {
		t.Errorf("AAD =\n%s, want\n%s", got, wantAAD)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	good := hsm.Ciphertext{IV: make([]byte, 12), Data: make([]byte, 17)}
	h := Header{uuid, material}
	sealed := func(ivBytes, dataBytes int) []byte {
		return Seal(h, hsm.Ciphertext{IV: make([]byte, ivBytes), Data: make([]byte, dataBytes)})
	}
	// forged has a sound checksum over a header that says another thing.
	forged := func(at int, value byte) []byte {
		b := Seal(h, good)
		b[at] = value
		sum := checksum(b[:sumAt])
		b[sumAt], b[sumAt+1], b[sumAt+2], b[sumAt+3] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		return b
	}
	for _, c := range []struct {
		name string
		blob []byte
	}{
		{"nothing", nil},
		{"an AWS blob", append([]byte{1, 2, 2, 0, 0x78}, make([]byte, 180)...)},
		{"zeros", make([]byte, 200)},
		{"no tag", sealed(12, 15)},
		{"an IV of 11 bytes", sealed(11, 32)},
		{"an IV of 13 bytes", sealed(13, 32)},
		{"an IV of 15 bytes", sealed(15, 32)},
		{"an IV of no bytes", sealed(0, 32)},
		{"version 0", forged(0, 0)},
		{"version 2", forged(0, 2)},
		{"kind 0", forged(1, 0)},
		{"kind 3", forged(1, 3)},
		{"too long", sealed(12, MaxBytes-headerBytes-1-12+1)},
	} {
		if gotH, gotC, err := Open(c.blob); !errors.Is(err, ErrMalformed) || gotH != (Header{}) || gotC.IV != nil || gotC.Data != nil {
			t.Errorf("Open of %s = %v, %v, %v, want ErrMalformed and nothing else", c.name, gotH, gotC, err)
		}
	}
	for _, blob := range [][]byte{sealed(12, 16), sealed(16, 16), sealed(12, MaxBytes-headerBytes-1-12)} {
		if _, _, err := Open(blob); err != nil {
			t.Errorf("Open of %d bytes = %v, want nil", len(blob), err)
		}
	}
}

func TestOpenRefusesEveryTruncation(t *testing.T) {
	t.Parallel()
	blob := Seal(Header{uuid, material}, hsm.Ciphertext{IV: make([]byte, 12), Data: make([]byte, 16)})
	for n := range blob {
		if _, _, err := Open(blob[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("Open of the first %d of %d bytes = %v, want ErrMalformed", n, len(blob), err)
		}
	}
}

func TestOpenRefusesEveryFlippedBitOfAHeader(t *testing.T) {
	t.Parallel()
	for _, id := range []string{uuid, mrk} {
		for _, ivBytes := range []int{12, 16} {
			blob := Seal(Header{id, material}, hsm.Ciphertext{IV: make([]byte, ivBytes), Data: make([]byte, 64)})
			for bit := range (headerBytes + 1) * 8 {
				blob[bit/8] ^= 1 << (bit % 8)
				if _, _, err := Open(blob); !errors.Is(err, ErrMalformed) {
					t.Errorf("Open with bit %d flipped = %v, want ErrMalformed", bit, err)
				}
				blob[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

// What the checksum does not cover, the token does: every other bit of a blob
// is part of the IV, the ciphertext or the tag.
func TestOpenHandsEveryOtherBitToTheToken(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h, c := headers.Draw(t, "header"), ciphertexts.Draw(t, "ciphertext")
		blob := Seal(h, c)
		bit := rapid.IntRange((headerBytes+1)*8, len(blob)*8-1).Draw(t, "bit")
		blob[bit/8] ^= 1 << (bit % 8)
		gotH, gotC, err := Open(blob)
		if err != nil || gotH != h || (bytes.Equal(gotC.IV, c.IV) && bytes.Equal(gotC.Data, c.Data)) {
			t.Fatalf("Open with bit %d flipped = %v, %v, %v, want the header and another ciphertext", bit, gotH, gotC, err)
		}
	})
}

func TestSealOfWhatIsNoKeyIDIsRefused(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"", "mrk-", uuid + "0", mrk + "0", mrk + "00", uuid[1:], strings.ToUpper(uuid), strings.ToUpper(mrk), "mrk-" + strings.ToUpper(mrk[4:]),
		strings.ReplaceAll(uuid, "-", ""), "1234abcd1-2ab-34cd-56ef-1234567890ab", "mrk-" + uuid, uuid[:35] + "g", mrk[:35] + "g",
		"alias/a", "arn:aws:kms:us-east-1:111122223333:key/" + uuid, strings.Repeat("0", 10000),
	} {
		blob := Seal(Header{id, material}, hsm.Ciphertext{IV: make([]byte, 12), Data: make([]byte, 16)})
		if h, _, err := Open(blob); !errors.Is(err, ErrMalformed) {
			t.Errorf("Open(Seal of key id %q) = %v, %v, want ErrMalformed", id, h, err)
		}
	}
}

func TestAADIsOneToOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h1, c1 := headers.Draw(t, "header 1"), contexts.Draw(t, "context 1")
		h2, c2 := headers.Draw(t, "header 2"), contexts.Draw(t, "context 2")
		if rapid.Bool().Draw(t, "same header") {
			h2 = h1
		}
		if rapid.Bool().Draw(t, "same context") {
			c2 = maps.Clone(c1)
		}
		same := h1 == h2 && maps.Equal(c1, c2)
		if got := bytes.Equal(AAD(h1, c1), AAD(h2, c2)); got != same {
			t.Fatalf("AAD(%v, %q) equals AAD(%v, %q): %t, want %t", h1, c1, h2, c2, got, same)
		}
	})
}

// Read back by a reader of its own, an AAD gives the context it was made of:
// the strongest way to say that no two contexts share one.
func TestAADCanBeReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h, context := headers.Draw(t, "header"), contexts.Draw(t, "context")
		aad := AAD(h, context)
		if got, ok := parseHeader(aad[:headerBytes]); !ok || got != h {
			t.Fatalf("header of AAD = %v, %t, want %v", got, ok, h)
		}
		got, order := readContext(t, aad[headerBytes:])
		if !maps.Equal(got, context) || !slices.IsSorted(order) {
			t.Fatalf("context of AAD = %q in order %q, want %q, sorted", got, order, context)
		}
	})
}

func readContext(t *rapid.T, b []byte) (context map[string]string, order []string) {
	number := func() (n int) {
		if len(b) < 4 {
			t.Fatalf("AAD ends early")
		}
		n, b = int(b[0])<<24|int(b[1])<<16|int(b[2])<<8|int(b[3]), b[4:]
		return n
	}
	text := func() (s string) {
		n := number()
		s, b = string(b[:n]), b[n:]
		return s
	}
	context = map[string]string{}
	for range number() {
		k := text()
		context[k], order = text(), append(order, k)
	}
	if len(b) != 0 {
		t.Fatalf("%d bytes after the last pair", len(b))
	}
	return context, order
}

func TestAADTellsContextsApart(t *testing.T) {
	t.Parallel()
	h := Header{uuid, material}
	all := []map[string]string{
		{},
		{"a": ""},
		{"": "a"},
		{"": ""},
		{"a": "b"},
		{"A": "b"},
		{"a": "B"},
		{"ab": ""},
		{"a": "b", "c": "d"},
		{"a": "d", "c": "b"},
		{"a": "bc", "d": ""},
		{"a": "b", "cd": ""},
		{"\u00e9": ""},
		{"e\u0301": ""},
		{"a": "\x00"},
		{"a\x00": ""},
		{"a": "b\x00\x00\x00\x01c\x00\x00\x00\x01d"},
	}
	for i, a := range all {
		for j, b := range all {
			if got := bytes.Equal(AAD(h, a), AAD(h, b)); got != (i == j) {
				t.Errorf("AAD of %q equals AAD of %q: %t, want %t", a, b, got, i == j)
			}
		}
	}
	if !bytes.Equal(AAD(h, nil), AAD(h, map[string]string{})) {
		t.Error("AAD of no context differs from AAD of an empty one, want the same")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(Seal(Header{uuid, material}, hsm.Ciphertext{IV: make([]byte, 12), Data: make([]byte, 17)}))
	f.Add(Seal(Header{mrk, material}, hsm.Ciphertext{IV: make([]byte, 16), Data: make([]byte, 16)}))
	f.Add(Seal(Header{"", material}, hsm.Ciphertext{IV: make([]byte, 12), Data: make([]byte, 16)}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, blob []byte) {
		h, c, err := Open(blob)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("Open = %v, want ErrMalformed", err)
			}
			return
		}
		if again := Seal(h, c); !bytes.Equal(again, blob) {
			t.Errorf("Seal(Open(%x)) = %x, want the same", blob, again)
		}
	})
}

func FuzzAAD(f *testing.F) {
	f.Add("a", "b", "c", "d", "a", "b", "c", "d")
	f.Add("a", "bc", "d", "", "ab", "c", "d", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, l1, w1, l2, w2 string) {
		h := Header{uuid, material}
		a, b := map[string]string{k1: v1, k2: v2}, map[string]string{l1: w1, l2: w2}
		if got := bytes.Equal(AAD(h, a), AAD(h, b)); got != maps.Equal(a, b) {
			t.Errorf("AAD(%q) equals AAD(%q): %t, want %t", a, b, got, maps.Equal(a, b))
		}
	})
}

func BenchmarkAAD(b *testing.B) {
	h, context := Header{uuid, material}, map[string]string{"purpose": "test", "tenant": "a"}
	b.ReportAllocs()
	for b.Loop() {
		AAD(h, context)
	}
}

func BenchmarkOpen(b *testing.B) {
	blob := Seal(Header{uuid, material}, hsm.Ciphertext{IV: make([]byte, 12), Data: make([]byte, 48)})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Open(blob); err != nil {
			b.Fatal(err)
		}
	}
}
