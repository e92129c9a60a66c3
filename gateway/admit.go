package gateway

import (
	"fmt"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
)

// admit checks whose each key is, its usage and its state, usage before state, as AWS does (KMS
// Developer Guide, "Key states of AWS KMS keys").
func (c *call) admit() error {
	for i := range c.resources {
		if err := c.checkManager(&c.resources[i]); err != nil {
			return err
		}
	}
	for _, r := range c.resources {
		if r.key != nil && r.target.usage != "" && r.key.Usage != r.target.usage {
			return kmsapi.KeyUsageInvalid(r.key.ARN(), r.key.Usage, c.op.name)
		}
	}
	for _, r := range c.resources {
		if r.key != nil && r.target.states != 0 && !r.target.states.Has(r.key.State) {
			return kmsapi.WrongState(r.key.ARN(), kmsapi.KeyState(r.key.State))
		}
		if r.key != nil && (r.target.usage != "" || r.target.public) && c.token(r.key) == nil {
			return fmt.Errorf("%w: no token is configured for key store %s", hsm.ErrUnavailable, r.key.Store)
		}
	}
	return nil
}
