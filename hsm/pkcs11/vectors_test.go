package pkcs11

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// ownSession is a session of a test's own, beside the engine's.
func ownSession(t *testing.T, e *Engine) *session {
	t.Helper()
	h, err := e.module.openSession(e.slot)
	must(t, err)
	t.Cleanup(func() {
		if err := e.module.closeSession(h); err != nil {
			t.Error(err)
		}
	})
	return &session{engine: e, handle: h, epoch: e.epoch.Load()}
}

// bring makes a key of known value in the token.
func (s *session) bring(t *testing.T, spec keyspec.Spec, usage keyspec.Usage, value []byte) handle {
	t.Helper()
	kind := keyTypes[spec][usage]
	making := kind.template
	making.valueLen = 0
	for _, a := range kind.public.more {
		if a.kind == pkcs11.CKA_EC_PARAMS {
			making.more = append(making.more, a)
		}
	}
	making.more = append(making.more, valueAttr{pkcs11.CKA_VALUE, value})
	key, err := s.engine.module.lib.create(s.handle, making)
	must(t, err)
	return key
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	must(t, err)
	return b
}

// TestHMACVectors are those of RFC 4231 whose keys are long enough for the
// spec, as PKCS#11 tokens demand: test cases 6 and 7, with a key of 131 bytes.
func TestHMACVectors(t *testing.T) {
	e := openWithKeys(t, nil)
	s := ownSession(t, e)
	key := bytes.Repeat([]byte{0xaa}, 131)
	for _, c := range []struct {
		message string
		macs    map[keyspec.Spec]string
	}{
		{"Test Using Larger Than Block-Size Key - Hash Key First", map[keyspec.Spec]string{
			keyspec.HMAC224: "95e9a0db962095adaebe9b2d6f0dbce2d499f112f2d2b7273fa6870e",
			keyspec.HMAC256: "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
			keyspec.HMAC384: "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
			keyspec.HMAC512: "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
		}},
		{"This is a test using a larger than block-size key and a larger than block-size data. " +
			"The key needs to be hashed before being used by the HMAC algorithm.", map[keyspec.Spec]string{
			keyspec.HMAC224: "3a854166ac5d9f023f54d517d0b39dbd946770db9c2b95c9f6f565d1",
			keyspec.HMAC256: "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
			keyspec.HMAC384: "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
			keyspec.HMAC512: "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58",
		}},
	} {
		for spec, want := range c.macs {
			row, _ := keyspec.Lookup(spec)
			a, _ := keyspec.LookupAlgorithm(row.Algorithms[keyspec.GenerateVerifyMAC][0])
			got, err := s.hmac(s.bring(t, spec, keyspec.GenerateVerifyMAC, key), a.Hash, []byte(c.message))
			if err != nil || hex.EncodeToString(got) != want {
				t.Errorf("%s of %.20q = %x, %v, want %s", a.Algorithm, c.message, got, err, want)
			}
		}
	}
}

// TestEd25519Vectors are those of RFC 8032, section 7.1, with a message.
func TestEd25519Vectors(t *testing.T) {
	e := openWithKeys(t, nil)
	s := ownSession(t, e)
	for _, c := range []struct{ secret, message, signature string }{
		{
			"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
		},
		{
			"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
		},
	} {
		key := s.bring(t, keyspec.ECCNISTEdwards25519, keyspec.SignVerify, unhex(t, c.secret))
		sig, err := newSignature(keyspec.ECCNISTEdwards25519, keyspec.Ed25519SHA512, keyspec.Raw, unhex(t, c.message))
		must(t, err)
		got, err := s.sign(key, sig, sig.input)
		if err != nil || hex.EncodeToString(got) != c.signature {
			t.Errorf("signature of %s = %x, %v, want %s", c.message, got, err, c.signature)
		}
	}
}

// TestECDHVectors are those of RFC 5903, section 8.
func TestECDHVectors(t *testing.T) {
	e := openWithKeys(t, nil)
	s := ownSession(t, e)
	for _, c := range []struct {
		spec                 keyspec.Spec
		private, x, y, share string
	}{
		{
			keyspec.ECCNISTP256,
			"C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
			"D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63",
			"56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
			"D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
		},
		{
			keyspec.ECCNISTP384,
			"099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
			"E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571",
			"DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
			"11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
		},
		{
			keyspec.ECCNISTP521,
			"0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072462F68C27A57382D4A52",
			"00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433CED2B6171640012D9460F",
			"015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86D678AE49CB57091F4732296579AB44FCD17F0FC56A",
			"01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151F2BEE417996D19F3DDEA",
		},
	} {
		key := s.bring(t, c.spec, keyspec.KeyAgreement, unhex(t, c.private))
		point := append([]byte{4}, append(unhex(t, c.x), unhex(t, c.y)...)...)
		if _, err := (&der.Public{Spec: c.spec, Point: point}).Encode(); err != nil {
			t.Fatalf("%s: the vector's point: %v", c.spec, err)
		}
		got, err := s.derive(key, c.spec, point)
		if err != nil || !bytes.Equal(got, unhex(t, c.share)) {
			t.Errorf("%s: secret = %x, %v, want %s", c.spec, got, err, c.share)
		}
	}
}

// TestLeadingZerosOfSecretsAreKept agrees until secrets begin with a zero.
func TestLeadingZerosOfSecretsAreKept(t *testing.T) {
	e := openWithKeys(t, nil)
	k := makeKey(t, e, keyspec.ECCNISTP256, keyspec.KeyAgreement)
	for range 3000 {
		secret, peer := agreeWith(t, e, k)
		if secret[0] == 0 {
			if len(secret) != 32 {
				t.Errorf("DeriveSecret with %x = %d bytes", peer, len(secret))
			}
			return
		}
	}
	t.Error("no secret began with a zero in 3000")
}
