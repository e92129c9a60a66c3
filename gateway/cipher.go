package gateway

import (
	"context"
	"fmt"
	"slices"

	"kmsgate/gateway/envelope"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// A cipher is a key as a call encrypts or decrypts with it.
type cipher struct {
	call      *call
	key       *metadata.KeyEntry
	algorithm keyspec.Algorithm
	context   map[string]string
	// member is the name under which the audit record has the material.
	member string
}

// cipher is the call's n-th key with an algorithm and an encryption context.
func (c *call) cipher(n int, a keyspec.Algorithm, context map[string]string) *cipher {
	return &cipher{call: c, key: c.key(n), algorithm: a, context: context, member: "keyMaterialId"}
}

// check refuses what does not go with the key.
func (x *cipher) check() error {
	if err := fits(x.algorithm, x.key); err != nil {
		return err
	}
	if isPair(x.key.Spec) && len(x.context) > 0 {
		return kmsapi.EncryptionContextOfKeyPair()
	}
	return nil
}

// checkSize refuses a plaintext, of so many bytes, that has no room in an RSA
// ciphertext (RFC 8017, section 7.1.1). Others are bounded by the request's
// constraints.
func (x *cipher) checkSize(size int) error {
	algorithm, _ := keyspec.LookupAlgorithm(x.algorithm)
	if algorithm.Hash == 0 {
		return nil
	}
	spec, _ := keyspec.Lookup(x.key.Spec)
	if limit := spec.Bits/8 - 2*algorithm.Hash.Size() - 2; size > limit {
		return kmsapi.PlaintextTooLarge(x.algorithm, x.key.Spec, limit)
	}
	return nil
}

// seal encrypts under the key's current material and counts the use. The
// material is nil for a key pair, which has no history of them.
func (x *cipher) seal(ctx context.Context, plaintext []byte) (kmsapi.Blob, *metadata.Material, error) {
	material, err := current(x.key)
	if err != nil {
		return nil, nil, err
	}
	token, on := x.call.token(x.key), x.call.onBehalf(x.key)
	if isPair(x.key.Spec) {
		ciphertext, err := token.EncryptAsymmetric(ctx, on, &material.Key, x.algorithm, plaintext)
		if err != nil {
			return nil, nil, x.call.failed(x.key, algorithmText(x.algorithm), err)
		}
		x.call.used(x.key, hsm.MaterialID{}, otherUse)
		return ciphertext, nil, nil
	}
	header := envelope.Header{KeyID: x.key.ID, MaterialID: material.MaterialID}
	ciphertext, err := token.Encrypt(ctx, on, &material.Key, plaintext, envelope.AAD(header, x.context))
	if err != nil {
		return nil, nil, x.call.failed(x.key, algorithmText(x.algorithm), err)
	}
	x.call.used(x.key, material.MaterialID, encryption)
	x.call.noteMaterial(x.member, material.MaterialID)
	return envelope.Seal(header, ciphertext), material, nil
}

// open decrypts a ciphertext of the key, by the material that made it: nil for
// a key pair. The plaintext is the caller's to clear.
func (x *cipher) open(ctx context.Context, blob []byte) ([]byte, *metadata.Material, error) {
	token, on := x.call.token(x.key), x.call.onBehalf(x.key)
	if isPair(x.key.Spec) {
		plaintext, err := x.openAsymmetric(ctx, token, on, blob)
		return plaintext, nil, err
	}
	header, ciphertext, err := envelope.Open(blob)
	if err != nil {
		return nil, nil, kmsapi.InvalidCiphertext()
	}
	material := x.key.Material(header.MaterialID)
	if material == nil || material.Pending {
		return nil, nil, x.unknownMaterial(ctx, header.MaterialID)
	}
	plaintext, err := token.Decrypt(ctx, on, &material.Key, ciphertext, envelope.AAD(header, x.context))
	return plaintext, material, x.call.failed(x.key, algorithmText(x.algorithm), err)
}

// unknownMaterial is the answer to a ciphertext of a material that the key, as it was
// read, does not use: if the key was rotated since, the call is decided anew.
func (x *cipher) unknownMaterial(ctx context.Context, id hsm.MaterialID) error {
	fresh, err := x.call.view.FreshKey(ctx, x.key.Region, x.key.ID)
	if err != nil {
		return err
	}
	if m := fresh.Material(id); fresh.Account == x.key.Account && m != nil && !m.Pending {
		return fmt.Errorf("key %s was rotated: %w", x.key.ID, metadata.ErrStale)
	}
	return kmsapi.InvalidCiphertext()
}

func (x *cipher) openAsymmetric(ctx context.Context, token hsm.Token, on hsm.Call, blob []byte) ([]byte, error) {
	material, err := current(x.key)
	if err != nil {
		return nil, err
	}
	if spec, _ := keyspec.Lookup(x.key.Spec); len(blob) != spec.Bits/8 {
		return nil, kmsapi.InvalidCiphertext()
	}
	plaintext, err := token.DecryptAsymmetric(ctx, on, &material.Key, x.algorithm, blob)
	if err != nil {
		return nil, x.call.failed(x.key, algorithmText(x.algorithm), err)
	}
	return plaintext, nil
}

// opened counts that a ciphertext was opened and answered.
func (x *cipher) opened(material *metadata.Material) {
	if material == nil {
		x.call.used(x.key, hsm.MaterialID{}, otherUse)
		return
	}
	x.call.used(x.key, material.MaterialID, decryption)
	x.call.noteMaterial(x.member, material.MaterialID)
}

// current is the material that a key is used with now.
func current(key *metadata.KeyEntry) (*metadata.Material, error) {
	material := key.Current()
	if material == nil {
		return nil, kmsapi.WrongState(key.ARN(), kmsapi.PendingImport)
	}
	return material, nil
}

// materialText is a material's KeyMaterialId; empty for none.
func materialText(m *metadata.Material) string {
	if m == nil {
		return ""
	}
	return m.MaterialID.String()
}

// algorithmText names an algorithm in a refusal.
func algorithmText(a keyspec.Algorithm) string { return "Algorithm " + string(a) }

// fits refuses an algorithm that the key's spec does not have.
func fits(algorithm keyspec.Algorithm, key *metadata.KeyEntry) error {
	if !slices.Contains(algorithmsOf(key, key.Usage), algorithm) {
		return kmsapi.AlgorithmIncompatible(algorithm, key.Spec)
	}
	return nil
}

// algorithmsOf are a key's algorithms for a usage: none if it is not the key's.
func algorithmsOf(key *metadata.KeyEntry, usage keyspec.Usage) []keyspec.Algorithm {
	if key.Usage != usage {
		return nil
	}
	row, _ := keyspec.Lookup(key.Spec)
	return row.Algorithms[usage]
}

// isPair tells whether keys of a spec are pairs of a public and a private key.
func isPair(s keyspec.Spec) bool {
	row, ok := keyspec.Lookup(s)
	return ok && s != keyspec.SymmetricDefault && row.Algorithms[keyspec.GenerateVerifyMAC] == nil
}
