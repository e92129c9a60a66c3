package der

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"

	"kmsgate/hsm/keyspec"
)

// samples are private keys as the standard library writes them.
func samples(t testing.TB) map[keyspec.Spec][]byte {
	t.Helper()
	made := map[keyspec.Spec][]byte{}
	put := func(spec keyspec.Spec, key any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if made[spec], err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			t.Fatal(err)
		}
	}
	for spec, curve := range map[keyspec.Spec]elliptic.Curve{
		keyspec.ECCNISTP256: elliptic.P256(), keyspec.ECCNISTP384: elliptic.P384(), keyspec.ECCNISTP521: elliptic.P521(),
	} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		put(spec, key, err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	put(keyspec.ECCNISTEdwards25519, edwards, err)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	put(keyspec.RSA2048, key, err)
	return made
}

func TestParsePrivateReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	for spec, text := range samples(t) {
		p, err := ParsePrivate(spec, text)
		if err != nil {
			t.Errorf("ParsePrivate of %s = %v", spec, err)
			continue
		}
		again, err := p.Encode()
		if err != nil {
			t.Errorf("Encode of %s = %v", spec, err)
			continue
		}
		if twice, err := ParsePrivate(spec, again); err != nil || !bytes.Equal(twice.D, p.D) || !bytes.Equal(twice.Seed, p.Seed) || !bytes.Equal(twice.Point, p.Point) {
			t.Errorf("ParsePrivate of what was encoded for %s = %v", spec, err)
		}
		for other := range samplesOf {
			if other != spec {
				if _, err := ParsePrivate(other, text); !errors.Is(err, ErrPrivateKey) {
					t.Errorf("ParsePrivate of %s as %s = %v", spec, other, err)
				}
			}
		}
	}
}

// samplesOf are specs that a key may be taken for.
var samplesOf = map[keyspec.Spec]bool{
	keyspec.ECCNISTP256: true, keyspec.ECCSECGP256K1: true, keyspec.ECCNISTEdwards25519: true, keyspec.RSA2048: true, keyspec.RSA3072: true,
}

// second makes a OneAsymmetricKey of version 2 (RFC 5958) of a PrivateKeyInfo, with
// what may stand behind the private key.
func second(t testing.TB, info []byte, more ...[]byte) []byte {
	t.Helper()
	r := reader{rest: info}
	content := reader{rest: r.take(tagSequence)}
	content.take(tagInteger)
	if r.bad || content.bad {
		t.Fatal("no PrivateKeyInfo")
	}
	return tlv(tagSequence, append([][]byte{{tagInteger, 1, 1}, content.rest}, more...)...)
}

// publicBits is a key's public key as it stands in a SubjectPublicKeyInfo, with the
// number of unused bits.
func publicBits(t testing.TB, p *Private) []byte {
	t.Helper()
	spki, err := p.Public.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r := reader{rest: spki}
	info := reader{rest: r.take(tagSequence)}
	info.take(tagSequence)
	return bytes.Clone(info.take(tagBitString))
}

// TestParsePrivateOfVersion2 with its public key and attributes, and with the public
// key of another.
func TestParsePrivateOfVersion2(t *testing.T) {
	t.Parallel()
	attributes := tlv(tagAttributes, tlv(tagSequence, oidDER(oidEC), tlv(0x31)))
	others := samples(t)
	for spec, text := range samples(t) {
		p, err := ParsePrivate(spec, text)
		if err != nil {
			t.Fatal(err)
		}
		other, err := ParsePrivate(spec, others[spec])
		if err != nil {
			t.Fatal(err)
		}
		bits := publicBits(t, p)
		outer := tlv(tagOuterKey, bits)
		unused, cut := bytes.Clone(bits), bits[:len(bits)-1]
		unused[0] = 1
		first := bytes.Clone(second(t, text, outer))
		first[bytes.Index(first, []byte{tagInteger, 1, 1})+2] = 0
		for what, c := range map[string]struct {
			text []byte
			good bool
		}{
			"no public key":                     {second(t, text), true},
			"its public key":                    {second(t, text, outer), true},
			"attributes":                        {second(t, text, attributes), true},
			"attributes and its public key":     {second(t, text, attributes, outer), true},
			"another's public key":              {second(t, text, tlv(tagOuterKey, publicBits(t, other))), false},
			"unused bits":                       {second(t, text, tlv(tagOuterKey, unused)), false},
			"a public key that was cut":         {second(t, text, tlv(tagOuterKey, cut)), false},
			"an empty public key":               {second(t, text, tlv(tagOuterKey)), false},
			"both in the wrong order":           {second(t, text, outer, attributes), false},
			"two public keys":                   {second(t, text, outer, outer), false},
			"something behind":                  {append(second(t, text, outer), 0), false},
			"a public key in the first version": {first, false},
		} {
			got, err := ParsePrivate(spec, c.text)
			switch {
			case !c.good && !errors.Is(err, ErrPrivateKey):
				t.Errorf("ParsePrivate of %s with %s = %v, want %v", spec, what, err, ErrPrivateKey)
			case c.good && (err != nil || !bytes.Equal(got.D, p.D) || !bytes.Equal(got.Seed, p.Seed) || !bytes.Equal(got.Point, p.Point)):
				t.Errorf("ParsePrivate of %s with %s = %v", spec, what, err)
			}
		}
	}
}

// TestParsePrivateIsStrict: whatever is cut off or added is refused, and what is not
// DER is read by nobody but [canonical].
func TestParsePrivateIsStrict(t *testing.T) {
	t.Parallel()
	for spec, text := range samples(t) {
		for n := range text {
			if _, err := ParsePrivate(spec, text[:n]); !errors.Is(err, ErrPrivateKey) {
				t.Fatalf("ParsePrivate of the first %d bytes of %s = %v", n, spec, err)
			}
		}
		if _, err := ParsePrivate(spec, append(bytes.Clone(text), 0)); !errors.Is(err, ErrPrivateKey) {
			t.Errorf("ParsePrivate of %s with a byte more = %v", spec, err)
		}
	}
	for _, length := range [][]byte{{0x80}, {0x81, 0x05}, {0x82, 0, 0x90}, {0x83, 0, 0, 1}, {0x84}} {
		r := reader{rest: append([]byte{tagSequence}, append(length, make([]byte, 300)...)...)}
		if got := r.take(tagSequence); got != nil || !r.bad {
			t.Errorf("a length of %x is taken", length)
		}
	}
	for _, n := range [][]byte{{}, {0}, {0x80}, {0, 0x7f}} {
		r := reader{rest: tlv(tagInteger, n)}
		if got := r.number(); got != nil || !r.bad {
			t.Errorf("the number %x is taken", n)
		}
	}
}

// TestParsePrivateTakesWhatFits: the parts of an RSA key, each with another of its
// bits changed in turn, are refused.
func TestParsePrivateTakesWhatFits(t *testing.T) {
	t.Parallel()
	p, err := ParsePrivate(keyspec.RSA2048, samples(t)[keyspec.RSA2048])
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string]*[]byte{"n": &p.N, "d": &p.D, "p": &p.P, "q": &p.Q, "dp": &p.DP, "dq": &p.DQ, "qInv": &p.QInv} {
		for _, bit := range []int{1, 77, 8*len(*part) - 20} {
			good := bytes.Clone(*part)
			(*part)[len(good)-1-bit/8] ^= 1 << (bit % 8)
			text, err := p.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParsePrivate(keyspec.RSA2048, text); !errors.Is(err, ErrPrivateKey) {
				t.Errorf("ParsePrivate of a key with another %s = %v", name, err)
			}
			*part = good
		}
	}
	swapped := *p
	swapped.P, swapped.Q = p.Q, p.P
	if swapped.fitRSA() {
		t.Error("the coefficient fits the primes the other way around")
	}
}

// TestMultiplyAndRemainder compare with the standard library.
func TestMultiplyAndRemainder(t *testing.T) {
	t.Parallel()
	for _, lengths := range [][3]int{{1, 1, 1}, {3, 17, 5}, {128, 128, 64}, {5, 1, 32}, {64, 64, 128}} {
		var n [3][]byte
		for i := range n {
			n[i] = make([]byte, lengths[i])
			_, _ = rand.Read(n[i]) // never fails
		}
		n[2][0] |= 0x80
		a, b, m := new(big.Int).SetBytes(n[0]), new(big.Int).SetBytes(n[1]), new(big.Int).SetBytes(n[2])
		product := multiply(n[0], n[1])
		if want := new(big.Int).Mul(a, b); new(big.Int).SetBytes(product).Cmp(want) != 0 {
			t.Errorf("%d * %d = %x, want %d", a, b, product, want)
		}
		for _, of := range [][]byte{product, n[2], append(bytes.Clone(n[2]), n[0]...)} {
			want := new(big.Int).Mod(new(big.Int).SetBytes(of), m)
			if got := remainder(of, n[2]); new(big.Int).SetBytes(got).Cmp(want) != 0 {
				t.Errorf("%x modulo %d = %x, want %d", of, m, got, want)
			}
		}
	}
}

func BenchmarkParsePrivateRSA(b *testing.B) {
	text := samples(b)[keyspec.RSA2048]
	for b.Loop() {
		if _, err := ParsePrivate(keyspec.RSA2048, text); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPointsOfAnX finds the base point again, of every curve.
func TestPointsOfAnX(t *testing.T) {
	t.Parallel()
	for _, c := range curves {
		base := BasePoint(c.spec)
		if !c.has(base) {
			t.Errorf("the base point of %s is not on it", c.spec)
		}
		points := PointsOf(c.spec, base[1:1+c.bytes])
		if len(points) != 2 || !bytes.Equal(points[0], base) && !bytes.Equal(points[1], base) || bytes.Equal(points[0], points[1]) {
			t.Errorf("PointsOf the base point's x on %s = %x", c.spec, points)
		}
		if got := PointsOf(c.spec, bytes.Repeat([]byte{0xff}, c.bytes)); got != nil {
			t.Errorf("PointsOf what is no x on %s = %x", c.spec, got)
		}
	}
	if BasePoint(keyspec.RSA2048) != nil || PointsOf(keyspec.RSA2048, nil) != nil {
		t.Error("RSA has points")
	}
}

func FuzzParsePrivate(f *testing.F) {
	for _, text := range samples(f) {
		f.Add(text)
		f.Add(second(f, text, tlv(tagAttributes), tlv(tagOuterKey, []byte{0, 4})))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for spec := range samplesOf {
			p, err := ParsePrivate(spec, text)
			if err != nil {
				continue
			}
			if p.Point != nil || p.Raw != nil || p.N != nil {
				if _, err := p.Public.Encode(); err != nil {
					t.Errorf("ParsePrivate of %x gives a public key that is not valid: %v", text, err)
				}
			}
		}
	})
}
