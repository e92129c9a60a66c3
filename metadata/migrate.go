package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"kmsgate/metadata/migrations"
)

// lockAttempts is how often, once a second, the lock is tried that another run of
// Migrate holds.
const lockAttempts = 300

// Migrate brings the database to this binary's schema. Several may try at once;
// one at a time works. A database that is newer than the binary is an error.
func Migrate(ctx context.Context, url string) (err error) {
	db, err := openSQL(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, lockAttempts))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.Files,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if version, _, err := schemaOf(ctx, url); err == nil && version > migrations.Version {
		return fmt.Errorf("migrate: the database has schema %d and this binary is written for %d: use a newer binary",
			version, migrations.Version)
	}
	if _, err := provider.Up(ctx); err != nil {
		return wrap(err, "migrate")
	}
	return nil
}

func openSQL(url string) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("metadata config: URL: %w", err)
	}
	return stdlib.OpenDB(*cfg), nil
}

// SchemaVersion is the version of the database's schema; 0 before the first
// migration.
func SchemaVersion(ctx context.Context, url string) (int64, error) {
	version, _, err := schemaOf(ctx, url)
	if errors.Is(err, errNoSchema) {
		return 0, nil
	}
	return version, err
}

func schemaOf(ctx context.Context, url string) (version, oldestServing int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, 0, wrap(err, "connect")
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return selectSchemaVersion(ctx, conn)
}

const selectSchema = `
SELECT version, oldest_serving
FROM schema_compatibility
ORDER BY version DESC
LIMIT 1`

func selectSchemaVersion(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
},
) (version, oldestServing int64, err error) {
	err = db.QueryRow(ctx, selectSchema).Scan(&version, &oldestServing)
	if sqlState(err) == codeUndefinedTable || errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, errNoSchema
	}
	return version, oldestServing, wrap(err, "schema version")
}

// checkSchema refuses a schema that this binary may not serve on.
func checkSchema(ctx context.Context, pool *pgxpool.Pool) error {
	version, oldestServing, err := selectSchemaVersion(ctx, pool)
	switch {
	case errors.Is(err, errNoSchema):
		return errors.New("the database has no schema yet: run kmsgate migrate")
	case err != nil:
		return err
	case version < migrations.Version:
		return fmt.Errorf("the database has schema %d and this binary needs %d: run kmsgate migrate", version, migrations.Version)
	case oldestServing > migrations.Version:
		return fmt.Errorf("the database has schema %d, which serves binaries from schema %d on, and this binary is written "+
			"for %d: it is too old", version, oldestServing, migrations.Version)
	}
	return nil
}

// CreateDatabase makes a database on the server of adminURL, which names another
// one there, as a copy of template; an empty template means an empty database.
// ErrExists if it is there.
func CreateDatabase(ctx context.Context, adminURL, name, template string) (err error) {
	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return wrap(err, "connect")
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	statement := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize() + " ENCODING 'UTF8' TEMPLATE "
	if template == "" {
		template = "template0"
	}
	_, err = conn.Exec(ctx, statement+pgx.Identifier{template}.Sanitize())
	if sqlState(err) == codeDuplicateDatabase {
		return fmt.Errorf("create database %s: %w", name, ErrExists)
	}
	return wrap(err, "create database %s", name)
}

// errNoSchema: nothing has been migrated in this database.
var errNoSchema = errors.New("no schema")

// DropDatabase removes a database of the server of adminURL, which names another
// one there, and ends the connections to it. One that is not there is no error.
func DropDatabase(ctx context.Context, adminURL, name string) (err error) {
	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return wrap(err, "connect")
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return wrap(err, "drop database %s", name)
}
