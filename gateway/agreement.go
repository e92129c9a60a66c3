package gateway

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
)

func (c *call) getPublicKey(*kmsapi.GetPublicKeyRequest) (work[kmsapi.GetPublicKeyResponse], error) {
	key := c.key(0)
	if !isPair(key.Spec) {
		return work[kmsapi.GetPublicKeyResponse]{}, kmsapi.NoPublicKey()
	}
	material, err := current(key)
	if err != nil {
		return work[kmsapi.GetPublicKeyResponse]{}, err
	}
	return work[kmsapi.GetPublicKeyResponse]{do: func(ctx context.Context) (*kmsapi.GetPublicKeyResponse, error) {
		public, err := c.token(key).PublicKey(ctx, c.onBehalf(key), &material.Key)
		if err != nil {
			return nil, c.failed(key, keySpecText(key.Spec), err)
		}
		lists := metadataOf(key)
		return &kmsapi.GetPublicKeyResponse{
			KeyID: key.ARN(), PublicKey: public, CustomerMasterKeySpec: key.Spec, KeySpec: key.Spec, KeyUsage: key.Usage,
			EncryptionAlgorithms: lists.EncryptionAlgorithms, SigningAlgorithms: lists.SigningAlgorithms,
			KeyAgreementAlgorithms: lists.KeyAgreementAlgorithms, EncapsulationAlgorithms: lists.EncapsulationAlgorithms,
		}, nil
	}}, nil
}

func (c *call) deriveSharedSecret(in *kmsapi.DeriveSharedSecretRequest) (work[kmsapi.DeriveSharedSecretResponse], error) {
	key, algorithm := c.key(0), *in.KeyAgreementAlgorithm
	if err := fits(algorithm, key); err != nil {
		return work[kmsapi.DeriveSharedSecretResponse]{}, err
	}
	material, err := current(key)
	if err != nil {
		return work[kmsapi.DeriveSharedSecretResponse]{}, err
	}
	return tried(c, in.Trial, func(ctx context.Context) (*kmsapi.DeriveSharedSecretResponse, error) {
		secret, err := c.token(key).DeriveSecret(ctx, c.onBehalf(key), &material.Key, in.PublicKey)
		if err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.DeriveSharedSecretResponse{
			KeyID: key.ARN(), SharedSecret: secret, KeyAgreementAlgorithm: algorithm, KeyOrigin: key.Origin,
		}, nil
	})
}

func (c *call) encapsulate(in *kmsapi.EncapsulateRequest) (work[kmsapi.EncapsulateResponse], error) {
	key, algorithm := c.key(0), *in.EncapsulationAlgorithm
	if err := fits(algorithm, key); err != nil {
		return work[kmsapi.EncapsulateResponse]{}, err
	}
	material, err := current(key)
	if err != nil {
		return work[kmsapi.EncapsulateResponse]{}, err
	}
	return work[kmsapi.EncapsulateResponse]{do: func(ctx context.Context) (*kmsapi.EncapsulateResponse, error) {
		secret, encapsulation, err := c.token(key).Encapsulate(ctx, c.onBehalf(key), &material.Key)
		if err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.EncapsulateResponse{
			KeyID: key.ARN(), EncapsulationAlgorithm: algorithm, SharedSecret: secret, SharedSecretCiphertextBlob: encapsulation,
		}, nil
	}}, nil
}

func (c *call) decapsulate(in *kmsapi.DecapsulateRequest) (work[kmsapi.DecapsulateResponse], error) {
	key, algorithm := c.key(0), *in.EncapsulationAlgorithm
	if err := fits(algorithm, key); err != nil {
		return work[kmsapi.DecapsulateResponse]{}, err
	}
	material, err := current(key)
	if err != nil {
		return work[kmsapi.DecapsulateResponse]{}, err
	}
	return tried(c, in.Trial, func(ctx context.Context) (*kmsapi.DecapsulateResponse, error) {
		secret, err := c.token(key).Decapsulate(ctx, c.onBehalf(key), &material.Key, in.SharedSecretCiphertextBlob)
		if err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.DecapsulateResponse{KeyID: key.ARN(), EncapsulationAlgorithm: algorithm, SharedSecret: secret}, nil
	})
}
