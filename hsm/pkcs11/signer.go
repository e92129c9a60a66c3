package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// signer is a private key that is an object in the token and stays there.
type signer struct {
	engine *Engine
	id     []byte
	public crypto.PublicKey
	places chan struct{}                // taken by calls that work or wait for a session
	object atomic.Pointer[signerObject] // nil until it was found
}

// signerObject is where the key is; the handle is good for one epoch.
type signerObject struct {
	handle handle
	epoch  uint64
}

// signerPlaces is how many calls of one signer are let at the sessions at once.
// Whoever connects has a handshake signed before anybody knows who it is, and is not
// to fill the queue that clients wait in.
const signerPlaces = 64

// Signer returns the private key with this CKA_ID for use by Go's libraries, such as
// crypto/tls: ECDSA on P-256, P-384 or P-521 (DER), or RSA with PKCS #1 v1.5 or PSS,
// over digests of SHA-256, SHA-384 or SHA-512. Its calls go through the engine's
// sessions, deadlines and recovery, as those of a client do; it may be used by many
// goroutines, and until Close. Every signature is verified with the public key before
// it is given out, the first one here. ErrMissing if the token has no such key,
// ErrWrongMaterial if it is not that of the public key.
func (e *Engine) Signer(ctx context.Context, id []byte, public crypto.PublicKey) (crypto.Signer, error) {
	s := &signer{engine: e, id: slices.Clone(id), public: public, places: make(chan struct{}, signerPlaces)}
	opts := crypto.SignerOpts(crypto.SHA256)
	if _, ok := public.(*rsa.PublicKey); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256} // TLS 1.3 needs it
	}
	digest := sha256.Sum256([]byte("kmsgate: is this the key of that public key?"))
	if _, err := s.sign(ctx, digest[:], opts); err != nil {
		return nil, fmt.Errorf("key with CKA_ID %x: %w", id, err)
	}
	return s, nil
}

// Public is the public key that the signer was made for.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a digest. The random source is not used: the token has its own.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(context.Background(), digest, opts)
}

func (s *signer) sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	as, err := formOf(s.public, digest, opts)
	if err != nil {
		return nil, err
	}
	w := work{mechanism: "signer", in: [3][]byte{as.input}, run: func(session *session, _ handle, in [3][]byte) ([]byte, error) {
		return s.signOn(session, as, in[0])
	}}
	signature, err := s.do(ctx, &w)
	if err != nil {
		return nil, err
	}
	if as.encode != nil {
		if signature, err = as.encode(signature); err != nil {
			return nil, fmt.Errorf("%w: what the token has signed: %w", hsm.ErrUnavailable, err)
		}
	}
	if !as.verify(signature) {
		return nil, fmt.Errorf("%w: a signature does not verify with the public key", hsm.ErrWrongMaterial)
	}
	return signature, nil
}

// do runs the work as the engine does, once there is a place for it.
func (s *signer) do(ctx context.Context, w *work) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.engine.cfg.CallTimeout)
	defer cancel()
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: signatures wait: %w", hsm.ErrBusy, context.Cause(ctx))
	}
	return s.engine.do(ctx, hsm.Call{Class: hsm.Interactive}, nil, w)
}

// signOn signs on a session. Where the object is not what it was, it is looked up
// again, once.
func (s *signer) signOn(session *session, as signatureForm, in []byte) ([]byte, error) {
	key, err := s.find(session)
	if err != nil {
		return nil, err
	}
	out := make([]byte, as.size)
	n, err := session.engine.module.lib.sign(session.handle, key, as.mechanism, in, out)
	if classOf(err, true) == classObject {
		s.object.Store(nil)
		if key, err = s.find(session); err != nil {
			return nil, err
		}
		n, err = session.engine.module.lib.sign(session.handle, key, as.mechanism, in, out)
	}
	if err != nil {
		return nil, err
	}
	return out[:n], nil
}

// find returns the key's handle in the session's epoch.
func (s *signer) find(session *session) (handle, error) {
	if object := s.object.Load(); object != nil && object.epoch == session.epoch {
		return object.handle, nil
	}
	found, err := session.engine.module.find(session.handle, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_PRIVATE_KEY)), attribute(pkcs11.CKA_ID, s.id),
	})
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, fmt.Errorf("%w: no private key with the CKA_ID %x", hsm.ErrMissing, s.id)
	case len(found) > 1:
		return 0, fmt.Errorf("%w: several private keys have the CKA_ID %x", hsm.ErrUnavailable, s.id)
	}
	s.object.Store(&signerObject{found[0], session.epoch})
	return found[0], nil
}

// signatureForm is how one digest is signed.
type signatureForm struct {
	mechanism mechanism
	input     []byte
	size      int // bytes that the token returns
	// encode makes Go's form of the token's; nil where they are the same.
	encode func([]byte) ([]byte, error)
	verify func(signature []byte) bool
}

// signerHashes are the hashes that a signer takes.
var signerHashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func formOf(public crypto.PublicKey, digest []byte, opts crypto.SignerOpts) (signatureForm, error) {
	hash := opts.HashFunc()
	if !slices.Contains(signerHashes, hash) || len(digest) != hash.Size() {
		return signatureForm{}, fmt.Errorf("%w: a signature of %d bytes as a digest of %v", hsm.ErrUnsupported, len(digest), hash)
	}
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsaForm(key, digest)
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return pssForm(key, digest, pss, hash)
		}
		return pkcs1Form(key, digest, hash)
	}
	return signatureForm{}, fmt.Errorf("%w: signatures with a %T", hsm.ErrUnsupported, public)
}

// signerCurves are the curves that a signer takes.
var signerCurves = map[elliptic.Curve]keyspec.Spec{
	elliptic.P256(): keyspec.ECCNISTP256, elliptic.P384(): keyspec.ECCNISTP384, elliptic.P521(): keyspec.ECCNISTP521,
}

func ecdsaForm(key *ecdsa.PublicKey, digest []byte) (signatureForm, error) {
	spec, ok := signerCurves[key.Curve]
	if !ok {
		return signatureForm{}, fmt.Errorf("%w: ECDSA on %s", hsm.ErrUnsupported, key.Params().Name)
	}
	size := der.FieldBytes(spec)
	return signatureForm{
		mechanism: mechanism{kind: mechECDSA},
		input:     digest[:min(len(digest), size)], // the leftmost bits (FIPS 186-5, 6.4.1)
		size:      2 * size,
		encode:    func(raw []byte) ([]byte, error) { return der.ECDSAToDER(spec, raw) },
		verify:    func(signature []byte) bool { return ecdsa.VerifyASN1(key, digest, signature) },
	}, nil
}

func pkcs1Form(key *rsa.PublicKey, digest []byte, hash crypto.Hash) (signatureForm, error) {
	info, err := der.DigestInfo(hash, digest)
	return signatureForm{
		mechanism: mechanism{kind: mechRSAPKCS}, input: info, size: key.Size(),
		verify: func(signature []byte) bool { return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil },
	}, err
}

func pssForm(key *rsa.PublicKey, digest []byte, pss *rsa.PSSOptions, hash crypto.Hash) (signatureForm, error) {
	salt, most := pss.SaltLength, (key.N.BitLen()-1+7)/8-2-hash.Size() // RFC 8017, 9.1.1
	switch salt {
	case rsa.PSSSaltLengthEqualsHash:
		salt = hash.Size()
	case rsa.PSSSaltLengthAuto:
		salt = most
	}
	if salt < 0 || salt > most {
		return signatureForm{}, fmt.Errorf("%w: PSS with a salt of %d bytes", hsm.ErrUnsupported, salt)
	}
	numbers := hashNumbers[hash]
	return signatureForm{
		mechanism: mechanism{kind: mechRSAPSS, params: ulongs(numbers.hash, numbers.mgf, uint(salt))}, input: digest, size: key.Size(),
		verify: func(signature []byte) bool {
			return rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: salt, Hash: hash}) == nil
		},
	}, nil
}
