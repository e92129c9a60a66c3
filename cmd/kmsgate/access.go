package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"kmsgate/gateway"
	"kmsgate/gateway/arn"
	"kmsgate/metadata/audit"
)

const accessUsage = `Lists who can do what with a key, and through which statement or grant: the root,
the users and the roles of the key's account, and the principals of other
accounts that the key's policy or a grant names. What depends on a request, such
as its encryption context, is listed as conditional, with its conditions. KEY is
a key id, a key ARN, an alias (with -account) or an alias ARN. The audit log has
each use. Needs no token.`

func runAccess(ctx context.Context, p *program, args []string) error {
	set := p.flags("access KEY -config FILE [flags]", accessUsage)
	path := set.String("config", "", "configuration `file` (required)")
	account := set.String("account", "", "`account` of an alias, 12 digits")
	region := set.String("region", "", "`region` of a key that is not named by an ARN (default the first one of the configuration)")
	asJSON := set.Bool("json", false, "print everything as JSON")
	key, err := p.parseOne(set, args, "KEY")
	if err != nil {
		return err
	}
	if *account != "" {
		if err := checkAccount(*account); err != nil {
			return err
		}
	}
	return p.withDatabase(ctx, *path, func(i *installation) error {
		found, err := i.access(ctx, "access", gateway.AccessQuery{Key: key, Account: *account, Region: *region})
		if err != nil {
			return err
		}
		if *asJSON {
			return writeJSON(p.stdout, found)
		}
		printAccess(p.stdout, found)
		return nil
	})
}

// access finds out who can do what with a key and records that somebody asked.
func (i *installation) access(ctx context.Context, command string, q gateway.AccessQuery) (*gateway.KeyAccess, error) {
	if q.Region == "" {
		q.Region = i.config.Regions[0].Name
	}
	q.Services = i.services()
	found, err := gateway.WhoCan(ctx, i.store, q)
	account, region := q.Account, q.Region
	if ref, parseErr := arn.Parse(q.Key); parseErr == nil && ref.Account != "" {
		account, region = ref.Account, ref.Region
	}
	event := adminEvent(command, "ListKeyAccess", account, region, time.Now(), audit.Members{audit.String("keyId", q.Key)})
	return found, errors.Join(err, i.record(ctx, event))
}

// services are the services of the configuration.
func (i *installation) services() []gateway.Service {
	services := make([]gateway.Service, 0, len(i.config.Services))
	for _, s := range i.config.Services {
		services = append(services, gateway.Service{Name: s.Name, Callers: s.Callers})
	}
	return services
}

// printAccess prints for people who can do what.
func printAccess(w io.Writer, a *gateway.KeyAccess) {
	fmt.Fprintf(w, "Who can do what with %s, which is %s:\n", a.KeyARN, a.State)
	if a.Service != "" {
		fmt.Fprintf(w, "It is the key of the service %s, which calls as %s.\n", a.Service, strings.Join(a.Callers, ", "))
	}
	for _, p := range a.Principals {
		fmt.Fprintf(w, "\n%s %s\n", p.Kind, p.ARN)
		for _, row := range p.Access {
			printActions(w, row)
		}
	}
	fmt.Fprintf(w, "\n%d more that were looked at can do nothing with it.\n", a.Powerless)
}

func printActions(w io.Writer, row gateway.ActionAccess) {
	word := "always"
	if row.Conditional {
		word = "conditional"
	}
	names := make([]string, 0, len(row.Actions))
	for _, action := range row.Actions {
		names = append(names, strings.TrimPrefix(action, "kms:"))
	}
	fmt.Fprintf(w, "  %s: %s\n    through %s\n", word, strings.Join(names, " "), plain(row.Through))
	if row.And != "" {
		fmt.Fprintf(w, "    and %s\n", plain(row.And))
	}
	for _, condition := range row.Conditions {
		fmt.Fprintf(w, "    if %s\n", plain(condition))
	}
	if row.Conditional && len(row.Conditions) == 0 {
		fmt.Fprint(w, "    unless a Deny with conditions takes it away\n")
	}
}
