package pqtoken

import (
	"bytes"
	"crypto/sha3"

	"filippo.io/mldsa"
	"filippo.io/mldsa/mldsacrypto"
)

// Signatures of a message representative mu that the caller has made: the
// mechanism CKM_ML_DSA_EXTERNAL_MU that PKCS#11 has numbered for v3.3. circl does
// not sign one, so another library does, and none verifies one: that is the rest
// of Algorithm 8 of FIPS 204 here.

// muBytes is the length of a message representative.
const muBytes = 64

// signMu signs one with the key of a seed.
func signMu(p mldsa.Parameters, seed, mu []byte, hedged bool) ([]byte, error) {
	key, err := mldsa.NewPrivateKey(p, seed)
	if err != nil {
		return nil, err
	}
	if hedged {
		return key.Sign(nil, mu, mldsacrypto.MLDSAMu)
	}
	return key.SignDeterministic(mu, mldsacrypto.MLDSAMu)
}

// muRow is what the verification of a parameter set needs (FIPS 204, table 1).
type muRow struct {
	signer                 mldsa.Parameters
	k, l, tau, beta, omega int
	gamma1Bits             int // gamma1 is 2 to that
	gamma2                 int32
	challengeBytes         int
	highBits               int // of a coefficient's high part
}

// verifyMu tells whether a signature of the right length is that of mu under the
// public key.
func (p *muRow) verifyMu(publicKey, mu, signature []byte) bool {
	challenge := signature[:p.challengeBytes]
	z := make([]poly, p.l)
	zBytes := packedBytes(p.gamma1Bits + 1)
	gamma1 := int32(1) << p.gamma1Bits
	for i := range z {
		z[i].unpack(signature[p.challengeBytes+i*zBytes:], p.gamma1Bits+1)
		for j, v := range z[i] {
			if z[i][j] = gamma1 - v; max(z[i][j], -z[i][j]) >= gamma1-int32(p.beta) {
				return false
			}
		}
		z[i].ntt()
	}
	hints, ok := p.hints(signature[p.challengeBytes+p.l*zBytes:])
	if !ok {
		return false
	}
	c := sampleInBall(challenge, p.tau)
	c.ntt()
	again := sha3.NewSHAKE256()
	write(again, mu)
	const t1Bits, t1Bytes = 10, 320
	for r := range p.k {
		var t, w poly
		t.unpack(publicKey[32+r*t1Bytes:], t1Bits)
		for j := range t {
			t[j] <<= droppedBits
		}
		t.ntt()
		w.subtractProduct(&c, &t)
		for s := range p.l {
			a := sampleUniform(publicKey[:32], byte(s), byte(r))
			w.addProduct(&a, &z[s])
		}
		w.inverseNTT()
		for j := range w {
			w[j] = p.useHint(hints[r][j], w[j])
		}
		write(again, w.pack(p.highBits))
	}
	got := make([]byte, p.challengeBytes)
	read(again, got)
	return bytes.Equal(got, challenge)
}

// hints decodes the hint vector (Algorithm 21).
func (p *muRow) hints(encoded []byte) (hints [][256]bool, ok bool) {
	hints = make([][256]bool, p.k)
	index := 0
	for i := range p.k {
		end := int(encoded[p.omega+i])
		if end < index || end > p.omega {
			return nil, false
		}
		for first := index; index < end; index++ {
			if index > first && encoded[index-1] >= encoded[index] {
				return nil, false
			}
			hints[i][encoded[index]] = true
		}
	}
	return hints, len(bytes.Trim(encoded[index:p.omega], "\x00")) == 0
}

// useHint is the high part of a coefficient as the hint corrects it (Algorithms 36 and 40).
func (p *muRow) useHint(hint bool, r int32) int32 {
	high, low := r/(2*p.gamma2), r%(2*p.gamma2)
	if low > p.gamma2 {
		high, low = high+1, low-2*p.gamma2
	}
	m := (modulus - 1) / (2 * p.gamma2)
	if high == m { // r - low is q-1
		high, low = 0, low-1
	}
	switch {
	case !hint:
		return high
	case low > 0:
		return (high + 1) % m
	default:
		return (high - 1 + m) % m
	}
}
