package gateway

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// dataKeyBytes are the sizes of data keys by DataKeySpec.
var dataKeyBytes = map[kmsapi.DataKeySpec]int{kmsapi.AES128: 16, kmsapi.AES256: 32}

func completeGenerateDataKey(in *kmsapi.GenerateDataKeyRequest) error {
	return checkDataKey(in.KeySpec, in.NumberOfBytes, in.EncryptionContext)
}

func completeGenerateDataKeyWithoutPlaintext(in *kmsapi.GenerateDataKeyWithoutPlaintextRequest) error {
	return checkDataKey(in.KeySpec, in.NumberOfBytes, in.EncryptionContext)
}

// checkDataKey wants exactly one of key spec and number of bytes.
func checkDataKey(spec *kmsapi.DataKeySpec, bytes *int32, context map[string]string) error {
	if (spec == nil) == (bytes == nil) {
		return kmsapi.KeySpecOrNumberOfBytes()
	}
	return checkContext(context)
}

func (c *call) generateDataKey(in *kmsapi.GenerateDataKeyRequest) (work[kmsapi.GenerateDataKeyResponse], error) {
	key := c.key(0)
	if err := makesDataKeys(key); err != nil {
		return work[kmsapi.GenerateDataKeyResponse]{}, err
	}
	return work[kmsapi.GenerateDataKeyResponse]{do: func(ctx context.Context) (*kmsapi.GenerateDataKeyResponse, error) {
		plaintext, blob, material, err := c.newDataKey(ctx, in.KeySpec, in.NumberOfBytes, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		return &kmsapi.GenerateDataKeyResponse{
			CiphertextBlob: blob, Plaintext: plaintext, KeyID: key.ARN(), KeyMaterialID: materialText(material),
		}, nil
	}}, nil
}

func (c *call) generateDataKeyWithoutPlaintext(in *kmsapi.GenerateDataKeyWithoutPlaintextRequest) (work[kmsapi.GenerateDataKeyWithoutPlaintextResponse], error) {
	key := c.key(0)
	if err := makesDataKeys(key); err != nil {
		return work[kmsapi.GenerateDataKeyWithoutPlaintextResponse]{}, err
	}
	return work[kmsapi.GenerateDataKeyWithoutPlaintextResponse]{do: func(ctx context.Context) (*kmsapi.GenerateDataKeyWithoutPlaintextResponse, error) {
		plaintext, blob, material, err := c.newDataKey(ctx, in.KeySpec, in.NumberOfBytes, in.EncryptionContext)
		if err != nil {
			return nil, err
		}
		clear(plaintext)
		return &kmsapi.GenerateDataKeyWithoutPlaintextResponse{
			CiphertextBlob: blob, KeyID: key.ARN(), KeyMaterialID: materialText(material),
		}, nil
	}}, nil
}

// makesDataKeys refuses keys that encrypt but not with a data key's algorithm.
func makesDataKeys(key *metadata.KeyEntry) error {
	if key.Spec != keyspec.SymmetricDefault {
		return kmsapi.DataKeyUnderKeyPair()
	}
	return nil
}

// newDataKey takes a data key from the token's random generator and encrypts
// it under the call's key. The plaintext is the caller's to clear.
func (c *call) newDataKey(ctx context.Context, spec *kmsapi.DataKeySpec, bytes *int32, context map[string]string) ([]byte, kmsapi.Blob, *metadata.Material, error) {
	key, size := c.key(0), int(kmsapi.Or(bytes, 0))
	if spec != nil {
		size = dataKeyBytes[*spec]
	}
	plaintext, err := c.token(key).Random(ctx, c.onBehalf(key), size)
	if err != nil {
		return nil, nil, nil, err
	}
	blob, material, err := c.cipher(0, keyspec.AlgorithmSymmetricDefault, context).seal(ctx, plaintext)
	if err != nil {
		clear(plaintext)
		return nil, nil, nil, err
	}
	return plaintext, blob, material, nil
}

func completeGenerateRandom(in *kmsapi.GenerateRandomRequest) error {
	if in.NumberOfBytes == nil {
		return kmsapi.NumberOfBytesRequired()
	}
	if in.CustomKeyStoreID != nil {
		return kmsapi.CustomKeyStoreNotFound()
	}
	return nil
}

func (c *call) generateRandom(in *kmsapi.GenerateRandomRequest) (work[kmsapi.GenerateRandomResponse], error) {
	return work[kmsapi.GenerateRandomResponse]{do: func(ctx context.Context) (*kmsapi.GenerateRandomResponse, error) {
		token := c.gateway.tokens[c.gateway.defaultStore(c.region)]
		random, err := token.Random(ctx, hsm.Call{Account: c.caller.Account}, int(*in.NumberOfBytes))
		if err != nil {
			return nil, err
		}
		return &kmsapi.GenerateRandomResponse{Plaintext: random}, nil
	}}, nil
}
