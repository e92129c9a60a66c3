package der

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"

	"kmsgate/hsm/keyspec"
)

func TestQuick(t *testing.T) {
	k, _ := rsa.GenerateKey(rand.Reader, 2048)
	spki, _ := x509.MarshalPKIXPublicKey(&k.PublicKey)
	p, err := ParsePublic(spki)
	if err != nil || p.Spec != keyspec.RSA2048 {
		t.Fatal(p, err)
	}
	pr := Private{Public: *p, D: k.D.Bytes(), P: k.Primes[0].Bytes(), Q: k.Primes[1].Bytes(), DP: k.Precomputed.Dp.Bytes(), DQ: k.Precomputed.Dq.Bytes(), QInv: k.Precomputed.Qinv.Bytes()}
	d, err := pr.Encode()
	want, _ := x509.MarshalPKCS8PrivateKey(k)
	if err != nil || !bytes.Equal(d, want) {
		t.Fatalf("%x\n%x", d, want)
	}
	for _, n := range []int{0, 1, 32, 190} {
		m := bytes.Repeat([]byte{7}, n)
		ct, _ := rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.PublicKey, m, nil)
		em := make([]byte, 256)
		new(big.Int).Exp(new(big.Int).SetBytes(ct), k.D, k.N).FillBytes(em)
		got, err := UnpadOAEP(crypto.SHA256, em)
		if err != nil || !bytes.Equal(got, m) {
			t.Fatal(n, got, err)
		}
	}
	for spec, c := range map[keyspec.Spec]elliptic.Curve{keyspec.ECCNISTP256: elliptic.P256(), keyspec.ECCNISTP384: elliptic.P384(), keyspec.ECCNISTP521: elliptic.P521()} {
		e, _ := ecdsa.GenerateKey(c, rand.Reader)
		spki, _ := x509.MarshalPKIXPublicKey(&e.PublicKey)
		p, err := ParsePublic(spki)
		if err != nil || p.Spec != spec {
			t.Fatal(spec, err)
		}
		d, err := (&Private{Public: *p, D: e.D.Bytes()}).Encode()
		want, _ := x509.MarshalPKCS8PrivateKey(e)
		if err != nil || !bytes.Equal(d, want) {
			t.Fatalf("%x\n%x", d, want)
		}
		h := sha256.Sum256([]byte("x"))
		sig, _ := ecdsa.SignASN1(rand.Reader, e, h[:])
		rs, err := ECDSAFromDER(spec, sig)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ECDSAToDER(spec, rs)
		if err != nil || !bytes.Equal(back, sig) {
			t.Fatal(err)
		}
		pt, isDER, err := ECPointFromToken(spec, ECPointForToken(p.Point, true))
		if err != nil || !isDER || !bytes.Equal(pt, p.Point) {
			t.Fatal(err)
		}
	}
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	spki, _ = x509.MarshalPKIXPublicKey(pub)
	p, err = ParsePublic(spki)
	if err != nil {
		t.Fatal(err)
	}
	d, err = (&Private{Public: *p, Seed: priv.Seed()}).Encode()
	want, _ = x509.MarshalPKCS8PrivateKey(priv)
	if err != nil || !bytes.Equal(d, want) {
		t.Fatalf("%x\n%x", d, want)
	}
	g := Public{Spec: keyspec.ECCSECGP256K1, Point: append([]byte{4}, append(number("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").Bytes(), number("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8").Bytes()...)...)}
	spki, err = g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePublic(spki); err != nil {
		t.Fatal(err)
	}
}
