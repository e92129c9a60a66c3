// Package metadatatest gives tests a real store on a database of its own: a clone
// of a migrated template, on one server a test binary.
//
// The server is the first of these that there is: the one that the URL in
// KMSGATE_TEST_POSTGRES names (a database where the role may create others); a
// container of the image that KMSGATE_TEST_POSTGRES_IMAGE names, which the local
// Docker engine must have; a private one from the installed binaries. It does not
// outlive the test binary.
package metadatatest

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/metadata"
)

// timeout bounds every step of setting up and cleaning up.
const timeout = time.Minute

// New returns a store on a new, migrated, empty database. Both go with the test.
func New(t testing.TB) *metadata.Store {
	t.Helper()
	return NewDatabase(t).Open(t, nil)
}

// Database is a migrated database of a test's own.
type Database struct {
	// URL is where it is.
	URL string
}

// NewDatabase makes a database that goes with the test.
func NewDatabase(t testing.TB) *Database {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	server, err := theServer()
	if err != nil {
		t.Fatalf("server for tests: %v", err)
	}
	name := randomName()
	if err := metadata.CreateDatabase(ctx, server.admin, name, server.template); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
		defer cancel()
		if err := metadata.DropDatabase(ctx, server.admin, name); err != nil {
			t.Error(err)
		}
	})
	at, err := withDatabase(server.admin, name)
	if err != nil {
		t.Fatal(err)
	}
	return &Database{URL: at}
}

// Open opens a further store on the database, as another instance would. It is
// closed when the test ends. configure may change its config; nil leaves it.
func (d *Database) Open(t testing.TB, configure func(*metadata.Config)) *metadata.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cfg := metadata.Config{
		URL: d.URL, Instance: "test-" + strings.ToLower(rand.Text()[:8]),
		AllowUnsafeDurability: true, MaxConns: 8,
	}
	if configure != nil {
		configure(&cfg)
	}
	store, err := metadata.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
		defer cancel()
		if err := store.Close(ctx); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return store
}

// Exec runs a statement beside the stores, which are told nothing of it.
func (d *Database) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to do
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}

func randomName() string { return "kmsgate_test_" + strings.ToLower(rand.Text()) }

// withDatabase is the URL of another database of the same server.
func withDatabase(admin, name string) (string, error) {
	u, err := url.Parse(admin)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}
