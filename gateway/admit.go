package gateway

import (
	"fmt"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/metadata"
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
		if r.key != nil {
			if err := r.target.checkState(r.key); err != nil {
				return err
			}
		}
		if r.key != nil && (r.target.usage != "" || r.target.public) && c.token(r.key) == nil {
			return fmt.Errorf("%w: no token is configured for key store %s", hsm.ErrUnavailable, r.key.Store)
		}
	}
	return nil
}

// checkState refuses a key in a state that the operation is not allowed in.
func (t *target) checkState(key *metadata.KeyEntry) *kmsapi.Error {
	switch state := kmsapi.KeyState(key.State); {
	case t.states == 0 || t.states.Has(key.State):
		return nil
	case t.otherwise != nil:
		return t.otherwise(key.ARN(), state)
	default:
		return kmsapi.WrongState(key.ARN(), state)
	}
}
