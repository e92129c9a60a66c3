package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata"
)

// hsmCommands are the subcommands of hsm.
var hsmCommands = []command{
	{"login", "try the PIN of every configured token once, and clear the marks of refused PINs", runHSMLogin},
}

func runHSM(ctx context.Context, p *program, args []string) error {
	return p.subcommand(ctx, "hsm", hsmCommands, args)
}

const hsmLoginUsage = `A PIN that a token refused is not tried again, not after a restart either, so
that restarts cannot lock the partition. After correcting the PIN file, run this:
it tries each token's PIN exactly once and, where it works, clears the mark.`

func runHSMLogin(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm login -config FILE [-token NAME]", hsmLoginUsage)
	path := set.String("config", "", "configuration `file` (required)")
	only := set.String("token", "", "`name` of the one token to try; all of them without it")
	if err := parse(set, args); err != nil {
		return err
	}
	c, _, err := p.configuration(*path)
	if err != nil {
		return err
	}
	return p.withStore(ctx, *path, func(store *metadata.Store) error {
		tried := 0
		for _, m := range c.Modules {
			for name, value := range m.Environment {
				if err := os.Setenv(name, value); err != nil {
					return err
				}
			}
			for _, t := range m.Tokens {
				if *only != "" && t.Name != *only {
					continue
				}
				tried++
				serial, err := pkcs11.LoginOnce(ctx, engineConfigOf(m, t))
				if err != nil {
					return fmt.Errorf("token %s: %w", t.Name, err)
				}
				if err := store.ClearLoginMark(ctx, serial); err != nil {
					return err
				}
				fmt.Fprintf(p.stdout, "Token %s (serial %s): the PIN works.\n", t.Name, serial)
			}
		}
		if tried == 0 {
			return errors.New("no token of that name is configured")
		}
		return nil
	})
}
