package worker

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/hsm/pkcs11"
)

var _ hsm.Token = (*Token)(nil)

// ask calls a method of the token's engine in the worker. Where the worker is lost
// meanwhile, it is asked again, once, if that is safe and the worker is back in time.
func ask[A, R any](ctx context.Context, t *Token, m method[*served, A, R], arguments A) (r R, err error) {
	for tried := false; ; tried = true {
		p, err := t.current()
		if err != nil {
			return r, err
		}
		answer, err := p.peer.call(ctx, m.name, t.number, arguments)
		if err == nil {
			if r, err = m.answerOf(answer); errors.Is(err, errMalformed) {
				p.peer.fail(err)
				err = fmt.Errorf("%w: %w", errLost, err)
			}
		}
		if !errors.Is(err, errLost) {
			return r, err
		}
		lost := fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		attempted := t.lose(p)
		if !m.again || tried {
			return r, lost
		}
		select {
		case <-attempted:
		case <-ctx.Done():
			return r, lost
		}
	}
}

// Generate makes a key. See [hsm.Token].
func (t *Token) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	return ask(ctx, t, generate, use{on, k})
}

// Imports asks the worker, not the token. See [hsm.Token].
func (t *Token) Imports(store string, spec keyspec.Spec, usage keyspec.Usage, a keyspec.WrappingAlgorithm) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	_, err := ask(ctx, t, imports, importsOf{store, spec, usage, a})
	return err
}

// Receives asks the worker, not the token. See [hsm.Token].
func (t *Token) Receives(store string, spec keyspec.Spec, usage keyspec.Usage) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	_, err := ask(ctx, t, receives, receivesOf{store, spec, usage})
	return err
}

// Import brings in material. See [hsm.Token].
func (t *Token) Import(ctx context.Context, on hsm.Call, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, wrapped []byte, k hsm.Key) (hsm.Key, error) {
	return ask(ctx, t, importIn, importKey{on, *wrapping, a, wrapped, k})
}

// Send wraps a key for another token. See [hsm.Token].
func (t *Token) Send(ctx context.Context, on hsm.Call, k, to *hsm.Key) ([]byte, error) {
	return ask(ctx, t, send, sendKey{on, *k, *to})
}

// Receive brings in what another token has sent. See [hsm.Token].
func (t *Token) Receive(ctx context.Context, on hsm.Call, through *hsm.Key, parcel []byte, k hsm.Key) (hsm.Key, error) {
	return ask(ctx, t, receive, receiveKey{on, *through, parcel, k})
}

// Encrypt encrypts under a key. See [hsm.Token].
func (t *Token) Encrypt(ctx context.Context, on hsm.Call, k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error) {
	return ask(ctx, t, encrypt, encryption{use{on, *k}, plaintext, aad})
}

// Decrypt opens a ciphertext. See [hsm.Token].
func (t *Token) Decrypt(ctx context.Context, on hsm.Call, k *hsm.Key, c hsm.Ciphertext, aad []byte) ([]byte, error) {
	return ask(ctx, t, decrypt, decryption{use{on, *k}, c, aad})
}

// PublicKey returns a pair's public key. See [hsm.Token].
func (t *Token) PublicKey(ctx context.Context, on hsm.Call, k *hsm.Key) ([]byte, error) {
	return ask(ctx, t, publicKey, use{on, *k})
}

// Sign signs. See [hsm.Token].
func (t *Token) Sign(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error) {
	return ask(ctx, t, sign, signing{use{on, *k}, a, as, message, nil})
}

// Verify verifies a signature. See [hsm.Token].
func (t *Token) Verify(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
	_, err := ask(ctx, t, verify, signing{use{on, *k}, a, as, message, signature})
	return err
}

// GenerateMAC makes an HMAC. See [hsm.Token].
func (t *Token) GenerateMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message []byte) ([]byte, error) {
	return ask(ctx, t, generateMAC, signing{use{on, *k}, a, "", message, nil})
}

// VerifyMAC verifies an HMAC. See [hsm.Token].
func (t *Token) VerifyMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message, mac []byte) error {
	_, err := ask(ctx, t, verifyMAC, signing{use{on, *k}, a, "", message, mac})
	return err
}

// EncryptAsymmetric encrypts with a public key. See [hsm.Token].
func (t *Token) EncryptAsymmetric(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, plaintext []byte) ([]byte, error) {
	return ask(ctx, t, encryptAsymmetric, signing{use{on, *k}, a, "", plaintext, nil})
}

// DecryptAsymmetric decrypts with a private key. See [hsm.Token].
func (t *Token) DecryptAsymmetric(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, ciphertext []byte) ([]byte, error) {
	return ask(ctx, t, decryptAsymmetric, signing{use{on, *k}, a, "", ciphertext, nil})
}

// DeriveSecret agrees on a secret. See [hsm.Token].
func (t *Token) DeriveSecret(ctx context.Context, on hsm.Call, k *hsm.Key, peer []byte) ([]byte, error) {
	return ask(ctx, t, deriveSecret, agreement{use{on, *k}, peer})
}

// Encapsulate makes a secret for a public key. See [hsm.Token].
func (t *Token) Encapsulate(ctx context.Context, on hsm.Call, k *hsm.Key) (secret, encapsulation []byte, err error) {
	r, err := ask(ctx, t, encapsulate, use{on, *k})
	return r.Secret, r.Encapsulation, err
}

// Decapsulate recovers a secret. See [hsm.Token].
func (t *Token) Decapsulate(ctx context.Context, on hsm.Call, k *hsm.Key, encapsulation []byte) ([]byte, error) {
	return ask(ctx, t, decapsulate, agreement{use{on, *k}, encapsulation})
}

// GenerateDataKeyPair makes a pair for a caller. See [hsm.Token].
func (t *Token) GenerateDataKeyPair(ctx context.Context, on hsm.Call, spec keyspec.Spec) (hsm.DataKeyPair, error) {
	r, err := ask(ctx, t, generateDataKeyPair, pairOf{on, spec})
	return hsm.DataKeyPair{Private: r.Private, Public: r.Public}, err
}

// Destroy destroys what the token holds of a key. See [hsm.Token].
func (t *Token) Destroy(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	_, err := ask(ctx, t, destroy, use{on, *k})
	return err
}

// Random returns random bytes of the token. See [hsm.Token].
func (t *Token) Random(ctx context.Context, on hsm.Call, n int) ([]byte, error) {
	return ask(ctx, t, random, drawing{on, n})
}

// Seal encrypts a secret of the gateway's own. See [hsm.Token].
func (t *Token) Seal(ctx context.Context, on hsm.Call, store string, own, aad []byte) ([]byte, error) {
	return ask(ctx, t, seal, sealing{on, store, own, aad})
}

// Open opens what Seal made. See [hsm.Token].
func (t *Token) Open(ctx context.Context, on hsm.Call, sealed, aad []byte) ([]byte, error) {
	return ask(ctx, t, open, opening{on, sealed, aad})
}

// Check really asks the token. See [hsm.Token].
func (t *Token) Check(ctx context.Context) error {
	_, err := ask(ctx, t, check, nothing{})
	return err
}

// CreateServiceKeys makes service keys. See [pkcs11.Engine.CreateServiceKeys].
func (t *Token) CreateServiceKeys(ctx context.Context, rows []hsm.ServiceKey) ([]hsm.ServiceKey, error) {
	made, err := ask(ctx, t, createServiceKeys, rows)
	if err == nil {
		t.keep(made)
	}
	return made, err
}

// DestroyServiceKeys destroys service keys. See [pkcs11.Engine.DestroyServiceKeys].
func (t *Token) DestroyServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error {
	_, err := ask(ctx, t, destroyServiceKeys, rows)
	if err == nil {
		t.forget(rows)
	}
	return err
}

// LearnServiceKeys looks for the service keys of a store. See
// [pkcs11.Engine.LearnServiceKeys].
func (t *Token) LearnServiceKeys(ctx context.Context, store string) error {
	_, err := ask(ctx, t, learnServiceKeys, store)
	return err
}

// RewrapAll moves keys to a generation. See [pkcs11.Engine.RewrapAll].
func (t *Token) RewrapAll(ctx context.Context, on hsm.Call, keys []hsm.Key, generation int32) ([]pkcs11.Batched, error) {
	return ask(ctx, t, rewrapAll, batch{on, keys, generation})
}

// ProveAll proves keys. See [pkcs11.Engine.ProveAll].
func (t *Token) ProveAll(ctx context.Context, on hsm.Call, keys []hsm.Key) ([]pkcs11.Batched, error) {
	return ask(ctx, t, proveAll, batch{on, keys, 0})
}

// Fingerprint asks library and token what they are. See [pkcs11.Engine.Fingerprint].
func (t *Token) Fingerprint(ctx context.Context) (pkcs11.Fingerprint, error) {
	return ask(ctx, t, fingerprint, nothing{})
}

// signer is a private key in the token. See [pkcs11.Engine.Signer].
type signer struct {
	token  *Token
	id     []byte
	public crypto.PublicKey
	spki   []byte
}

// Signer returns the private key with this CKA_ID. See [pkcs11.Engine.Signer].
func (t *Token) Signer(ctx context.Context, id []byte, public crypto.PublicKey) (crypto.Signer, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: signatures with a %T: %w", hsm.ErrUnsupported, public, err)
	}
	s := &signer{t, id, public, spki}
	digest := sha256.Sum256([]byte("kmsgate: is this the key of that public key?"))
	opts := crypto.SignerOpts(crypto.SHA256)
	if _, ok := public.(*rsa.PublicKey); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	if _, err := s.sign(ctx, digest[:], opts); err != nil {
		return nil, err
	}
	return s, nil
}

// Public is the public key that the signer was made for.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a digest. The random source is not used: the token has its own.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.token.callTimeout())
	defer cancel()
	return s.sign(ctx, digest, opts)
}

func (s *signer) sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	a := tlsSigning{ID: s.id, Public: s.spki, Digest: digest, Hash: uint(opts.HashFunc())}
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		a.PSS, a.Salt = true, pss.SaltLength
	}
	return ask(ctx, s.token, signTLS, a)
}

// callTimeout is how long an engine takes for a call at most.
func (t *Token) callTimeout() time.Duration {
	if t.cfg.CallTimeout > 0 {
		return t.cfg.CallTimeout
	}
	return defaultCallTimeout
}
