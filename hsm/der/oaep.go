package der

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"encoding/binary"
)

// UnpadOAEP takes the message out of an encoded one of RSAES-OAEP (RFC 8017,
// section 7.1.2, step 3): empty label, MGF1 with the same hash. em has the
// length of the modulus and is cleared. Neither the time it takes nor
// [ErrOAEP] tells what is wrong with em.
func UnpadOAEP(h crypto.Hash, em []byte) ([]byte, error) {
	defer clear(em)
	if !h.Available() || len(em) < 2*h.Size()+2 {
		return nil, ErrOAEP
	}
	n := h.Size()
	seed, db := em[1:1+n], em[1+n:]
	maskMGF1(h, seed, db)
	maskMGF1(h, db, seed)
	label := h.New().Sum(nil) // of the empty label
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:n], label)
	// Behind the label's hash: zeros, a one, and the message.
	rest := db[n:]
	looking, index := 1, 0
	for i, b := range rest {
		zero, one := subtle.ConstantTimeByteEq(b, 0), subtle.ConstantTimeByteEq(b, 1)
		index = subtle.ConstantTimeSelect(looking&one, i, index)
		looking = subtle.ConstantTimeSelect(one, 0, looking)
		good = subtle.ConstantTimeSelect(looking&^zero, 0, good)
	}
	if good&^looking != 1 {
		return nil, ErrOAEP
	}
	return bytes.Clone(rest[index+1:]), nil
}

// maskMGF1 adds MGF1 of the seed to out (RFC 8017, appendix B.2.1).
func maskMGF1(h crypto.Hash, out, seed []byte) {
	var counter [4]byte
	var mask []byte
	hash := h.New()
	for i := uint32(0); len(out) > 0; i++ {
		binary.BigEndian.PutUint32(counter[:], i)
		hash.Reset()
		hash.Write(seed)
		hash.Write(counter[:])
		mask = hash.Sum(mask[:0])
		n := subtle.XORBytes(out, out, mask)
		out = out[n:]
	}
	clear(mask)
}
