package gateway

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

func (c *call) generateMac(in *kmsapi.GenerateMacRequest) (work[kmsapi.GenerateMacResponse], error) {
	key, algorithm := c.key(0), *in.MacAlgorithm
	if err := fits(algorithm, key); err != nil {
		return work[kmsapi.GenerateMacResponse]{}, err
	}
	material, err := current(key)
	if err != nil {
		return work[kmsapi.GenerateMacResponse]{}, err
	}
	return work[kmsapi.GenerateMacResponse]{do: func(ctx context.Context) (*kmsapi.GenerateMacResponse, error) {
		mac, err := c.token(key).GenerateMAC(ctx, c.onBehalf(key), &material.Key, algorithm, in.Message)
		if err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.GenerateMacResponse{Mac: mac, MacAlgorithm: algorithm, KeyID: key.ARN()}, nil
	}}, nil
}

func (c *call) verifyMac(in *kmsapi.VerifyMacRequest) (work[kmsapi.VerifyMacResponse], error) {
	key, algorithm := c.key(0), *in.MacAlgorithm
	if err := fits(algorithm, key); err != nil {
		return work[kmsapi.VerifyMacResponse]{}, err
	}
	material, err := current(key)
	if err != nil {
		return work[kmsapi.VerifyMacResponse]{}, err
	}
	if row, _ := keyspec.LookupAlgorithm(algorithm); len(in.Mac) != row.Hash.Size() {
		return work[kmsapi.VerifyMacResponse]{}, kmsapi.InvalidMac()
	}
	return tried(c, in.Trial, func(ctx context.Context) (*kmsapi.VerifyMacResponse, error) {
		if err := c.token(key).VerifyMAC(ctx, c.onBehalf(key), &material.Key, algorithm, in.Message, in.Mac); err != nil {
			return nil, c.failed(key, algorithmText(algorithm), err)
		}
		c.used(key, hsm.MaterialID{}, otherUse)
		return &kmsapi.VerifyMacResponse{KeyID: key.ARN(), MacValid: true, MacAlgorithm: algorithm}, nil
	})
}
