package der_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mlkem"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// equaler is a public key of the standard library.
type equaler interface{ Equal(crypto.PublicKey) bool }

// checkPublic has a key of the standard library go through the package: the
// encodings are the same, and so is the key that comes back.
func checkPublic(t rapid.TB, spec keyspec.Spec, key crypto.PublicKey) {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := der.ParsePublic(spki)
	if err != nil || public.Spec != spec {
		t.Fatalf("ParsePublic(%x) = %+v, %v, want a key of %s", spki, public, err, spec)
	}
	if again, err := public.Encode(); err != nil || !bytes.Equal(again, spki) {
		t.Fatalf("%s: Encode = %x, %v, want %x", spec, again, err, spki)
	}
	known, ok := public.Go()
	for _, member := range [][]byte{public.N, public.Point, public.Raw} {
		clear(member) // the key is apart from its parts
	}
	if !ok || !known.(equaler).Equal(key) {
		t.Fatalf("%s: Go = %v, %t, want the key", spec, known, ok)
	}
}

func TestPublishedPublicKeys(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		checkPublic(t, v.spec, v.key(t).Public())
		public, err := der.ParsePublic(spkiOf(t, v.key(t).Public()))
		must(t, err)
		spki, err := public.Encode()
		must(t, err)
		if sum := sha256.Sum256(spki); hex.EncodeToString(sum[:]) != v.spki {
			t.Errorf("%s: SubjectPublicKeyInfo = %x, whose SHA-256 is not what OpenSSL's is", v.name, spki)
		}
	}
}

func TestPublicKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		checkPublic(t, keyspec.ECCNISTEdwards25519, ed25519.NewKeyFromSeed(seed).Public())
		for spec, c := range nist {
			checkPublic(t, spec, ecKey(t, spec, c).Public())
		}
		for spec, n := range map[keyspec.Spec]int{keyspec.RSA2048: 256, keyspec.RSA3072: 384, keyspec.RSA4096: 512} {
			modulus := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "modulus")
			modulus[0] |= 0x80
			modulus[n-1] |= 1
			checkPublic(t, spec, &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537})
		}
	})
}

// nist are the curves that the standard library has too.
var nist = map[keyspec.Spec]elliptic.Curve{
	keyspec.ECCNISTP256: elliptic.P256(), keyspec.ECCNISTP384: elliptic.P384(), keyspec.ECCNISTP521: elliptic.P521(),
}

// ecKey is any key on a curve.
func ecKey(t *rapid.T, spec keyspec.Spec, c elliptic.Curve) *ecdsa.PrivateKey {
	d := scalars(c.Params().N).Draw(t, "scalar of "+string(spec))
	k, err := ecdsa.ParseRawPrivateKey(c, d.FillBytes(make([]byte, der.FieldBytes(spec))))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// scalars are from 1 to the order of the curve less 1, short ones among them.
func scalars(order *big.Int) *rapid.Generator[*big.Int] {
	return rapid.Custom(func(t *rapid.T) *big.Int {
		n := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, (order.BitLen()+7)/8).Draw(t, "bytes"))
		n.Mod(n, new(big.Int).Sub(order, big.NewInt(1)))
		return n.Add(n, big.NewInt(1))
	})
}

// rawOIDs are the last arcs of the object identifiers below 2.16.840.1.101.3.4,
// with the lengths of the keys (FIPS 203, section 8; FIPS 204, section 4).
var rawOIDs = map[keyspec.Spec]struct {
	arcs  []byte
	bytes int
}{
	keyspec.MLDSA44: {[]byte{3, 17}, 1312}, keyspec.MLDSA65: {[]byte{3, 18}, 1952}, keyspec.MLDSA87: {[]byte{3, 19}, 2592},
	keyspec.MLKEM512: {[]byte{4, 1}, 800}, keyspec.MLKEM768: {[]byte{4, 2}, 1184}, keyspec.MLKEM1024: {[]byte{4, 3}, 1568},
}

// pqInfo is the SubjectPublicKeyInfo of a post-quantum key (RFC 9881, RFC 9935).
func pqInfo(arcs, key []byte) []byte {
	return seq(seq(slices.Concat([]byte{6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4}, arcs)), bits(key))
}

func TestPostQuantumPublicKeys(t *testing.T) {
	t.Parallel()
	for spec, is := range rawOIDs {
		key := bytes.Repeat([]byte{0x5a}, is.bytes)
		want := pqInfo(is.arcs, key)
		p := der.Public{Spec: spec, Raw: key}
		if got, err := p.Encode(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Encode of %s = %x, %v, want %x", spec, got, err, want)
		}
		if got, err := der.ParsePublic(want); err != nil || got.Spec != spec || !bytes.Equal(got.Raw, key) || got.Point != nil || got.N != nil {
			t.Errorf("ParsePublic of %s = %v, %v", spec, got, err)
		}
		if known, ok := p.Go(); ok {
			t.Errorf("Go of %s = %v, want that it knows no such key", spec, known)
		}
		for _, n := range []int{0, 1, is.bytes - 1, is.bytes + 1, 2 * is.bytes} {
			wrong := make([]byte, n)
			if _, err := (&der.Public{Spec: spec, Raw: wrong}).Encode(); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("Encode of %s with %d bytes = %v, want %v", spec, n, err, der.ErrPublicKey)
			}
			if _, err := der.ParsePublic(pqInfo(is.arcs, wrong)); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("ParsePublic of %s with %d bytes = %v, want %v", spec, n, err, der.ErrPublicKey)
			}
		}
	}
}

// TestCoefficientsAreBelowQ holds the check of ML-KEM's keys against the standard
// library's, on real keys of which a few bytes are others.
func TestCoefficientsAreBelowQ(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "seed")
		k768, err := mlkem.NewDecapsulationKey768(seed)
		if err != nil {
			t.Fatal(err)
		}
		k1024, err := mlkem.NewDecapsulationKey1024(seed)
		if err != nil {
			t.Fatal(err)
		}
		for spec, key := range map[keyspec.Spec][]byte{keyspec.MLKEM768: k768.EncapsulationKey().Bytes(), keyspec.MLKEM1024: k1024.EncapsulationKey().Bytes()} {
			at := rapid.IntRange(0, len(key)-3).Draw(t, "at")
			if at < len(key)-32 { // 0x0d00 is the first byte pattern above which q = 0x0d01 lies
				at -= at % 3
			}
			copy(key[at:], rapid.SampledFrom([][]byte{{}, {0x00, 0x0d}, {0x01, 0x0d}, {0xff}, {0xff, 0xff, 0xff}, {0x00, 0x00, 0xd0}, {0x00, 0x10, 0xd0}, {0x00, 0x00, 0xd1}}).Draw(t, "bytes"))
			var want error
			if spec == keyspec.MLKEM768 {
				_, want = mlkem.NewEncapsulationKey768(key)
			} else {
				_, want = mlkem.NewEncapsulationKey1024(key)
			}
			if _, err := der.ParsePublic(pqInfo(rawOIDs[spec].arcs, key)); (err == nil) != (want == nil) {
				t.Fatalf("ParsePublic of %s %x = %v, want as the standard library: %v", spec, key, err, want)
			}
		}
	})
	for at, bad := range map[int][]byte{0: {0x01, 0x0d}, 765: {0xff, 0x0f}, 766: {0x10, 0xd0}} {
		key := make([]byte, 800)
		copy(key[at:], bad)
		if _, err := (&der.Public{Spec: keyspec.MLKEM512, Raw: key}).Encode(); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("ML_KEM_512 with %x at %d = %v, want %v", bad, at, err, der.ErrPublicKey)
		}
	}
}

// TestEdwardsPoints are the y that a point has, calculated apart from this package
// by Euler's criterion.
func TestEdwardsPoints(t *testing.T) {
	t.Parallel()
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	encode := func(y *big.Int, sign byte) []byte {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		b[31] |= sign << 7
		return b
	}
	onCurve := []int64{0, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 19, 21, 23, -3, -4, -5, -6}
	for n := int64(-7); n < 24; n++ {
		y := new(big.Int).Mod(big.NewInt(n), prime)
		for _, sign := range []byte{0, 1} {
			p := der.Public{Spec: keyspec.ECCNISTEdwards25519, Raw: encode(y, sign)}
			_, err := p.Encode()
			if _, known := p.Go(); known != slices.Contains(onCurve, n) || known != (err == nil) {
				t.Errorf("y = %d, sign %d: Encode %v, Go %t, want %t", n, sign, err, known, !known)
			}
		}
	}
	for n := int64(0); n < 19; n++ { // what else means the same y
		p := der.Public{Spec: keyspec.ECCNISTEdwards25519, Raw: encode(new(big.Int).Add(prime, big.NewInt(n)), 0)}
		if _, err := p.Encode(); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("y = p + %d: %v, want %v", n, err, der.ErrPublicKey)
		}
	}
}

// TestGoGivesNothingInvalid: what it gives is used without further checks.
func TestGoGivesNothingInvalid(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]der.Public{
		"nothing":           {},
		"short Ed25519":     {Spec: keyspec.ECCNISTEdwards25519, Raw: make([]byte, 31)},
		"no Ed25519":        {Spec: keyspec.ECCNISTEdwards25519},
		"no point":          {Spec: keyspec.ECCNISTP256},
		"point off curve":   {Spec: keyspec.ECCNISTP256, Point: append([]byte{4}, make([]byte, 64)...)},
		"RSA with e = 3":    {Spec: keyspec.RSA2048, N: bytes.Repeat([]byte{0xff}, 256), E: []byte{3}},
		"RSA of no spec":    {N: bytes.Repeat([]byte{0xff}, 256), E: []byte{1, 0, 1}},
		"RSA in a symmetry": {Spec: keyspec.SymmetricDefault, N: bytes.Repeat([]byte{0xff}, 256), E: []byte{1, 0, 1}},
	} {
		if known, ok := p.Go(); ok || known != nil {
			t.Errorf("%s: Go = %v, %t, want nothing", name, known, ok)
		}
	}
}

// goodInfos are encodings of valid keys of all kinds.
func goodInfos(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{"secp256k1": unhex(t, k1Info)}
	for _, v := range vectors {
		all[v.name] = spkiOf(t, v.key(t).Public())
	}
	for _, spec := range []keyspec.Spec{keyspec.MLKEM512, keyspec.MLDSA44} {
		all[string(spec)] = pqInfo(rawOIDs[spec].arcs, bytes.Repeat([]byte{0x5a}, rawOIDs[spec].bytes))
	}
	return all
}

// TestEveryBitOfAPublicKeyCounts: whatever is changed, cut or added, the result
// is refused or is the one encoding of another valid key.
func TestEveryBitOfAPublicKeyCounts(t *testing.T) {
	t.Parallel()
	for name, spki := range goodInfos(t) {
		first, err := der.ParsePublic(spki)
		must(t, err)
		for bit := range 8 * len(spki) {
			changed := bytes.Clone(spki)
			changed[bit/8] ^= 1 << (bit % 8)
			judgePublic(t, changed)
			if p, err := der.ParsePublic(changed); err == nil && bytes.Equal(slices.Concat(p.N, p.Point, p.Raw), slices.Concat(first.N, first.Point, first.Raw)) && p.Spec == first.Spec {
				t.Errorf("%s with bit %d flipped is the same key", name, bit)
			}
		}
		for n := range spki {
			if _, err := der.ParsePublic(spki[:n]); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("the first %d bytes of %s = %v, want %v", n, name, err, der.ErrPublicKey)
			}
			judgePublic(t, slices.Delete(bytes.Clone(spki), n, n+1))
			judgePublic(t, slices.Insert(bytes.Clone(spki), n, spki[n]))
		}
		if _, err := der.ParsePublic(append(bytes.Clone(spki), 0)); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("%s with a trailing byte = %v, want %v", name, err, der.ErrPublicKey)
		}
	}
}

// judgePublic holds the package against the standard library: what it takes, the
// library takes too, as the same key; and what it refuses is unknown to the
// library, of a kind that AWS has not, or encoded in another way.
func judgePublic(t *testing.T, spki []byte) {
	t.Helper()
	p, err := der.ParsePublic(spki)
	known, knownErr := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		if !errors.Is(err, der.ErrPublicKey) || p != nil {
			t.Errorf("ParsePublic(%x) = %v, %v, want nothing and %v", spki, p, err, der.ErrPublicKey)
		}
		if knownErr == nil && wanted(known) && bytes.Equal(spki, spkiOf(t, known)) {
			t.Errorf("ParsePublic(%x) = %v, want the key", spki, err)
		}
		return
	}
	if again, err := p.Encode(); err != nil || !bytes.Equal(again, spki) {
		t.Errorf("Encode(ParsePublic(%x)) = %x, %v", spki, again, err)
	}
	if ours, ok := p.Go(); ok && (knownErr != nil || !ours.(equaler).Equal(known)) {
		t.Errorf("ParsePublic(%x) = %+v, want %v, %v", spki, p, known, knownErr)
	}
}

// wanted tells whether a key of the standard library is of a spec, as far as the
// library can tell: it does not look at the points of Ed25519.
func wanted(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.E == 65537 && k.N.Bit(0) == 1 && slices.Contains([]int{2048, 3072, 4096}, k.N.BitLen())
	case *ecdsa.PublicKey:
		return k.Curve != elliptic.P224()
	}
	return false
}

func FuzzParsePublic(f *testing.F) {
	for _, spki := range goodInfos(f) {
		f.Add(spki)
	}
	for _, bad := range badInfos(f) {
		f.Add(bad)
	}
	f.Fuzz(judgePublic)
}
