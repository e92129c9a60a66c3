package hsmtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// imports brings an AES key in under each wrapping algorithm that needs nothing but
// RSA, and has the token decrypt what was encrypted outside.
func (s *suite) imports(t T) {
	wrapping, err := s.wrappingPair(t)
	if lacks(t, "a pair to wrap to", err) {
		return
	}
	material := pattern(32)
	for _, row := range keyspec.WrappingAlgorithms {
		if row.Hybrid {
			continue
		}
		k := s.identity(symmetric)
		k.Origin, k.MaterialID = keyspec.External, hsm.MaterialID{}
		wrapped := wrapTo(t, wrapping, &row, material)
		made, err := s.bring(t, wrapping, row.Algorithm, wrapped, k)
		if lacks(t, "Import under "+string(row.Algorithm), err) {
			continue
		}
		s.isImported(t, &made, material)
		again, err := s.bring(t, wrapping, row.Algorithm, wrapped, k)
		if err != nil || again.MaterialID != made.MaterialID || made.MaterialID == (hsm.MaterialID{}) {
			t.Errorf("Import of the same again = %s, %v, want %s", again.MaterialID, err, made.MaterialID)
		}
		_, err = s.Token.Import(s.ctx, client, wrapping, row.Algorithm, wrapTo(t, wrapping, &row, material[1:]), k)
		refused(t, "Import of 31 bytes", nil, err, hsm.ErrIncorrectMaterial)
		wrapped[len(wrapped)-1] ^= 1
		_, err = s.Token.Import(s.ctx, client, wrapping, row.Algorithm, wrapped, k)
		refused(t, "Import of what was damaged", nil, err, hsm.ErrInvalidCiphertext)
		_, err = s.Token.Import(s.ctx, client, s.generate(t), row.Algorithm, wrapped, k)
		refused(t, "Import with a key that does not wrap", nil, err, hsm.ErrUnsupported)
	}
}

// wrappingPair is a pair that material is wrapped to. It is kept wrapped in any store.
func (s *suite) wrappingPair(t T) (*hsm.Key, error) {
	k, err := s.Token.Generate(s.ctx, client, s.identity(kind{keyspec.RSA2048, keyspec.ImportWrapping}))
	if err == nil && (k.Residency != hsm.Wrapped || len(k.PublicKey) == 0) {
		t.Errorf("Generate of a pair to wrap to = %+v", k)
	}
	return &k, err
}

// bring imports material. Where the key is to live in the token, the first call makes
// nothing and says which material it is.
func (s *suite) bring(t T, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, wrapped []byte, k hsm.Key) (hsm.Key, error) {
	made, err := s.Token.Import(s.ctx, client, wrapping, a, wrapped, k)
	if err != nil || made.Residency != hsm.Absent {
		return made, err
	}
	k.MaterialID = made.MaterialID
	made, err = s.Token.Import(s.ctx, client, wrapping, a, wrapped, k)
	if err == nil {
		if made.Residency != hsm.Resident {
			t.Errorf("Import of a key that is to live in the token made one that is %q", made.Residency)
		}
		s.mu.Lock()
		s.residents = append(s.residents, *clone(&made))
		s.mu.Unlock()
	}
	return made, err
}

// wrapTo encrypts material to a wrapping key, outside the token.
func wrapTo(t T, wrapping *hsm.Key, row *keyspec.WrappingRow, material []byte) []byte {
	public, err := x509.ParsePKIXPublicKey(wrapping.PublicKey)
	key, ok := public.(*rsa.PublicKey)
	if err != nil || !ok {
		t.Fatalf("the public key of the pair = %v", err)
	}
	wrapped, err := rsa.EncryptOAEP(row.Hash.New(), rand.Reader, key, material, nil)
	if err != nil {
		t.Fatalf("EncryptOAEP = %v", err)
	}
	return wrapped
}

// isImported has the token decrypt what its material encrypts outside.
func (s *suite) isImported(t T, k *hsm.Key, material []byte) {
	block, err := aes.NewCipher(material)
	if err != nil {
		t.Fatalf("NewCipher = %v", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatalf("NewGCM = %v", err)
	}
	iv, want := pattern(12), []byte("plaintext")
	got, err := s.Token.Decrypt(s.ctx, client, k, hsm.Ciphertext{IV: iv, Data: gcm.Seal(nil, iv, want, []byte("aad"))}, []byte("aad"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Decrypt with imported material = %q, %v", got, err)
	}
}
