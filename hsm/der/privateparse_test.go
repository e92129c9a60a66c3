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

// TestParsePrivateIsStrict: whatever is cut off, added or longer than it need be is
// refused.
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
