package pqtoken

import (
	"crypto/sha3"
	"math/bits"
)

// Polynomials of FIPS 204, plainly: nothing here is secret.

const (
	modulus     = 8380417 // q
	droppedBits = 13      // d
)

// poly is a polynomial's coefficients, or their NTT, modulo q and not negative
// unless a function says otherwise.
type poly [256]int32

// times is a product modulo q of what may be negative.
func times(a, b int32) int32 {
	return int32((int64(a)*int64(b)%modulus + modulus) % modulus)
}

// zetas are the powers of the root of unity, by their exponent with its eight
// bits reversed (FIPS 204, appendix B).
var zetas = func() (z [256]int32) {
	power := int32(1)
	for i := range z {
		z[bits.Reverse8(uint8(i))] = power
		power = times(power, 1753)
	}
	return z
}()

// ntt is Algorithm 41; coefficients may be negative before it.
func (p *poly) ntt() {
	m := 0
	for length := 128; length >= 1; length /= 2 {
		for start := 0; start < 256; start += 2 * length {
			m++
			z := zetas[m]
			for j := start; j < start+length; j++ {
				t := times(z, p[j+length])
				p[j], p[j+length] = times(p[j]+t, 1), times(p[j]-t, 1)
			}
		}
	}
}

// inverseNTT is Algorithm 42.
func (p *poly) inverseNTT() {
	m := 256
	for length := 1; length < 256; length *= 2 {
		for start := 0; start < 256; start += 2 * length {
			m--
			z := zetas[m]
			for j := start; j < start+length; j++ {
				t := p[j]
				p[j], p[j+length] = times(t+p[j+length], 1), times(p[j+length]-t, z)
			}
		}
	}
	for j := range p {
		p[j] = times(p[j], 8347681) // 256^-1
	}
}

// addProduct adds the product of two NTTs.
func (p *poly) addProduct(a, b *poly) {
	for j := range p {
		p[j] = times(p[j]+times(a[j], b[j]), 1)
	}
}

// subtractProduct subtracts the product of two NTTs.
func (p *poly) subtractProduct(a, b *poly) {
	for j := range p {
		p[j] = times(p[j]-times(a[j], b[j]), 1)
	}
}

// packedBytes is the length of a polynomial whose coefficients have so many bits.
func packedBytes(width int) int { return 256 * width / 8 }

// pack writes coefficients of so many bits (Algorithm 16).
func (p *poly) pack(width int) []byte {
	out := make([]byte, packedBytes(width))
	for i := range 256 * width {
		out[i/8] |= byte(p[i/width]>>(i%width)&1) << (i % 8)
	}
	return out
}

// unpack reads what pack writes (Algorithm 18).
func (p *poly) unpack(in []byte, width int) {
	*p = poly{}
	for i := range 256 * width {
		p[i/width] |= int32(in[i/8]>>(i%8)&1) << (i % width)
	}
}

// sampleUniform is a polynomial of the public matrix, an NTT (Algorithms 30 and 32).
func sampleUniform(rho []byte, column, row byte) (p poly) {
	stream := sha3.NewSHAKE128()
	write(stream, rho, []byte{column, row})
	var b [3]byte
	for j := 0; j < len(p); {
		read(stream, b[:])
		if v := int32(b[0]) | int32(b[1])<<8 | int32(b[2]&0x7F)<<16; v < modulus {
			p[j] = v
			j++
		}
	}
	return p
}

// sampleInBall is the challenge's polynomial: tau of its coefficients are 1 or -1
// (Algorithm 29).
func sampleInBall(challenge []byte, tau int) (p poly) {
	stream := sha3.NewSHAKE256()
	write(stream, challenge)
	var signs [8]byte
	read(stream, signs[:])
	for i := 256 - tau; i < 256; i++ {
		var b [1]byte
		for read(stream, b[:]); int(b[0]) > i; read(stream, b[:]) {
		}
		sign := i + tau - 256
		p[i] = p[b[0]]
		p[b[0]] = 1 - 2*int32(signs[sign/8]>>(sign%8)&1)
	}
	return p
}

// write and read cannot fail on a SHAKE.
func write(s *sha3.SHAKE, parts ...[]byte) {
	for _, b := range parts {
		_, _ = s.Write(b)
	}
}

func read(s *sha3.SHAKE, b []byte) { _, _ = s.Read(b) }
