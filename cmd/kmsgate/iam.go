package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// iamCommands are the subcommands of iam: what operators do that IAM's API has no
// operation for.
var iamCommands = []command{
	{"revoke-sessions", "end the sessions of a role that were issued until now", runIAMRevokeSessions},
}

func runIAM(ctx context.Context, p *program, args []string) error {
	return p.subcommand(ctx, "iam", iamCommands, args)
}

const revokeSessionsUsage = `Ends the sessions of a role that were issued before a time, at once on every
instance; the audit log has it. It cannot be undone. The role itself stays as it
is: whoever its trust policy names can assume it again. The time is held against
the clocks of the instances that issued the sessions: where they may differ from
this one, run the command once more a few seconds later. Needs no token.`

func runIAMRevokeSessions(ctx context.Context, p *program, args []string) error {
	set := p.flags("iam revoke-sessions -config FILE -role ARN [-before TIME]", revokeSessionsUsage)
	path := set.String("config", "", "configuration `file` (required)")
	role := set.String("role", "", "`ARN` of the role (required)")
	beforeText := set.String("before", "", "`time` as in 2006-01-02T15:04:05Z (default now)")
	if err := p.parse(set, args); err != nil {
		return err
	}
	of, ok := arn.ParseIAM(*role)
	if !ok || of.Kind != "role" {
		return usagef("-role is %q: it must be like arn:aws:iam::111122223333:role/deploy", *role)
	}
	now := time.Now()
	before, err := revokedBefore(*beforeText, now)
	if err != nil {
		return err
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		return i.revokeSessions(ctx, "iam revoke-sessions", of, before, now)
	})
}

// revokedBefore reads -before.
func revokedBefore(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now, nil
	}
	before, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usagef("-before is %q: it must be like %s", text, now.UTC().Format(time.RFC3339))
	}
	if before.After(now) {
		return time.Time{}, usagef("-before is %q: until then no session of the role would be good", text)
	}
	return before, nil
}

func (i *installation) revokeSessions(ctx context.Context, command string, of arn.IAM, before, now time.Time) error {
	role := arn.Role(of.Account, of.Path, of.Name)
	event := adminEvent(command, "RevokeRoleSessions", of.Account, "", now, audit.Members{
		audit.String("roleArn", role), audit.String("issuedBefore", before.UTC().Format(time.RFC3339Nano)),
	})
	end := func() error {
		view := i.store.View()
		entry, err := view.Principal(ctx, of.Account, metadata.Role, of.Name)
		if errors.Is(err, metadata.ErrNotFound) || err == nil && entry.ARN() != role {
			return fmt.Errorf("there is no role %s; aws iam list-roles shows those of an account", role)
		}
		if err != nil {
			return err
		}
		return i.store.Change(ctx, view, func(tx *metadata.Tx) ([]byte, error) {
			return event, tx.RevokeSessions(ctx, of.Account, of.Name, before)
		})
	}
	// An account in which much is changed must not keep its sessions for that.
	for range revocationAttempts - 1 {
		if err := end(); !errors.Is(err, metadata.ErrStale) {
			return err
		}
	}
	return end()
}

// revocationAttempts is how often it is tried to end sessions while other changes of
// the account come in between.
const revocationAttempts = 50
