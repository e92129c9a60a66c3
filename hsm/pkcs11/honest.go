package pkcs11

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
)

// A module that returns CKR_OK may still lie: about a length, or in the bytes.
// What can be noticed at a price that is right is noticed here. An error of
// these functions is of the class device.

// exactly refuses an output that is shorter or longer than it must be, which it
// clears.
func exactly(function string, out []byte, n, want int) error {
	if n == want {
		return nil
	}
	clear(out)
	return fmt.Errorf("%s: the token returned %d bytes, where there are %d", function, n, want)
}

// errNotTheSame: the token says one thing and then another.
var errNotTheSame = errors.New("the token gives two answers to the same question")

// agreed compares what the token makes with what it should be. Where they differ
// it makes it once more, so that no damage on the way is taken for a verdict:
// false without an error means that the token has said no twice.
func agreed(make func() ([]byte, error), want []byte) (bool, error) {
	first, err := make()
	defer clear(first)
	if err != nil || subtle.ConstantTimeCompare(first, want) == 1 {
		return err == nil, err
	}
	second, err := make()
	defer clear(second)
	if err == nil && subtle.ConstantTimeCompare(first, second) != 1 {
		err = errNotTheSame
	}
	return false, err
}

// provesBlob unwraps what has just been wrapped and bound, and compares its check
// value: a key whose blob does not open is never acknowledged.
func (s *session) provesBlob(k *hsm.Key) error {
	key, err := s.admitKey(k, 0)
	if err == nil {
		s.destroyAfter(key, &err)
	}
	switch {
	case errors.Is(err, hsm.ErrWrongMaterial) || errors.Is(err, hsm.ErrBinding):
		return fmt.Errorf("what the token has wrapped does not open: %v", err) //nolint:errorlint // it is not what the caller gave
	default:
		return err
	}
}

// provesSignature verifies an RSA signature before it is handed out: one that was
// made wrong gives the private key away (Boneh, DeMillo and Lipton, 1997), and to
// look costs a thirtieth of making it. Of other keys a wrong signature is only
// of no use to whoever gets it.
func (sig *signatureOf) provesSignature(k *hsm.Key, message, signature []byte) error {
	if _, isRSA := modulusBytes[k.Spec]; !isRSA {
		return nil
	}
	public, err := der.ParsePublic(k.PublicKey)
	if err == nil {
		err = sig.verifyHere(public, message, signature)
	}
	if errors.Is(err, hsm.ErrInvalidSignature) {
		return errors.New("C_Sign: the token returned a signature that is not valid")
	}
	return err
}
