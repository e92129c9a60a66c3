package der_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
)

// mgf1 is that of RFC 8017, appendix B.2.1, for masks of up to 256 blocks.
func mgf1(h crypto.Hash, seed []byte, n int) []byte {
	var mask []byte
	for i := byte(0); len(mask) < n; i++ {
		hash := h.New()
		hash.Write(slices.Concat(seed, []byte{0, 0, 0, i}))
		mask = hash.Sum(mask)
	}
	return mask[:n]
}

func xor(a, b []byte) []byte {
	out := bytes.Clone(a)
	for i := range out {
		out[i] ^= b[i]
	}
	return out
}

// pad makes a block of whatever is to be in it (RFC 8017, section 7.1.1, step 2).
func pad(h crypto.Hash, first byte, seed, db []byte) []byte {
	maskedDB := xor(db, mgf1(h, seed, len(db)))
	return slices.Concat([]byte{first}, xor(seed, mgf1(h, maskedDB, len(seed))), maskedDB)
}

// labelHash is the hash of the empty label.
func labelHash(h crypto.Hash) []byte { return h.New().Sum(nil) }

// db is a data block: the label's hash, zeros, a one and the message.
func db(h crypto.Hash, size int, message []byte) []byte {
	b := make([]byte, size-h.Size()-1)
	copy(b, labelHash(h))
	copy(b[len(b)-len(message):], message)
	b[len(b)-len(message)-1] = 1
	return b
}

var oaepHashes = []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}

func TestUnpadOAEP(t *testing.T) {
	t.Parallel()
	for _, h := range oaepHashes {
		for _, size := range []int{2*h.Size() + 2, 256, 384, 512} {
			most := size - 2*h.Size() - 2
			for _, n := range []int{0, 1, 16, 32, most - 1, most} {
				if n < 0 || n > most {
					continue
				}
				for _, fill := range []byte{0, 1, 0xff} { // also what ends the padding
					message := bytes.Repeat([]byte{fill}, n)
					block := pad(h, 0, bytes.Repeat([]byte{0x5a}, h.Size()), db(h, size, message))
					got, err := der.UnpadOAEP(h, block)
					if err != nil || got == nil || !bytes.Equal(got, message) {
						t.Errorf("UnpadOAEP with %v of %d bytes %#x in %d = %x, %v", h, n, fill, size, got, err)
					}
					if !bytes.Equal(block, make([]byte, size)) {
						t.Errorf("UnpadOAEP with %v leaves %x", h, block)
					}
				}
			}
		}
	}
}

// blockOf undoes the RSA step of an encryption.
func blockOf(k *rsa.PrivateKey, ciphertext []byte) []byte {
	return new(big.Int).Exp(new(big.Int).SetBytes(ciphertext), k.D, k.N).FillBytes(make([]byte, k.Size()))
}

// TestUnpadOAEPOpensTheStandardLibrarys encryptions, and those with a label not.
func TestUnpadOAEPOpensTheStandardLibrarys(t *testing.T) {
	t.Parallel()
	k := vectors[0].key(t).(*rsa.PrivateKey)
	for _, h := range oaepHashes {
		for _, n := range []int{0, 1, 32, 256 - 2*h.Size() - 2} {
			message := bytes.Repeat([]byte{1}, n)
			ciphertext, err := rsa.EncryptOAEP(h.New(), rand.Reader, &k.PublicKey, message, nil)
			must(t, err)
			if got, err := der.UnpadOAEP(h, blockOf(k, ciphertext)); err != nil || !bytes.Equal(got, message) {
				t.Errorf("UnpadOAEP with %v of %d bytes = %x, %v", h, n, got, err)
			}
			labelled, err := rsa.EncryptOAEP(h.New(), rand.Reader, &k.PublicKey, message, []byte("label"))
			must(t, err)
			refuseBlock(t, h, "a label", blockOf(k, labelled))
		}
	}
}

// refuseBlock wants the one error, whatever is wrong, and nothing left behind.
func refuseBlock(t *testing.T, h crypto.Hash, name string, block []byte) {
	t.Helper()
	got, err := der.UnpadOAEP(h, block)
	if err != der.ErrOAEP || got != nil { //nolint:errorlint // not even wrapped, so that all are the same
		t.Errorf("UnpadOAEP with %d of %s = %x, %v, want nothing and %v itself", h, name, got, err, der.ErrOAEP)
	}
	if !bytes.Equal(block, make([]byte, len(block))) {
		t.Errorf("UnpadOAEP with %d of %s leaves %x", h, name, block)
	}
}

func TestEveryBadBlockGivesTheSameError(t *testing.T) {
	t.Parallel()
	for _, h := range oaepHashes {
		seed, n := bytes.Repeat([]byte{0x5a}, h.Size()), h.Size()
		good := db(h, 256, []byte("message"))
		one := len(good) - len("message") - 1 // where the padding ends
		change := func(at int, b byte) []byte {
			changed := bytes.Clone(good)
			changed[at] = b
			return changed
		}
		for bit := range 8 {
			refuseBlock(t, h, "first byte", pad(h, 1<<bit, seed, good))
		}
		for at := range n { // the label's hash
			for bit := range 8 {
				refuseBlock(t, h, "label's hash", pad(h, 0, seed, change(at, good[at]^1<<bit)))
			}
		}
		for at := n; at < one; at++ { // the zeros
			for _, b := range []byte{2, 3, 0x80, 0xff} {
				refuseBlock(t, h, "no zero", pad(h, 0, seed, change(at, b)))
			}
		}
		for _, b := range []byte{0, 2, 3, 0x80, 0x81, 0xff} { // the one
			refuseBlock(t, h, "no one", pad(h, 0, seed, change(one, b)))
		}
		zeros := append(labelHash(h), make([]byte, 256-2*n-1)...)
		refuseBlock(t, h, "zeros alone", pad(h, 0, seed, zeros))
		bad := change(0, good[0]^1)
		bad[n] = 2
		refuseBlock(t, h, "everything", pad(h, 0xff, seed, bad))
		block := pad(h, 0, seed, good)
		for _, size := range []int{0, 1, n, 2 * n, 2*n + 1, 2*n + 2, 255} {
			refuseBlock(t, h, "cut", bytes.Clone(block[:size]))
			refuseBlock(t, h, "short zeros", make([]byte, size))
		}
		refuseBlock(t, h, "nothing", nil)
		refuseBlock(t, h, "zeros", make([]byte, 256))
		refuseBlock(t, h, "ones", bytes.Repeat([]byte{0xff}, 256))
		refuseBlock(t, h, "a byte more", append(bytes.Clone(block), 0))
		for _, other := range oaepHashes {
			if other != h {
				refuseBlock(t, other, "another hash", bytes.Clone(block))
			}
		}
	}
	for _, h := range []crypto.Hash{0, crypto.MD4, crypto.BLAKE2b_512, 255} { // not linked in, or none
		refuseBlock(t, h, "no hash", make([]byte, 256))
	}
}

// TestEveryBitOfABlockCounts: the masks spread each over the block, so that the
// label's hash is another.
func TestEveryBitOfABlockCounts(t *testing.T) {
	t.Parallel()
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		good := pad(h, 0, bytes.Repeat([]byte{0x5a}, h.Size()), db(h, 256, bytes.Repeat([]byte{1}, 32)))
		for bit := range 8 * len(good) {
			changed := bytes.Clone(good)
			changed[bit/8] ^= 1 << (bit % 8)
			refuseBlock(t, h, "a bit flipped", changed)
		}
	}
}

// TestUnpadOAEPAgreesWithTheStandardLibrary on blocks made by hand: whatever the
// padding looks like, both open it or both refuse it.
func TestUnpadOAEPAgreesWithTheStandardLibrary(t *testing.T) {
	t.Parallel()
	k := vectors[0].key(t).(*rsa.PrivateKey)
	rapid.Check(t, func(t *rapid.T) {
		h := rapid.SampledFrom(oaepHashes).Draw(t, "hash")
		rest := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 0, 0, 0, 1, 2, 255}), 255-2*h.Size(), 255-2*h.Size()).Draw(t, "rest")
		seed := rapid.SliceOfN(rapid.Byte(), h.Size(), h.Size()).Draw(t, "seed")
		data := append(labelHash(h), rest...)
		if rapid.IntRange(0, 3).Draw(t, "wrong label") == 0 {
			data[rapid.IntRange(0, h.Size()-1).Draw(t, "at")] ^= 1
		}
		block := pad(h, rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, "first"), seed, data)
		number := new(big.Int).SetBytes(block)
		if number.Cmp(k.N) >= 0 {
			t.Fatalf("%x is not less than the modulus", block)
		}
		ciphertext := number.Exp(number, big.NewInt(int64(k.E)), k.N).FillBytes(make([]byte, 256))
		want, wantErr := rsa.DecryptOAEP(h.New(), nil, k, ciphertext, nil)
		got, err := der.UnpadOAEP(h, block)
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("UnpadOAEP = %x, %v, want %x, %v", got, err, want, wantErr)
		}
	})
}
