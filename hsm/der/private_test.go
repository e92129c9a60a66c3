package der_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mlkem"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

func TestPublishedPrivateKeys(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		key := v.key(t)
		p := privateOf(t, key)
		got, err := p.Encode()
		must(t, err)
		if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != v.pkcs8 {
			t.Errorf("%s: PKCS#8 = %x, whose SHA-256 is not what OpenSSL's is", v.name, got)
		}
		known, err := x509.ParsePKCS8PrivateKey(got)
		if err != nil || !known.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
			t.Errorf("%s: the standard library reads %v, %v", v.name, known, err)
		}
	}
}

// TestEncodingLeavesTheKeyAlone: what it clears is its own, and Clear is what
// clears the key.
func TestEncodingLeavesTheKeyAlone(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		p, same := privateOf(t, v.key(t)), privateOf(t, v.key(t))
		for range 2 {
			_, err := p.Encode()
			must(t, err)
		}
		for name, part := range secrets(p) {
			if !bytes.Equal(*part, *secrets(same)[name]) {
				t.Errorf("%s: Encode changes %s", v.name, name)
			}
		}
		p.Clear()
		for name, part := range secrets(p) {
			if !bytes.Equal(*part, make([]byte, len(*part))) || len(*part) != len(*secrets(same)[name]) {
				t.Errorf("%s: Clear leaves %s", v.name, name)
			}
		}
		if _, err := p.Encode(); !errors.Is(err, der.ErrPrivateKey) {
			t.Errorf("%s: Encode of a cleared key = %v, want %v", v.name, err, der.ErrPrivateKey)
		}
	}
}

func TestSecretTLVClears(t *testing.T) {
	t.Parallel()
	a, b := []byte{1, 2}, []byte{3}
	if got := der.SecretTLV(0x30, a, b); !bytes.Equal(got, []byte{0x30, 3, 1, 2, 3}) || !bytes.Equal(a, []byte{0, 0}) || b[0] != 0 {
		t.Errorf("secretTLV = %x and leaves %x, %x", got, a, b)
	}
}

func TestPrivateKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		for spec, c := range nist {
			k := ecKey(t, spec, c)
			point, err := k.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			d, err := k.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			zeros := make([]byte, rapid.IntRange(0, 3).Draw(t, "zeros"))
			p := &der.Private{Public: der.Public{Spec: spec, Point: point}}
			for _, p.D = range [][]byte{d, append(zeros, d...), bytes.TrimLeft(d, "\x00")} {
				checkPrivate(t, p, k)
			}
		}
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		seed[31] |= 1 // zeros are refused
		k := ed25519.NewKeyFromSeed(seed)
		checkPrivate(t, &der.Private{Public: der.Public{Spec: keyspec.ECCNISTEdwards25519, Raw: k[32:]}, Seed: k.Seed()}, k)
	})
}

func checkPrivate(t rapid.TB, p *der.Private, key any) {
	t.Helper()
	want, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Encode(); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("PKCS#8 of %s = %x, %v, want %x", p.Spec, got, err, want)
	}
}

// rsaPrivateKey and privateKeyInfo are for encoding/asn1 (RFC 8017, appendix
// A.1.2; RFC 5208, section 5).
type rsaPrivateKey struct {
	Version                    int
	N, E, D, P, Q, DP, DQ, Inv *big.Int
}

type privateKeyInfo struct {
	Version   int
	Algorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters asn1.RawValue
	}
	Key []byte
}

// TestPrivateNumbersOfRSA are of every length, with leading zeros and without:
// the numbers need not be a key for that.
func TestPrivateNumbersOfRSA(t *testing.T) {
	t.Parallel()
	numbers := func(t *rapid.T, most int, name string) []byte {
		n := rapid.SliceOfN(rapid.Byte(), 1, most).Draw(t, name)
		n[len(n)-1] |= 1 // not zero
		return n
	}
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom([]keyspec.Spec{keyspec.RSA2048, keyspec.RSA3072, keyspec.RSA4096}).Draw(t, "spec")
		size := map[keyspec.Spec]int{keyspec.RSA2048: 256, keyspec.RSA3072: 384, keyspec.RSA4096: 512}[spec]
		n := append([]byte{0x80}, rapid.SliceOfN(rapid.Byte(), size-1, size-1).Draw(t, "n")...)
		n[size-1] |= 1
		p := &der.Private{Public: der.Public{Spec: spec, N: n, E: []byte{1, 0, 1}}}
		p.D, p.P, p.Q = numbers(t, size, "d"), numbers(t, size/2, "p"), numbers(t, size/2, "q")
		p.DP, p.DQ, p.QInv = numbers(t, size/2, "dp"), numbers(t, size/2, "dq"), numbers(t, size/2, "inv")
		of := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
		key, err := asn1.Marshal(rsaPrivateKey{0, of(p.N), of(p.E), of(p.D), of(p.P), of(p.Q), of(p.DP), of(p.DQ), of(p.QInv)})
		if err != nil {
			t.Fatal(err)
		}
		info := privateKeyInfo{Key: key}
		info.Algorithm.OID, info.Algorithm.Parameters = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, asn1.NullRawValue
		want, err := asn1.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Encode(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("PKCS#8 = %x, %v, want %x", got, err, want)
		}
		p.D = append(make([]byte, 600), p.D...)
		if got, err := p.Encode(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("PKCS#8 with many leading zeros = %x, %v, want %x", got, err, want)
		}
	})
}

// mlkemSeeds are the private keys of RFC 9935, appendices C.1.1.1, C.1.2.1 and
// C.1.3.1, in base64.
var mlkemSeeds = map[keyspec.Spec]string{
	keyspec.MLKEM512:  "MFQCAQAwCwYJYIZIAWUDBAQBBEKAQAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
	keyspec.MLKEM768:  "MFQCAQAwCwYJYIZIAWUDBAQCBEKAQAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
	keyspec.MLKEM1024: "MFQCAQAwCwYJYIZIAWUDBAQDBEKAQAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
}

func TestMLKEMIsInTheSeedForm(t *testing.T) {
	t.Parallel()
	seed := make([]byte, 64)
	for i := range seed {
		seed[i] = byte(i)
	}
	k768, err := mlkem.NewDecapsulationKey768(seed)
	must(t, err)
	k1024, err := mlkem.NewDecapsulationKey1024(seed)
	must(t, err)
	public := map[keyspec.Spec][]byte{
		keyspec.MLKEM512: make([]byte, 800), keyspec.MLKEM768: k768.EncapsulationKey().Bytes(), keyspec.MLKEM1024: k1024.EncapsulationKey().Bytes(),
	}
	for spec, text := range mlkemSeeds {
		want, err := base64.StdEncoding.DecodeString(text)
		must(t, err)
		p := &der.Private{Public: der.Public{Spec: spec, Raw: public[spec]}, Seed: seed}
		got, err := p.Encode()
		if err != nil || len(got) != 86 || !bytes.Equal(got, want) {
			t.Errorf("PKCS#8 of %s = %x, %v, want %x", spec, got, err, want)
		}
		if !bytes.HasSuffix(got, slices.Concat([]byte{0x04, 0x42, 0x80, 0x40}, seed)) {
			t.Errorf("PKCS#8 of %s = %x, want [0] and the seed at the end", spec, got)
		}
	}
}

func TestScalarsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	points := map[keyspec.Spec][]byte{keyspec.ECCSECGP256K1: base256k1()}
	for spec, c := range nist {
		k, err := ecdsa.ParseRawPrivateKey(c, append(make([]byte, der.FieldBytes(spec)-1), 1))
		must(t, err)
		points[spec], err = k.PublicKey.Bytes()
		must(t, err)
	}
	for spec, order := range orders() {
		width := der.FieldBytes(spec)
		encode := func(d []byte) error {
			got, err := (&der.Private{Public: der.Public{Spec: spec, Point: points[spec]}, D: d}).Encode()
			if err != nil && got != nil {
				t.Errorf("%s: Encode with %x = %x and %v", spec, d, got, err)
			}
			return err
		}
		for bit := range 8 * width {
			for _, by := range []int64{-1, 0, 1} {
				// Numbers about the powers of two, and about the order with a bit flipped.
				power := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), uint(bit)), big.NewInt(by))
				near := new(big.Int).Add(order, big.NewInt(by))
				near.SetBit(near, bit, near.Bit(bit)^1)
				for _, n := range []*big.Int{power, near, new(big.Int).Add(order, big.NewInt(by))} {
					want := n.Sign() > 0 && n.Cmp(order) < 0
					if err := encode(n.FillBytes(make([]byte, width))); (err == nil) != want || err != nil && !errors.Is(err, der.ErrPrivateKey) {
						t.Errorf("%s: Encode with %x = %v, want it taken: %t", spec, n, err, want)
					}
				}
			}
		}
		for name, bad := range map[string][]byte{
			"none": nil, "empty": {}, "zero": make([]byte, width), "short zero": {0}, "long zero": make([]byte, 2*width),
			"longer": bytes.Repeat([]byte{1}, width+1), "all ones": bytes.Repeat([]byte{0xff}, width),
		} {
			if err := encode(bad); !errors.Is(err, der.ErrPrivateKey) {
				t.Errorf("%s: Encode with %s scalar = %v, want %v", spec, name, err, der.ErrPrivateKey)
			}
		}
	}
}

func TestPartsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	refuse := func(name string, p *der.Private) {
		t.Helper()
		if got, err := p.Encode(); !errors.Is(err, der.ErrPrivateKey) || got != nil {
			t.Errorf("%s: Encode = %x, %v, want nothing and %v", name, got, err, der.ErrPrivateKey)
		}
	}
	key := vectors[0].key(t)
	for _, name := range []string{"D", "P", "Q", "DP", "DQ", "QInv"} {
		for kind, bad := range map[string][]byte{"missing": nil, "zero": make([]byte, 128), "long": bytes.Repeat([]byte{1}, 257)} {
			p := privateOf(t, key)
			*secrets(p)[name] = bad
			refuse(name+" "+kind, p)
		}
	}
	for spec, n := range map[keyspec.Spec]int{keyspec.ECCNISTEdwards25519: 32, keyspec.MLKEM512: 64, keyspec.MLKEM768: 64, keyspec.MLKEM1024: 64} {
		raw := append([]byte{3}, make([]byte, 31)...)
		if spec != keyspec.ECCNISTEdwards25519 {
			raw = make([]byte, rawOIDs[spec].bytes)
		}
		if _, err := (&der.Private{Public: der.Public{Spec: spec, Raw: raw}, Seed: bytes.Repeat([]byte{1}, n)}).Encode(); err != nil {
			t.Errorf("%s with a seed of %d bytes = %v", spec, n, err)
		}
		for _, wrong := range []int{0, 1, n - 1, n + 1, n/2 + 64} {
			refuse(string(spec), &der.Private{Public: der.Public{Spec: spec, Raw: raw}, Seed: bytes.Repeat([]byte{1}, wrong)})
		}
		refuse(string(spec)+" of zeros", &der.Private{Public: der.Public{Spec: spec, Raw: raw}, Seed: make([]byte, n)})
	}
	for _, spec := range []keyspec.Spec{keyspec.MLDSA44, keyspec.MLDSA65, keyspec.MLDSA87} { // AWS gives out no such pairs
		for _, n := range []int{0, 32} {
			refuse(string(spec), &der.Private{Public: der.Public{Spec: spec, Raw: make([]byte, rawOIDs[spec].bytes)}, Seed: bytes.Repeat([]byte{1}, n)})
		}
	}
}

func TestPrivateKeysNeedTheirPublicKey(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		for name, spoil := range map[string]func(p *der.Private){
			"no spec":         func(p *der.Private) { p.Spec = "" },
			"a symmetric key": func(p *der.Private) { p.Spec = keyspec.SymmetricDefault },
			"another spec":    func(p *der.Private) { p.Spec = keyspec.MLKEM512 },
			"no public key":   func(p *der.Private) { p.N, p.Point, p.Raw = nil, nil, nil },
			"a longer one":    func(p *der.Private) { p.N, p.Point, p.Raw = append(p.N, 1), append(p.Point, 1), append(p.Raw, 1) },
		} {
			p := privateOf(t, v.key(t))
			spoil(p)
			if got, err := p.Encode(); !errors.Is(err, der.ErrPrivateKey) || got != nil {
				t.Errorf("%s with %s: Encode = %x, %v, want nothing and %v", v.name, name, got, err, der.ErrPrivateKey)
			}
		}
	}
	off := append([]byte{4}, make([]byte, 64)...)
	if _, err := (&der.Private{Public: der.Public{Spec: keyspec.ECCNISTP256, Point: off}, D: elliptic.P256().Params().B.Bytes()}).Encode(); !errors.Is(err, der.ErrPrivateKey) {
		t.Errorf("a point off the curve = %v, want %v", err, der.ErrPrivateKey)
	}
}
