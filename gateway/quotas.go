package gateway

import (
	"errors"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// Quotas are how much an account can have (KMS Developer Guide, "Resource quotas").
// Zero stands for AWS's default. The quotas on tags and on the size of policies are
// fixed.
type Quotas struct {
	Keys    int // of customers, of an account in a region, whatever their state: 100,000
	Aliases int // of a key: 50
	Grants  int // of a key: 50,000
}

func (q Quotas) orAWS() Quotas {
	return Quotas{
		Keys: orDefault(q.Keys, metadata.MaxKeys), Aliases: orDefault(q.Aliases, metadata.MaxAliases),
		Grants: orDefault(q.Grants, metadata.MaxGrants),
	}
}

// limitKeys refuses a further key of an account that has its fill in a region, before
// the token makes one. Of several at once the commit finds out.
func (c *call) limitKeys(region string) error {
	n, err := c.gateway.store.KeyCount(c.ctx, c.caller.Account, region)
	if err == nil && n >= int64(c.gateway.quotas.Keys) {
		err = kmsapi.TooManyKeys(c.caller.Account)
	}
	return err
}

// tooManyKeys is what the caller is told of an error of counting keys.
func tooManyKeys(account string, err error) error {
	if errors.Is(err, metadata.ErrLimit) {
		return kmsapi.TooManyKeys(account)
	}
	return err
}
