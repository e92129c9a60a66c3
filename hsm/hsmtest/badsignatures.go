package hsmtest

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// signatureFlips is how many bits of a signature are flipped, one at a time.
const signatureFlips = 64

// badSignatures offers signatures that are not valid, for a message that good is
// the signature of. All are refused alike.
func (s *suite) badSignatures(t T, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, good []byte) {
	verify := func(message, signature []byte) error {
		return s.Token.Verify(s.ctx, client, k, a, as, message, signature)
	}
	if verify(message, good) != nil {
		return // it was said already, or the token lacks it
	}
	texts := map[string]bool{}
	bad := func(what string, message, signature []byte) {
		err := verify(message, signature)
		refused(t, "Verify of a signature: "+what, nil, err, hsm.ErrInvalidSignature)
		if err != nil {
			texts[err.Error()] = true
		}
	}
	flipped := bytes.Clone(good)
	someFlips(flipped, signatureFlips, func(bit int) { bad(fmt.Sprintf("bit %d flipped", bit), message, flipped) })
	other := bytes.Clone(message)
	someFlips(other, 8, func(bit int) { bad(fmt.Sprintf("bit %d of the message flipped", bit), other, good) })
	for name, signature := range malformed(good) {
		bad(name, message, signature)
	}
	if forge, ok := forgeries[familyOf(k.Spec)]; ok {
		for name, signature := range forge(k, good) {
			bad(name, message, signature)
		}
	}
	if len(texts) > 1 {
		t.Errorf("Verify tells bad signatures apart: %q", texts)
	}
	if err := verify(message, good); err != nil {
		t.Errorf("Verify of the good signature afterwards = %v", err)
	}
}

// malformed are signatures that are none by their form.
func malformed(good []byte) map[string][]byte {
	return map[string][]byte{
		"nothing": nil, "empty": {}, "one byte": {0}, "cut": good[:len(good)-1], "headless": good[1:], "doubled": slices.Concat(good, good),
		"longer": append(bytes.Clone(good), 0), "led by a zero": append([]byte{0}, good...), "zeros": make([]byte, len(good)),
		"ones": bytes.Repeat([]byte{0xff}, len(good)), "huge": make([]byte, 6144), "reversed": reversed(good),
	}
}

func reversed(b []byte) []byte {
	r := bytes.Clone(b)
	slices.Reverse(r)
	return r
}

// family is a set of key specs whose signatures look alike.
type family string

const (
	familyRSA     family = "RSA"
	familyECDSA   family = "ECDSA"
	familyEd25519 family = "Ed25519"
)

func familyOf(spec keyspec.Spec) family {
	if spec == keyspec.ECCNISTEdwards25519 {
		return familyEd25519
	}
	if _, ok := curveOrders[spec]; ok {
		return familyECDSA
	}
	if _, ok := modulusBytes[spec]; ok {
		return familyRSA
	}
	return ""
}

// forgeries are signatures that lax verifiers take.
var forgeries = map[family]func(k *hsm.Key, good []byte) map[string][]byte{
	familyRSA: forgedRSA, familyECDSA: forgedECDSA, familyEd25519: forgedEd25519,
}

// forgedRSA are numbers that are no signatures, and a good one that is out of range
// (RFC 8017, section 5.2.2).
func forgedRSA(k *hsm.Key, good []byte) map[string][]byte {
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil {
		return map[string][]byte{} // generating it has said so
	}
	modulus, signature := new(big.Int).SetBytes(public.N), new(big.Int).SetBytes(good)
	forged := map[string][]byte{}
	for name, n := range map[string]*big.Int{
		"1": big.NewInt(1), "the modulus": modulus, "the modulus less 1": new(big.Int).Sub(modulus, big.NewInt(1)),
		"the signature plus the modulus": new(big.Int).Add(signature, modulus),
		"the modulus less the signature": new(big.Int).Sub(modulus, signature),
	} {
		if n.BitLen() <= 8*len(good) {
			forged[name] = n.FillBytes(make([]byte, len(good)))
		}
	}
	return forged
}

// curveOrders are the orders of the base points; that of secp256k1 is from SEC 2,
// section 2.4.1.
var curveOrders = map[keyspec.Spec]*big.Int{
	keyspec.ECCNISTP256: elliptic.P256().Params().N, keyspec.ECCNISTP384: elliptic.P384().Params().N, keyspec.ECCNISTP521: elliptic.P521().Params().N,
	keyspec.ECCSECGP256K1: number("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"),
}

// forgedECDSA are signatures with r and s out of range, and good ones that are not
// in DER (X.690, section 10).
func forgedECDSA(k *hsm.Key, good []byte) map[string][]byte {
	var n struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(good, &n); err != nil || len(rest) > 0 {
		return map[string][]byte{} // verifying it outside has said so
	}
	order := curveOrders[k.Spec]
	forged := map[string][]byte{}
	zero, one := new(big.Int), big.NewInt(1)
	less, twice := new(big.Int).Sub(order, one), new(big.Int).Lsh(order, 1)
	values := map[string]*big.Int{
		"0": zero, "1": one, "-1": big.NewInt(-1), "n": order, "n-1": less, "n+1": new(big.Int).Add(order, one), "2n": twice,
		"2^1024": new(big.Int).Lsh(one, 1024),
	}
	for name, v := range values {
		forged["r is "+name] = sequence(v, n.S)
		forged["s is "+name] = sequence(n.R, v)
		forged["r and s are "+name] = sequence(v, v)
	}
	for name, by := range map[string]*big.Int{"n": order, "2n": twice, "-n": new(big.Int).Neg(order)} {
		forged["r plus "+name] = sequence(new(big.Int).Add(n.R, by), n.S)
		forged["s plus "+name] = sequence(n.R, new(big.Int).Add(n.S, by))
	}
	forged["r negated"] = sequence(new(big.Int).Neg(n.R), n.S)
	forged["s negated"] = sequence(n.R, new(big.Int).Neg(n.S))
	forged["r and s exchanged"] = sequence(n.S, n.R)
	size := (order.BitLen() + 7) / 8
	forged["not in DER but r and s alone"] = append(n.R.FillBytes(make([]byte, size)), n.S.FillBytes(make([]byte, size))...)
	for name, ber := range inBER(n.R, n.S) {
		forged["not in DER: "+name] = ber
	}
	return forged
}

func number(hex string) *big.Int {
	n, ok := new(big.Int).SetString(hex, 16)
	if !ok {
		panic("hsmtest: bad constant")
	}
	return n
}

// sequence is a SEQUENCE of INTEGERs.
func sequence(numbers ...*big.Int) []byte {
	b, err := asn1.Marshal(numbers)
	if err != nil {
		panic("hsmtest: INTEGERs that cannot be encoded")
	}
	return b
}

// value is an encoded value: tag, length and content, the length in its shortest
// form plus so many bytes.
func value(tag byte, more int, contents ...[]byte) []byte {
	content := slices.Concat(contents...)
	n := len(content)
	if more == 0 && n < 0x80 {
		return append([]byte{tag, byte(n)}, content...)
	}
	length := big.NewInt(int64(n)).Bytes()
	if n >= 0x80 || more > 1 {
		length = append(make([]byte, more), length...)
	}
	return slices.Concat([]byte{tag, 0x80 | byte(len(length))}, length, content)
}

// inBER are encodings of r and s that say the same, and are not the one of DER.
func inBER(r, s *big.Int) map[string][]byte {
	const tagInteger, tagOctets, tagNull, tagSequence, tagSet = 0x02, 0x04, 0x05, 0x30, 0x31
	integer := func(n *big.Int) []byte {
		b, err := asn1.Marshal(n)
		if err != nil {
			panic("hsmtest: an INTEGER that cannot be encoded")
		}
		return b
	}
	encodedR, encodedS := integer(r), integer(s)
	contentR := encodedR[2:]
	return map[string][]byte{
		"a SET":                      value(tagSet, 0, encodedR, encodedS),
		"a longer length":            value(tagSequence, 1, encodedR, encodedS),
		"a much longer length":       value(tagSequence, 3, encodedR, encodedS),
		"an indefinite length":       slices.Concat([]byte{tagSequence, 0x80}, encodedR, encodedS, []byte{0, 0}),
		"a longer length of r":       value(tagSequence, 0, value(tagInteger, 1, contentR), encodedS),
		"a longer r":                 value(tagSequence, 0, value(tagInteger, 0, []byte{0}, contentR), encodedS),
		"a much longer s":            value(tagSequence, 0, encodedR, value(tagInteger, 0, []byte{0, 0, 0}, encodedS[2:])),
		"octets for r":               value(tagSequence, 0, value(tagOctets, 0, contentR), encodedS),
		"nothing for r":              value(tagSequence, 0, value(tagInteger, 0), encodedS),
		"something behind s":         value(tagSequence, 0, encodedR, encodedS, []byte{tagNull, 0}),
		"something behind the end":   append(value(tagSequence, 0, encodedR, encodedS), tagNull, 0),
		"zeros behind the end":       append(value(tagSequence, 0, encodedR, encodedS), 0, 0),
		"r alone":                    value(tagSequence, 0, encodedR),
		"r, s and s":                 value(tagSequence, 0, encodedR, encodedS, encodedS),
		"a sequence in a sequence":   value(tagSequence, 0, value(tagSequence, 0, encodedR, encodedS)),
		"an empty sequence":          value(tagSequence, 0),
		"a length beyond the end":    append([]byte{tagSequence, byte(len(encodedR)+len(encodedS)) + 1}, slices.Concat(encodedR, encodedS)...),
		"a length of four gigabytes": slices.Concat([]byte{tagSequence, 0x84, 0xff, 0xff, 0xff, 0xff}, encodedR, encodedS),
	}
}

// edwardsOrder is the order of the base point (RFC 8032, section 5.1).
const edwardsOrder = "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed"

// forgedEd25519 are signatures with S out of range, and with R exchanged for points
// that have no business there (RFC 8032, section 5.1.7).
func forgedEd25519(_ *hsm.Key, good []byte) map[string][]byte {
	r, s := good[:32], new(big.Int).SetBytes(reversed(good[32:]))
	withS := func(s *big.Int) []byte { return append(bytes.Clone(r), reversed(s.FillBytes(make([]byte, 32)))...) }
	order := number(edwardsOrder)
	identity := append([]byte{1}, make([]byte, 31)...)
	return map[string][]byte{
		"S plus the order":         withS(new(big.Int).Add(s, order)),
		"S plus twice the order":   withS(new(big.Int).Add(s, new(big.Int).Lsh(order, 1))),
		"S is 0":                   withS(new(big.Int)),
		"S is the order":           withS(order),
		"S from the order":         withS(new(big.Int).Sub(order, s)),
		"R is the identity":        append(bytes.Clone(identity), good[32:]...),
		"R the identity, S 0":      append(bytes.Clone(identity), make([]byte, 32)...),
		"R is not canonical":       slices.Concat(bytes.Repeat([]byte{0xff}, 31), []byte{0x7f}, good[32:]),
		"R and S exchanged":        slices.Concat(good[32:], r),
		"the sign of R is another": append(append(bytes.Clone(good[:31]), good[31]^0x80), good[32:]...),
	}
}

// otherAlgorithms verifies a good signature as one of each other algorithm of the
// key.
func (s *suite) otherAlgorithms(t T, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, good []byte) {
	row, _ := keyspec.Lookup(k.Spec)
	for _, other := range row.Algorithms[k.Usage] {
		otherRow, _ := keyspec.LookupAlgorithm(other)
		size, fits := otherRow.Messages[as]
		if other == a || !fits || (size != 0 && size != len(message)) {
			continue
		}
		err := s.Token.Verify(s.ctx, client, k, other, as, message, good)
		refused(t, fmt.Sprintf("Verify of a signature of %s as one of %s", a, other), nil, err, hsm.ErrInvalidSignature, hsm.ErrUnsupported)
	}
}
