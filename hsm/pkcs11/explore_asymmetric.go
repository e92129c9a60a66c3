package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/sha3"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// signatures tries every signing algorithm of the key's spec.
func (x *explorer) signatures(t *keyType, k *hsm.Key, key handle) error {
	row, _ := keyspec.Lookup(k.Spec)
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	var problem error
	works := 0
	for _, a := range row.Algorithms[keyspec.SignVerify] {
		algorithm, _ := keyspec.LookupAlgorithm(a)
		way := AlgorithmProfile{Spec: k.Spec, Algorithm: a, Private: Nowhere, Public: Nowhere}
		for _, as := range []keyspec.MessageType{keyspec.Raw, keyspec.Digest} { // EXTERNAL_MU has a mechanism of its own
			if _, ok := algorithm.Messages[as]; ok {
				way.Messages = append(way.Messages, as)
			}
		}
		err := x.sure(func() error { return x.signature(t, k, key, public, &way) })
		if err == nil && signings[a].mu != 0 {
			err = x.representatives(t, k, key, public, &way)
		}
		if broken(err) {
			return err
		}
		if err != nil {
			way.Private, way.Public, way.Messages, way.Problem = Nowhere, Nowhere, nil, problemOf(err)
			problem = err
		} else {
			works++
		}
		x.f.ways[wayID{k.Spec, a}] = way
	}
	if works == 0 {
		return problem
	}
	return nil
}

// signature signs once, and verifies in the token and outside.
func (x *explorer) signature(t *keyType, k *hsm.Key, key handle, public *der.Public, way *AlgorithmProfile) error {
	message := bytes.Repeat([]byte("k"), max(1, signingMessageBytes(way.Algorithm, way.Messages[0])))
	sig, err := newSignature(k.Spec, way.Algorithm, way.Messages[0], message)
	if err != nil {
		return err
	}
	signature, err := x.sign(key, sig, sig.input)
	if err != nil {
		return err
	}
	_, known := public.Go()
	if known {
		if err := sig.verifyHere(public, sig.message, signature); err != nil {
			return fmt.Errorf("%w: what the token signs as %s does not verify", hsm.ErrUnsupported, way.Algorithm)
		}
	}
	way.Private = InToken
	inside := x.verification(t, public, sig, signature)
	switch {
	case broken(inside):
		return inside
	case inside == nil:
		way.Public = InToken
	case known:
		way.Public, way.Problem = InLibrary, "verification: "+problemOf(inside)
	default:
		return inside
	}
	return nil
}

// representatives tries whether the token signs and verifies mu. Its mechanism is
// trusted only if the signature of mu is one of the message too: in another
// token the number may stand for something else. The error is only that of a
// token that does not answer.
func (x *explorer) representatives(t *keyType, k *hsm.Key, key handle, public *der.Public, way *AlgorithmProfile) error {
	message := []byte("k")
	ofMessage, err := newSignature(k.Spec, way.Algorithm, keyspec.Raw, message)
	if err != nil {
		return err
	}
	ofMu, err := newSignature(k.Spec, way.Algorithm, keyspec.ExternalMu, representative(public.Raw, message))
	if err != nil {
		return err
	}
	signature, err := x.sign(key, ofMu, ofMu.input)
	for _, sig := range []*signatureOf{ofMessage, ofMu} {
		if err == nil {
			err = x.verifyBoth(t, public, sig, signature)
		}
	}
	switch {
	case broken(err):
		return err
	case err != nil:
		way.Problem = "EXTERNAL_MU: " + problemOf(err)
	default:
		way.Messages = append(way.Messages, keyspec.ExternalMu)
	}
	return nil
}

// representative is mu of a message with an empty context (FIPS 204, Algorithms 2
// and 7).
func representative(publicKey, message []byte) []byte {
	h := sha3.NewSHAKE256()
	for _, part := range [][]byte{sha3.SumSHAKE256(publicKey, 64), {0, 0}, message} {
		_, _ = h.Write(part) // never fails
	}
	mu := make([]byte, 64)
	_, _ = h.Read(mu) // never fails
	return mu
}

// verification has the token verify a good signature and a bad one. The first
// public key on a curve also shows how points are written.
func (x *explorer) verification(t *keyType, public *der.Public, sig *signatureOf, signature []byte) error {
	err := x.verifyBoth(t, public, sig, signature)
	if err == nil || broken(err) || len(public.Point)+len(public.Raw) == 0 {
		return err
	}
	x.f.pointDER = !x.f.pointDER
	if again := x.verifyBoth(t, public, sig, signature); again != nil {
		x.f.pointDER = !x.f.pointDER
		return err
	}
	return nil
}

func (x *explorer) verifyBoth(t *keyType, public *der.Public, sig *signatureOf, signature []byte) (err error) {
	object, err := x.engine.module.lib.create(x.handle, x.publicTemplate(t, public))
	if err != nil {
		return err
	}
	defer x.destroyAfter(object, &err)
	raw, err := sig.rawForm(signature)
	if err != nil {
		return err
	}
	lib, m := x.engine.module.lib, sig.mechanism(sig.row.Hash)
	if err := lib.verify(x.handle, object, m, sig.input, raw); err != nil {
		return err
	}
	for _, bad := range damagedForms(raw) {
		if !sig.possible(bad) {
			continue // no token is asked
		}
		refused := lib.verify(x.handle, object, m, sig.input, bad)
		if refused == nil {
			return fmt.Errorf("%w: a signature that was changed is accepted", hsm.ErrUnsupported)
		}
		learn(&x.f.badSignature, refused)
	}
	return nil
}

// damagedForms are ways in which a signature or a ciphertext is not good, for
// which tokens may have codes of their own.
func damagedForms(good []byte) [][]byte {
	last, first, one := bytes.Clone(good), bytes.Clone(good), make([]byte, len(good))
	last[len(last)-1] ^= 1
	first[0] ^= 0x40
	one[len(one)-1] = 1
	return [][]byte{last, first, one, bytes.Repeat([]byte{0xff}, len(good))}
}

// encryption tries OAEP; AES-GCM was tried before.
func (x *explorer) encryption(t *keyType, k *hsm.Key, key handle) error {
	if k.Spec == keyspec.SymmetricDefault {
		a := keyspec.AlgorithmSymmetricDefault
		x.f.ways[wayID{k.Spec, a}] = AlgorithmProfile{Spec: k.Spec, Algorithm: a, Private: InToken}
		return nil
	}
	row, _ := keyspec.Lookup(k.Spec)
	var problem error
	works := 0
	for _, a := range row.Algorithms[keyspec.EncryptDecrypt] {
		way := AlgorithmProfile{Spec: k.Spec, Algorithm: a, Private: Nowhere, Public: Nowhere}
		err := x.sure(func() error { return x.oaep(t, k, key, &way) })
		if broken(err) {
			return err
		}
		if err != nil {
			way.Private, way.Public, way.Problem = Nowhere, Nowhere, problemOf(err)
			problem = err
		} else {
			works++
		}
		x.f.ways[wayID{k.Spec, a}] = way
	}
	if works == 0 {
		return problem
	}
	return nil
}

// oaep decrypts in the token, or has it do the raw step, and encrypts in the
// token or outside.
func (x *explorer) oaep(t *keyType, k *hsm.Key, key handle, way *AlgorithmProfile) error {
	row, _ := keyspec.LookupAlgorithm(way.Algorithm)
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	ciphertext, err := encryptHere(public, row.Hash, canary[:])
	if err != nil {
		return err
	}
	for _, way.Private = range []string{InToken, RawInToken} {
		got, err := x.oaepDecrypt(key, way.Private, row.Hash, ciphertext)
		if err == nil && bytes.Equal(got, canary[:]) {
			break
		}
		switch {
		case broken(err):
			return err
		case way.Private == RawInToken:
			return fmt.Errorf("%w: neither OAEP nor raw RSA: %s", hsm.ErrUnsupported, way.Problem)
		case err == nil:
			err = fmt.Errorf("%w: decrypts to something else", hsm.ErrUnsupported)
		}
		way.Problem = "decryption: " + problemOf(err)
	}
	if way.Private == InToken {
		for _, bad := range badCiphertexts(public, ciphertext) {
			_, err := x.engine.module.lib.decrypt(x.handle, key, oaep(row.Hash), bad, make([]byte, len(bad)))
			learn(&x.f.badOAEP, err)
		}
	}
	way.Public = InToken
	if err := x.oaepInside(t, k, key, way); broken(err) {
		return err
	} else if err != nil {
		way.Public = InLibrary
		if way.Problem == "" {
			way.Problem = "encryption: " + problemOf(err)
		}
	}
	return nil
}

// badCiphertexts are ciphertexts that fail in different steps of OAEP's decoding
// (RFC 8017, section 7.1.2): whatever the token says of each means the same.
func badCiphertexts(public *der.Public, good []byte) (bad [][]byte) {
	for _, c := range damagedForms(good) {
		if belowModulus(public, c) { // else no token is asked
			bad = append(bad, c)
		}
	}
	for _, block := range [][]byte{{0, 0}, {0, 0xff}, {0, 2, 0xff}} { // the first byte is right, the rest is not
		em := append(bytes.Clone(block), bytes.Repeat(block[len(block)-1:], len(good)-len(block))...)
		c := new(big.Int).Exp(new(big.Int).SetBytes(em), new(big.Int).SetBytes(public.E), new(big.Int).SetBytes(public.N))
		bad = append(bad, c.FillBytes(make([]byte, len(good))))
	}
	return bad
}

// oaepInside encrypts in the token, and decrypts as was found to work.
func (x *explorer) oaepInside(t *keyType, k *hsm.Key, key handle, way *AlgorithmProfile) (err error) {
	row, _ := keyspec.LookupAlgorithm(way.Algorithm)
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	object, err := x.engine.module.lib.create(x.handle, x.publicTemplate(t, public))
	if err != nil {
		return err
	}
	defer x.destroyAfter(object, &err)
	ciphertext, err := x.oaepEncrypt(object, k.Spec, row.Hash, canary[:])
	if err != nil {
		return err
	}
	got, err := x.oaepDecrypt(key, way.Private, row.Hash, ciphertext)
	if err == nil && !bytes.Equal(got, canary[:]) {
		err = errors.New("what the token encrypts decrypts to something else")
	}
	return err
}

// pairSpecs are the specs of data key pairs, in the order in which AWS prints them.
var pairSpecs = []keyspec.Spec{
	keyspec.RSA2048, keyspec.RSA3072, keyspec.RSA4096, keyspec.ECCNISTP256, keyspec.ECCNISTP384, keyspec.ECCNISTP521,
	keyspec.ECCSECGP256K1, keyspec.ECCNISTEdwards25519, keyspec.MLKEM512, keyspec.MLKEM768, keyspec.MLKEM1024,
}

// dataKeyPairs tries which private keys can be read.
func (x *explorer) dataKeyPairs() error {
	for _, spec := range pairSpecs {
		err := x.sure(func() error { return x.dataKeyPair(spec) })
		if broken(err) {
			return err
		}
		p := DataKeyPairProfile{Spec: spec, Works: err == nil}
		if err != nil {
			p.Problem = problemOf(err)
		}
		x.f.profile.DataKeyPairs = append(x.f.profile.DataKeyPairs, p)
	}
	return nil
}

func (x *explorer) dataKeyPair(spec keyspec.Spec) (err error) {
	if err := x.f.makes(spec, pairUsage[spec]); err != nil {
		return err
	}
	t := keyTypes[spec][pairUsage[spec]]
	if t.template.keyType != pkcs11.CKK_RSA {
		p, err := x.makeReadablePair(&t, spec)
		if err != nil {
			return err
		}
		defer p.Clear()
		return holdsTogether(p)
	}
	making := t.template
	making.may |= mayBeRead
	k := hsm.Key{KeyID: "explored", Spec: keyspec.RSA2048}
	key, err := x.importRSA(making, &k)
	if err != nil {
		return fmt.Errorf("%w: whether RSA keys can be read was not tried: %s", hsm.ErrUnsupported, problemOf(err))
	}
	defer x.destroyAfter(key, &err)
	public, err := publicOf(&k)
	if err != nil {
		return err
	}
	p := &der.Private{Public: *public}
	if err := x.readPrivate(key, pkcs11.CKK_RSA, p); err != nil {
		return err
	}
	return holdsTogether(p)
}

// errNotItsPrivate: what the token gives out is not the private key of the pair.
var errNotItsPrivate = fmt.Errorf("%w: the private key that is read is not that of the public key", hsm.ErrUnsupported)

// holdsTogether is nil if a private key that was read for a trial is that of its
// public key, as far as the standard library knows such keys.
func holdsTogether(p *der.Private) error {
	private, err := p.Encode()
	if err != nil {
		return err
	}
	defer clear(private)
	known, ok := p.Public.Go()
	if !ok {
		return nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return errNotItsPrivate
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return errNotItsPrivate
	}
	if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(known) {
		return errNotItsPrivate
	}
	return nil
}

// publishedKey is testRSA2048 of RFC 9500, section 2.1: a private key that
// everybody knows, and that protects nothing.
const publishedKey = `
MIIEowIBAAKCAQEAsPnoGUOnrpiSqt4XynxA+HRP7S+BSObI6qJ7fQAVSPtRkqsotWxQYLEYzNEx5ZSHTGypibVsJylvCfuToDTf
Mul8b/CZjP2Ob0LdpYrNH6l5hvFE89FU1nZQF15oVLOpUgA7wGiHuEVawrGfey92UE68mOyUVXGweJIVDdxqdMoPvNNUl86BU02v
lBiESxOuox+dWmuVV7vfYZ79Toh/LUK43YvJh+rhv4nKuF7iHjVjBd9sB6iDjj70HFldzOQ9r8SRI+9NirupPTkF5AKNe6kUhKJ1
luB7S27ZkvB3tSTT3P593VVJvnzOjaA1z6Cz+4+eRvcysqhrRgFlwI9TEwIDAQABAoIBAEEYiyDP29vCzx/+dS3LqnI5BjUuJhXU
nc6AWX/PCgVAO+8A+gZRgvct7PtZb0sM6P9ZcLrweomlGezIFrL0/6xQaa8bBr/ve/a8155OgcjFo6fZEw3Dz7ra5fbSiPmu4/b/
kvrg+Br1l77Jaun6uUAs1f5B9wW+vbR7tzbT/mxaUeDiBzKpe15GwcvbJtdIVMa2YErtRjc1/5B2BGVXyvlJv0SIlcIEMsHgnAFO
p1ZgQ08aDzvilLq8XVMOahAhP1O2A3X8hKdXPyrxIVWE9bS9ptTo+eF6eNl+d7htpKGEZHUxinoQpWEBTv+iOoHsVunkEJ3vjLP3
lyI/fY0NQ1ECgYEA3RBXAjgvIys2gfU3keImF8e/TprLge1I2vbWmV2j6rZCg5r/AS0upii5CvJ5/T5vfJPNgPBy8B/yRDs+6PJO
1GmnlhOkG9JAIPkv0RBZvR0PMBtbp6nTY3yo1lwamBVBfY6rc0sLTzosZh2aGoLzrHNMQFMGaauORzBFpY5lU50CgYEAzPHlu5DI
6Xgep1vr8QvCUuEesCOgJg8Yh1UqVoY/SmQh6MYAv1I9bLGwrb3WW/7kqIoDfj0aQV5buVZI2loMomtU9KY5SFIsPV+JuUpy7/+V
E01ZQM5FdY8wiYCQiVZYju9XWz5LxMNoz+gT7pwlLCsC4N+R8aoBk404aF1gum8CgYAJ7VTq7Zj4TFV7Soa/T1eEk9y8a+kdoYk3
BASpCHJ29M5R2KEA7YV9wrBklHTz8VzSTFTbKHEQ5W5csAhoL5FoqoHzFFi3Qx7MHESQb9qHyolHEMNx6QdsHUn7rlEnaTTyrXh3
ifQtD6C0yTmFXUISCW9wKApOrnyKJ9nI0HcuZQKBgQCMtoV6e9VGX4AEfpuHvAAnMYQFgeBiYTkBKltQXwozhH63uMMomUmtSG87
Sz1TmrXadjAhy8gsG6I0pWaN7QgBuFnzQ/HOkwTm+qKwAsrZt4zeXNwsH7QXHEJCFnCmqw9QzEoZTrNtHJHpNboBuVnYcoueZEJr
P8OnUG3rUjmopwKBgAqB2KYYMUqAOvYcBnEfLDmyZv9BTVNHbR2lKkMYqv5LlvDaBxVfilE02riO4p6BaAdvzXjKeRrGNEKoHNBp
OSfYCOM16NjL8hIZB1CaV3WbT5oY+jp7Mzd57d56RZOE+ERK2uz/7JX9VSsM/LbH9pJibd4e8mikDS9ntciqOH/3
`

func publishedRSA() (*der.Private, error) {
	text, err := base64.StdEncoding.DecodeString(publishedKey)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS1PrivateKey(text)
	if err != nil {
		return nil, err
	}
	return &der.Private{
		Public: der.Public{Spec: keyspec.RSA2048, N: k.N.Bytes(), E: big.NewInt(int64(k.E)).Bytes()},
		D:      k.D.Bytes(), P: k.Primes[0].Bytes(), Q: k.Primes[1].Bytes(),
		DP: k.Precomputed.Dp.Bytes(), DQ: k.Precomputed.Dq.Bytes(), QInv: k.Precomputed.Qinv.Bytes(),
	}, nil
}
