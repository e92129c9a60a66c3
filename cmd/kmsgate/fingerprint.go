package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// checkTokens refuses tokens that are not what they were when they were last
// accepted. One that is seen for the first time is remembered.
func (i *installation) checkTokens(ctx context.Context, command string) error {
	return i.eachToken(func(name string, engine tokenEngine) error {
		now, changes, err := i.compareToken(ctx, engine)
		switch {
		case errors.Is(err, metadata.ErrNotFound):
			return i.acceptToken(ctx, command, engine, now)
		case err != nil || len(changes) == 0:
			return err
		}
		return fmt.Errorf("serial %s is not what it was when it was last accepted: %s; "+
			"what was probed may not hold any more: run kmsgate hsm probe -config FILE -token %s, read what it finds, and run it with -accept to serve on the token as it is now",
			engine.Stats().Serial, strings.Join(changes, "; "), name)
	})
}

// acceptTokens accepts the tokens as they are.
func (i *installation) acceptTokens(ctx context.Context, command string) error {
	return i.eachToken(func(name string, engine tokenEngine) error {
		now, changes, err := i.compareToken(ctx, engine)
		if err != nil && !errors.Is(err, metadata.ErrNotFound) || err == nil && len(changes) == 0 {
			return err
		}
		if len(changes) > 0 {
			i.logger.Warn("the token has changed since the last start, and is accepted as it is", "token", name, "changes", changes)
		}
		return i.acceptToken(ctx, command, engine, now)
	})
}

// eachToken does something with each of the tokens in service.
func (i *installation) eachToken(do func(name string, engine tokenEngine) error) error {
	for _, m := range i.config.Modules {
		for _, t := range m.Tokens {
			if err := do(t.Name, i.byToken[t.Name]); err != nil {
				return fmt.Errorf("token %s: %w", t.Name, err)
			}
		}
	}
	return nil
}

// compareToken says what a token is, and what of that has changed since it was
// accepted. [metadata.ErrNotFound] if it never was.
func (i *installation) compareToken(ctx context.Context, engine tokenEngine) (now pkcs11.Fingerprint, changes []string, err error) {
	if now, err = engine.Fingerprint(ctx); err != nil {
		return now, nil, err
	}
	document, err := i.store.TokenFingerprint(ctx, engine.Stats().Serial)
	if err != nil {
		return now, nil, err
	}
	var was pkcs11.Fingerprint
	if err := json.Unmarshal(document, &was); err != nil {
		return now, nil, fmt.Errorf("fingerprint in the database: %w", err)
	}
	return now, now.Changes(&was), nil
}

// acceptToken notes what a token is now, for later starts to compare.
func (i *installation) acceptToken(ctx context.Context, command string, engine tokenEngine, is pkcs11.Fingerprint) error {
	document, err := json.Marshal(is)
	if err != nil {
		return err
	}
	serial, now := engine.Stats().Serial, time.Now()
	return i.store.Change(ctx, i.store.View(), func(tx *metadata.Tx) ([]byte, error) {
		return adminEvent(command, "AcceptToken", "", "", now, audit.Members{
			audit.String("serialNumber", serial), audit.String("library", is.Library), audit.String("model", is.Model),
			audit.String("firmware", is.Firmware), audit.String("hardware", is.Hardware), audit.Int("mechanisms", int64(len(is.Mechanisms))),
		}), tx.AcceptToken(ctx, serial, document, now)
	})
}
