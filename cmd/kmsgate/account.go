package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"kmsgate/gateway/arn"
)

// accountCommands are the subcommands of account.
var accountCommands = []command{
	{"create", "create an account and print its root's access key once", runAccountCreate},
	{"list", "list the accounts", runAccountList},
	{"root-key", "make another access key for an account's root and print it once", runAccountRootKey},
}

func runAccount(ctx context.Context, p *program, args []string) error {
	return p.subcommand(ctx, "account", accountCommands, args)
}

func runAccountCreate(ctx context.Context, p *program, args []string) error {
	set := p.flags("account create -config FILE -account ACCOUNT", "Creates an account; the audit log has it.")
	path, account, err := p.parseAccount(set, args)
	if err != nil {
		return err
	}
	return p.withInstallation(ctx, path, func(i *installation) error {
		key, secret, err := i.createAccount(ctx, "account create", account)
		defer clear(secret)
		if err != nil {
			return err
		}
		p.showSecret(key, secret)
		return nil
	})
}

func runAccountRootKey(ctx context.Context, p *program, args []string) error {
	set := p.flags("account root-key -config FILE -account ACCOUNT", "Makes another access key for the root of an account; the audit log has it.\nKeys that exist stay valid.")
	path, account, err := p.parseAccount(set, args)
	if err != nil {
		return err
	}
	return p.withInstallation(ctx, path, func(i *installation) error {
		key, secret, err := i.createRootKey(ctx, "account root-key", account)
		defer clear(secret)
		if err != nil {
			return err
		}
		p.showSecret(key, secret)
		return nil
	})
}

// parseAccount reads the flags of a command that is about one account and has no others.
func (p *program) parseAccount(set *flag.FlagSet, args []string) (path, account string, err error) {
	set.StringVar(&path, "config", "", "configuration `file` (required)")
	set.StringVar(&account, "account", "", "12 `digits` (required)")
	if err := p.parse(set, args); err != nil {
		return "", "", err
	}
	return path, account, checkAccount(account)
}

// checkAccount refuses what is no account id, before anything is opened.
func checkAccount(id string) error {
	if !arn.IsAccount(id) {
		return usagef("-account is %q: an account has 12 digits", id)
	}
	return nil
}

func runAccountList(ctx context.Context, p *program, args []string) error {
	set := p.flags("account list -config FILE", "Lists the accounts with the time they were created; the audit log has it.\nNeeds no token.")
	path := set.String("config", "", "configuration `file` (required)")
	if err := p.parse(set, args); err != nil {
		return err
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		if err := i.record(ctx, adminEvent("account list", "ListAccounts", "", "", time.Now(), nil)); err != nil {
			return err
		}
		after := ""
		for {
			accounts, err := i.store.ListAccounts(ctx, after, 1000)
			if err != nil || len(accounts) == 0 {
				return err
			}
			for _, a := range accounts {
				fmt.Fprintf(p.stdout, "%s %s\n", a.ID, a.CreatedAt.UTC().Format(time.RFC3339))
			}
			after = accounts[len(accounts)-1].ID
		}
	})
}

// withDatabase opens the database alone, for commands that need no token.
func (p *program) withDatabase(ctx context.Context, path string, do func(*installation) error) error {
	return p.with(ctx, path, openDatabase, do)
}
