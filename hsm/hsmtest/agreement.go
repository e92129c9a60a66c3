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
// encoded as a peer's key must be. All are refused alike.
func (s *suite) badPeers(t T, k *hsm.Key) {
	good := freshPeer(t, curves[k.Spec])
	texts := map[string]bool{}
	for _, peers := range []map[string][]byte{malformedPeers(t, k.Spec, good), s.otherPeers(t, k.Spec), badPoints(k.Spec, good)} {
		for name, peer := range peers {
			got, err := s.Token.DeriveSecret(s.ctx, client, k, peer)
			refused(t, "DeriveSecret with a peer: "+name, got, err, hsm.ErrInvalidPublicKey)
			if err != nil {
				texts[err.Error()] = true
			}
		}
	}
	if len(texts) > 1 {
		t.Errorf("DeriveSecret tells bad peers apart: %q", texts)
	}
	if got, err := s.Token.DeriveSecret(s.ctx, client, k, good); err != nil || len(got) != der.FieldBytes(k.Spec) {
		t.Errorf("DeriveSecret with a good peer afterwards = %d bytes, %v", len(got), err)
	}
}

func freshPeer(t T, c ecdh.Curve) []byte {
	key, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatalf("generate a key outside: %v", err)
	}
	return encodePeer(t, key.PublicKey())
}

// malformedPeers are not encoded as they must be.
func malformedPeers(t T, spec keyspec.Spec, good []byte) map[string][]byte {
	n := der.FieldBytes(spec)
	return map[string][]byte{
		"nothing": nil, "empty": {}, "no DER": []byte("a public key"), "zeros": make([]byte, len(good)),
		"its point alone": good[len(good)-2*n-1:], "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0),
		"compressed": compressed(t, good, n), "in a sequence": value(0x30, 0, good), "a longer length": slices.Concat([]byte{0x30, 0x82, 0}, good[1:]),
	}
}

// otherPeers are keys of another kind.
func (s *suite) otherPeers(t T, spec keyspec.Spec) map[string][]byte {
	peers := map[string][]byte{"X25519": freshPeer(t, ecdh.X25519())}
	for other, curve := range curves {
		if other != spec {
			peers["of "+string(other)] = freshPeer(t, curve)
		}
	}
	for _, other := range []keyspec.Spec{keyspec.ECCSECGP256K1, keyspec.RSA2048, keyspec.ECCNISTEdwards25519} {
		if o := s.kept[kind{other, keyspec.SignVerify}]; o != nil {
			peers["of "+string(other)] = o.PublicKey
		}
	}
	return peers
}

// badPoints are well encoded, and not on the curve.
func badPoints(spec keyspec.Spec, good []byte) map[string][]byte {
	n := der.FieldBytes(spec)
	peers := map[string][]byte{}
	for name, change := range map[string]func(x, y []byte){
		"off the curve":       func(_, y []byte) { y[n-1] ^= 1 },
		"off the curve in x":  func(x, _ []byte) { x[n-1] ^= 1 },
		"zeros for a point":   func(x, y []byte) { clear(x); clear(y) },
		"zero for x":          func(x, _ []byte) { clear(x) },
		"zero for y":          func(_, y []byte) { clear(y) },
		"x beyond the field":  func(x, _ []byte) { copy(x, bytes.Repeat([]byte{0xff}, n)) },
		"y beyond the field":  func(_, y []byte) { copy(y, bytes.Repeat([]byte{0xff}, n)) },
		"x and y exchanged":   func(x, y []byte) { both := slices.Concat(y, x); copy(x, both); copy(y, both[n:]) },
		"the x of a stranger": func(x, _ []byte) { rand.Read(x) },
	} {
		peer := bytes.Clone(good)
		at := len(peer) - 2*n
		change(peer[at:at+n], peer[at+n:])
		peers[name] = peer
	}
	return peers
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
