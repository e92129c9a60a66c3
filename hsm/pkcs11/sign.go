package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha512"
	"errors"
	"fmt"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// signatureOf is one message to be signed or verified.
type signatureOf struct {
	signing
	spec    keyspec.Spec
	row     keyspec.AlgorithmRow
	message []byte // or its digest, where the algorithm has a hash
	input   []byte // what the mechanism is given
}

func newSignature(spec keyspec.Spec, a keyspec.Algorithm, as keyspec.MessageType, message []byte) (*signatureOf, error) {
	row, _ := keyspec.LookupAlgorithm(a)
	sig := &signatureOf{signing: signings[a], spec: spec, row: row}
	var err error
	if sig.message, err = messageFor(row, as, message); err != nil {
		return nil, err
	}
	if as == keyspec.ExternalMu {
		sig.kind = sig.mu
	}
	sig.input = sig.message
	if sig.prepare != nil {
		sig.input, err = sig.prepare(row.Hash, sig.message)
	}
	return sig, err
}

// messageFor checks a message and hashes it, where the algorithm has a hash.
func messageFor(row keyspec.AlgorithmRow, as keyspec.MessageType, message []byte) ([]byte, error) {
	want, ok := row.Messages[as]
	if !ok || (want != 0 && len(message) != want) || len(message) > keyspec.MaxMessageBytes {
		return nil, fmt.Errorf("%w: %s of %d bytes for %s", hsm.ErrUnsupported, as, len(message), row.Algorithm)
	}
	if as != keyspec.Raw || row.Hash == 0 {
		return message, nil
	}
	h := row.Hash.New()
	h.Write(message)
	return h.Sum(nil), nil
}

// Sign signs with a private key. See [hsm.Token].
func (e *Engine) Sign(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error) {
	if _, err := e.findings.way(k, keyspec.SignVerify, a, secretPart, as); err != nil {
		return nil, err
	}
	sig, err := newSignature(k.Spec, a, as, message)
	if err != nil {
		return nil, err
	}
	w := work{mechanism: "sign", in: [3][]byte{sig.input, sig.message}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		signature, err := s.sign(key, sig, in[0])
		if err != nil {
			return nil, err
		}
		return signature, sig.provesSignature(&s.entry.key, in[1], signature)
	}}
	return e.do(ctx, on, k, &w)
}

// sign signs input, and returns the signature in AWS's form.
func (s *session) sign(key handle, sig *signatureOf, input []byte) ([]byte, error) {
	out := make([]byte, signatureBytes(sig.spec))
	n, err := s.engine.module.lib.sign(s.handle, key, sig.mechanism(sig.row.Hash), input, out)
	if err != nil {
		return nil, err
	}
	if sig.encode == nil {
		if err := exactly("C_Sign", out, n, len(out)); err != nil {
			return nil, err
		}
	}
	encoded, err := sig.sentForm(out[:n])
	if err != nil {
		return nil, fmt.Errorf("C_Sign: what the token has signed: %w", err)
	}
	return encoded, nil
}

// Verify verifies with a public key. See [hsm.Token].
func (e *Engine) Verify(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
	way, err := e.findings.way(k, keyspec.SignVerify, a, publicPart, as)
	if err != nil {
		return err
	}
	sig, err := newSignature(k.Spec, a, as, message)
	if err != nil {
		return err
	}
	raw, err := sig.rawForm(signature)
	if err != nil {
		return err
	}
	w := work{mechanism: "verify", part: publicPart, in: [3][]byte{sig.input, raw, sig.message}}
	w.run = func(s *session, key handle, in [3][]byte) ([]byte, error) {
		if way == InToken {
			return nil, s.verifyInside(key, sig, in)
		}
		return nil, s.verifyOutside(sig, in)
	}
	_, err = e.do(ctx, on, k, &w)
	return err
}

// verifyInside verifies in the token. in are the input, the token's form and the
// message of sig, or copies. Where the token says no in words that are those of
// a token in trouble too, the standard library is asked who is at fault, if it
// knows such keys.
func (s *session) verifyInside(key handle, sig *signatureOf, in [3][]byte) error {
	refused := s.verifyOnce(key, sig, in[0], in[1])
	if !undecided(refused) {
		return refused
	}
	switch err := s.verifyOutside(sig, in); {
	case err == nil:
		return s.verifyOnce(key, sig, in[0], in[1])
	case errors.Is(err, hsm.ErrInvalidSignature):
		return err
	}
	return s.verifyAgain(key, sig, in[0], in[1])
}

// verifyOutside verifies with Go's standard library. in is as for verifyInside.
func (s *session) verifyOutside(sig *signatureOf, in [3][]byte) error {
	public, err := publicOf(&s.entry.key)
	if err != nil {
		return err
	}
	signature, err := sig.sentForm(in[1])
	if err != nil {
		return hsm.ErrInvalidSignature
	}
	return sig.verifyHere(public, in[2], signature)
}

// rawForm is the token's form of a signature that was sent. ErrInvalidSignature
// for what cannot be one, so that no token is asked to judge it.
func (sig *signatureOf) rawForm(signature []byte) ([]byte, error) {
	if sig.decode != nil {
		raw, err := sig.decode(sig.spec, signature)
		if err != nil {
			return nil, hsm.ErrInvalidSignature
		}
		return raw, nil
	}
	if len(signature) != signatureBytes(sig.spec) {
		return nil, hsm.ErrInvalidSignature
	}
	return signature, nil
}

// sentForm is AWS's form of a signature in the token's.
func (sig *signatureOf) sentForm(raw []byte) ([]byte, error) {
	if sig.encode == nil {
		return raw, nil
	}
	return sig.encode(sig.spec, raw)
}

// possible tells whether a token is asked about a signature in its form.
func (sig *signatureOf) possible(raw []byte) bool {
	sent, err := sig.sentForm(raw)
	if err == nil {
		_, err = sig.rawForm(sent)
	}
	return err == nil
}

// verify verifies a signature in the token's form.
func (s *session) verify(key handle, sig *signatureOf, input, raw []byte) error {
	err := s.verifyOnce(key, sig, input, raw)
	if undecided(err) {
		err = s.verifyAgain(key, sig, input, raw)
	}
	return err
}

// verifyAgain takes a token at its word that has refused a signature once. NSS has
// no code for a well-formed signature of something else, and returns what an
// earlier failure has left: a token that says no twice has said no, if its session
// works.
func (s *session) verifyAgain(key handle, sig *signatureOf, input, raw []byte) error {
	err := s.verifyOnce(key, sig, input, raw)
	if call, ok := errors.AsType[*callError](err); ok && undecided(err) {
		return s.judge(err, []returnCode{call.code}, hsm.ErrInvalidSignature)
	}
	return err
}

func (s *session) verifyOnce(key handle, sig *signatureOf, input, raw []byte) error {
	err := s.engine.module.lib.verify(s.handle, key, sig.mechanism(sig.row.Hash), input, raw)
	if err != nil {
		return s.judge(err, s.engine.findings.badSignature, hsm.ErrInvalidSignature)
	}
	return nil
}

// undecided tells whether an error may be about the data that was given or about
// the token.
func undecided(err error) bool {
	c := classOf(err, true)
	return c == classDevice || c == classUnsupported
}

// verifyHere verifies a signature in AWS's form with Go's standard library.
// message is that of sig, or a copy.
func (sig *signatureOf) verifyHere(public *der.Public, message, signature []byte) error {
	known, ok := public.Go()
	if !ok {
		return fmt.Errorf("%w: signatures of %s", hsm.ErrUnsupported, sig.spec)
	}
	valid := false
	switch key := known.(type) {
	case *rsa.PublicKey:
		if sig.kind == mechRSAPSS {
			valid = rsa.VerifyPSS(key, sig.row.Hash, message, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		} else {
			valid = rsa.VerifyPKCS1v15(key, sig.row.Hash, message, signature) == nil
		}
	case *ecdsa.PublicKey:
		valid = ecdsa.VerifyASN1(key, message, signature)
	case ed25519.PublicKey:
		valid = verifyEd25519(key, sig.row.Algorithm, message, signature)
	}
	if !valid {
		return hsm.ErrInvalidSignature
	}
	return nil
}

// verifyEd25519 verifies Ed25519, or Ed25519ph of the message that AWS hashes.
func verifyEd25519(key ed25519.PublicKey, a keyspec.Algorithm, message, signature []byte) bool {
	if a != keyspec.Ed25519PHSHA512 {
		return ed25519.Verify(key, message, signature)
	}
	digest := sha512.Sum512(message)
	return ed25519.VerifyWithOptions(key, digest[:], signature, &ed25519.Options{Hash: crypto.SHA512}) == nil
}

// proveSigner has a private key sign, and verifies that with the row's public key.
func (s *session) proveSigner(t *keyType, key handle, k *hsm.Key) error {
	a, as, err := s.engine.findings.anySigning(k.Spec)
	if err != nil {
		return err
	}
	message := checkInput(k)
	if n := signingMessageBytes(a, as); n != 0 {
		message = append(message, make([]byte, n)...)[:n]
	}
	sig, err := newSignature(k.Spec, a, as, message)
	if err != nil {
		return err
	}
	signature, err := s.sign(key, sig, sig.input)
	if err != nil {
		return err
	}
	return wrongUnless(s.verifyWith(t, k, sig, signature), hsm.ErrInvalidSignature)
}

// signingMessageBytes is the length that messages must have; zero for any.
func signingMessageBytes(a keyspec.Algorithm, as keyspec.MessageType) int {
	row, _ := keyspec.LookupAlgorithm(a)
	return row.Messages[as]
}

// verifyWith verifies a signature with the public key of k, in the token where
// the standard library cannot.
func (s *session) verifyWith(t *keyType, k *hsm.Key, sig *signatureOf, signature []byte) (err error) {
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	if _, ok := public.Go(); ok {
		return sig.verifyHere(public, sig.message, signature)
	}
	raw, err := sig.rawForm(signature)
	if err != nil {
		return err
	}
	key, err := s.engine.module.lib.create(s.handle, s.publicTemplate(t, public))
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	return s.verify(key, sig, sig.input, raw)
}

// wrongUnless is ErrWrongMaterial where a key has not proved itself.
func wrongUnless(err, failure error) error {
	if err == failure {
		return hsm.ErrWrongMaterial
	}
	return err
}
