package gateway

import (
	"context"
	"slices"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

// maxContextBytes bounds an encryption context: all keys and values together.
const maxContextBytes = 8 << 10

func completeEncrypt(in *kmsapi.EncryptRequest) error {
	setDefault(&in.EncryptionAlgorithm, keyspec.AlgorithmSymmetricDefault)
	return checkContext(in.EncryptionContext)
}

func (c *call) encrypt(in *kmsapi.EncryptRequest) (work[kmsapi.EncryptResponse], error) {
	with := c.cipher(0, *in.EncryptionAlgorithm, in.EncryptionContext)
	if err := cmpError(with.check(), with.checkSize(len(in.Plaintext))); err != nil {
		return work[kmsapi.EncryptResponse]{}, err
	}
	return work[kmsapi.EncryptResponse]{do: func(ctx context.Context) (*kmsapi.EncryptResponse, error) {
		blob, _, err := with.seal(ctx, in.Plaintext)
		if err != nil {
			return nil, err
		}
		return &kmsapi.EncryptResponse{CiphertextBlob: blob, KeyID: with.key.ARN(), EncryptionAlgorithm: with.algorithm}, nil
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
	with := c.cipher(0, *in.EncryptionAlgorithm, in.EncryptionContext)
	if err := with.check(); err != nil {
		return work[kmsapi.DecryptResponse]{}, err
	}
	do := func(ctx context.Context) (*kmsapi.DecryptResponse, error) {
		plaintext, material, err := with.open(ctx, in.CiphertextBlob)
		if err != nil {
			return nil, err
		}
		with.opened(material)
		if plaintext == nil {
			plaintext = []byte{} // there is one, and it is empty
		}
		return &kmsapi.DecryptResponse{
			KeyID: with.key.ARN(), Plaintext: plaintext, EncryptionAlgorithm: with.algorithm, KeyMaterialID: materialText(material),
		}, nil
	}
	if c.ignoresCiphertext(in) {
		return work[kmsapi.DecryptResponse]{do: do}, nil
	}
	return tried(c, in.Trial, do)
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
	from := c.cipher(0, *in.SourceEncryptionAlgorithm, in.SourceEncryptionContext)
	to := c.cipher(1, *in.DestinationEncryptionAlgorithm, in.DestinationEncryptionContext)
	from.member, to.member = "sourceKeyMaterialId", "destinationKeyMaterialId"
	if err := cmpError(from.check(), to.check()); err != nil {
		return work[kmsapi.ReEncryptResponse]{}, err
	}
	do := func(ctx context.Context) (*kmsapi.ReEncryptResponse, error) {
		plaintext, source, err := from.open(ctx, in.CiphertextBlob)
		if err != nil {
			return nil, err
		}
		defer clear(plaintext)
		if err := to.checkSize(len(plaintext)); err != nil {
			return nil, err
		}
		if in.IsDryRun() {
			return nil, nil
		}
		blob, destination, err := to.seal(ctx, plaintext)
		if err != nil {
			return nil, err
		}
		from.opened(source)
		return &kmsapi.ReEncryptResponse{
			CiphertextBlob: blob, SourceKeyID: from.key.ARN(), KeyID: to.key.ARN(),
			SourceEncryptionAlgorithm: from.algorithm, DestinationEncryptionAlgorithm: to.algorithm,
			SourceKeyMaterialID: materialText(source), DestinationKeyMaterialID: materialText(destination),
		}, nil
	}
	if c.ignoresCiphertext(in) {
		return work[kmsapi.ReEncryptResponse]{do: do}, nil
	}
	return tried(c, in.Trial, do)
}

// tried is the work do; for a trial it is done now, and its result dropped: what
// only the work can find out is found out.
func tried[Out any](c *call, trial kmsapi.Trial, do func(context.Context) (*Out, error)) (work[Out], error) {
	if trial.IsDryRun() {
		out, err := do(c.ctx)
		wipe(out)
		if err != nil {
			return work[Out]{}, err
		}
	}
	return work[Out]{do: do}, nil
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
