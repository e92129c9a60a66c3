package hsmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha3"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// messageTypes are all of them, in AWS's order.
var messageTypes = []keyspec.MessageType{keyspec.Raw, keyspec.Digest, keyspec.ExternalMu}

// messageSizes are tried where a message may be of any size.
var messageSizes = []int{1, 2, 31, 32, 33, 64, 111, 112, 4095, keyspec.MaxMessageBytes}

// signatures signs with one algorithm, verifies in the token and outside, and
// offers what must not verify.
func (s *suite) signatures(t T, of kind, a keyspec.Algorithm) {
	k, ok := s.key(t, of)
	if !ok {
		return
	}
	row, _ := keyspec.LookupAlgorithm(a)
	works := keyspec.MessageType("")
	for _, as := range messageTypes {
		size, ok := row.Messages[as]
		if !ok {
			got, err := s.Token.Sign(s.ctx, client, k, a, as, pattern(64))
			refused(t, fmt.Sprintf("Sign of %s", as), got, err, hsm.ErrUnsupported)
			continue
		}
		sizes := messageSizes
		if size != 0 {
			sizes = []int{size}
		}
		if s.signSizes(t, k, a, as, sizes) && works == "" {
			works = as
		}
	}
	if works == "" {
		return
	}
	s.otherSizes(t, k, a, row)
	s.sameMessage(t, k, a, row)
	message := pattern(max(row.Messages[works], 1))
	good := s.sign(t, k, a, works, message)
	if good == nil {
		return
	}
	s.badSignatures(t, k, a, works, message, good)
	s.otherAlgorithms(t, k, a, works, message, good)
}

// sign signs, and says what the token lacks; the result is then nil.
func (s *suite) sign(t T, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) []byte {
	signature, err := s.Token.Sign(s.ctx, client, k, a, as, message)
	if lacks(t, fmt.Sprintf("Sign, %s", as), err) {
		return nil
	}
	return signature
}

// signSizes signs and verifies messages of some sizes. It is false if the token
// lacks that.
func (s *suite) signSizes(t T, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, sizes []int) bool {
	for _, size := range sizes {
		message := pattern(size)
		signature := s.sign(t, k, a, as, message)
		if signature == nil {
			return false
		}
		err := s.Token.Verify(s.ctx, client, k, a, as, message, signature)
		if errors.Is(err, hsm.ErrUnsupported) {
			t.Lacking("Verify, %s: %s", as, reason(err))
		} else if err != nil {
			t.Errorf("Verify(Sign(%s, %s, %d bytes)) = %v", a, as, size, err)
		}
		if err := s.verifyOutside(k, a, as, message, signature); err != nil {
			t.Errorf("Sign(%s, %s, %d bytes) does not verify outside: %v", a, as, size, err)
		}
		if string(message) != string(pattern(size)) {
			t.Errorf("Sign changed its input")
		}
	}
	return true
}

// otherSizes signs and verifies messages that are longer than any may be, and
// digests that are not of the hash's length.
func (s *suite) otherSizes(t T, k *hsm.Key, a keyspec.Algorithm, row keyspec.AlgorithmRow) {
	for as, want := range row.Messages {
		sizes := []int{keyspec.MaxMessageBytes + 1}
		if want != 0 {
			sizes = []int{0, 1, want - 1, want + 1, 2 * want, keyspec.MaxMessageBytes}
		}
		for _, size := range sizes {
			what := fmt.Sprintf("of %s with %d bytes", as, size)
			got, err := s.Token.Sign(s.ctx, client, k, a, as, pattern(size))
			refused(t, "Sign "+what, got, err, hsm.ErrUnsupported)
			err = s.Token.Verify(s.ctx, client, k, a, as, pattern(size), pattern(64))
			refused(t, "Verify "+what, nil, err, hsm.ErrUnsupported)
		}
	}
}

// sameMessage verifies signatures of a message as those of its digest or
// representative, and the other way round.
func (s *suite) sameMessage(t T, k *hsm.Key, a keyspec.Algorithm, row keyspec.AlgorithmRow) {
	message := pattern(200)
	if _, raw := row.Messages[keyspec.Raw]; !raw {
		return
	}
	for as, shorten := range map[keyspec.MessageType]func(*hsm.Key, keyspec.AlgorithmRow, []byte) []byte{
		keyspec.Digest: digestOf, keyspec.ExternalMu: representativeOf,
	} {
		if _, ok := row.Messages[as]; !ok {
			continue
		}
		short := shorten(k, row, message)
		ofMessage, errMessage := s.Token.Sign(s.ctx, client, k, a, keyspec.Raw, message)
		ofShort, errShort := s.Token.Sign(s.ctx, client, k, a, as, short)
		if errMessage != nil || errShort != nil {
			continue // it was said before
		}
		if err := s.Token.Verify(s.ctx, client, k, a, as, short, ofMessage); err != nil {
			t.Errorf("Verify of a message's signature with its %s = %v", as, err)
		}
		if err := s.Token.Verify(s.ctx, client, k, a, keyspec.Raw, message, ofShort); err != nil {
			t.Errorf("Verify of the signature of a %s with its message = %v", as, err)
		}
		// It is not hashed again, and a message is not taken for one.
		err := s.Token.Verify(s.ctx, client, k, a, keyspec.Raw, short, ofShort)
		refused(t, fmt.Sprintf("Verify of the signature of a %s as that of a message", as), nil, err, hsm.ErrInvalidSignature)
	}
}

func digestOf(_ *hsm.Key, row keyspec.AlgorithmRow, message []byte) []byte {
	h := row.Hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// representativeOf is mu of a message, with an empty context (FIPS 204, Algorithms 2
// and 7).
func representativeOf(k *hsm.Key, _ keyspec.AlgorithmRow, message []byte) []byte {
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil {
		return nil // generating it has said so
	}
	return sha3.SumSHAKE256(slices.Concat(sha3.SumSHAKE256(public.Raw, 64), []byte{0, 0}, message), 64)
}

// verifyOutside verifies a signature without the token, as far as that can be done
// here.
func (s *suite) verifyOutside(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
	public, err := der.ParsePublic(k.PublicKey)
	if err != nil {
		return err
	}
	row, _ := keyspec.LookupAlgorithm(a)
	digest := message
	if as == keyspec.Raw && row.Hash != 0 {
		digest = digestOf(k, row, message)
	}
	known, _ := public.Go()
	switch key := known.(type) {
	case *rsa.PublicKey:
		return verifyRSA(key, a, row.Hash, digest, signature)
	case *ecdsa.PublicKey:
		return validIf(ecdsa.VerifyASN1(key, digest, signature))
	case ed25519.PublicKey:
		return verifyEd25519(key, a, message, signature)
	}
	if k.Spec == keyspec.ECCSECGP256K1 {
		return validIf(verifySecp256k1(public.Point, digest, signature))
	}
	if s.VerifyOutside != nil {
		return s.VerifyOutside(k.PublicKey, as, message, signature)
	}
	return nil
}

func validIf(valid bool) error {
	if !valid {
		return hsm.ErrInvalidSignature
	}
	return nil
}

func verifyRSA(key *rsa.PublicKey, a keyspec.Algorithm, h crypto.Hash, digest, signature []byte) error {
	if strings.HasPrefix(string(a), "RSASSA_PSS") {
		return rsa.VerifyPSS(key, h, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	return rsa.VerifyPKCS1v15(key, h, digest, signature)
}

// verifyEd25519 verifies Ed25519, or Ed25519ph, whose message AWS hashes once more.
func verifyEd25519(key ed25519.PublicKey, a keyspec.Algorithm, message, signature []byte) error {
	if a != keyspec.Ed25519PHSHA512 {
		return validIf(ed25519.Verify(key, message, signature))
	}
	h := crypto.SHA512.New()
	h.Write(message)
	return ed25519.VerifyWithOptions(key, h.Sum(nil), signature, &ed25519.Options{Hash: crypto.SHA512})
}
