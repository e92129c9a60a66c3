package der

import (
	"bytes"
	"crypto/subtle"
)

// fitRSA tells whether the parts of an RSA private key belong together (RFC 8017,
// section 3.2). Tokens that use some of them do not notice what is wrong with the
// others. Of the numbers that it works out nothing is left.
func (p *Private) fitRSA() bool {
	if p.P[len(p.P)-1]&1 == 0 || p.Q[len(p.Q)-1]&1 == 0 {
		return false
	}
	p1, q1 := bytes.Clone(p.P), bytes.Clone(p.Q)
	p1[len(p1)-1] ^= 1
	q1[len(q1)-1] ^= 1
	defer clear(p1)
	defer clear(q1)
	one := []byte{1}
	return isProduct(p.N, p.P, p.Q) &&
		isRemainder(p.DP, p.D, one, p1) && isRemainder(p.DQ, p.D, one, q1) &&
		isRemainder(one, p.E, p.DP, p1) && isRemainder(one, p.E, p.DQ, q1) && isRemainder(one, p.QInv, p.Q, p.P)
}

// isProduct tells whether n = a·b.
func isProduct(n, a, b []byte) bool {
	product := multiply(a, b)
	defer clear(product)
	return sameNumber(n, product)
}

// isRemainder tells whether r is a·b modulo m.
func isRemainder(r, a, b, m []byte) bool {
	product := multiply(a, b)
	defer clear(product)
	rest := remainder(product, m)
	defer clear(rest)
	return sameNumber(r, rest)
}

// sameNumber compares with a number that may have leading zeros.
func sameNumber(a, padded []byte) bool {
	if len(a) > len(padded) {
		return false
	}
	head := len(padded) - len(a)
	return allZero(padded[:head]) && subtle.ConstantTimeCompare(a, padded[head:]) == 1
}

func allZero(b []byte) bool {
	var any byte
	for _, v := range b {
		any |= v
	}
	return any == 0
}

// multiply is a·b, in as many bytes as both have.
func multiply(a, b []byte) []byte {
	product := make([]byte, len(a)+len(b))
	for i := len(a) - 1; i >= 0; i-- {
		carry := 0
		for j := len(b) - 1; j >= 0; j-- {
			carry += int(a[i])*int(b[j]) + int(product[i+j+1])
			product[i+j+1] = byte(carry)
			carry >>= 8
		}
		product[i] = byte(carry)
	}
	return product
}

// remainder is a modulo m, with a byte more than m. Bit by bit, it takes as long for
// every number of a length.
func remainder(a, m []byte) []byte {
	rest, less := make([]byte, 1+len(m)), make([]byte, 1+len(m))
	defer clear(less)
	for i := range 8 * len(a) {
		carry := int(a[i/8]) >> (7 - i%8) & 1
		for j := len(rest) - 1; j >= 0; j-- {
			carry |= int(rest[j]) << 1
			rest[j] = byte(carry)
			carry >>= 8
		}
		borrow := 0
		for j := len(m) - 1; j >= 0; j-- {
			borrow += int(rest[j+1]) - int(m[j])
			less[j+1] = byte(borrow)
			borrow >>= 8
		}
		borrow += int(rest[0])
		less[0] = byte(borrow)
		subtle.ConstantTimeCopy(1+borrow>>8, rest, less) // borrow>>8 is -1 if m is more
	}
	return rest
}
