package hsmtest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// curves are those of key agreement.
var curves = map[keyspec.Spec]ecdh.Curve{
	keyspec.ECCNISTP256: ecdh.P256(), keyspec.ECCNISTP384: ecdh.P384(), keyspec.ECCNISTP521: ecdh.P521(),
}

// agreements is how many peers a key agrees with.
const agreements = 8

// agreement agrees with peers made outside, and offers what is no peer.
func (s *suite) agreement(t T, of kind, _ keyspec.Algorithm) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil {
		t.Fatalf("public key: %v", err)
	}
	theirs, err := curves[of.spec].NewPublicKey(public.Point)
	if err != nil {
		t.Fatalf("public key: %v", err)
	}
	for i := range agreements {
		leading := 0
		if i == 0 {
			leading = leadingZeros[of.spec]
		}
		ours, want := findPeer(t, theirs, leading)
		got, err := s.Token.DeriveSecret(s.ctx, client, k, encodePeer(t, ours.PublicKey()))
		if lacks(t, "DeriveSecret", err) {
			return
		}
		if !bytes.Equal(got, want) {
			t.Errorf("DeriveSecret, %d zeros leading = %x, want %x", leading, got, want)
		}
	}
	// With itself, which is as good a point as others.
	if got, err := s.Token.DeriveSecret(s.ctx, client, k, k.PublicKey); err != nil || len(got) != der.FieldBytes(of.spec) {
		t.Errorf("DeriveSecret with itself = %d bytes, %v", len(got), err)
	}
	s.badPeers(t, k)
}

// leadingZeros are the bytes that are zero in front of a secret that is looked
// for: one, and on P-521, where half of all have one, two.
var leadingZeros = map[keyspec.Spec]int{keyspec.ECCNISTP256: 1, keyspec.ECCNISTP384: 1, keyspec.ECCNISTP521: 2}

// findPeer makes keys until the secret agreed on begins with so many zeros.
func findPeer(t T, theirs *ecdh.PublicKey, leading int) (*ecdh.PrivateKey, []byte) {
	for range 1 << 14 {
		ours, err := theirs.Curve().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatalf("generate a key outside: %v", err)
		}
		secret, err := ours.ECDH(theirs)
		if err != nil {
			t.Fatalf("agree outside: %v", err)
		}
		if bytes.Equal(secret[:leading], make([]byte, leading)) {
			return ours, secret
		}
	}
	t.Fatalf("no secret begins with %d zeros", leading)
	return nil, nil
}

func encodePeer(t T, public *ecdh.PublicKey) []byte {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatalf("encode a peer: %v", err)
	}
	return spki
}

// badPeers offers public keys that are no points of the key's curve, or are not
// encoded as a peer's key must be.
func (s *suite) badPeers(t T, k *hsm.Key) {
	n := 2 * der.FieldBytes(k.Spec)
	fresh := func(c ecdh.Curve) []byte {
		key, err := c.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatalf("generate a key outside: %v", err)
		}
		return encodePeer(t, key.PublicKey())
	}
	good := fresh(curves[k.Spec])
	peers := map[string][]byte{
		"nothing": nil, "empty": {}, "no DER": []byte("a public key"), "X25519": fresh(ecdh.X25519()),
		"its point alone": good[len(good)-n-1:], "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "zeros": make([]byte, len(good)),
		"compressed": compressed(t, good, n/2), "in a sequence": value(0x30, 0, good), "a longer length": slices.Concat([]byte{0x30, 0x82, 0}, good[1:]),
	}
	for spec, curve := range curves {
		if spec != k.Spec {
			peers["of "+string(spec)] = fresh(curve)
		}
	}
	for _, other := range []keyspec.Spec{keyspec.ECCSECGP256K1, keyspec.RSA2048, keyspec.ECCNISTEdwards25519} {
		if o := s.kept[kind{other, keyspec.SignVerify}]; o != nil {
			peers["of "+string(other)] = o.PublicKey
		}
	}
	at := len(good) - n
	for name, change := range map[string]func(point []byte){
		"off the curve":          func(p []byte) { p[n-1] ^= 1 },
		"off the curve in x":     func(p []byte) { p[n/2-1] ^= 1 },
		"zeros for a point":      func(p []byte) { clear(p) },
		"zero for x":             func(p []byte) { clear(p[:n/2]) },
		"zero for y":             func(p []byte) { clear(p[n/2:]) },
		"x beyond the field":     func(p []byte) { copy(p[:n/2], bytes.Repeat([]byte{0xff}, n/2)) },
		"y beyond the field":     func(p []byte) { copy(p[n/2:], bytes.Repeat([]byte{0xff}, n/2)) },
		"x and y exchanged":      func(p []byte) { copy(p, slices.Concat(p[n/2:], p[:n/2])) },
		"a point of another one": func(p []byte) { rand.Read(p[:n/2]) },
	} {
		peers[name] = bytes.Clone(good)
		change(peers[name][at:])
	}
	texts := map[string]bool{}
	for name, peer := range peers {
		got, err := s.Token.DeriveSecret(s.ctx, client, k, peer)
		refused(t, "DeriveSecret with a peer: "+name, got, err, hsm.ErrInvalidPublicKey)
		if err != nil {
			texts[err.Error()] = true
		}
	}
	if len(texts) > 1 {
		t.Errorf("DeriveSecret tells bad peers apart: %q", texts)
	}
	if got, err := s.Token.DeriveSecret(s.ctx, client, k, good); err != nil || len(got) != n/2 {
		t.Errorf("DeriveSecret with a good peer afterwards = %d bytes, %v", len(got), err)
	}
}

// compressed is a SubjectPublicKeyInfo with its point compressed (SEC 1, section
// 2.3.3), which AWS does not take.
func compressed(t T, spki []byte, width int) []byte {
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		t.Fatalf("SubjectPublicKeyInfo: %v", err)
	}
	point := info.Key.Bytes
	short := append([]byte{2 | point[2*width]&1}, point[1:1+width]...)
	info.Key = asn1.BitString{Bytes: short, BitLength: 8 * len(short)}
	b, err := asn1.Marshal(info)
	if err != nil {
		t.Fatalf("SubjectPublicKeyInfo: %v", err)
	}
	return b
}
