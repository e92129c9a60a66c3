package der

import (
	"bytes"
	"crypto/ed25519"
	"encoding/asn1"

	"kmsgate/hsm/keyspec"
)

// tagParameters and tagPublicKey are the optional members of an ECPrivateKey, and
// tagAttributes and tagOuterKey those of a OneAsymmetricKey.
const (
	tagParameters = 0xA0
	tagPublicKey  = 0xA1
	tagAttributes = 0xA0
	tagOuterKey   = 0x81
)

// ParsePrivate reads a PrivateKeyInfo (RFC 5208) or a OneAsymmetricKey (RFC 5958),
// which may have its public key with it, of an RSA, EC or Ed25519 key, in DER or in
// BER, with nothing behind it. Attributes are not looked at. The key is of the spec,
// with a named curve, and is the caller's to clear; b, of at most 6144 bytes, is not
// changed. If an EC key comes without its public key, Point is nil. That a private key
// belongs to its public key is not certain for EC. [ErrPrivateKey] for everything else.
func ParsePrivate(spec keyspec.Spec, b []byte) (*Private, error) {
	text, ok := canonical(b)
	if !ok {
		return nil, ErrPrivateKey
	}
	defer clear(text)
	r := reader{rest: text}
	info := reader{rest: r.take(tagSequence)}
	version := info.take(tagInteger)
	algorithm := reader{rest: info.take(tagSequence)}
	key := info.take(tagOctetString)
	if info.next() == tagAttributes {
		info.take(tagAttributes)
	}
	var public []byte
	second := bytes.Equal(version, []byte{1}) // the version with a public key
	if second {
		public = info.outerKey()
	}
	if !second && !bytes.Equal(version, []byte{0}) || !r.ended() || !info.ended() || algorithm.bad {
		return nil, ErrPrivateKey
	}
	p := &Private{Public: Public{Spec: spec}}
	if !p.read(algorithm.rest, key) || public != nil && !p.hasPublic(public) {
		p.Clear()
		return nil, ErrPrivateKey
	}
	return p, nil
}

// outerKey is the public key of a OneAsymmetricKey, a BIT STRING, which may be in
// segments; nil if there is none.
func (r *reader) outerKey() []byte {
	switch r.next() {
	case tagOuterKey:
		return r.take(tagOuterKey)
	case tagOuterKey | constructedBit:
		inner := reader{rest: r.take(tagOuterKey | constructedBit)}
		segments := inner.values(1, true)
		r.bad = r.bad || inner.bad
		joined := reader{rest: r.joined(tagBitString, segments)}
		return joined.take(tagBitString)
	}
	return nil
}

// read reads the key, a value of its own, by what its algorithm must be for the spec.
func (p *Private) read(algorithm, value []byte) bool {
	key, ok := canonical(value)
	if !ok {
		return false
	}
	defer clear(key)
	if c, ok := curveOf(p.Spec); ok {
		return bytes.Equal(algorithm, algorithmOf(oidEC, oidDER(c.oid))) && p.readEC(c, key)
	}
	if p.Spec == keyspec.ECCNISTEdwards25519 {
		return bytes.Equal(algorithm, algorithmOf(oidEd25519, nil)) && p.readEdwards(key)
	}
	return bytes.Equal(algorithm, algorithmOf(oidRSA, []byte{5, 0})) && p.readRSA(key)
}

// hasPublic tells whether a BIT STRING is the key's public key. An EC key that came
// without one takes it.
func (p *Private) hasPublic(bits []byte) bool {
	if len(bits) < 1 || bits[0] != 0 {
		return false
	}
	key := bits[1:]
	if c, ok := curveOf(p.Spec); ok {
		point := c.uncompressed(key)
		if p.Point == nil {
			p.Point = point
		}
		return point != nil && bytes.Equal(point, p.Point)
	}
	if p.Spec == keyspec.ECCNISTEdwards25519 {
		return bytes.Equal(key, p.Raw)
	}
	rsa, ok := canonical(key)
	return ok && bytes.Equal(rsa, tlv(tagSequence, integer(p.N), integer(p.E)))
}

func algorithmOf(oid asn1.ObjectIdentifier, parameters []byte) []byte {
	return append(oidDER(oid), parameters...)
}

// readEC reads an ECPrivateKey (RFC 5915).
func (p *Private) readEC(c curve, key []byte) bool {
	outer := reader{rest: key}
	r := reader{rest: outer.take(tagSequence)}
	version, scalar := r.take(tagInteger), r.take(tagOctetString)
	if r.next() == tagParameters && !bytes.Equal(r.take(tagParameters), oidDER(c.oid)) {
		return false
	}
	if r.next() == tagPublicKey {
		inner := reader{rest: r.take(tagPublicKey)}
		bits := inner.take(tagBitString)
		if !inner.ended() || len(bits) < 1 || bits[0] != 0 {
			return false
		}
		if p.Point = c.uncompressed(bits[1:]); p.Point == nil {
			return false
		}
	}
	if !outer.ended() || !r.ended() || !bytes.Equal(version, []byte{1}) || len(scalar) != c.bytes || !c.isSecretScalar(scalar) {
		return false
	}
	p.D = bytes.Clone(scalar)
	return true
}

// readEdwards reads the seed of RFC 8410, section 7, and works out the public key.
func (p *Private) readEdwards(key []byte) bool {
	r := reader{rest: key}
	seed := r.take(tagOctetString)
	if !r.ended() || len(seed) != ed25519.SeedSize {
		return false
	}
	private := ed25519.NewKeyFromSeed(seed)
	defer clear(private)
	p.Seed, p.Raw = bytes.Clone(seed), bytes.Clone(private[ed25519.SeedSize:])
	return true
}

// readRSA reads an RSAPrivateKey of two primes (RFC 8017, appendix A.1.2).
func (p *Private) readRSA(key []byte) bool {
	outer := reader{rest: key}
	r := reader{rest: outer.take(tagSequence)}
	version := r.take(tagInteger)
	for _, into := range []*[]byte{&p.N, &p.E, &p.D, &p.P, &p.Q, &p.DP, &p.DQ, &p.QInv} {
		*into = bytes.Clone(r.number())
	}
	size := len(p.N)
	for _, n := range [][]byte{p.D, p.P, p.Q, p.DP, p.DQ, p.QInv} {
		r.bad = r.bad || len(n) == 0 || len(n) > size
	}
	// Half the modulus each, as all tokens want them.
	r.bad = r.bad || len(p.P) != size/2 || len(p.Q) != size/2
	return outer.ended() && r.ended() && bytes.Equal(version, []byte{0}) && p.isRSA() && p.fitRSA()
}

// reader reads DER values one behind the other. What is wrong anywhere is
// remembered; nothing is copied.
type reader struct {
	rest []byte
	bad  bool
}

// next is the tag of the next value; zero at the end.
func (r *reader) next() byte {
	if len(r.rest) == 0 {
		return 0
	}
	return r.rest[0]
}

// ended tells whether everything was read and right.
func (r *reader) ended() bool { return !r.bad && len(r.rest) == 0 }

// take is the content of the next value, which must have the tag and the shortest
// length that there is for it.
func (r *reader) take(tag byte) []byte {
	head, n := 2, 0
	if len(r.rest) >= head {
		n = int(r.rest[1])
	}
	if more := n - 0x80; more > 0 && more <= 2 && len(r.rest) >= head+more {
		n = 0
		for _, b := range r.rest[head : head+more] {
			n = n<<8 | int(b)
		}
		head += more
		r.bad = r.bad || n < 0x80 || more == 2 && n < 0x100
	} else if n >= 0x80 {
		r.bad = true
	}
	if r.bad || r.next() != tag || len(r.rest) < head+n {
		r.bad = true
		return nil
	}
	content := r.rest[head : head+n]
	r.rest = r.rest[head+n:]
	return content
}

// number is the next INTEGER, which must be positive, without leading zeros.
func (r *reader) number() []byte {
	n := r.take(tagInteger)
	zero := len(n) > 0 && n[0] == 0
	if len(n) == 0 || n[0] >= 0x80 || zero && (len(n) == 1 || n[1] < 0x80) {
		r.bad = true
		return nil
	}
	if zero {
		return n[1:]
	}
	return n
}
