package metadata_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
	"kmsgate/metadata/migrations"
)

func TestOpenRefusesAnIncompleteConfig(t *testing.T) {
	t.Parallel()
	for field, cfg := range map[string]metadata.Config{
		"URL is empty":      {Instance: "i"},
		"Instance is empty": {URL: "postgres://x"},
		"MaxConns":          {URL: "postgres://x", Instance: "i", MaxConns: -1},
		"CacheEntries":      {URL: "postgres://x", Instance: "i", CacheEntries: -1},
		"CacheBytes":        {URL: "postgres://x", Instance: "i", CacheBytes: -1},
		"URL: ":             {URL: "postgres://%", Instance: "i"},
	} {
		if _, err := metadata.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("Open = %v, want an error that names %q", err, field)
		}
	}
}

func TestOpenRefusesAnotherSchema(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	conn := connect(t, fixture{database: db})
	open := func() error {
		s, err := metadata.Open(t.Context(), metadata.Config{URL: db.URL, Instance: "i", AllowUnsafeDurability: true})
		if err == nil {
			err = s.Close(t.Context())
		}
		return err
	}
	for _, c := range []struct{ change, want string }{
		{"INSERT INTO schema_compatibility (version, oldest_serving) VALUES (1000, 1)", ""},
		{"UPDATE schema_compatibility SET oldest_serving = 1000 WHERE version = 1000", "it is too old"},
		{"DELETE FROM schema_compatibility", "run kmsgate migrate"},
		{"DROP TABLE schema_compatibility", "run kmsgate migrate"},
	} {
		if _, err := conn.Exec(t.Context(), c.change); err != nil {
			t.Fatal(err)
		}
		err := open()
		if ok := err == nil; ok != (c.want == "") || !ok && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open after %s = %v, want %q", c.change, err, c.want)
		}
	}
}

func TestOpenRefusesAServerThatCouldForget(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	var fsync string
	if err := connect(t, fixture{database: db}).QueryRow(t.Context(), "SHOW fsync").Scan(&fsync); err != nil {
		t.Fatal(err)
	}
	s, err := metadata.Open(t.Context(), metadata.Config{URL: db.URL, Instance: "i"})
	if err == nil {
		err = s.Close(t.Context())
	}
	switch refused := err != nil && strings.Contains(err.Error(), "fsync=off"); {
	case fsync == "off" && !refused:
		t.Errorf("Open with fsync=off = %v, want a refusal", err)
	case fsync == "on" && err != nil:
		t.Errorf("Open with fsync=on = %v", err)
	}
}

func TestOpenSaysThatNothingAnswers(t *testing.T) {
	t.Parallel()
	_, err := metadata.Open(t.Context(), metadata.Config{URL: "postgres://127.0.0.1:1/x?sslmode=disable", Instance: "i"})
	if !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Open = %v, want ErrUnavailable", err)
	}
}

func TestMigrateMayBeRunByAnyNumberAtOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := metadatatest.NewDatabase(t)
	empty := "kmsgate_empty_" + strings.ToLower(t.Name()[:8])
	if err := metadata.CreateDatabase(ctx, db.URL, empty, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := metadata.DropDatabase(context.WithoutCancel(ctx), db.URL, empty); err != nil {
			t.Error(err)
		}
	})
	if err := metadata.CreateDatabase(ctx, db.URL, empty, ""); !errors.Is(err, metadata.ErrExists) {
		t.Errorf("CreateDatabase again = %v, want ErrExists", err)
	}
	cfg, err := pgx.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(db.URL, cfg.Database, empty, 1)
	if version, err := metadata.SchemaVersion(ctx, url); err != nil || version != 0 {
		t.Errorf("SchemaVersion before = %d, %v, want 0", version, err)
	}
	errs := make(chan error, 3)
	for range 3 {
		go func() { errs <- metadata.Migrate(ctx, url) }()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Errorf("Migrate = %v", err)
		}
	}
	if version, err := metadata.SchemaVersion(ctx, url); err != nil || version != migrations.Version {
		t.Errorf("SchemaVersion after = %d, %v, want %d", version, err, migrations.Version)
	}
}

func TestMigrateRefusesANewerDatabase(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	conn := connect(t, fixture{database: db})
	if _, err := conn.Exec(t.Context(), "INSERT INTO schema_compatibility (version, oldest_serving) VALUES (1000, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := metadata.Migrate(t.Context(), db.URL); err == nil || !strings.Contains(err.Error(), "newer binary") {
		t.Errorf("Migrate = %v, want a refusal", err)
	}
}

func TestVersionIsTheNewestMigration(t *testing.T) {
	t.Parallel()
	entries, err := migrations.Files.ReadDir(".")
	if err != nil || len(entries) != migrations.Version {
		t.Errorf("%d migrations, %v, Version = %d", len(entries), err, migrations.Version)
	}
}

func TestClockSkewIsMeasured(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, clock := f.openWithClock(t)
	clock.advance(-time.Hour)
	skew, err := s.ClockSkew(t.Context())
	if err != nil || skew.Round(time.Minute) != time.Hour {
		t.Errorf("ClockSkew of a clock an hour behind = %v, %v, want about 1h", skew, err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v", err)
	}
}

func TestSetUpSaysThatNothingAnswers(t *testing.T) {
	t.Parallel()
	const dead = "postgres://127.0.0.1:1/x?sslmode=disable"
	for name, call := range map[string]func() error{
		"Migrate":        func() error { return metadata.Migrate(t.Context(), dead) },
		"SchemaVersion":  func() error { _, err := metadata.SchemaVersion(t.Context(), dead); return err },
		"CreateDatabase": func() error { return metadata.CreateDatabase(t.Context(), dead, "y", "") },
		"DropDatabase":   func() error { return metadata.DropDatabase(t.Context(), dead, "y") },
	} {
		if err := call(); !errors.Is(err, metadata.ErrUnavailable) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
	if err := metadata.Migrate(t.Context(), "postgres://%"); err == nil || errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Migrate with a malformed URL = %v, want an error of the URL", err)
	}
}

func TestOpenRefusesMetricsThatAreRegisteredAlready(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	registry := prometheus.NewRegistry()
	configure := func(c *metadata.Config) { c.Metrics = registry }
	db.Open(t, configure)
	cfg := metadata.Config{URL: db.URL, Instance: "i", AllowUnsafeDurability: true, Metrics: registry}
	if s, err := metadata.Open(t.Context(), cfg); err == nil {
		t.Errorf("Open = %v, want an error", errors.Join(err, s.Close(t.Context())))
	}
}
