package gateway

import (
	"context"
	"slices"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

func completeGenerateDataKeyPair(in *kmsapi.GenerateDataKeyPairRequest) error {
	return checkDataKeyPair(*in.KeyPairSpec, in.EncryptionContext)
}

func completeGenerateDataKeyPairWithoutPlaintext(in *kmsapi.GenerateDataKeyPairWithoutPlaintextRequest) error {
	return checkDataKeyPair(*in.KeyPairSpec, in.EncryptionContext)
}

func checkDataKeyPair(spec keyspec.Spec, context map[string]string) error {
	if spec == keyspec.SM2 {
		return kmsapi.KeyPairSpecNotServed(spec)
	}
	return checkContext(context)
}

func (c *call) generateDataKeyPair(in *kmsapi.GenerateDataKeyPairRequest) (work[kmsapi.GenerateDataKeyPairResponse], error) {
	key, spec := c.key(0), *in.KeyPairSpec
	if err := makesDataKeys(key); err != nil {
		return work[kmsapi.GenerateDataKeyPairResponse]{}, err
	}
	return work[kmsapi.GenerateDataKeyPairResponse]{do: func(ctx context.Context) (*kmsapi.GenerateDataKeyPairResponse, error) {
		blob, material, err := c.newDataKeyPair(ctx, spec, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		return &kmsapi.GenerateDataKeyPairResponse{
			PrivateKeyCiphertextBlob: blob, PrivateKeyPlaintext: slices.Clone(c.pair.Private), PublicKey: c.pair.Public,
			KeyID: key.ARN(), KeyPairSpec: spec, KeyMaterialID: materialText(material),
		}, nil
	}}, nil
}

func (c *call) generateDataKeyPairWithoutPlaintext(in *kmsapi.GenerateDataKeyPairWithoutPlaintextRequest) (work[kmsapi.GenerateDataKeyPairWithoutPlaintextResponse], error) {
	key, spec := c.key(0), *in.KeyPairSpec
	if err := makesDataKeys(key); err != nil {
		return work[kmsapi.GenerateDataKeyPairWithoutPlaintextResponse]{}, err
	}
	return work[kmsapi.GenerateDataKeyPairWithoutPlaintextResponse]{do: func(ctx context.Context) (*kmsapi.GenerateDataKeyPairWithoutPlaintextResponse, error) {
		blob, material, err := c.newDataKeyPair(ctx, spec, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		return &kmsapi.GenerateDataKeyPairWithoutPlaintextResponse{
			PrivateKeyCiphertextBlob: blob, PublicKey: c.pair.Public,
			KeyID: key.ARN(), KeyPairSpec: spec, KeyMaterialID: materialText(material),
		}, nil
	}}, nil
}

// newDataKeyPair has the token make the call's data key pair, unless it has one
// from being decided before, and encrypts its private key.
func (c *call) newDataKeyPair(ctx context.Context, spec keyspec.Spec, context map[string]string) (kmsapi.Blob, *metadata.Material, error) {
	key := c.key(0)
	if c.pair.Private == nil {
		var err error
		if c.pair, err = c.token(key).GenerateDataKeyPair(ctx, making(key.Account, spec), spec); err != nil {
			return nil, nil, c.failed(key, "KeyPairSpec "+string(spec), err)
		}
	}
	return c.cipher(0, keyspec.AlgorithmSymmetricDefault, context).seal(ctx, c.pair.Private)
}
