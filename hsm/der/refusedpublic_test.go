package der_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"maps"
	"math/big"
	"slices"
	"testing"

	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// value is a DER value of this test's own making.
func value(tag byte, contents ...[]byte) []byte {
	content := slices.Concat(contents...)
	n := len(content)
	switch {
	case n < 128:
		return slices.Concat([]byte{tag, byte(n)}, content)
	case n < 256:
		return slices.Concat([]byte{tag, 0x81, byte(n)}, content)
	}
	return slices.Concat([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content)
}

func seq(contents ...[]byte) []byte     { return value(0x30, contents...) }
func octets(contents ...[]byte) []byte  { return value(0x04, contents...) }
func bits(contents ...[]byte) []byte    { return value(0x03, append([][]byte{{0}}, contents...)...) }
func rawInteger(content ...byte) []byte { return value(0x02, content) }

var null = []byte{5, 0}

func oid(arcs ...int) []byte {
	b, err := asn1.Marshal(asn1.ObjectIdentifier(arcs))
	if err != nil {
		panic(err)
	}
	return b
}

func number(n *big.Int) []byte {
	b, err := asn1.Marshal(n)
	if err != nil {
		panic(err)
	}
	return b
}

var (
	ecPublicKey   = oid(1, 2, 840, 10045, 2, 1)
	prime256v1    = oid(1, 2, 840, 10045, 3, 1, 7)
	secp256k1     = oid(1, 3, 132, 0, 10)
	rsaEncryption = oid(1, 2, 840, 113549, 1, 1, 1)
	ed25519OID    = oid(1, 3, 101, 112)
)

// basePoint is the generator of P-256.
func basePoint() []byte {
	c := elliptic.P256().Params()
	return slices.Concat([]byte{4}, c.Gx.FillBytes(make([]byte, 32)), c.Gy.FillBytes(make([]byte, 32)))
}

// explicitP256 are the parameters of P-256 in full (RFC 3279, section 2.3.5).
func explicitP256() []byte {
	c := elliptic.P256().Params()
	a := new(big.Int).Sub(c.P, big.NewInt(3))
	return seq(
		rawInteger(1), seq(oid(1, 2, 840, 10045, 1, 1), number(c.P)),
		seq(octets(a.Bytes()), octets(c.B.Bytes())), octets(basePoint()), number(c.N), rawInteger(1),
	)
}

// badPoints are SubjectPublicKeyInfos of EC keys that are none. Only what is
// named is wrong with each: the point is the generator.
func badPoints() map[string][]byte {
	info := func(parameters, key []byte) []byte { return seq(seq(ecPublicKey, parameters), key) }
	named := func(point ...[]byte) []byte { return info(prime256v1, bits(point...)) }
	good := basePoint()
	x, y := good[1:33], good[33:]
	prime := elliptic.P256().Params().P
	plus := func(n []byte, m *big.Int) []byte { return new(big.Int).Add(new(big.Int).SetBytes(n), m).Bytes() }
	k1 := base256k1()
	all := map[string][]byte{
		"compressed":              named([]byte{2 | y[31]&1}, x),
		"compressed, other root":  named([]byte{3 - y[31]&1}, x),
		"compressed, full length": named([]byte{2 | y[31]&1}, x, y),
		"hybrid":                  named([]byte{6 | y[31]&1}, x, y),
		"infinity":                named([]byte{0}),
		"infinity, full length":   named(make([]byte, 65)),
		"zero":                    named([]byte{4}, make([]byte, 64)),
		"coordinates swapped":     named([]byte{4}, y, x),
		"y less one":              named([]byte{4}, x, plus(y, big.NewInt(-1))),
		"y the prime":             named([]byte{4}, x, prime.Bytes()),
		"x all ones":              named([]byte{4}, bytes.Repeat([]byte{0xff}, 32), y),
		"a coordinate missing":    named([]byte{4}, x),
		"a byte missing":          named(good[:64]),
		"a byte too many":         named(good, []byte{0}),
		"no format":               named(x, y),
		"octets":                  named(octets(good)),
		"nothing":                 named(),
		"not even unused bits":    info(prime256v1, value(3)),
		"P-384 on P-256's point":  info(oid(1, 3, 132, 0, 34), bits(good)),
		"secp256k1, P-256's":      info(secp256k1, bits(good)),
		"P-256, secp256k1's":      named(k1),
		"P-224":                   info(oid(1, 3, 132, 0, 33), bits(good)),
		"brainpoolP256r1":         info(oid(1, 3, 36, 3, 3, 2, 8, 1, 1, 7), bits(good)),
		"SM2":                     info(oid(1, 2, 156, 10197, 1, 301), bits(good)),
		"explicit parameters":     info(explicitP256(), bits(good)),
		"implicit curve":          info(null, bits(good)),
		"no curve":                info(nil, bits(good)),
		"two curves":              info(slices.Concat(prime256v1, prime256v1), bits(good)),
		"curve and NULL":          info(slices.Concat(prime256v1, null), bits(good)),
		"curve as a string":       info(value(0x0c, prime256v1[2:]), bits(good)),
		"id-ecDH":                 seq(seq(oid(1, 3, 132, 1, 12), prime256v1), bits(good)),
		"secp256k1, y less one":   info(secp256k1, bits(k1[:33], plus(k1[33:], big.NewInt(-1)))),
		"secp256k1, compressed":   info(secp256k1, bits([]byte{2 | k1[64]&1}, k1[1:33])),
		"secp256k1, hybrid":       info(secp256k1, bits([]byte{6 | k1[64]&1}, k1[1:])),
		"secp256k1, infinity":     info(secp256k1, bits([]byte{0})),
		"secp256k1, zero":         info(secp256k1, bits([]byte{4}, make([]byte, 64))),
	}
	for n := byte(1); n < 9; n++ {
		all["unused bits: "+string('0'+rune(n))] = info(prime256v1, value(3, []byte{n}, good))
	}
	return all
}

// badShapes are other ways to write the same key of P-256, some of BER, and what
// looks like it.
func badShapes() map[string][]byte {
	algorithm, key := seq(ecPublicKey, prime256v1), bits(basePoint())
	both := slices.Concat(algorithm, key)
	n := byte(len(both))
	return map[string][]byte{
		"empty":                       nil,
		"tag alone":                   {0x30},
		"empty sequence":              {0x30, 0},
		"long form":                   slices.Concat([]byte{0x30, 0x81, n}, both),
		"longer form":                 slices.Concat([]byte{0x30, 0x82, 0, n}, both),
		"longest form":                slices.Concat([]byte{0x30, 0x88, 0, 0, 0, 0, 0, 0, 0, n}, both),
		"length of 2^64 more":         slices.Concat([]byte{0x30, 0x89, 1, 0, 0, 0, 0, 0, 0, 0, n}, both),
		"length of all ones":          slices.Concat([]byte{0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 255}, both),
		"length 0xff":                 slices.Concat([]byte{0x30, 0xff}, both),
		"indefinite":                  slices.Concat([]byte{0x30, 0x80}, both, []byte{0, 0}),
		"indefinite inside":           seq([]byte{0x30, 0x80}, ecPublicKey, prime256v1, []byte{0, 0}, key),
		"long form of the algorithm":  seq([]byte{0x30, 0x81, byte(len(algorithm) - 2)}, algorithm[2:], key),
		"long form of the key":        seq(algorithm, []byte{3, 0x81, byte(len(key) - 2)}, key[2:]),
		"long form of the identifier": seq(seq([]byte{6, 0x81, 7}, ecPublicKey[2:], prime256v1), key),
		"long form of the curve":      seq(seq(ecPublicKey, []byte{6, 0x81, 8}, prime256v1[2:]), key),
		"padded identifier":           seq(seq([]byte{6, 8, 0x80}, ecPublicKey[2:], prime256v1), key),
		"padded curve":                seq(seq(ecPublicKey, []byte{6, 9, 0x80}, prime256v1[2:]), key),
		"constructed bits":            seq(algorithm, value(0x23, bits(basePoint()[:30]), bits(basePoint()[30:]))),
		"trailing zero":               slices.Concat(seq(both), []byte{0}),
		"trailing value":              slices.Concat(seq(both), null),
		"trailing inside":             seq(both, null),
		"trailing zeros inside":       seq(both, []byte{0, 0}),
		"twice":                       slices.Concat(seq(both), seq(both)),
		"a set":                       value(0x31, both),
		"algorithm a set":             seq(value(0x31, ecPublicKey, prime256v1), key),
		"primitive sequence":          value(0x10, both),
		"octets for bits":             seq(algorithm, octets(basePoint())),
		"octets with unused bits":     seq(algorithm, octets([]byte{0}, basePoint())),
		"key first":                   seq(key, algorithm),
		"no algorithm":                seq(key),
		"no key":                      seq(algorithm),
		"wrapped":                     seq(seq(both)),
		"point alone":                 basePoint(),
		"curve first":                 seq(seq(prime256v1, ecPublicKey), key),
		"OneAsymmetricKey":            seq(rawInteger(0), algorithm, octets(basePoint())),
		"tag in two bytes":            slices.Concat([]byte{0x3f, 0x10, n}, both),
	}
}

// badModuli are SubjectPublicKeyInfos of RSA keys that are none here.
func badModuli() map[string][]byte {
	e := rawInteger(1, 0, 1)
	info := func(contents ...[]byte) []byte { return seq(seq(rsaEncryption, null), bits(contents...)) }
	modulus := func(bits uint) *big.Int { // odd, with the highest bit set
		n := new(big.Int).Lsh(big.NewInt(1), bits)
		return n.Sub(n, big.NewInt(19))
	}
	good := number(modulus(2048))
	key := seq(good, e)
	ones := bytes.Repeat([]byte{0xff}, 256)
	all := map[string][]byte{
		"e = 0":                   info(seq(good, rawInteger(0))),
		"e = 1":                   info(seq(good, rawInteger(1))),
		"e = 3":                   info(seq(good, rawInteger(3))),
		"e = 65535":               info(seq(good, rawInteger(0, 255, 255))),
		"e = 65539":               info(seq(good, rawInteger(1, 0, 3))),
		"e = 2^32 + 65537":        info(seq(good, rawInteger(1, 0, 1, 0, 1))),
		"e = 2^64 + 65537":        info(seq(good, rawInteger(1, 0, 0, 0, 0, 0, 1, 0, 1))),
		"e negative":              info(seq(good, rawInteger(0xfe, 0xff, 0xff))),
		"e with a leading zero":   info(seq(good, rawInteger(0, 1, 0, 1))),
		"e empty":                 info(seq(good, rawInteger())),
		"no e":                    info(seq(good)),
		"e first":                 info(seq(e, good)),
		"even":                    info(seq(number(new(big.Int).Sub(modulus(2048), big.NewInt(1))), e)),
		"zero":                    info(seq(rawInteger(0), e)),
		"negative":                info(seq(rawInteger(ones...), e)),
		"two leading zeros":       info(seq(rawInteger(append([]byte{0, 0}, ones...)...), e)),
		"trailing in the key":     info(seq(good, e, null)),
		"trailing after the key":  info(key, null),
		"primes":                  info(seq(rawInteger(0), good, e)),
		"a set":                   info(value(0x31, good, e)),
		"no sequence":             info(good, e),
		"nothing":                 info(),
		"octets":                  seq(seq(rsaEncryption, null), octets(key)),
		"no NULL":                 seq(seq(rsaEncryption), bits(key)),
		"long NULL":               seq(seq(rsaEncryption, []byte{5, 0x81, 0}), bits(key)),
		"NULL with content":       seq(seq(rsaEncryption, []byte{5, 1, 0}), bits(key)),
		"two NULLs":               seq(seq(rsaEncryption, null, null), bits(key)),
		"empty sequence for NULL": seq(seq(rsaEncryption, seq()), bits(key)),
		"unused bits":             seq(seq(rsaEncryption, null), value(3, []byte{1}, key)),
		"RSASSA-PSS":              seq(seq(oid(1, 2, 840, 113549, 1, 1, 10)), bits(key)),
		"RSASSA-PSS with NULL":    seq(seq(oid(1, 2, 840, 113549, 1, 1, 10), null), bits(key)),
		"RSAES-OAEP":              seq(seq(oid(1, 2, 840, 113549, 1, 1, 7), null), bits(key)),
		"key of EC":               seq(seq(ecPublicKey, null), bits(key)),
		"long form":               info([]byte{0x30, 0x83, 0, 1, 10}, key[4:]),
		"long form of n":          info(seq([]byte{2, 0x83, 0, 1, 1, 0}, ones, e)),
	}
	for _, size := range []uint{8, 512, 1024, 1536, 2040, 2047, 2049, 2056, 3071, 3073, 4095, 4097, 8192, 16384} {
		all["modulus of bits "+big.NewInt(int64(size)).String()] = info(seq(number(modulus(size)), e))
	}
	return all
}

// badStrings are SubjectPublicKeyInfos of keys that are byte strings.
func badStrings(t testing.TB) map[string][]byte {
	key := unhex(t, "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1") // RFC 8410, section 10.1
	two := append([]byte{2}, make([]byte, 31)...)
	kem, dsa := make([]byte, 800), make([]byte, 1312)
	big := bytes.Repeat([]byte{0xff}, 800)
	return map[string][]byte{
		"Ed25519 with NULL":        seq(seq(ed25519OID, null), bits(key)),
		"Ed25519 with its curve":   seq(seq(ed25519OID, ed25519OID), bits(key)),
		"Ed25519 as a curve":       seq(seq(ecPublicKey, ed25519OID), bits(key)),
		"Ed25519 in octets":        seq(seq(ed25519OID), bits(octets(key))),
		"Ed25519 as octets":        seq(seq(ed25519OID), octets(key)),
		"Ed25519 short":            seq(seq(ed25519OID), bits(key[:31])),
		"Ed25519 long":             seq(seq(ed25519OID), bits(key, []byte{0})),
		"Ed25519 with unused bits": seq(seq(ed25519OID), value(3, []byte{1}, key)),
		"Ed25519 off the curve":    seq(seq(ed25519OID), bits(two)),
		"Ed25519 of all ones":      seq(seq(ed25519OID), bits(bytes.Repeat([]byte{0xff}, 32))),
		"X25519":                   seq(seq(oid(1, 3, 101, 110)), bits(key)),
		"Ed448":                    seq(seq(oid(1, 3, 101, 113)), bits(key)),
		"Ed25519, old identifier":  seq(seq(oid(1, 3, 6, 1, 4, 1, 11591, 15, 1)), bits(key)),
		"ML-KEM with NULL":         seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 4, 1), null), bits(kem)),
		"ML-KEM in octets":         seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 4, 1)), bits(octets(kem))),
		"ML-KEM of another size":   seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 4, 2)), bits(kem)),
		"ML-KEM beyond q":          seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 4, 1)), bits(big)),
		"no ML-KEM":                seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 4, 4)), bits(kem)),
		"ML-DSA with NULL":         seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 3, 17), null), bits(dsa)),
		"ML-DSA of another size":   seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 3, 18)), bits(dsa)),
		"HashML-DSA":               seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 3, 32)), bits(dsa)),
		"SLH-DSA":                  seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 3, 20)), bits(key)),
	}
}

func badInfos(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for kind, some := range map[string]map[string][]byte{"point": badPoints(), "shape": badShapes(), "RSA": badModuli(), "string": badStrings(t)} {
		for name, bad := range some {
			all[kind+": "+name] = bad
		}
	}
	return all
}

func TestOtherPublicKeysAreRefused(t *testing.T) {
	t.Parallel()
	for name, spki := range badInfos(t) {
		if p, err := der.ParsePublic(spki); !errors.Is(err, der.ErrPublicKey) || p != nil {
			t.Errorf("%s: ParsePublic(%x) = %+v, %v, want nothing and %v", name, spki, p, err, der.ErrPublicKey)
		}
	}
}

// TestRefusalsAreForTheirReason: the makers of bad keys make good ones if nothing
// is wrong with what they are given.
func TestRefusalsAreForTheirReason(t *testing.T) {
	t.Parallel()
	n := append([]byte{0}, bytes.Repeat([]byte{0xff}, 256)...)
	for spec, spki := range map[keyspec.Spec][]byte{
		keyspec.ECCNISTP256:         seq(seq(ecPublicKey, prime256v1), bits(basePoint())),
		keyspec.ECCSECGP256K1:       seq(seq(ecPublicKey, secp256k1), bits(base256k1())),
		keyspec.RSA2048:             seq(seq(rsaEncryption, null), bits(seq(rawInteger(n...), rawInteger(1, 0, 1)))),
		keyspec.ECCNISTEdwards25519: seq(seq(ed25519OID), bits(append([]byte{3}, make([]byte, 31)...))),
		keyspec.MLKEM512:            seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 4, 1)), bits(make([]byte, 800))),
		keyspec.MLDSA44:             seq(seq(oid(2, 16, 840, 1, 101, 3, 4, 3, 17)), bits(make([]byte, 1312))),
	} {
		if p, err := der.ParsePublic(spki); err != nil || p.Spec != spec {
			t.Errorf("ParsePublic of %s = %+v, %v", spec, p, err)
		}
	}
}

// TestEncodeWritesNothingInvalid is for what no encoding stands for.
func TestEncodeWritesNothingInvalid(t *testing.T) {
	t.Parallel()
	n, e := bytes.Repeat([]byte{0xff}, 256), []byte{1, 0, 1}
	for name, p := range map[string]der.Public{
		"nothing":             {},
		"symmetric":           {Spec: keyspec.SymmetricDefault, N: n, E: e, Point: basePoint(), Raw: make([]byte, 32)},
		"SM2":                 {Spec: keyspec.SM2, Point: basePoint()},
		"RSA without a spec":  {N: n, E: e},
		"RSA of another size": {Spec: keyspec.RSA3072, N: n, E: e},
		"RSA without n":       {Spec: keyspec.RSA2048, E: e},
		"RSA without e":       {Spec: keyspec.RSA2048, N: n},
		"RSA with a zero":     {Spec: keyspec.RSA2048, N: append([]byte{0}, n...), E: e},
		"RSA, e with a zero":  {Spec: keyspec.RSA2048, N: n, E: append([]byte{0}, e...)},
		"RSA of 2047 bits":    {Spec: keyspec.RSA2048, N: append([]byte{0x7f}, n[1:]...), E: e},
		"RSA as EC":           {Spec: keyspec.ECCNISTP256, N: n, E: e},
		"EC in Raw":           {Spec: keyspec.ECCNISTP256, Raw: basePoint()},
		"EC in octets":        {Spec: keyspec.ECCNISTP256, Point: octets(basePoint())},
		"Ed25519 in Point":    {Spec: keyspec.ECCNISTEdwards25519, Point: make([]byte, 32)},
	} {
		if got, err := p.Encode(); !errors.Is(err, der.ErrPublicKey) || got != nil {
			t.Errorf("%s: Encode = %x, %v, want nothing and %v", name, got, err, der.ErrPublicKey)
		}
	}
	if got := slices.Sorted(maps.Keys(badInfos(t))); len(got) < 100 {
		t.Errorf("%d bad keys, want all of the tables", len(got))
	}
}
