package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/keyspec"
)

// faultyToken is a good token with one fault, for the suite to find. What is nil
// works.
type faultyToken struct {
	hsm.Token
	honest sync.Map // rows by key id

	generate  func(k *hsm.Key)
	encrypt   func(k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error)
	decrypt   func(k *hsm.Key, c hsm.Ciphertext, aad []byte) ([]byte, error)
	sign      func(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error)
	verify    func(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error
	verifyMAC func(k *hsm.Key, a keyspec.Algorithm, message, mac []byte) error
	derive    func(k *hsm.Key, peer []byte) ([]byte, error)
	pair      func(hsm.DataKeyPair) hsm.DataKeyPair
	random    func(b []byte)
	open      func(sealed, aad []byte) ([]byte, error)
}

func (f *faultyToken) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	made, err := f.Token.Generate(ctx, on, k)
	if f.generate != nil && err == nil {
		f.generate(&made)
	}
	f.honest.Store(made.KeyID, made)
	return made, err
}

func (f *faultyToken) Encrypt(ctx context.Context, on hsm.Call, k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error) {
	if f.encrypt != nil {
		return f.encrypt(k, plaintext, aad)
	}
	return f.Token.Encrypt(ctx, on, k, plaintext, aad)
}

func (f *faultyToken) Decrypt(ctx context.Context, on hsm.Call, k *hsm.Key, c hsm.Ciphertext, aad []byte) ([]byte, error) {
	if f.decrypt != nil {
		return f.decrypt(k, c, aad)
	}
	return f.Token.Decrypt(ctx, on, k, c, aad)
}

func (f *faultyToken) Sign(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error) {
	if f.sign != nil {
		return f.sign(k, a, as, message)
	}
	return f.Token.Sign(ctx, on, k, a, as, message)
}

func (f *faultyToken) Verify(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
	if f.verify != nil {
		return f.verify(k, a, as, message, signature)
	}
	return f.Token.Verify(ctx, on, k, a, as, message, signature)
}

func (f *faultyToken) VerifyMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message, mac []byte) error {
	if f.verifyMAC != nil {
		return f.verifyMAC(k, a, message, mac)
	}
	return f.Token.VerifyMAC(ctx, on, k, a, message, mac)
}

func (f *faultyToken) DeriveSecret(ctx context.Context, on hsm.Call, k *hsm.Key, peer []byte) ([]byte, error) {
	if f.derive != nil {
		return f.derive(k, peer)
	}
	return f.Token.DeriveSecret(ctx, on, k, peer)
}

func (f *faultyToken) GenerateDataKeyPair(ctx context.Context, on hsm.Call, spec keyspec.Spec) (hsm.DataKeyPair, error) {
	pair, err := f.Token.GenerateDataKeyPair(ctx, on, spec)
	if f.pair != nil && err == nil {
		pair = f.pair(pair)
	}
	return pair, err
}

func (f *faultyToken) Random(ctx context.Context, on hsm.Call, n int) ([]byte, error) {
	b, err := f.Token.Random(ctx, on, n)
	if f.random != nil {
		f.random(b)
	}
	return b, err
}

func (f *faultyToken) Open(ctx context.Context, on hsm.Call, sealed, aad []byte) ([]byte, error) {
	if f.open != nil {
		return f.open(sealed, aad)
	}
	return f.Token.Open(ctx, on, sealed, aad)
}

// faults are what a token may get wrong, with a part of the suite that finds it.
var faults = map[string]struct {
	part string
	make func(ctx context.Context, e *Engine, f *faultyToken)
}{
	"a key is made for another region": {"RoundTrip", func(_ context.Context, _ *Engine, f *faultyToken) {
		f.generate = func(k *hsm.Key) { k.Region = "eu-west-1" }
	}},
	"the same IV for the same plaintext": {"FreshIVs", func(ctx context.Context, e *Engine, f *faultyToken) {
		var before sync.Map
		f.encrypt = func(k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error) {
			id := fmt.Sprintf("%s %x %x", k.KeyID, plaintext, aad)
			if c, ok := before.Load(id); ok {
				return c.(hsm.Ciphertext), nil
			}
			c, err := e.Encrypt(ctx, client, k, plaintext, aad)
			before.Store(id, c)
			return c, err
		}
	}},
	"additional data is not bound": {"OtherAdditionalData", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.encrypt = func(k *hsm.Key, plaintext, _ []byte) (hsm.Ciphertext, error) {
			return e.Encrypt(ctx, client, k, plaintext, nil)
		}
		f.decrypt = func(k *hsm.Key, c hsm.Ciphertext, _ []byte) ([]byte, error) { return e.Decrypt(ctx, client, k, c, nil) }
	}},
	"something comes out beside the error": {"FlippedCiphertext", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.decrypt = func(k *hsm.Key, c hsm.Ciphertext, aad []byte) ([]byte, error) {
			got, err := e.Decrypt(ctx, client, k, c, aad)
			if err != nil {
				got = []byte{0}
			}
			return got, err
		}
	}},
	"contexts are not heeded": {"EndedContext", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.encrypt = func(k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error) {
			return e.Encrypt(ctx, client, k, plaintext, aad)
		}
	}},
	"random bytes that repeat": {"Random", func(_ context.Context, _ *Engine, f *faultyToken) {
		f.random = func(b []byte) { clear(b) }
	}},
	"sealed values open for others": {"Seal", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.open = func(sealed, aad []byte) ([]byte, error) { return e.Open(ctx, client, sealed, bytes.ToLower(aad)) }
	}},
	"rows are taken on trust": {"ECC_NIST_P256 SIGN_VERIFY EditedRows", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.sign = func(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error) {
			if row, ok := f.honest.Load(k.KeyID); ok {
				honest := row.(hsm.Key)
				k = &honest
			}
			return e.Sign(ctx, client, k, a, as, message)
		}
	}},
	"keys are used for anything": {"ECC_NIST_P256 KEY_AGREEMENT WrongUse", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.sign = func(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error) {
			if k.Usage == keyspec.KeyAgreement {
				return make([]byte, 64), nil
			}
			return e.Sign(ctx, client, k, a, as, message)
		}
	}},
	"every signature is valid": {"ECC_NIST_P256 ECDSA_SHA_256", func(_ context.Context, _ *Engine, f *faultyToken) {
		f.verify = func(*hsm.Key, keyspec.Algorithm, keyspec.MessageType, []byte, []byte) error { return nil }
	}},
	"signatures with something behind them are valid": {"ECC_NIST_P256 ECDSA_SHA_256", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.verify = func(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
			if len(signature) > 1 && len(signature) > 2+int(signature[1]) {
				signature = signature[:2+int(signature[1])]
			}
			return e.Verify(ctx, client, k, a, as, message, signature)
		}
	}},
	"errors tell bad signatures apart": {"ECC_NIST_P256 ECDSA_SHA_256", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.verify = func(k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
			err := e.Verify(ctx, client, k, a, as, message, signature)
			if errors.Is(err, hsm.ErrInvalidSignature) {
				err = fmt.Errorf("%w: %d bytes", err, len(signature))
			}
			return err
		}
	}},
	"digests are hashed again": {"ECC_NIST_P256 ECDSA_SHA_256", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.sign = func(k *hsm.Key, a keyspec.Algorithm, _ keyspec.MessageType, message []byte) ([]byte, error) {
			return e.Sign(ctx, client, k, a, keyspec.Raw, message)
		}
	}},
	"a part of a MAC is enough": {"HMAC_256 HMAC_SHA_256", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.verifyMAC = func(k *hsm.Key, a keyspec.Algorithm, message, mac []byte) error {
			want, err := e.GenerateMAC(ctx, client, k, a, message)
			if err == nil && (len(mac) < 16 || !bytes.HasPrefix(want, mac)) {
				err = hsm.ErrInvalidSignature
			}
			return err
		}
	}},
	"zeros in front of a secret are left out": {"ECC_NIST_P256 ECDH", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.derive = func(k *hsm.Key, peer []byte) ([]byte, error) {
			secret, err := e.DeriveSecret(ctx, client, k, peer)
			return bytes.TrimLeft(secret, "\x00"), err
		}
	}},
	"peers are not checked": {"ECC_NIST_P256 ECDH", func(ctx context.Context, e *Engine, f *faultyToken) {
		f.derive = func(k *hsm.Key, peer []byte) ([]byte, error) {
			secret, err := e.DeriveSecret(ctx, client, k, peer)
			if errors.Is(err, hsm.ErrInvalidPublicKey) && len(peer) == len(k.PublicKey) {
				return make([]byte, 32), nil
			}
			return secret, err
		}
	}},
	"data keys that are no pair": {"ECC_NIST_P256 DataKeyPair", func(_ context.Context, _ *Engine, f *faultyToken) {
		var before hsm.DataKeyPair
		f.pair = func(p hsm.DataKeyPair) hsm.DataKeyPair {
			mixed := hsm.DataKeyPair{Private: p.Private, Public: before.Public}
			if before = p; mixed.Public == nil {
				return p
			}
			return mixed
		}
	}},
}

// faultJudge waits for a part of the suite to fail, and ends the run then.
type faultJudge struct {
	part   string
	name   string
	found  func()
	failed *sync.Map // parts
}

func (j faultJudge) Run(name string, f func(hsmtest.T)) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(faultJudge{j.part, name, j.found, j.failed})
	}()
	<-done
	return true
}

func (j faultJudge) Errorf(string, ...any) {
	if j.name != "" {
		j.failed.Store(j.name, true)
	}
	if j.name == j.part {
		j.found()
	}
}

func (j faultJudge) Fatalf(format string, args ...any) {
	j.Errorf(format, args...)
	runtime.Goexit()
}

func (faultJudge) Logf(string, ...any)    {}
func (faultJudge) Lacking(string, ...any) {}

// TestSuiteFindsFaults shows that the suite can fail.
func TestSuiteFindsFaults(t *testing.T) {
	e := openWithKeys(t, nil)
	n := 0
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			n++
			stores := [2]string{fmt.Sprintf("exercise-a%d", n), fmt.Sprintf("exercise-b%d", n)}
			for _, store := range stores {
				_, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(store, 1))
				must(t, err)
			}
			ctx, cancel := newCancel(t)
			f := &faultyToken{Token: e}
			fault.make(t.Context(), e, f)
			var failed sync.Map
			hsmtest.Exercise(ctx, faultJudge{fault.part, "", cancel, &failed}, func() hsmtest.Fixture {
				return hsmtest.Fixture{
					Token: f, Store: stores[0], OtherStore: stores[1], Handles: 1, Rewrap: e.Rewrap,
					Specs:         []keyspec.Spec{keyspec.HMAC256, keyspec.ECCNISTP256},
					AddGeneration: func(context.Context) error { return errors.New("no part gets here") },
					Close:         func() {},
				}
			})
			if _, found := failed.Load(fault.part); !found {
				failed.Range(func(part, _ any) bool { t.Logf("%s has failed", part); return true })
				t.Errorf("the suite does not find it in %s", fault.part)
			}
		})
	}
}
