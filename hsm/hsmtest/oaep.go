package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// modulusBytes are the lengths of RSA's moduli.
var modulusBytes = map[keyspec.Spec]int{keyspec.RSA2048: 256, keyspec.RSA3072: 384, keyspec.RSA4096: 512}

// ciphertextFlips is how many bits of a ciphertext are flipped, one at a time.
const ciphertextFlips = 64

// oaep encrypts in the token and outside, decrypts, and offers what must not open.
func (s *suite) oaep(t T, of kind, a keyspec.Algorithm) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	row, _ := keyspec.LookupAlgorithm(a)
	public := publicRSA(t, k)
	most := modulusBytes[of.spec] - 2*row.Hash.Size() - 2
	for _, size := range []int{1, 2, 32, most - 1, most} {
		plaintext := pattern(size)
		sealed, err := rsa.EncryptOAEP(row.Hash.New(), rand.Reader, public, plaintext, nil)
		if err != nil {
			t.Fatalf("encrypt %d bytes outside: %v", size, err)
		}
		got, err := s.Token.DecryptAsymmetric(s.ctx, client, k, a, sealed)
		if lacks(t, "DecryptAsymmetric", err) {
			return
		}
		if !bytes.Equal(got, plaintext) {
			t.Errorf("DecryptAsymmetric of %d bytes, encrypted outside = %x", size, got)
		}
		s.encryptInside(t, k, a, plaintext)
	}
	got, err := s.Token.EncryptAsymmetric(s.ctx, client, k, a, pattern(most+1))
	refused(t, fmt.Sprintf("EncryptAsymmetric of %d bytes", most+1), got, err, hsm.ErrUnsupported)
	s.badCiphertexts(t, k, a, row.Hash, public)
}

func publicRSA(t T, k *hsm.Key) *rsa.PublicKey {
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil {
		t.Fatalf("public key of %s: %v", k.Spec, err)
	}
	known, _ := public.Go()
	key, ok := known.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("the public key of %s is a %T", k.Spec, known)
	}
	return key
}

// encryptInside encrypts with the token, twice, and decrypts.
func (s *suite) encryptInside(t T, k *hsm.Key, a keyspec.Algorithm, plaintext []byte) {
	var sealed [2][]byte
	for i := range sealed {
		var err error
		sealed[i], err = s.Token.EncryptAsymmetric(s.ctx, client, k, a, plaintext)
		if lacks(t, "EncryptAsymmetric", err) {
			return
		}
		got, err := s.Token.DecryptAsymmetric(s.ctx, client, k, a, sealed[i])
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("DecryptAsymmetric(EncryptAsymmetric(%d bytes)) = %x, %v", len(plaintext), got, err)
		}
	}
	if len(sealed[0]) != modulusBytes[k.Spec] || bytes.Equal(sealed[0], sealed[1]) {
		t.Errorf("EncryptAsymmetric = %d bytes, the same a second time: %t", len(sealed[0]), bytes.Equal(sealed[0], sealed[1]))
	}
}

// badCiphertexts offers ciphertexts that must not open. All are refused alike,
// without a byte.
func (s *suite) badCiphertexts(t T, k *hsm.Key, a keyspec.Algorithm, h crypto.Hash, public *rsa.PublicKey) {
	good, err := rsa.EncryptOAEP(h.New(), rand.Reader, public, []byte("secret"), nil)
	if err != nil {
		t.Fatalf("encrypt outside: %v", err)
	}
	texts := map[string]bool{}
	bad := func(what string, ciphertext []byte) {
		got, err := s.Token.DecryptAsymmetric(s.ctx, client, k, a, ciphertext)
		refused(t, "DecryptAsymmetric of a ciphertext: "+what, got, err, hsm.ErrInvalidCiphertext)
		if err != nil {
			texts[err.Error()] = true
		}
	}
	flipped := bytes.Clone(good)
	someFlips(flipped, ciphertextFlips, func(bit int) { bad(fmt.Sprintf("bit %d flipped", bit), flipped) })
	for name, ciphertext := range malformed(good) {
		bad(name, ciphertext)
	}
	for name, block := range blocks(h, public.Size()) {
		bad(name, raised(public, block))
	}
	modulus := public.N
	for name, n := range map[string]*big.Int{
		"the modulus": modulus, "the modulus less 1": new(big.Int).Sub(modulus, big.NewInt(1)), "1": big.NewInt(1),
		"the ciphertext plus the modulus": new(big.Int).Add(new(big.Int).SetBytes(good), modulus),
	} {
		if n.BitLen() <= 8*public.Size() {
			bad(name, n.FillBytes(make([]byte, public.Size())))
		}
	}
	otherHash := map[crypto.Hash]crypto.Hash{crypto.SHA1: crypto.SHA256, crypto.SHA256: crypto.SHA1}[h]
	for name, c := range map[string]struct {
		hash  crypto.Hash
		label string
	}{"another hash": {otherHash, ""}, "a label": {h, "label"}} {
		ciphertext, err := rsa.EncryptOAEP(c.hash.New(), rand.Reader, public, []byte("secret"), []byte(c.label))
		if err != nil {
			t.Fatalf("encrypt with %s outside: %v", name, err)
		}
		bad(name, ciphertext)
	}
	if len(texts) > 1 {
		t.Errorf("DecryptAsymmetric tells bad ciphertexts apart: %q", texts)
	}
	if got, err := s.Token.DecryptAsymmetric(s.ctx, client, k, a, good); err != nil || string(got) != "secret" {
		t.Errorf("DecryptAsymmetric of the good ciphertext afterwards = %q, %v", got, err)
	}
}

// raised is raw RSA with a public key.
func raised(public *rsa.PublicKey, block []byte) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(block), big.NewInt(int64(public.E)), public.N)
	return c.FillBytes(make([]byte, public.Size()))
}

// blocks are encoded messages that are not of OAEP, each with one thing wrong.
func blocks(h crypto.Hash, size int) map[string][]byte {
	n := h.Size()
	label := h.New().Sum(nil)
	padding := size - 2*n - 2 - len("secret")
	data := func(label []byte, padding []byte, rest string) []byte {
		return append(append(bytes.Clone(label), padding...), rest...)
	}
	zeros := make([]byte, padding)
	wrongLabel := bytes.Clone(label)
	wrongLabel[n-1] ^= 1
	spoilt := bytes.Clone(zeros)
	spoilt[0] = 2
	pkcs1 := append(append([]byte{0, 2}, bytes.Repeat([]byte{9}, size-9)...), "\x00secret"...)
	ones := bytes.Repeat([]byte{0xff}, size)
	ones[0] = 0
	return map[string][]byte{
		"the first byte is 1":           oaepBlock(h, 1, data(label, zeros, "\x01secret")),
		"the label's hash is another":   oaepBlock(h, 0, data(wrongLabel, zeros, "\x01secret")),
		"the padding is not of zeros":   oaepBlock(h, 0, data(label, spoilt, "\x01secret")),
		"a 2 ends the padding":          oaepBlock(h, 0, data(label, zeros, "\x02secret")),
		"nothing ends the padding":      oaepBlock(h, 0, data(label, make([]byte, size-2*n-1), "")),
		"everything is wrong":           oaepBlock(h, 7, data(wrongLabel, spoilt, "\x03secret")),
		"padded as in PKCS #1 v1.5":     pkcs1,
		"a block of zeros":              make([]byte, size),
		"a block of ones":               ones,
		"a block that is nothing but 1": append(make([]byte, size-1), 1),
	}
}

// oaepBlock is an encoded message (RFC 8017, section 7.1.1, step 2) of a data block
// that is given, with a seed of zeros.
func oaepBlock(h crypto.Hash, first byte, data []byte) []byte {
	n := h.Size()
	block := append(append([]byte{first}, make([]byte, n)...), data...)
	mask(h, block[1+n:], block[1:1+n])
	mask(h, block[1:1+n], block[1+n:])
	return block
}

// mask adds MGF1 of the seed to out (RFC 8017, appendix B.2.1).
func mask(h crypto.Hash, out, seed []byte) {
	for i := 0; i*h.Size() < len(out); i++ {
		hash := h.New()
		hash.Write(seed)
		hash.Write([]byte{0, 0, 0, byte(i)})
		part := out[i*h.Size():]
		for j, b := range hash.Sum(nil) {
			if j < len(part) {
				part[j] ^= b
			}
		}
	}
}
