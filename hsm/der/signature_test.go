package der_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"maps"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// orders are those of the curves; secp256k1's is of SEC 2, section 2.4.1.
func orders() map[keyspec.Spec]*big.Int {
	k1, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	all := map[keyspec.Spec]*big.Int{keyspec.ECCSECGP256K1: k1}
	for spec, c := range nist {
		all[spec] = c.Params().N
	}
	return all
}

// rs is a signature for encoding/asn1.
type rs struct{ R, S *big.Int }

func (s rs) der(t rapid.TB) []byte {
	t.Helper()
	b, err := asn1.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s rs) raw(width int) []byte {
	return append(s.R.FillBytes(make([]byte, width)), s.S.FillBytes(make([]byte, width))...)
}

func TestSignaturesThereAndBack(t *testing.T) {
	t.Parallel()
	for spec, order := range orders() {
		width := der.FieldBytes(spec)
		rapid.Check(t, func(t *rapid.T) {
			numbers := rs{scalars(order).Draw(t, "r"), scalars(order).Draw(t, "s")}
			raw, want := numbers.raw(width), numbers.der(t)
			got, err := der.ECDSAToDER(spec, raw)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("ECDSAToDER(%x) = %x, %v, want %x", raw, got, err, want)
			}
			back, err := der.ECDSAFromDER(spec, got)
			if err != nil || !bytes.Equal(back, raw) {
				t.Fatalf("ECDSAFromDER(%x) = %x, %v, want %x", got, back, err, raw)
			}
			longer := max(len(numbers.R.Bytes()), len(numbers.S.Bytes()))
			short := numbers.raw(longer) // from tokens that leave zeros out
			if got, err := der.ECDSAToDER(spec, short); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("ECDSAToDER(%x) = %x, %v, want %x", short, got, err, want)
			}
		})
	}
}

// TestSignaturesVerify has those of the standard library go there and back.
func TestSignaturesVerify(t *testing.T) {
	t.Parallel()
	digest := sha256.Sum256([]byte("message"))
	for spec, c := range nist {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		must(t, err)
		for range 8 {
			signature, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
			must(t, err)
			raw, err := der.ECDSAFromDER(spec, signature)
			must(t, err)
			half := len(raw) / 2
			if !ecdsa.Verify(&k.PublicKey, digest[:], new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])) {
				t.Errorf("%s: %x is not what %x says", spec, raw, signature)
			}
			again, err := der.ECDSAToDER(spec, raw)
			if err != nil || !ecdsa.VerifyASN1(&k.PublicKey, digest[:], again) {
				t.Errorf("%s: ECDSAToDER(%x) = %x, %v", spec, raw, again, err)
			}
		}
	}
}

func TestTokensSignaturesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for spec, order := range orders() {
		width, one := der.FieldBytes(spec), big.NewInt(1)
		less := new(big.Int).Sub(order, one)
		more := new(big.Int).Add(order, one)
		if _, err := der.ECDSAToDER(spec, rs{less, less}.raw(width)); err != nil {
			t.Errorf("%s: r and s the order less 1 = %v", spec, err)
		}
		for name, bad := range map[string][]byte{
			"nothing": nil, "a byte": {1}, "three bytes": {1, 2, 3}, "r zero, short": {0, 1}, "s zero, short": {1, 0},
			"zeros": make([]byte, 2*width), "all ones": bytes.Repeat([]byte{0xff}, 2*width),
			"long": rs{one, one}.raw(width + 1), "odd": rs{one, one}.raw(width)[1:], "longer by one": append(rs{one, one}.raw(width), 1),
			"r zero": rs{new(big.Int), one}.raw(width), "s zero": rs{one, new(big.Int)}.raw(width),
			"r the order": rs{order, one}.raw(width), "s the order": rs{one, order}.raw(width),
			"r more": rs{more, one}.raw(width), "s more": rs{one, more}.raw(width),
			"in DER": rs{less, less}.der(t),
		} {
			if got, err := der.ECDSAToDER(spec, bad); !errors.Is(err, der.ErrSignature) || got != nil {
				t.Errorf("%s, %s: ECDSAToDER(%x) = %x, %v, want nothing and %v", spec, name, bad, got, err, der.ErrSignature)
			}
		}
	}
	for _, spec := range []keyspec.Spec{"", keyspec.RSA2048, keyspec.ECCNISTEdwards25519, keyspec.MLDSA44} {
		if got, err := der.ECDSAToDER(spec, []byte{1, 1}); !errors.Is(err, der.ErrSignature) {
			t.Errorf("ECDSAToDER of %q = %x, %v", spec, got, err)
		}
		if got, err := der.ECDSAFromDER(spec, rs{big.NewInt(1), big.NewInt(1)}.der(t)); !errors.Is(err, der.ErrSignature) {
			t.Errorf("ECDSAFromDER of %q = %x, %v", spec, got, err)
		}
	}
}

// badNumbers are signatures in DER whose numbers no signature has.
func badNumbers(t testing.TB, order *big.Int) map[string][]byte {
	one, good := big.NewInt(1), big.NewInt(77)
	of := func(n int64) *big.Int { return new(big.Int).Add(order, big.NewInt(n)) }
	all := map[string][]byte{}
	for name, n := range map[string]*big.Int{
		"zero": {}, "-1": big.NewInt(-1), "-128": big.NewInt(-128), "the order": order, "the order and 1": of(1), "the order and 77": of(77),
		"twice the order": new(big.Int).Lsh(order, 1), "the order negative": new(big.Int).Neg(order), "77 less the order": new(big.Int).Sub(good, order),
		"2^256": new(big.Int).Lsh(one, 256), "2^528 less 1": new(big.Int).Sub(new(big.Int).Lsh(one, 528), one), "2^528": new(big.Int).Lsh(one, 528),
		"2^3000": new(big.Int).Lsh(one, 3000), "the order and 2^600": new(big.Int).Add(order, new(big.Int).Lsh(one, 600)),
	} {
		if n.Sign() > 0 && n.Cmp(order) < 0 {
			continue // 2^256 is a number of the longer curves
		}
		all["r is "+name], all["s is "+name] = rs{n, good}.der(t), rs{good, n}.der(t)
		all["both are "+name] = rs{n, n}.der(t)
	}
	return all
}

// badEncodings are the numbers 77 and 153 in other than DER, and what looks like
// them. 153 needs a zero in front.
func badEncodings() map[string][]byte {
	r, s := rawInteger(77), rawInteger(0, 153)
	both := slices.Concat(r, s)
	n := byte(len(both))
	all := map[string][]byte{
		"nothing": nil, "a zero": {0}, "tag alone": {0x30}, "empty": {0x30, 0}, "NULL": null, "end of contents": {0, 0},
		"r alone": seq(r), "no sequence": both, "three numbers": seq(r, s, r), "one number": r, "numbers and NULL": seq(r, s, null),
		"NULL before": seq(null, r, s), "numbers and zeros": seq(r, s, []byte{0, 0}), "numbers and a zero": seq(r, s, []byte{0}),
		"trailing zero": append(seq(both), 0), "trailing zeros": append(seq(both), 0, 0), "trailing NULL": append(seq(both), 5, 0), "twice": slices.Concat(seq(both), seq(both)),
		"wrapped": seq(seq(both)), "in octets": octets(seq(both)), "in bits": bits(seq(both)), "a set": value(0x31, both),
		"primitive": value(0x10, both), "of context": value(0xa0, both), "of application": value(0x70, both), "octets": octets(both), "tag zero": value(0, both),
		"tag in two bytes": slices.Concat([]byte{0x3f, 0x10, n}, both), "r and s wrapped": seq(seq(r), seq(s)),
		"long form": slices.Concat([]byte{0x30, 0x81, n}, both), "longer form": slices.Concat([]byte{0x30, 0x82, 0, n}, both),
		"longest form": slices.Concat([]byte{0x30, 0x88, 0, 0, 0, 0, 0, 0, 0, n}, both), "form of 127 bytes": slices.Concat([]byte{0x30, 0xff}, both),
		"length of 2^32 more": slices.Concat([]byte{0x30, 0x85, 1, 0, 0, 0, n}, both), "length of 2^64 more": slices.Concat([]byte{0x30, 0x89, 1, 0, 0, 0, 0, 0, 0, 0, n}, both),
		"length of -1": slices.Concat([]byte{0x30, 0x84, 255, 255, 255, 255}, both), "length of -1, longer": slices.Concat([]byte{0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 255}, both),
		"length too small": slices.Concat([]byte{0x30, n - 1}, both), "length too large": slices.Concat([]byte{0x30, n + 1}, both), "length zero": slices.Concat([]byte{0x30, 0}, both),
		"indefinite": slices.Concat([]byte{0x30, 0x80}, both, []byte{0, 0}), "indefinite without end": slices.Concat([]byte{0x30, 0x80}, both),
		"indefinite, end cut": slices.Concat([]byte{0x30, 0x80}, both, []byte{0}),
	}
	for where, with := range map[string]func(...byte) []byte{
		"r": func(b ...byte) []byte { return seq(b, s) },
		"s": func(b ...byte) []byte { return seq(r, b) },
	} {
		for name, b := range map[string][]byte{
			"with a leading zero": rawInteger(0, 77), "with two leading zeros": rawInteger(0, 0, 153), "without its zero": rawInteger(153),
			"with leading ones": rawInteger(255, 153), "empty": rawInteger(), "zero": rawInteger(0), "two zeros": rawInteger(0, 0),
			"in long form": {2, 0x81, 1, 77}, "in longer form": {2, 0x82, 0, 1, 77}, "in longest form": {2, 0x84, 0, 0, 0, 1, 77},
			"indefinite": {2, 0x80, 77, 0, 0}, "constructed": {0x22, 3, 2, 1, 77}, "constructed, indefinite": {0x22, 0x80, 2, 1, 77, 0, 0},
			"too long": {2, 0x7f, 77}, "of length 2^32 more": {2, 0x85, 1, 0, 0, 0, 1, 77}, "cut": {2, 1}, "tag alone": {2}, "nothing": nil,
			"boolean": {1, 1, 77}, "bits": {3, 1, 77}, "octets": {4, 1, 77}, "NULL": null, "identifier": {6, 1, 77}, "real": {9, 1, 77}, "infinite": {9, 1, 0x40},
			"enumerated": {10, 1, 77}, "text": {12, 1, 77}, "sequence": seq(r), "of context": {0x80, 1, 77}, "of application": {0x42, 1, 77},
			"tag in two bytes": {0x1f, 2, 1, 77}, "and NULL": {2, 1, 77, 5, 0},
		} {
			all[where+" "+name] = with(b...)
		}
	}
	return all
}

func TestSignaturesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for spec, order := range orders() {
		all := badEncodings()
		maps.Copy(all, badNumbers(t, order))
		for name, bad := range all {
			if got, err := der.ECDSAFromDER(spec, bad); !errors.Is(err, der.ErrSignature) || got != nil {
				t.Errorf("%s, %s: ECDSAFromDER(%x) = %x, %v, want nothing and %v", spec, name, bad, got, err, der.ErrSignature)
			}
		}
		// Nothing but what is named is wrong with them.
		width := der.FieldBytes(spec)
		for _, good := range []rs{{big.NewInt(77), big.NewInt(153)}, {big.NewInt(1), big.NewInt(1)}, {new(big.Int).Sub(order, big.NewInt(1)), new(big.Int).Sub(order, big.NewInt(1))}} {
			if got, err := der.ECDSAFromDER(spec, good.der(t)); err != nil || !bytes.Equal(got, good.raw(width)) {
				t.Errorf("%s: ECDSAFromDER of %v = %x, %v", spec, good, got, err)
			}
		}
	}
}

// TestEveryBitOfASignatureCounts: whatever is changed, cut or added, the result is
// refused or is the one encoding of other numbers.
func TestEveryBitOfASignatureCounts(t *testing.T) {
	t.Parallel()
	for spec, order := range orders() {
		third := new(big.Int).Div(order, big.NewInt(3))
		for _, numbers := range []rs{{third, new(big.Int).Sub(order, third)}, {big.NewInt(1), big.NewInt(128)}} {
			good := numbers.der(t)
			for bit := range 8 * len(good) {
				changed := bytes.Clone(good)
				changed[bit/8] ^= 1 << (bit % 8)
				judgeSignature(t, spec, changed)
				if raw, err := der.ECDSAFromDER(spec, changed); err == nil && bytes.Equal(raw, numbers.raw(der.FieldBytes(spec))) {
					t.Errorf("%s: %x with bit %d flipped is the same signature", spec, good, bit)
				}
			}
			for n := range good {
				if got, err := der.ECDSAFromDER(spec, good[:n]); !errors.Is(err, der.ErrSignature) {
					t.Errorf("%s: the first %d bytes of %x = %x, %v, want %v", spec, n, good, got, err, der.ErrSignature)
				}
				judgeSignature(t, spec, slices.Delete(bytes.Clone(good), n, n+1))
				for _, b := range []byte{0, 2, 0x30, 0x80, 0xff} {
					judgeSignature(t, spec, slices.Insert(bytes.Clone(good), n, b))
				}
			}
		}
	}
}

// judgeSignature holds the package against encoding/asn1: a signature is taken if
// that reads two numbers of the right size from it, and writes them as they were.
func judgeSignature(t *testing.T, spec keyspec.Spec, signature []byte) {
	t.Helper()
	var numbers rs
	order := orders()[spec]
	good := func(n *big.Int) bool { return n != nil && n.Sign() > 0 && n.Cmp(order) < 0 }
	rest, err := asn1.Unmarshal(signature, &numbers)
	want := err == nil && len(rest) == 0 && good(numbers.R) && good(numbers.S) && bytes.Equal(signature, numbers.der(t))
	raw, err := der.ECDSAFromDER(spec, signature)
	switch {
	case !want && (!errors.Is(err, der.ErrSignature) || raw != nil):
		t.Errorf("%s: ECDSAFromDER(%x) = %x, %v, want nothing and %v", spec, signature, raw, err, der.ErrSignature)
	case want && (err != nil || !bytes.Equal(raw, numbers.raw(der.FieldBytes(spec)))):
		t.Errorf("%s: ECDSAFromDER(%x) = %x, %v, want %v", spec, signature, raw, err, numbers)
	}
	if err == nil {
		if again, err := der.ECDSAToDER(spec, raw); err != nil || !bytes.Equal(again, signature) {
			t.Errorf("%s: ECDSAToDER(ECDSAFromDER(%x)) = %x, %v", spec, signature, again, err)
		}
	}
}

func FuzzECDSAFromDER(f *testing.F) {
	for _, order := range orders() {
		f.Add(rs{new(big.Int).Sub(order, big.NewInt(1)), big.NewInt(1)}.der(f))
		for _, bad := range badNumbers(f, order) {
			f.Add(bad)
		}
	}
	for _, bad := range badEncodings() {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, signature []byte) {
		for spec := range orders() {
			judgeSignature(t, spec, signature)
		}
	})
}

func TestDigestInfoIsWhatPKCS1Signs(t *testing.T) {
	t.Parallel()
	k := vectors[0].key(t).(*rsa.PrivateKey)
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
		for _, n := range []int{0, h.Size() - 1, h.Size() + 1} {
			if got, err := der.DigestInfo(h, make([]byte, n)); err == nil || got != nil {
				t.Errorf("DigestInfo of %v with %d bytes = %x, want an error", h, n, got)
			}
		}
	}
	for h := range crypto.Hash(32) {
		if h == crypto.SHA256 || h == crypto.SHA384 || h == crypto.SHA512 {
			continue
		}
		for _, n := range []int{0, 20, 28, 32, 64} {
			if got, err := der.DigestInfo(h, make([]byte, n)); err == nil || got != nil {
				t.Errorf("DigestInfo of hash %d with %d bytes = %x, want an error", h, n, got)
			}
		}
	}
}
