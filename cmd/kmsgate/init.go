package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/metadata"
)

const initUsage = `Makes the service keys of the configured key stores in their tokens and the
first account, and prints the access key of the account's root once. Run again
after it was cut off, it goes on where it was; it never makes a key twice.`

func runInit(ctx context.Context, p *program, args []string) error {
	set := p.flags("init -config FILE -account ACCOUNT", initUsage)
	path := set.String("config", "", "configuration `file` (required)")
	account := set.String("account", "", "first account, 12 `digits` (required)")
	if err := p.parse(set, args); err != nil {
		return err
	}
	if err := checkAccount(*account); err != nil {
		return err
	}
	return p.withInstallation(ctx, *path, func(i *installation) error {
		if err := i.checkTokens(ctx, "init"); err != nil {
			return err
		}
		if err := i.ensureRegions(ctx, "init"); err != nil {
			return err
		}
		fmt.Fprintln(p.stdout, "The key stores have their service keys.")
		known, err := i.store.AccountsExist(ctx, []string{*account})
		if err != nil {
			return err
		}
		if known {
			fmt.Fprintf(p.stdout, "Account %s exists already.\n", *account)
			return nil
		}
		key, secret, err := i.createAccount(ctx, "init", *account)
		defer clear(secret)
		if err != nil {
			return err
		}
		p.showSecret(key, secret)
		return nil
	})
}

// withInstallation opens what the configuration names for a one-shot command.
func (p *program) withInstallation(ctx context.Context, path string, do func(*installation) error) error {
	return p.with(ctx, path, openInstallation, do)
}

// opener opens what a configuration names, or a part of it.
type opener func(context.Context, *config, *slog.Logger, prometheus.Registerer) (*installation, error)

func (p *program) with(ctx context.Context, path string, open opener, do func(*installation) error) error {
	c, logger, err := p.configuration(path)
	if err != nil {
		return err
	}
	i, err := open(ctx, c, logger, nil)
	if err != nil {
		return err
	}
	return errors.Join(do(i), i.close(ctx))
}

// showSecret prints an access key with its secret, which is shown only once.
func (p *program) showSecret(key metadata.AccessKey, secret []byte) {
	fmt.Fprintf(p.stdout, "Root access key of account %s; the secret is not shown again:\n\n", key.Account)
	fmt.Fprintf(p.stdout, "export AWS_ACCESS_KEY_ID=%s\nexport AWS_SECRET_ACCESS_KEY=%s\n", key.ID, secret)
}
