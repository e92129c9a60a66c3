package metadata_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
	"kmsgate/metadata/pgserver"
)

// restartable is a server that a test stops and starts.
type restartable struct {
	dir string
	*pgserver.Server
}

func newRestartable(t *testing.T) *restartable {
	t.Helper()
	s := &restartable{dir: serverDir(t)}
	s.start(t)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *restartable) start(t *testing.T) {
	t.Helper()
	server, err := pgserver.Start(t.Context(), pgserver.Config{Dir: s.dir})
	if err != nil {
		t.Fatal(err)
	}
	s.Server = server
}

// serverDir is a directory that Postgres's user can reach, which t.TempDir is not
// for root.
func serverDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmsgate-metadata-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil { // for Postgres's user to enter
		t.Fatal(err)
	}
	return dir
}

func TestPostgresDownAndUpAgain(t *testing.T) {
	t.Parallel()
	server := newRestartable(t)
	db := &metadatatest.Database{URL: server.URL("kmsgate")}
	if err := metadata.CreateDatabase(t.Context(), server.URL("postgres"), "kmsgate", ""); err != nil {
		t.Fatal(err)
	}
	if err := metadata.Migrate(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	f := populate(t, db)
	s, clock := f.openWithClock(t)
	f.Store = s
	id := f.insertKey(t, account)
	eventually(t, "a lease", s.Leased)
	key(t, s, id)

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Second)
	for name, call := range map[string]func(context.Context) error{
		"Ping":      s.Ping,
		"Key":       func(ctx context.Context) error { _, err := s.View().Key(ctx, region, "unknown"); return err },
		"ListKeys":  func(ctx context.Context) error { _, err := s.ListKeys(ctx, account, region, "", 1); return err },
		"ClockSkew": func(ctx context.Context) error { _, err := s.ClockSkew(ctx); return err },
		"Record":    func(ctx context.Context) error { return s.Record(ctx, s.View(), metadata.Record{Event: []byte(`{}`)}) },
		"Change": func(ctx context.Context) error {
			return f.try(ctx, func(tx *metadata.Tx) error { return tx.SetDescription(ctx, region, account, id, "x") })
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if err := call(ctx); !errors.Is(err, metadata.ErrUnavailable) {
			t.Errorf("%s while Postgres is down = %v, want ErrUnavailable", name, err)
		}
		cancel()
	}
	if _, err := s.View().Key(t.Context(), region, id); err != nil {
		t.Errorf("Key of a cached key while Postgres is down = %v", err)
	}

	server.start(t)
	eventually(t, "Postgres answers again", func() bool { return s.Ping(t.Context()) == nil })
	eventually(t, "a lease", s.Leased)
	f.disable(t, id)
	if got := key(t, s, id); got.State != metadata.Disabled {
		t.Errorf("State after Postgres came back = %s, want Disabled", got.State)
	}
	eventually(t, "a record is durable again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return s.Record(ctx, s.View(), metadata.Record{Event: []byte(`{}`)}) == nil
	})
}

// cutter is a way to the server that breaks where a test wants it to.
type cutter struct {
	url   string
	armed atomic.Bool // the next COMMIT gets through, its answer does not
}

func newCutter(t *testing.T, url string) *cutter {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{url: "postgres://" + cfg.User + ":" + cfg.Password + "@" + listener.Addr().String() + "/" + cfg.Database + "?sslmode=disable"}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			network, address := pgconn.NetworkAddress(cfg.Host, cfg.Port)
			server, err := net.Dial(network, address)
			if err != nil {
				t.Error(err)
				return
			}
			running.Go(func() { c.forward(client, server) })
			running.Go(func() {
				_, _ = io.Copy(client, server) // its end is what counts
				_ = client.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return c
}

// forward copies what the client sends, until the COMMIT that the test is after.
func (c *cutter) forward(client, server net.Conn) {
	defer server.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		cut := strings.Contains(string(buffer[:n]), "commit\x00") && c.armed.CompareAndSwap(true, false)
		if cut {
			_ = client.Close()
			_ = client.Close()
		}
		if _, err := server.Write(buffer[:n]); err != nil || cut {
			return
		}
	}
}

func TestConnectionLostDuringCommitIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	cut := newCutter(t, f.database.URL)
	s := f.database.Open(t, func(c *metadata.Config) { c.URL = cut.url })
	key(t, s, id)
	cut.armed.Store(true)
	err := s.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), tx.SetDescription(t.Context(), region, account, id, "committed")
	})
	if !errors.Is(err, metadata.ErrUnknownOutcome) || errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Change = %v, want ErrUnknownOutcome alone", err)
	}
	eventually(t, "the change is there and is seen", func() bool { return key(t, s, id).Description == "committed" })
}

func TestCanceledContextIsKept(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.try(ctx, func(*metadata.Tx) error { return nil }); !errors.Is(err, metadata.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Change with a canceled context = %v, want ErrUnavailable and context.Canceled", err)
	}
}
