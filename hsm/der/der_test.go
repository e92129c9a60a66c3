package der_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// sample is a key as the standard library has it.
type sample struct {
	spec    keyspec.Spec
	private crypto.Signer
}

func samples(t testing.TB) []sample {
	t.Helper()
	var all []sample
	for spec, c := range map[keyspec.Spec]elliptic.Curve{
		keyspec.ECCNISTP256: elliptic.P256(), keyspec.ECCNISTP384: elliptic.P384(), keyspec.ECCNISTP521: elliptic.P521(),
	} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		must(t, err)
		all = append(all, sample{spec, k})
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	_, e, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return append(all, sample{keyspec.RSA2048, k}, sample{keyspec.ECCNISTEdwards25519, e})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func spkiOf(t testing.TB, k crypto.Signer) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(k.Public())
	must(t, err)
	return b
}

// privateOf takes a private key of the standard library apart.
func privateOf(t testing.TB, s sample) *der.Private {
	t.Helper()
	public, err := der.ParsePublic(spkiOf(t, s.private))
	must(t, err)
	p := &der.Private{Public: *public}
	switch k := s.private.(type) {
	case *rsa.PrivateKey:
		p.D, p.P, p.Q = k.D.Bytes(), k.Primes[0].Bytes(), k.Primes[1].Bytes()
		p.DP, p.DQ, p.QInv = k.Precomputed.Dp.Bytes(), k.Precomputed.Dq.Bytes(), k.Precomputed.Qinv.Bytes()
	case *ecdsa.PrivateKey:
		p.D, err = k.Bytes()
		must(t, err)
	case ed25519.PrivateKey:
		p.Seed = k.Seed()
	}
	return p
}

func TestKeysAreThoseOfTheStandardLibrary(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		spki := spkiOf(t, s.private)
		public, err := der.ParsePublic(spki)
		if err != nil || public.Spec != s.spec {
			t.Errorf("ParsePublic of %s = %+v, %v", s.spec, public, err)
			continue
		}
		if again, err := public.Encode(); err != nil || !bytes.Equal(again, spki) {
			t.Errorf("%s: Encode = %x, %v, want %x", s.spec, again, err, spki)
		}
		known, ok := public.Go()
		if equal := known.(interface{ Equal(crypto.PublicKey) bool }); !ok || !equal.Equal(s.private.Public()) {
			t.Errorf("%s: Go = %v, %t, want the key", s.spec, known, ok)
		}
		p := privateOf(t, s)
		got, err := p.Encode()
		want, err2 := x509.MarshalPKCS8PrivateKey(s.private)
		must(t, err2)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: PKCS#8 = %x, %v, want %x", s.spec, got, err, want)
		}
		p.Clear()
		for _, part := range [][]byte{p.D, p.P, p.Q, p.DP, p.DQ, p.QInv, p.Seed} {
			if !bytes.Equal(part, make([]byte, len(part))) {
				t.Errorf("%s: a part is not cleared", s.spec)
			}
		}
	}
}

// TestShortScalarsKeepTheirWidth: tokens leave leading zeros out.
func TestShortScalarsKeepTheirWidth(t *testing.T) {
	t.Parallel()
	one := append(make([]byte, 31), 1)
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), one)
	must(t, err)
	want, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	public, err := der.ParsePublic(spkiOf(t, k))
	must(t, err)
	for _, d := range [][]byte{{1}, {0, 1}, one} {
		got, err := (&der.Private{Public: *public, D: d}).Encode()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("PKCS#8 of scalar %x = %x, %v, want %x", d, got, err, want)
		}
	}
}

// base256k1 is the generator of secp256k1 (SEC 2, section 2.4.1).
func base256k1() []byte {
	x, _ := new(big.Int).SetString("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798", 16)
	y, _ := new(big.Int).SetString("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8", 16)
	return slices.Concat([]byte{4}, x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32)))
}

func TestSecp256k1(t *testing.T) {
	t.Parallel()
	p := der.Public{Spec: keyspec.ECCSECGP256K1, Point: base256k1()}
	spki, err := p.Encode()
	must(t, err)
	// What OpenSSL writes before the point.
	prefix := []byte{
		0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a, 0x03, 0x42, 0x00,
	}
	if !bytes.Equal(spki, append(prefix, base256k1()...)) {
		t.Errorf("SubjectPublicKeyInfo = %x", spki)
	}
	got, err := der.ParsePublic(spki)
	if err != nil || got.Spec != keyspec.ECCSECGP256K1 || !bytes.Equal(got.Point, base256k1()) {
		t.Errorf("ParsePublic = %+v, %v", got, err)
	}
	if known, ok := got.Go(); ok {
		t.Errorf("Go = %v, want that the standard library has no such key", known)
	}
	for bit := 8; bit < 8*65; bit++ {
		off := base256k1()
		off[bit/8] ^= 1 << (bit % 8)
		if _, err := (&der.Public{Spec: keyspec.ECCSECGP256K1, Point: off}).Encode(); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("a point with bit %d flipped = %v, want %v", bit, err, der.ErrPublicKey)
		}
	}
	// The same x with p - y is a point too.
	prime, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f", 16)
	negative := base256k1()
	new(big.Int).Sub(prime, new(big.Int).SetBytes(negative[33:])).FillBytes(negative[33:])
	if _, err := (&der.Public{Spec: keyspec.ECCSECGP256K1, Point: negative}).Encode(); err != nil {
		t.Errorf("the negative of a point = %v", err)
	}
}

// TestKeysOfOneLength are those whose public key is a byte string.
func TestKeysOfOneLength(t *testing.T) {
	t.Parallel()
	for spec, n := range map[keyspec.Spec]int{
		keyspec.MLDSA44: 1312, keyspec.MLDSA65: 1952, keyspec.MLDSA87: 2592,
		keyspec.MLKEM512: 800, keyspec.MLKEM768: 1184, keyspec.MLKEM1024: 1568,
	} {
		p := der.Public{Spec: spec, Raw: bytes.Repeat([]byte{7}, n)}
		spki, err := p.Encode()
		must(t, err)
		if got, err := der.ParsePublic(spki); err != nil || got.Spec != spec || !bytes.Equal(got.Raw, p.Raw) {
			t.Errorf("ParsePublic(Encode(%s)) = %v, %v", spec, got, err)
		}
		for _, wrong := range []int{0, n - 1, n + 1} {
			p.Raw = make([]byte, wrong)
			if _, err := p.Encode(); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("%s of %d bytes = %v, want %v", spec, wrong, err, der.ErrPublicKey)
			}
		}
	}
	private := &der.Private{Public: der.Public{Spec: keyspec.MLKEM768, Raw: make([]byte, 1184)}, Seed: bytes.Repeat([]byte{9}, 64)}
	got, err := private.Encode()
	if err != nil || len(got) != 86 || !bytes.Equal(got[18:22], []byte{0x04, 0x42, 0x80, 0x40}) {
		t.Errorf("PKCS#8 of ML-KEM = %x, %v, want 86 bytes with the seed form", got, err)
	}
}

func TestPrivateKeysThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		for name, spoil := range map[string]func(p *der.Private){
			"no secret":      func(p *der.Private) { p.D, p.Seed = nil, nil },
			"long secret":    func(p *der.Private) { p.D, p.Seed = make([]byte, 600), make([]byte, 600) },
			"another spec":   func(p *der.Private) { p.Spec = keyspec.SymmetricDefault },
			"no public key":  func(p *der.Private) { p.N, p.Point, p.Raw = nil, nil, nil },
			"another length": func(p *der.Private) { p.N, p.Point, p.Raw = append(p.N, 1), append(p.Point, 1), append(p.Raw, 1) },
		} {
			p := privateOf(t, s)
			spoil(p)
			if got, err := p.Encode(); !errors.Is(err, der.ErrPrivateKey) || got != nil {
				t.Errorf("%s with %s = %x, %v, want %v", s.spec, name, got, err, der.ErrPrivateKey)
			}
		}
	}
	dsa := &der.Private{Public: der.Public{Spec: keyspec.MLDSA44, Raw: make([]byte, 1312)}, Seed: make([]byte, 32)}
	if _, err := dsa.Encode(); !errors.Is(err, der.ErrPrivateKey) {
		t.Errorf("ML-DSA = %v, want %v: AWS gives no such pairs out", err, der.ErrPrivateKey)
	}
}

// TestEveryBitOfAPublicKeyCounts: whatever is changed, cut or added, the result
// is refused or is the one encoding of another valid key.
func TestEveryBitOfAPublicKeyCounts(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		spki := spkiOf(t, s.private)
		for bit := range 8 * len(spki) {
			changed := bytes.Clone(spki)
			changed[bit/8] ^= 1 << (bit % 8)
			if p, err := der.ParsePublic(changed); err == nil {
				if again, err := p.Encode(); err != nil || !bytes.Equal(again, changed) {
					t.Errorf("%s with bit %d flipped is taken as another encoding of %x", s.spec, bit, again)
				}
			} else if !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("%s with bit %d flipped = %v, want %v", s.spec, bit, err, der.ErrPublicKey)
			}
		}
		for n := range spki {
			if _, err := der.ParsePublic(spki[:n]); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("the first %d bytes of %s = %v, want %v", n, s.spec, err, der.ErrPublicKey)
			}
		}
		if _, err := der.ParsePublic(append(bytes.Clone(spki), 0)); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("%s with a trailing byte = %v, want %v", s.spec, err, der.ErrPublicKey)
		}
	}
}

func TestRSAKeysOfOtherKindsAreRefused(t *testing.T) {
	t.Parallel()
	modulus := func(bits int, low byte) []byte {
		n := bytes.Repeat([]byte{0xff}, bits/8)
		n[len(n)-1] = low
		return n
	}
	for name, p := range map[string]der.Public{
		"e = 3":     {Spec: keyspec.RSA2048, N: modulus(2048, 1), E: []byte{3}},
		"no e":      {Spec: keyspec.RSA2048, N: modulus(2048, 1)},
		"even":      {Spec: keyspec.RSA2048, N: modulus(2048, 2), E: []byte{1, 0, 1}},
		"1024 bits": {Spec: keyspec.RSA2048, N: modulus(1024, 1), E: []byte{1, 0, 1}},
		"2056 bits": {Spec: keyspec.RSA2048, N: modulus(2056, 1), E: []byte{1, 0, 1}},
		"RSA_3072":  {Spec: keyspec.RSA3072, N: modulus(2048, 1), E: []byte{1, 0, 1}},
		"no spec":   {N: modulus(1024, 1), E: []byte{1, 0, 1}},
	} {
		if _, err := p.Encode(); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("%s = %v, want %v", name, err, der.ErrPublicKey)
		}
	}
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err == nil {
		if _, err := der.ParsePublic(spkiOf(t, k)); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("RSA of 1024 bits = %v, want %v", err, der.ErrPublicKey)
		}
	}
}

func TestOtherPublicKeysAreRefused(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	good := spkiOf(t, k)
	head, point := good[:26], good[26:]
	compressed := slices.Concat([]byte{0x30, 0x39}, head[2:24], []byte{0x22, 0x00}, []byte{2 + point[64]&1}, point[1:33])
	compressed[23] = 0x22
	unused := bytes.Clone(good)
	unused[25] = 1
	infinity := slices.Concat([]byte{0x30, 0x19}, head[2:23], []byte{0x03, 0x02, 0x00, 0x00})
	for name, spki := range map[string][]byte{
		"nothing": nil, "P-224": spkiOf(t, p224), "compressed": compressed, "unused bits": unused, "infinity": infinity,
		"the point alone": point, "NULL for a curve": slices.Concat(good[:13], []byte{5, 0}, good[23:]),
		"long form": slices.Concat([]byte{0x30, 0x81}, good[1:]), "indefinite": slices.Concat([]byte{0x30, 0x80}, good[2:], []byte{0, 0}),
	} {
		if p, err := der.ParsePublic(spki); !errors.Is(err, der.ErrPublicKey) {
			t.Errorf("%s = %v, %v, want %v", name, p, err, der.ErrPublicKey)
		}
	}
}

func TestPointsAsTokensHaveThem(t *testing.T) {
	t.Parallel()
	for spec, n := range map[keyspec.Spec]int{
		keyspec.ECCNISTP256: 65, keyspec.ECCNISTP384: 97, keyspec.ECCNISTP521: 133, keyspec.ECCSECGP256K1: 65, keyspec.ECCNISTEdwards25519: 32,
	} {
		point := bytes.Repeat([]byte{4}, n)
		for _, asDER := range []bool{false, true} {
			got, isDER, err := der.ECPointFromToken(spec, der.ECPointForToken(point, asDER))
			if err != nil || isDER != asDER || !bytes.Equal(got, point) {
				t.Errorf("%s, DER %t: %x, %t, %v", spec, asDER, got, isDER, err)
			}
		}
		bits := append([]byte{3, byte(n + 1), 0}, point...)
		if _, isDER, err := der.ECPointFromToken(spec, bits); n < 0x7f && (err != nil || !isDER) {
			t.Errorf("%s as a BIT STRING: %t, %v", spec, isDER, err)
		}
		for _, wrong := range [][]byte{nil, point[1:], append([]byte{4}, point...), append([]byte{5, byte(n)}, point...), append(bytes.Clone(point), 0)} {
			if got, _, err := der.ECPointFromToken(spec, wrong); !errors.Is(err, der.ErrPublicKey) {
				t.Errorf("%s of %x = %x, %v, want %v", spec, wrong, got, err, der.ErrPublicKey)
			}
		}
	}
	if _, _, err := der.ECPointFromToken(keyspec.RSA2048, make([]byte, 65)); !errors.Is(err, der.ErrPublicKey) {
		t.Errorf("a point of RSA = %v", err)
	}
	if got := der.CurveParameters(keyspec.ECCNISTEdwards25519); !bytes.Equal(got, []byte{6, 3, 0x2b, 0x65, 0x70}) {
		t.Errorf("CurveParameters of Ed25519 = %x", got)
	}
	if der.CurveParameters(keyspec.RSA2048) != nil || der.FieldBytes(keyspec.RSA2048) != 0 || der.FieldBytes(keyspec.ECCNISTP521) != 66 {
		t.Error("RSA has a curve, or P-521 another width than 66 bytes")
	}
}

func FuzzParsePublic(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(spkiOf(f, s.private))
	}
	f.Fuzz(func(t *testing.T, spki []byte) {
		p, err := der.ParsePublic(spki)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, spki) {
			t.Errorf("Encode(ParsePublic(%x)) = %x, %v", spki, again, err)
		}
	})
}

// scalars are from 1 to the order of the curve less 1.
func scalars(order *big.Int) *rapid.Generator[*big.Int] {
	return rapid.Custom(func(t *rapid.T) *big.Int {
		b := rapid.SliceOfN(rapid.Byte(), 0, (order.BitLen()+7)/8).Draw(t, "bytes")
		n := new(big.Int).SetBytes(b)
		n.Mod(n, new(big.Int).Sub(order, big.NewInt(1)))
		return n.Add(n, big.NewInt(1))
	})
}
