package hsmtest

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// inputs are what operations on a key are given. For an honest key they are such
// that each operation succeeds.
type inputs struct {
	algorithms map[keyspec.Usage]keyspec.Algorithm
	as         keyspec.MessageType
	message    []byte
	signature  []byte // of the message
	mac        []byte // of the message
	ciphertext hsm.Ciphertext
	sealed     []byte // by OAEP
	peer       []byte
	capsule    []byte
}

// operation is one of hsm.Token's that take a key.
type operation struct {
	name string
	// fits tells whether it is for keys of a kind.
	fits func(kind) bool
	do   func(s *suite, k *hsm.Key, in *inputs) ([]byte, error)
}

func onlySymmetric(k kind) bool { return k == symmetric }

func pairsFor(usage keyspec.Usage) func(kind) bool {
	return func(k kind) bool { return k.usage == usage && k.isPair() }
}

func isMAC(k kind) bool { return k.usage == keyspec.GenerateVerifyMAC }

// operations are all of them; those that need the secret or private key come first.
var operations = []operation{
	{"Encrypt", onlySymmetric, func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		c, err := s.Token.Encrypt(s.ctx, client, k, in.message, nil)
		return c.Data, err
	}},
	{"Decrypt", onlySymmetric, func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.Decrypt(s.ctx, client, k, in.ciphertext, nil)
	}},
	{"DecryptAsymmetric", pairsFor(keyspec.EncryptDecrypt), func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.DecryptAsymmetric(s.ctx, client, k, in.algorithms[keyspec.EncryptDecrypt], in.sealed)
	}},
	{"Sign", pairsFor(keyspec.SignVerify), func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.Sign(s.ctx, client, k, in.algorithms[keyspec.SignVerify], in.as, in.message)
	}},
	{"GenerateMAC", isMAC, func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.GenerateMAC(s.ctx, client, k, in.algorithms[keyspec.GenerateVerifyMAC], in.message)
	}},
	{"VerifyMAC", isMAC, func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return nil, s.Token.VerifyMAC(s.ctx, client, k, in.algorithms[keyspec.GenerateVerifyMAC], in.message, in.mac)
	}},
	{"DeriveSecret", pairsFor(keyspec.KeyAgreement), func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.DeriveSecret(s.ctx, client, k, in.peer)
	}},
	{"Decapsulate", pairsFor(keyspec.EncapsulateDecapsulate), func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.Decapsulate(s.ctx, client, k, in.capsule)
	}},
	{"EncryptAsymmetric", pairsFor(keyspec.EncryptDecrypt), func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return s.Token.EncryptAsymmetric(s.ctx, client, k, in.algorithms[keyspec.EncryptDecrypt], in.message)
	}},
	{"Verify", pairsFor(keyspec.SignVerify), func(s *suite, k *hsm.Key, in *inputs) ([]byte, error) {
		return nil, s.Token.Verify(s.ctx, client, k, in.algorithms[keyspec.SignVerify], in.as, in.message, in.signature)
	}},
	{"Encapsulate", pairsFor(keyspec.EncapsulateDecapsulate), func(s *suite, k *hsm.Key, _ *inputs) ([]byte, error) {
		secret, _, err := s.Token.Encapsulate(s.ctx, client, k)
		return secret, err
	}},
	{"PublicKey", kind.isPair, func(s *suite, k *hsm.Key, _ *inputs) ([]byte, error) {
		return s.Token.PublicKey(s.ctx, client, k)
	}},
}

// operationsOf are those for keys of a kind.
func operationsOf(k kind) []operation {
	return slices.DeleteFunc(slices.Clone(operations), func(o operation) bool { return !o.fits(k) })
}

// plausible are inputs that no operation refuses for their form.
func plausible(t T, of kind) *inputs {
	ours, err := ecdh.P256().GenerateKey(rand.Reader)
	if curve, ok := curves[of.spec]; ok {
		ours, err = curve.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatalf("generate a key outside: %v", err)
	}
	in := &inputs{
		algorithms: map[keyspec.Usage]keyspec.Algorithm{
			keyspec.EncryptDecrypt: keyspec.RSAESOAEPSHA1, keyspec.SignVerify: keyspec.RSASSAPSSSHA256, keyspec.GenerateVerifyMAC: keyspec.HMACSHA256,
		},
		as: keyspec.Raw, message: pattern(32), signature: pattern(256), mac: pattern(32), peer: encodePeer(t, ours.PublicKey()), capsule: pattern(1088),
		ciphertext: hsm.Ciphertext{IV: pattern(12), Data: pattern(32)}, sealed: pattern(256),
	}
	if row, _ := keyspec.Lookup(of.spec); of != symmetric {
		for usage, algorithms := range row.Algorithms {
			in.algorithms[usage] = algorithms[0]
		}
	}
	if n, ok := capsuleBytes[of.spec]; ok {
		in.capsule = pattern(n)
	}
	if n, ok := modulusBytes[of.spec]; ok {
		in.sealed = pattern(n)
	}
	return in
}

// inputsOf are inputs for a key and the first algorithm that the token does with
// it. If there is none it says so, and ok is false.
func (s *suite) inputsOf(t T, k *hsm.Key) (in *inputs, ok bool) {
	of := kind{k.Spec, k.Usage}
	in = plausible(t, of)
	row, _ := keyspec.Lookup(k.Spec)
	var err error
	for _, a := range row.Algorithms[k.Usage] {
		in.algorithms[k.Usage] = a
		algorithm, _ := keyspec.LookupAlgorithm(a)
		for _, in.as = range messageTypesOf(algorithm) {
			in.message = pattern(max(algorithm.Messages[in.as], 32))
			if err = s.fill(k, in); err == nil {
				return in, true
			}
			if !errors.Is(err, hsm.ErrUnsupported) {
				t.Fatalf("%s with %s: %v", of, a, err)
			}
		}
	}
	t.Lacking("%s: %s", of, reason(err))
	return nil, false
}

// messageTypesOf are those of an algorithm; one that stands for none if it has none.
func messageTypesOf(row keyspec.AlgorithmRow) []keyspec.MessageType {
	if len(row.Messages) == 0 {
		return []keyspec.MessageType{""}
	}
	return slices.DeleteFunc(slices.Clone(messageTypes), func(as keyspec.MessageType) bool {
		_, ok := row.Messages[as]
		return !ok
	})
}

// fill makes the inputs that the token itself makes.
func (s *suite) fill(k *hsm.Key, in *inputs) (err error) {
	switch of := (kind{k.Spec, k.Usage}); {
	case of == symmetric:
		in.ciphertext, err = s.Token.Encrypt(s.ctx, client, k, in.message, nil)
	case of.usage == keyspec.EncryptDecrypt:
		in.sealed, err = s.Token.EncryptAsymmetric(s.ctx, client, k, in.algorithms[of.usage], in.message)
	case of.usage == keyspec.SignVerify:
		in.signature, err = s.Token.Sign(s.ctx, client, k, in.algorithms[of.usage], in.as, in.message)
	case of.usage == keyspec.GenerateVerifyMAC:
		in.mac, err = s.Token.GenerateMAC(s.ctx, client, k, in.algorithms[of.usage], in.message)
	case of.usage == keyspec.EncapsulateDecapsulate:
		_, in.capsule, err = s.Token.Encapsulate(s.ctx, client, k)
	case of.usage == keyspec.KeyAgreement:
		_, err = s.Token.DeriveSecret(s.ctx, client, k, in.peer)
	}
	return err
}

// works uses a key in every way that needs no input of its own.
func (s *suite) works(t T, k *hsm.Key, in *inputs) {
	o := operationsOf(kind{k.Spec, k.Usage})[0]
	own := *in
	if err := s.fill(k, &own); err != nil {
		t.Errorf("the honest key does not work: %v", err)
		return
	}
	if _, err := o.do(s, k, &own); err != nil {
		t.Errorf("%s with the honest key = %v", o.name, err)
	}
}

// wrongUse does with a key what keys of other kinds are for, and uses it with
// algorithms that are not its own.
func (s *suite) wrongUse(t T, of kind) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	in := plausible(t, of)
	for _, o := range operations {
		if !o.fits(of) {
			got, err := o.do(s, k, in)
			refused(t, fmt.Sprintf("%s with a key of %s", o.name, of), got, err, hsm.ErrUnsupported)
		}
	}
	row, _ := keyspec.Lookup(of.spec)
	for _, a := range keyspec.Algorithms {
		if a.Usage != of.usage || slices.Contains(row.Algorithms[of.usage], a.Algorithm) {
			continue
		}
		in.algorithms[of.usage] = a.Algorithm
		for _, in.as = range messageTypesOf(a) {
			in.message = pattern(max(a.Messages[in.as], 32))
			for _, o := range operationsOf(of) {
				if slices.Contains(takeAlgorithm, o.name) {
					got, err := o.do(s, k, in)
					refused(t, fmt.Sprintf("%s with %s, %s, and a key of %s", o.name, a.Algorithm, in.as, of), got, err, hsm.ErrUnsupported)
				}
			}
		}
	}
}

// takeAlgorithm are the operations that are told which algorithm to use.
var takeAlgorithm = []string{"EncryptAsymmetric", "DecryptAsymmetric", "Sign", "Verify", "GenerateMAC", "VerifyMAC"}
