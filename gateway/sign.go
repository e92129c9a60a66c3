package gateway

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

func completeSign(in *kmsapi.SignRequest) error {
	setDefault(&in.MessageType, keyspec.Raw)
	return nil
}

func (c *call) sign(in *kmsapi.SignRequest) (work[kmsapi.SignResponse], error) {
	key, algorithm := c.key(0), *in.SigningAlgorithm
	material, err := signs(key, algorithm, *in.MessageType, len(in.Message))
	if err != nil {
		return work[kmsapi.SignResponse]{}, err
	}
	return work[kmsapi.SignResponse]{do: func(ctx context.Context) (*kmsapi.SignResponse, error) {
		signature, err := c.token(key).Sign(ctx, c.onBehalf(key), &material.Key, algorithm, *in.MessageType, in.Message)
		if err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.SignResponse{KeyID: key.ARN(), Signature: signature, SigningAlgorithm: algorithm}, nil
	}}, nil
}

func completeVerify(in *kmsapi.VerifyRequest) error {
	setDefault(&in.MessageType, keyspec.Raw)
	return nil
}

func (c *call) verify(in *kmsapi.VerifyRequest) (work[kmsapi.VerifyResponse], error) {
	key, algorithm := c.key(0), *in.SigningAlgorithm
	material, err := signs(key, algorithm, *in.MessageType, len(in.Message))
	if err != nil {
		return work[kmsapi.VerifyResponse]{}, err
	}
	return tried(c, in.Trial, func(ctx context.Context) (*kmsapi.VerifyResponse, error) {
		err := c.token(key).Verify(ctx, c.onBehalf(key), &material.Key, algorithm, *in.MessageType, in.Message, in.Signature)
		if err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.VerifyResponse{KeyID: key.ARN(), SignatureValid: true, SigningAlgorithm: algorithm}, nil
	})
}

// signs checks that a key signs, by the algorithm, a message of a type and of so
// many bytes, in AWS's order, and returns the material that does.
func signs(key *metadata.KeyEntry, a keyspec.Algorithm, as keyspec.MessageType, size int) (*metadata.Material, error) {
	if err := fits(a, key); err != nil {
		return nil, err
	}
	row, _ := keyspec.LookupAlgorithm(a)
	want, ok := row.Messages[as]
	switch {
	case !ok && takes(key, as):
		return nil, kmsapi.MessageTypeOfOtherAlgorithm(as, a)
	case !ok:
		return nil, kmsapi.MessageTypeOfOtherSpec(as, key.Spec)
	case want != 0 && size != want:
		return nil, kmsapi.DigestLength(a)
	}
	return current(key)
}

// takes tells whether any algorithm of the key takes messages of a type.
func takes(key *metadata.KeyEntry, as keyspec.MessageType) bool {
	for _, a := range algorithmsOf(key, keyspec.SignVerify) {
		row, _ := keyspec.LookupAlgorithm(a)
		if _, ok := row.Messages[as]; ok {
			return true
		}
	}
	return false
}
