package gateway

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// missingError says whose material the token does not have any more.
type missingError struct {
	key *metadata.KeyEntry
	err error // wraps hsm.ErrMissing
}

func (e *missingError) Error() string { return "key " + e.key.ARN() + ": " + e.err.Error() }

func (e *missingError) Unwrap() error { return e.err }

// failed is an error of a key's token, with what only its caller knows: what
// the token has no mechanism for, or whose material is missing. Nil stays nil.
func (c *call) failed(key *metadata.KeyEntry, what string, err error) error {
	switch {
	case errors.Is(err, hsm.ErrUnsupported):
		c.gateway.report(c, false, err)
		return kmsapi.NoMechanism(what)
	case errors.Is(err, hsm.ErrMissing):
		return &missingError{key, err}
	}
	return err
}

// keySpecText names a key spec in a refusal.
func keySpecText(s keyspec.Spec) string { return "KeySpec " + string(s) }

// missing raises an alarm over a key whose material the token does not have, and
// puts it out of service until an operator has it found again (kmsgate doctor
// -repair) or its owner enables it. The caller hears what AWS says
// of a key in a key store that cannot be reached.
func (c *call) missing(e *missingError) *kmsapi.Error {
	c.gateway.report(c, true, e)
	if err := c.gateway.setUnavailable(c, e.key); err != nil {
		c.gateway.report(c, true, err)
	}
	return kmsapi.WrongState(e.key.ARN(), kmsapi.Unavailable)
}

// keyUnavailable is the name of the event in the log of the key's owner.
const keyUnavailable = "KeyUnavailable"

// setUnavailable moves an enabled key to Unavailable, in a change of the
// gateway's own. Of several calls that meet the same key only one does; a key in
// another state stays as it is.
func (g *Gateway) setUnavailable(c *call, key *metadata.KeyEntry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), g.recordTimeout)
	defer cancel()
	event := audit.Event{
		Identity: audit.Internal(key.Account), Time: c.now, Source: serviceKMS.eventSource(), Name: keyUnavailable,
		Region: key.Region, SourceIP: "AWS Internal", EventID: uuid.NewString(), Type: audit.ServiceEvent,
		Resources:           []audit.Resource{audit.KeyResource(key.Account, key.ARN())},
		ServiceEventDetails: audit.Members{audit.String("keyId", key.ID)}, RecipientAccount: key.Account,
	}
	err := g.store.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		return event.AppendJSON(nil), tx.SetKeyState(ctx, key.Region, key.Account, key.ID, metadata.Losing)
	})
	if errors.Is(err, metadata.ErrState) {
		return nil
	}
	return err
}
