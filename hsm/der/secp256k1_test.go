package der_test

import (
	"bytes"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// What OpenSSL 3.0 writes for the key whose scalar k1Scalar is.
const (
	k1Scalar = "00d1e5f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e"
	k1Point  = "0415a3614386c98be2fa9b8b46db628fdb8a540e0344e3868409ac207fb16430fc" +
		"3ba1fc47c227de67475ad54923c1a36055f48f8d50f19a9bbcd28fc77b8a31c5"
	k1Info    = "3056301006072a8648ce3d020106052b8104000a034200" + k1Point
	k1Private = "308184020100301006072a8648ce3d020106052b8104000a046d306b0201010420" + k1Scalar + "a144034200" + k1Point
)

// k1Multiples are the multiples of the generator by 1, 2, 3, 20 and
// 112233445566778899, calculated apart from this package.
var k1Multiples = []string{
	"79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
	"c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee51ae168fea63dc339a3c58419466ceaeef7f632653266d0e1236431a950cfe52a",
	"f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9388f7b0f632de8140fe337e62a37f3566500a99934c2231b6cb9fd7584b8e672",
	"4ce119c96e2fa357200b559b2f7dd5a5f02d5290aff74b03f3e471b273211c9712ba26dcb10ec1625da61fa10a844c676162948271d96967450288ee9233dc3a",
	"a90cc3d3f3e146daadfc74ca1372207cb4b725ae708cef713a98edd73d99ef295a79d6b289610c68bc3b47f3d72f9788a26a06868b4d8e433e1e2ad76fb7dc76",
}

func base256k1() []byte {
	p, _ := new(big.Int).SetString(k1Multiples[0], 16)
	return append([]byte{4}, p.Bytes()...)
}

func k1Prime() *big.Int {
	p := new(big.Int).Lsh(big.NewInt(1), 256)
	return p.Sub(p, big.NewInt(1<<32+977))
}

func k1(x, y *big.Int) *der.Public {
	return &der.Public{Spec: keyspec.ECCSECGP256K1, Point: slices.Concat([]byte{4}, x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32)))}
}

func TestSecp256k1IsAsOpenSSLHasIt(t *testing.T) {
	t.Parallel()
	spki, point := unhex(t, k1Info), unhex(t, k1Point)
	got, err := der.ParsePublic(spki)
	if err != nil || got.Spec != keyspec.ECCSECGP256K1 || !bytes.Equal(got.Point, point) || got.N != nil || got.Raw != nil {
		t.Errorf("ParsePublic = %+v, %v", got, err)
	}
	p := &der.Private{Public: der.Public{Spec: keyspec.ECCSECGP256K1, Point: point}, D: unhex(t, k1Scalar)}
	if got, err := p.Public.Encode(); err != nil || !bytes.Equal(got, spki) {
		t.Errorf("Encode = %x, %v, want %x", got, err, spki)
	}
	if known, ok := p.Go(); ok || known != nil {
		t.Errorf("Go = %v, want that the standard library has no such key", known)
	}
	for _, d := range [][]byte{p.D, p.D[1:]} { // its first byte is zero
		p.D = d
		if got, err := p.Encode(); err != nil || !bytes.Equal(got, unhex(t, k1Private)) {
			t.Errorf("PKCS#8 = %x, %v, want %s", got, err, k1Private)
		}
	}
}

func TestPointsOfSecp256k1(t *testing.T) {
	t.Parallel()
	for _, text := range k1Multiples {
		b := unhex(t, text)
		x, y := new(big.Int).SetBytes(b[:32]), new(big.Int).SetBytes(b[32:])
		for _, good := range []*der.Public{k1(x, y), k1(x, new(big.Int).Sub(k1Prime(), y))} {
			if _, err := good.Encode(); err != nil {
				t.Errorf("%x: %v", good.Point, err)
			}
			for bit := range 8 * 65 {
				off := bytes.Clone(good.Point)
				off[bit/8] ^= 1 << (bit % 8)
				if _, err := (&der.Public{Spec: keyspec.ECCSECGP256K1, Point: off}).Encode(); !errors.Is(err, der.ErrPublicKey) {
					t.Errorf("%x with bit %d flipped = %v, want %v", good.Point, bit, err, der.ErrPublicKey)
				}
			}
		}
	}
}

// TestEveryXOfSecp256k1 has two points or none, which Euler's criterion tells.
func TestEveryXOfSecp256k1(t *testing.T) {
	t.Parallel()
	prime, one := k1Prime(), big.NewInt(1)
	root := new(big.Int).Rsh(new(big.Int).Add(prime, one), 2)
	rapid.Check(t, func(t *rapid.T) {
		x := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "x"))
		x.Mod(x, prime)
		square := new(big.Int).Exp(x, big.NewInt(3), prime)
		square.Add(square, big.NewInt(7)).Mod(square, prime)
		want := new(big.Int).Exp(square, new(big.Int).Rsh(prime, 1), prime).Cmp(one) == 0
		y := new(big.Int).Exp(square, root, prime)
		for _, y := range []*big.Int{y, new(big.Int).Sub(prime, y)} {
			if _, err := k1(x, y).Encode(); (err == nil) != want {
				t.Fatalf("(%x, %x): %v, want a point: %t", x, y, err, want)
			}
			if _, err := k1(x, new(big.Int).Xor(y, one)).Encode(); err == nil {
				t.Fatalf("(%x, %x) with another y is taken", x, y)
			}
		}
	})
	// The same point is not written with numbers of the prime or more: those that
	// fit into 32 bytes are small, and x = 1 is the first with a point.
	y, _ := new(big.Int).SetString("4218f20ae6c646b363db68605822fb14264ca8d2587fdd6fbc750d587e76a7ee", 16)
	if _, err := k1(one, y).Encode(); err != nil {
		t.Errorf("x = 1: %v", err)
	}
	if _, err := k1(new(big.Int).Add(prime, one), y).Encode(); !errors.Is(err, der.ErrPublicKey) {
		t.Errorf("x = p + 1: %v, want %v", err, der.ErrPublicKey)
	}
}
