package main

import (
	"context"
	"fmt"

	"kmsgate/metadata"
)

const migrateUsage = `Brings the database's schema to this version. It only goes forward, and can run
while instances of the version before are serving.`

func runMigrate(ctx context.Context, p *program, args []string) error {
	set := p.flags("migrate -config FILE", migrateUsage)
	path := set.String("config", "", "configuration `file` (required)")
	if err := p.parse(set, args); err != nil {
		return err
	}
	c, _, err := p.configuration(*path)
	if err != nil {
		return err
	}
	if err := metadata.Migrate(ctx, c.Database.URL); err != nil {
		return err
	}
	version, err := metadata.SchemaVersion(ctx, c.Database.URL)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "The schema is at version %d.\n", version)
	return nil
}
