package der_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // what RSAES_OAEP_SHA_1 is made of
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"hash"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

type rs struct{ R, S *big.Int }

func TestSignaturesThereAndBack(t *testing.T) {
	t.Parallel()
	for spec, c := range map[keyspec.Spec]elliptic.Curve{
		keyspec.ECCNISTP256: elliptic.P256(), keyspec.ECCNISTP384: elliptic.P384(), keyspec.ECCNISTP521: elliptic.P521(),
	} {
		order, width := c.Params().N, der.FieldBytes(spec)
		rapid.Check(t, func(t *rapid.T) {
			r, s := scalars(order).Draw(t, "r"), scalars(order).Draw(t, "s")
			raw := append(r.FillBytes(make([]byte, width)), s.FillBytes(make([]byte, width))...)
			got, err := der.ECDSAToDER(spec, raw)
			want, _ := asn1.Marshal(rs{r, s})
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("ECDSAToDER(%x) = %x, %v, want %x", raw, got, err, want)
			}
			back, err := der.ECDSAFromDER(spec, got)
			if err != nil || !bytes.Equal(back, raw) {
				t.Fatalf("ECDSAFromDER(%x) = %x, %v, want %x", got, back, err, raw)
			}
		})
	}
}

// TestSignaturesOfTokensThatLeaveZerosOut are shorter, in equal halves.
func TestSignaturesOfTokensThatLeaveZerosOut(t *testing.T) {
	t.Parallel()
	got, err := der.ECDSAToDER(keyspec.ECCNISTP256, []byte{0x01, 0x80})
	if err != nil || !bytes.Equal(got, []byte{0x30, 0x07, 0x02, 0x01, 0x01, 0x02, 0x02, 0x00, 0x80}) {
		t.Errorf("ECDSAToDER of r = 1, s = 128 = %x, %v", got, err)
	}
	for _, wrong := range [][]byte{nil, {1}, {1, 2, 3}, {0, 1}, {1, 0}, make([]byte, 64), bytes.Repeat([]byte{1}, 66), bytes.Repeat([]byte{0xff}, 64)} {
		if got, err := der.ECDSAToDER(keyspec.ECCNISTP256, wrong); !errors.Is(err, der.ErrSignature) {
			t.Errorf("ECDSAToDER(%x) = %x, %v, want %v", wrong, got, err, der.ErrSignature)
		}
	}
	if _, err := der.ECDSAToDER(keyspec.RSA2048, []byte{1, 1}); !errors.Is(err, der.ErrSignature) {
		t.Errorf("ECDSAToDER of RSA = %v", err)
	}
}

func TestSignaturesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	order := elliptic.P256().Params().N
	one := big.NewInt(1)
	encode := func(r, s *big.Int) []byte {
		b, err := asn1.Marshal(rs{r, s})
		must(t, err)
		return b
	}
	less := new(big.Int).Sub(order, one)
	if _, err := der.ECDSAFromDER(keyspec.ECCNISTP256, encode(less, less)); err != nil {
		t.Errorf("r and s the order less 1 = %v", err)
	}
	good := encode(big.NewInt(77), big.NewInt(99))
	for name, bad := range map[string][]byte{
		"nothing": nil, "r zero": encode(new(big.Int), one), "s zero": encode(one, new(big.Int)),
		"r negative": encode(big.NewInt(-1), one), "s negative": encode(one, big.NewInt(-1)),
		"r the order": encode(order, one), "s the order": encode(one, order), "huge": encode(new(big.Int).Lsh(one, 3000), one),
		"trailing": append(bytes.Clone(good), 0), "trailing inside": {0x30, 0x08, 2, 1, 77, 2, 1, 99, 5, 0},
		"leading zero": {0x30, 0x07, 2, 2, 0, 77, 2, 1, 99}, "no s": {0x30, 0x03, 2, 1, 77}, "three": {0x30, 0x09, 2, 1, 77, 2, 1, 99, 2, 1, 1},
		"long form": {0x30, 0x81, 0x06, 2, 1, 77, 2, 1, 99}, "long form inside": {0x30, 0x07, 2, 0x81, 1, 77, 2, 1, 99},
		"indefinite": {0x30, 0x80, 2, 1, 77, 2, 1, 99, 0, 0}, "a set": {0x31, 0x06, 2, 1, 77, 2, 1, 99},
		"octets": {0x30, 0x06, 4, 1, 77, 2, 1, 99}, "empty integer": {0x30, 0x05, 2, 0, 2, 1, 99}, "empty": {0x30, 0},
	} {
		if got, err := der.ECDSAFromDER(keyspec.ECCNISTP256, bad); !errors.Is(err, der.ErrSignature) {
			t.Errorf("%s: ECDSAFromDER(%x) = %x, %v, want %v", name, bad, got, err, der.ErrSignature)
		}
	}
	for n := range good {
		if _, err := der.ECDSAFromDER(keyspec.ECCNISTP256, good[:n]); !errors.Is(err, der.ErrSignature) {
			t.Errorf("the first %d bytes = %v, want %v", n, err, der.ErrSignature)
		}
	}
}

// TestScalarsEndAtTheOrder holds the orders of the curves against the standard
// library's.
func TestScalarsEndAtTheOrder(t *testing.T) {
	t.Parallel()
	for spec, c := range map[keyspec.Spec]elliptic.Curve{
		keyspec.ECCNISTP256: elliptic.P256(), keyspec.ECCNISTP384: elliptic.P384(), keyspec.ECCNISTP521: elliptic.P521(),
	} {
		order, one := c.Params().N, big.NewInt(1)
		for by, want := range map[int64]error{-1: nil, 0: der.ErrSignature, 1: der.ErrSignature} {
			for shift := range uint(12) {
				n := new(big.Int).Lsh(new(big.Int).Add(order, big.NewInt(by)), shift)
				if shift > 0 {
					want = der.ErrSignature
				}
				for _, numbers := range []rs{{n, one}, {one, n}} {
					signature, err := asn1.Marshal(numbers)
					must(t, err)
					if got, err := der.ECDSAFromDER(spec, signature); !errors.Is(err, want) {
						t.Errorf("%s: ECDSAFromDER(%x), the order plus %d shifted by %d = %x, %v, want %v", spec, signature, by, shift, got, err, want)
					}
				}
			}
		}
	}
}

func FuzzECDSAFromDER(f *testing.F) {
	f.Add([]byte{0x30, 0x06, 2, 1, 77, 2, 1, 99})
	f.Add([]byte{0x30, 0x07, 2, 2, 0, 0x80, 2, 1, 99})
	f.Fuzz(func(t *testing.T, signature []byte) {
		raw, err := der.ECDSAFromDER(keyspec.ECCNISTP521, signature)
		if err != nil {
			return
		}
		if again, err := der.ECDSAToDER(keyspec.ECCNISTP521, raw); err != nil || !bytes.Equal(again, signature) {
			t.Errorf("ECDSAToDER(ECDSAFromDER(%x)) = %x, %v", signature, again, err)
		}
	})
}

func TestDigestInfoIsWhatPKCS1Signs(t *testing.T) {
	t.Parallel()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		digest := bytes.Repeat([]byte{3}, h.Size())
		info, err := der.DigestInfo(h, digest)
		must(t, err)
		// Signed without a hash it is the same signature.
		got, err := rsa.SignPKCS1v15(nil, k, 0, info)
		must(t, err)
		if err := rsa.VerifyPKCS1v15(&k.PublicKey, h, digest, got); err != nil {
			t.Errorf("%v: %v", h, err)
		}
		if _, err := der.DigestInfo(h, digest[1:]); err == nil {
			t.Errorf("%v of %d bytes is accepted", h, len(digest)-1)
		}
	}
	if _, err := der.DigestInfo(crypto.SHA1, make([]byte, 20)); err == nil {
		t.Error("SHA-1 is accepted")
	}
}

// blockOf undoes the RSA step of an encryption.
func blockOf(k *rsa.PrivateKey, ciphertext []byte) []byte {
	return new(big.Int).Exp(new(big.Int).SetBytes(ciphertext), k.D, k.N).FillBytes(make([]byte, k.Size()))
}

func TestUnpadOAEP(t *testing.T) {
	t.Parallel()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for h, make_ := range map[crypto.Hash]func() hash.Hash{crypto.SHA1: sha1.New, crypto.SHA256: sha256.New} {
		for _, n := range []int{0, 1, 32, 256 - 2*h.Size() - 3, 256 - 2*h.Size() - 2} {
			message := bytes.Repeat([]byte{1}, n) // also what ends the padding
			ciphertext, err := rsa.EncryptOAEP(make_(), rand.Reader, &k.PublicKey, message, nil)
			must(t, err)
			block := blockOf(k, ciphertext)
			got, err := der.UnpadOAEP(h, block)
			if err != nil || !bytes.Equal(got, message) {
				t.Errorf("UnpadOAEP with %v of %d bytes = %x, %v", h, n, got, err)
			}
			if !bytes.Equal(block, make([]byte, 256)) {
				t.Errorf("the block is not cleared")
			}
		}
		labelled, err := rsa.EncryptOAEP(make_(), rand.Reader, &k.PublicKey, []byte("x"), []byte("label"))
		must(t, err)
		plain, err := rsa.EncryptOAEP(make_(), rand.Reader, &k.PublicKey, []byte("x"), nil)
		must(t, err)
		good := blockOf(k, plain)
		blocks := map[string][]byte{
			"nothing": nil, "short": make([]byte, 2*h.Size()+1), "zeros": make([]byte, 256), "ones": bytes.Repeat([]byte{0xff}, 256),
			"a label": blockOf(k, labelled), "first byte": append([]byte{1}, good[1:]...), "cut": good[:255],
		}
		for bit := 0; bit < 8*256; bit += 11 {
			changed := bytes.Clone(good)
			changed[bit/8] ^= 1 << (bit % 8)
			blocks["bit "+big.NewInt(int64(bit)).String()] = changed
		}
		for name, block := range blocks {
			// A flip behind the padding changes the message alone; OAEP does not
			// authenticate that, for its mask has spread the flip over all of it.
			if got, err := der.UnpadOAEP(h, block); err != der.ErrOAEP && string(got) == "x" {
				t.Errorf("UnpadOAEP with %v of %s = %q, %v, want %v", h, name, got, err, der.ErrOAEP)
			} else if err != nil && err != der.ErrOAEP {
				t.Errorf("UnpadOAEP with %v of %s = %v, want %v", h, name, err, der.ErrOAEP)
			}
		}
	}
}

// TestUnpadOAEPAgreesWithTheStandardLibrary on blocks made by hand: whatever the
// padding looks like, both open it or both refuse it.
func TestUnpadOAEPAgreesWithTheStandardLibrary(t *testing.T) {
	t.Parallel()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	mgf := func(seed []byte, n int) []byte {
		var out []byte
		for i := byte(0); len(out) < n; i++ {
			sum := sha256.Sum256(append(bytes.Clone(seed), 0, 0, 0, i))
			out = append(out, sum[:]...)
		}
		return out[:n]
	}
	label := sha256.Sum256(nil)
	rapid.Check(t, func(t *rapid.T) {
		rest := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 0, 1, 2, 255}), 256-2*32-1, 256-2*32-1).Draw(t, "rest")
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		db := append(label[:], rest...)
		if rapid.Bool().Draw(t, "wrong label") {
			db[3] ^= 1
		}
		for i, m := range mgf(seed, len(db)) {
			db[i] ^= m
		}
		masked := bytes.Clone(seed)
		for i, m := range mgf(db, 32) {
			masked[i] ^= m
		}
		block := append(append([]byte{rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, "first")}, masked...), db...)
		if new(big.Int).SetBytes(block).Cmp(k.N) >= 0 {
			t.Skip("not less than the modulus")
		}
		c := new(big.Int).Exp(new(big.Int).SetBytes(block), big.NewInt(int64(k.E)), k.N).FillBytes(make([]byte, 256))
		want, wantErr := rsa.DecryptOAEP(sha256.New(), nil, k, c, nil)
		got, err := der.UnpadOAEP(crypto.SHA256, block)
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("UnpadOAEP = %x, %v, want %x, %v", got, err, want, wantErr)
		}
	})
}
