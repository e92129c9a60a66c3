package cluster

import (
	"context"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// Generate makes a key in one of the members that have the active generation. See
// [hsm.Token].
func (c *Token) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	what := generate
	if c.resident(&k) {
		what = generateResident
	}
	var in *member
	made, err := call(ctx, c, what, c.makers(k.Store, hsm.DomainKey), nil, func(ctx context.Context, t hsm.Token) (hsm.Key, error) {
		in = c.memberOf(t)
		return t.Generate(ctx, on, k)
	})
	if err == nil && made.Residency == hsm.Resident {
		c.places.remember(&made, in)
	}
	return made, err
}

// memberOf is the member that a token is.
func (c *Token) memberOf(t hsm.Token) *member {
	for _, m := range c.members {
		if m.Token == t {
			return m
		}
	}
	return nil
}

// Imports is nil if one of the members takes such material. See [hsm.Token].
func (c *Token) Imports(store string, spec keyspec.Spec, usage keyspec.Usage, a keyspec.WrappingAlgorithm) (err error) {
	for _, m := range c.members {
		if err = m.Token.Imports(store, spec, usage, a); err == nil {
			return nil
		}
	}
	return err
}

// Import brings material in. What is to live in a token comes to the same member each
// time, where it is found if it is there already. See [hsm.Token].
func (c *Token) Import(ctx context.Context, on hsm.Call, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, wrapped []byte, k hsm.Key) (hsm.Key, error) {
	what, set := importMaterial, c.holdersOf(wrapping)
	if makers := set & c.makers(k.Store, hsm.DomainKey); makers != 0 {
		set = makers
	}
	if c.resident(&k) {
		what = importResident
		if m := c.home(set, []byte(k.KeyID)); m != nil {
			set = m.bit
		}
	}
	return call(ctx, c, what, set, wrapping.MaterialID[:], func(ctx context.Context, t hsm.Token) (hsm.Key, error) {
		return t.Import(ctx, on, wrapping, a, wrapped, k)
	})
}

// Send wraps a key for another key store's token. See [hsm.Token].
func (c *Token) Send(ctx context.Context, on hsm.Call, k, to *hsm.Key) ([]byte, error) {
	return with(ctx, c, send, k, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.Send(ctx, on, k, to) })
}

// Receives is nil if one of the members takes such keys. See [hsm.Token].
func (c *Token) Receives(store string, spec keyspec.Spec, usage keyspec.Usage) (err error) {
	for _, m := range c.members {
		if err = m.Token.Receives(store, spec, usage); err == nil {
			return nil
		}
	}
	return err
}

// Receive brings in what another token has sent. See [hsm.Token].
func (c *Token) Receive(ctx context.Context, on hsm.Call, through *hsm.Key, parcel []byte, k hsm.Key) (hsm.Key, error) {
	return with(ctx, c, receive, through, func(ctx context.Context, t hsm.Token) (hsm.Key, error) {
		return t.Receive(ctx, on, through, parcel, k)
	})
}

// Encrypt encrypts. See [hsm.Token].
func (c *Token) Encrypt(ctx context.Context, on hsm.Call, k *hsm.Key, plaintext, aad []byte) (hsm.Ciphertext, error) {
	return with(ctx, c, encrypt, k, func(ctx context.Context, t hsm.Token) (hsm.Ciphertext, error) {
		return t.Encrypt(ctx, on, k, plaintext, aad)
	})
}

// Decrypt decrypts. See [hsm.Token].
func (c *Token) Decrypt(ctx context.Context, on hsm.Call, k *hsm.Key, x hsm.Ciphertext, aad []byte) ([]byte, error) {
	return with(ctx, c, decrypt, k, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.Decrypt(ctx, on, k, x, aad) })
}

// PublicKey returns a public key. See [hsm.Token].
func (c *Token) PublicKey(ctx context.Context, on hsm.Call, k *hsm.Key) ([]byte, error) {
	return with(ctx, c, publicKey, k, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.PublicKey(ctx, on, k) })
}

// Sign signs. See [hsm.Token].
func (c *Token) Sign(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message []byte) ([]byte, error) {
	return with(ctx, c, sign, k, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.Sign(ctx, on, k, a, as, message) })
}

// Verify verifies a signature. See [hsm.Token].
func (c *Token) Verify(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, as keyspec.MessageType, message, signature []byte) error {
	_, err := with(ctx, c, verify, k, nothing(func(ctx context.Context, t hsm.Token) error {
		return t.Verify(ctx, on, k, a, as, message, signature)
	}))
	return err
}

// GenerateMAC makes an HMAC. See [hsm.Token].
func (c *Token) GenerateMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message []byte) ([]byte, error) {
	return with(ctx, c, generateMAC, k, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.GenerateMAC(ctx, on, k, a, message) })
}

// VerifyMAC verifies an HMAC. See [hsm.Token].
func (c *Token) VerifyMAC(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, message, mac []byte) error {
	_, err := with(ctx, c, verifyMAC, k, nothing(func(ctx context.Context, t hsm.Token) error {
		return t.VerifyMAC(ctx, on, k, a, message, mac)
	}))
	return err
}

// EncryptAsymmetric encrypts with a public key. See [hsm.Token].
func (c *Token) EncryptAsymmetric(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, plaintext []byte) ([]byte, error) {
	return with(ctx, c, encryptAsymmetric, k, func(ctx context.Context, t hsm.Token) ([]byte, error) {
		return t.EncryptAsymmetric(ctx, on, k, a, plaintext)
	})
}

// DecryptAsymmetric decrypts with a private key. See [hsm.Token].
func (c *Token) DecryptAsymmetric(ctx context.Context, on hsm.Call, k *hsm.Key, a keyspec.Algorithm, ciphertext []byte) ([]byte, error) {
	return with(ctx, c, decryptAsymmetric, k, func(ctx context.Context, t hsm.Token) ([]byte, error) {
		return t.DecryptAsymmetric(ctx, on, k, a, ciphertext)
	})
}

// DeriveSecret agrees on a secret. See [hsm.Token].
func (c *Token) DeriveSecret(ctx context.Context, on hsm.Call, k *hsm.Key, peer []byte) ([]byte, error) {
	return with(ctx, c, deriveSecret, k, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.DeriveSecret(ctx, on, k, peer) })
}

// Encapsulate makes a secret and its encapsulation. See [hsm.Token].
func (c *Token) Encapsulate(ctx context.Context, on hsm.Call, k *hsm.Key) (secret, encapsulation []byte, err error) {
	both, err := with(ctx, c, encapsulate, k, func(ctx context.Context, t hsm.Token) (both [2][]byte, err error) {
		both[0], both[1], err = t.Encapsulate(ctx, on, k)
		return both, err
	})
	return both[0], both[1], err
}

// Decapsulate recovers a secret. See [hsm.Token].
func (c *Token) Decapsulate(ctx context.Context, on hsm.Call, k *hsm.Key, encapsulation []byte) ([]byte, error) {
	return with(ctx, c, decapsulate, k, func(ctx context.Context, t hsm.Token) ([]byte, error) {
		return t.Decapsulate(ctx, on, k, encapsulation)
	})
}

// GenerateDataKeyPair makes a pair for the caller. See [hsm.Token].
func (c *Token) GenerateDataKeyPair(ctx context.Context, on hsm.Call, spec keyspec.Spec) (hsm.DataKeyPair, error) {
	return call(ctx, c, generateDataKeyPair, c.all(), nil, func(ctx context.Context, t hsm.Token) (hsm.DataKeyPair, error) {
		return t.GenerateDataKeyPair(ctx, on, spec)
	})
}

// Random returns random bytes of one of the members. See [hsm.Token].
func (c *Token) Random(ctx context.Context, on hsm.Call, n int) ([]byte, error) {
	return call(ctx, c, random, c.all(), nil, func(ctx context.Context, t hsm.Token) ([]byte, error) { return t.Random(ctx, on, n) })
}

// Seal encrypts a secret under the active sealing key. See [hsm.Token].
func (c *Token) Seal(ctx context.Context, on hsm.Call, store string, secret, aad []byte) ([]byte, error) {
	return call(ctx, c, seal, c.makers(store, hsm.SealingKey), nil, func(ctx context.Context, t hsm.Token) ([]byte, error) {
		return t.Seal(ctx, on, store, secret, aad)
	})
}

// Open opens what Seal of any member has made. See [hsm.Token].
func (c *Token) Open(ctx context.Context, on hsm.Call, sealed, aad []byte) ([]byte, error) {
	store, generation, ok := hsm.SealedUnder(sealed)
	if !ok {
		return nil, hsm.ErrInvalidCiphertext
	}
	return call(ctx, c, open, c.holders(store, hsm.SealingKey, generation), nil, func(ctx context.Context, t hsm.Token) ([]byte, error) {
		return t.Open(ctx, on, sealed, aad)
	})
}
