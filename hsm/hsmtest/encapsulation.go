package hsmtest

import (
	"bytes"
	"crypto/mlkem"
	"fmt"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// capsuleBytes are the lengths of encapsulations (FIPS 203, table 3); secrets have
// 32 bytes.
var capsuleBytes = map[keyspec.Spec]int{keyspec.MLKEM512: 768, keyspec.MLKEM768: 1088, keyspec.MLKEM1024: 1568}

// encapsulators are those of the standard library, which lacks ML-KEM-512.
var encapsulators = map[keyspec.Spec]func(public []byte) (secret, capsule []byte, err error){
	keyspec.MLKEM768: func(public []byte) (secret, capsule []byte, err error) {
		key, err := mlkem.NewEncapsulationKey768(public)
		if err != nil {
			return nil, nil, err
		}
		secret, capsule = key.Encapsulate()
		return secret, capsule, nil
	},
	keyspec.MLKEM1024: func(public []byte) (secret, capsule []byte, err error) {
		key, err := mlkem.NewEncapsulationKey1024(public)
		if err != nil {
			return nil, nil, err
		}
		secret, capsule = key.Encapsulate()
		return secret, capsule, nil
	},
}

// encapsulation makes secrets in the token and outside, recovers them, and offers
// encapsulations that were changed.
func (s *suite) encapsulation(t T, of kind, _ keyspec.Algorithm) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	seen := map[string]bool{}
	for range 8 {
		secret, capsule, err := s.Token.Encapsulate(s.ctx, client, k)
		if lacks(t, "Encapsulate", err) {
			return
		}
		if len(secret) != 32 || len(capsule) != capsuleBytes[of.spec] || seen[string(secret)] {
			t.Errorf("Encapsulate = %d and %d bytes, a secret made before: %t", len(secret), len(capsule), seen[string(secret)])
		}
		seen[string(secret)] = true
		s.recovers(t, k, secret, capsule, "inside")
	}
	if outside, ok := encapsulators[of.spec]; ok {
		public, err := der.ParsePublic(k.PublicKey)
		if err != nil {
			t.Fatalf("public key: %v", err)
		}
		secret, capsule, err := outside(public.Raw)
		if err != nil {
			t.Fatalf("encapsulate outside: %v", err)
		}
		s.recovers(t, k, secret, capsule, "outside")
	}
	s.badCapsules(t, k)
}

func (s *suite) recovers(t T, k *hsm.Key, secret, capsule []byte, where string) {
	got, err := s.Token.Decapsulate(s.ctx, client, k, capsule)
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Decapsulate of what was encapsulated %s = %d bytes, the secret: %t, %v", where, len(got), bytes.Equal(got, secret), err)
	}
}

// badCapsules: one that was changed gives another secret, always the same (implicit
// rejection, FIPS 203, section 6.3); one of another length gives none.
func (s *suite) badCapsules(t T, k *hsm.Key) {
	secret, capsule, err := s.Token.Encapsulate(s.ctx, client, k)
	if err != nil {
		t.Fatalf("Encapsulate = %v", err)
	}
	flipped := bytes.Clone(capsule)
	someFlips(flipped, ciphertextFlips, func(bit int) {
		got, err := s.Token.Decapsulate(s.ctx, client, k, flipped)
		again, errAgain := s.Token.Decapsulate(s.ctx, client, k, flipped)
		if err != nil || errAgain != nil || len(got) != 32 || bytes.Equal(got, secret) || !bytes.Equal(got, again) {
			t.Errorf("Decapsulate with bit %d flipped = %d bytes, %v, and then %d, %v; the secret: %t", bit, len(got), err, len(again), errAgain, bytes.Equal(got, secret))
		}
	})
	for _, n := range []int{0, 1, len(capsule) - 1} {
		got, err := s.Token.Decapsulate(s.ctx, client, k, capsule[:n])
		refused(t, fmt.Sprintf("Decapsulate of %d bytes", n), got, err, hsm.ErrInvalidCiphertext)
	}
	got, err := s.Token.Decapsulate(s.ctx, client, k, append(bytes.Clone(capsule), 0))
	refused(t, "Decapsulate of a longer encapsulation", got, err, hsm.ErrInvalidCiphertext)
	s.recovers(t, k, secret, capsule, "before the bad ones")
}
