package gateway

import (
	"context"
	"slices"

	"kmsgate/gateway/envelope"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// maxContextBytes bounds an encryption context: all keys and values together.
const maxContextBytes = 8 << 10

func completeEncrypt(in *kmsapi.EncryptRequest) error {
	setDefault(&in.EncryptionAlgorithm, keyspec.AlgorithmSymmetricDefault)
	return checkContext(in.EncryptionContext)
}

func (c *call) encrypt(in *kmsapi.EncryptRequest) (work[kmsapi.EncryptResponse], error) {
	key := c.key(0)
	if err := fits(*in.EncryptionAlgorithm, key); err != nil {
		return work[kmsapi.EncryptResponse]{}, err
	}
	return work[kmsapi.EncryptResponse]{do: func(ctx context.Context) (*kmsapi.EncryptResponse, error) {
		blob, _, err := c.seal(ctx, key, in.Plaintext, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		return &kmsapi.EncryptResponse{
			CiphertextBlob: blob, KeyID: key.ARN(), EncryptionAlgorithm: *in.EncryptionAlgorithm,
		}, nil
	}}, nil
}

func completeDecrypt(in *kmsapi.DecryptRequest) error {
	setDefault(&in.EncryptionAlgorithm, keyspec.AlgorithmSymmetricDefault)
	if err := checkModifiers(in.DryRunModifiers, in.Trial, in.CiphertextBlob, in.KeyID, "keyId"); err != nil {
		return err
	}
	return checkContext(in.EncryptionContext)
}

func (c *call) decrypt(in *kmsapi.DecryptRequest) (work[kmsapi.DecryptResponse], error) {
	none := work[kmsapi.DecryptResponse]{}
	key := c.key(0)
	if err := fits(*in.EncryptionAlgorithm, key); err != nil {
		return none, err
	}
	do := func(ctx context.Context) (*kmsapi.DecryptResponse, error) {
		plaintext, material, err := c.open(ctx, key, in.CiphertextBlob, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		c.used(key, material, decryption)
		c.noteMaterial("keyMaterialId", material)
		return &kmsapi.DecryptResponse{
			KeyID: key.ARN(), Plaintext: plaintext, EncryptionAlgorithm: *in.EncryptionAlgorithm,
			KeyMaterialID: material.String(),
		}, nil
	}
	if err := c.tryOpen(key, in, in.Trial, in.CiphertextBlob, in.EncryptionContext); err != nil {
		return none, err
	}
	return work[kmsapi.DecryptResponse]{do: do}, nil
}

func completeReEncrypt(in *kmsapi.ReEncryptRequest) error {
	setDefault(&in.SourceEncryptionAlgorithm, keyspec.AlgorithmSymmetricDefault)
	setDefault(&in.DestinationEncryptionAlgorithm, keyspec.AlgorithmSymmetricDefault)
	if err := checkModifiers(in.DryRunModifiers, in.Trial, in.CiphertextBlob, in.SourceKeyID, "sourceKeyId"); err != nil {
		return err
	}
	if err := checkContext(in.SourceEncryptionContext); err != nil {
		return err
	}
	return checkContext(in.DestinationEncryptionContext)
}

func (c *call) reEncrypt(in *kmsapi.ReEncryptRequest) (work[kmsapi.ReEncryptResponse], error) {
	none := work[kmsapi.ReEncryptResponse]{}
	from, to := c.key(0), c.key(1)
	if err := fits(*in.SourceEncryptionAlgorithm, from); err != nil {
		return none, err
	}
	if err := fits(*in.DestinationEncryptionAlgorithm, to); err != nil {
		return none, err
	}
	if err := c.tryOpen(from, in, in.Trial, in.CiphertextBlob, in.SourceEncryptionContext); err != nil {
		return none, err
	}
	return work[kmsapi.ReEncryptResponse]{do: func(ctx context.Context) (*kmsapi.ReEncryptResponse, error) {
		plaintext, source, err := c.open(ctx, from, in.CiphertextBlob, in.SourceEncryptionContext)
		if err != nil {
			return nil, err
		}
		defer clear(plaintext)
		blob, destination, err := c.sealAs(ctx, "destinationKeyMaterialId", to, plaintext, in.DestinationEncryptionContext)
		if err != nil {
			return nil, err
		}
		c.used(from, source, decryption)
		c.noteMaterial("sourceKeyMaterialId", source)
		return &kmsapi.ReEncryptResponse{
			CiphertextBlob: blob, SourceKeyID: from.ARN(), KeyID: to.ARN(),
			SourceEncryptionAlgorithm: *in.SourceEncryptionAlgorithm, DestinationEncryptionAlgorithm: *in.DestinationEncryptionAlgorithm,
			SourceKeyMaterialID: source.String(), DestinationKeyMaterialID: destination.String(),
		}, nil
	}}, nil
}

// seal encrypts under the key's current material and counts the use.
func (c *call) seal(ctx context.Context, key *metadata.KeyEntry, plaintext []byte, context map[string]string) (kmsapi.Blob, hsm.MaterialID, error) {
	return c.sealAs(ctx, "keyMaterialId", key, plaintext, context)
}

// sealAs is seal with the name under which the audit record has the material.
func (c *call) sealAs(ctx context.Context, member string, key *metadata.KeyEntry, plaintext []byte, context map[string]string) (kmsapi.Blob, hsm.MaterialID, error) {
	material := key.Current()
	if material == nil {
		return nil, hsm.MaterialID{}, kmsapi.WrongState(key.ARN(), kmsapi.PendingImport)
	}
	header := envelope.Header{KeyID: key.ID, MaterialID: material.MaterialID}
	ciphertext, err := c.token(key).Encrypt(ctx, c.onBehalf(key), &material.Key, plaintext, envelope.AAD(header, context))
	if err != nil {
		return nil, hsm.MaterialID{}, err
	}
	c.used(key, material.MaterialID, encryption)
	c.noteMaterial(member, material.MaterialID)
	return envelope.Seal(header, ciphertext), material.MaterialID, nil
}

// open decrypts a ciphertext of the key, by the material that made it. The
// plaintext is the caller's to clear.
func (c *call) open(ctx context.Context, key *metadata.KeyEntry, blob []byte, context map[string]string) ([]byte, hsm.MaterialID, error) {
	header, ciphertext, err := envelope.Open(blob)
	if err != nil {
		return nil, hsm.MaterialID{}, kmsapi.InvalidCiphertext()
	}
	material := key.Material(header.MaterialID)
	if material == nil {
		return nil, hsm.MaterialID{}, kmsapi.InvalidCiphertext()
	}
	plaintext, err := c.token(key).Decrypt(ctx, c.onBehalf(key), &material.Key, ciphertext, envelope.AAD(header, context))
	return plaintext, material.MaterialID, err
}

// tryOpen opens a ciphertext for a dry run of in and drops the result.
func (c *call) tryOpen(key *metadata.KeyEntry, in any, trial kmsapi.Trial, blob []byte, context map[string]string) error {
	if !trial.IsDryRun() || c.ignoresCiphertext(in) {
		return nil
	}
	plaintext, _, err := c.open(c.ctx, key, blob, context)
	clear(plaintext)
	return err
}

// fits refuses an algorithm that the key's spec does not have.
func fits(algorithm keyspec.Algorithm, key *metadata.KeyEntry) error {
	row, _ := keyspec.Lookup(key.Spec)
	if !slices.Contains(row.Algorithms[key.Usage], algorithm) {
		return kmsapi.AlgorithmIncompatible(algorithm, key.Spec)
	}
	return nil
}

func checkContext(context map[string]string) error {
	size := 0
	for k, v := range context {
		size += len(k) + len(v)
	}
	if size > maxContextBytes {
		return kmsapi.EncryptionContextTooLarge(maxContextBytes)
	}
	return nil
}

// checkModifiers holds IGNORE_CIPHERTEXT together with what it goes with: a dry
// run of a request that names its key. Without it the ciphertext is required.
func checkModifiers(modifiers []kmsapi.DryRunModifier, trial kmsapi.Trial, blob []byte, keyID *string, keyMember string) error {
	if !slices.Contains(modifiers, kmsapi.IgnoreCiphertext) {
		if blob == nil {
			return kmsapi.MissingMember("ciphertextBlob")
		}
		return nil
	}
	if !trial.IsDryRun() {
		return kmsapi.ModifiersWithoutDryRun()
	}
	if keyID == nil {
		return kmsapi.MissingMember(keyMember)
	}
	return nil
}

// setDefault fills in the value of a member that is absent.
func setDefault[T any](member **T, value T) {
	if *member == nil {
		*member = &value
	}
}
