package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"kmsgate/hsm/pkcs11"
	"kmsgate/metadata/audit"
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
it tries each token's PIN exactly once and, where it works, clears the mark; the
audit log has it.`

func runHSMLogin(ctx context.Context, p *program, args []string) error {
	set := p.flags("hsm login -config FILE [-token NAME]", hsmLoginUsage)
	path := set.String("config", "", "configuration `file` (required)")
	only := set.String("token", "", "`name` of the one token to try; all of them without it")
	if err := p.parse(set, args); err != nil {
		return err
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		tried := 0
		for _, m := range i.config.Modules {
			for _, t := range m.Tokens {
				if *only != "" && t.Name != *only {
					continue
				}
				tried++
				serial, err := i.loginByOrder(ctx, m, t)
				if err != nil {
					return fmt.Errorf("token %s: %w", t.Name, err)
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

// loginByOrder tries a token's PIN once, records that and how it went, and
// clears the token's marks if it worked.
func (i *installation) loginByOrder(ctx context.Context, m moduleConfig, t tokenConfig) (serial string, err error) {
	if err := m.setEnvironment(); err != nil {
		return "", err
	}
	c := engineConfigOf(m, t)
	c.Marks = i.store
	serial, err = pkcs11.LoginOnce(ctx, c)
	if err == nil {
		err = i.store.ClearLoginMark(ctx, serial)
	}
	event := adminEvent("hsm login", "Login", "", "", time.Now(), audit.Members{
		audit.String("token", t.Name), audit.String("serialNumber", serial), audit.Bool("successful", err == nil),
	})
	return serial, errors.Join(err, i.record(ctx, event))
}

// setEnvironment sets what the library finds in its environment.
func (m *moduleConfig) setEnvironment() error {
	for name, value := range m.Environment {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("environment of %s: %w", m.Path, err)
		}
	}
	return nil
}
