package gateway

import (
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// admit checks whose each key is, its usage, origin and state, in this order, as AWS does (KMS
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
		if r.key != nil && r.target.origin != "" && r.key.Origin != r.target.origin {
			return kmsapi.OriginInvalid(r.key.ARN(), r.key.Origin)
		}
		if r.key != nil {
			if err := r.target.checkState(r.key); err != nil {
				return err
			}
		}
		if r.key != nil && (r.target.usage != "" || r.target.public) {
			if err := c.isWhole(r.key); err != nil {
				return err
			}
		}
		if r.key != nil && (r.target.usage != "" || r.target.public || r.target.token) {
			if _, err := c.tokenOf(r.key); err != nil {
				return err
			}
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

// isWhole refuses a key that lacks material that it needs. Only imported material is
// deleted and expires: before its time of expiry is acted on, too.
func (c *call) isWhole(key *metadata.KeyEntry) error {
	if key.Origin == keyspec.External && !key.Whole(c.now) {
		return kmsapi.WrongState(key.ARN(), kmsapi.PendingImport)
	}
	return nil
}
