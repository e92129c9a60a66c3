package metadata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says where the database is and how much of it may be held in memory.
type Config struct {
	// URL of the database (libpq's forms). A password belongs in a file named by
	// passfile, not in here.
	URL string
	// Instance names this process in audit streams, notices and login marks. It
	// should be the same after a restart.
	Instance string
	// AllowUnsafeDurability accepts a server whose fsync or full_page_writes are
	// off and leaves its synchronous_commit alone. For tests only: what was
	// acknowledged may be lost.
	AllowUnsafeDurability bool
	// MaxConns bounds the connections of the pool, the listening one apart.
	// Optional. Zero means 16; at least 4.
	MaxConns int32
	// CacheEntries bounds how many keys, aliases and access keys are cached
	// together. Optional. Zero means 20,000.
	CacheEntries int
	// CacheBytes bounds the estimated size of the cache, in bytes. Optional. Zero
	// means 64 MiB.
	CacheBytes int
	// QueueEvents keeps events until they are posted to the site's webhook. Optional:
	// without it [Tx.QueueEvent] does nothing.
	QueueEvents bool
	// Clock tells the time; its readings must be monotonic, as time.Now's are.
	// Optional. Nil means time.Now.
	Clock func() time.Time
	// Logger gets what the background work meets. Optional. Nil discards it.
	Logger *slog.Logger
	// Metrics is where the store's collectors are registered. Optional.
	Metrics prometheus.Registerer
}

// validate reports the first field that is wrong, and fills in the defaults.
// minConns is what the store's own work can hold at once, with room for one more.
const minConns = 4

func (c Config) validate() (Config, error) {
	switch {
	case c.URL == "":
		return c, errors.New("metadata config: URL is empty")
	case c.Instance == "":
		return c, errors.New("metadata config: Instance is empty")
	case c.MaxConns != 0 && c.MaxConns < minConns:
		return c, fmt.Errorf("metadata config: MaxConns is %d, below %d", c.MaxConns, minConns)
	case c.CacheEntries < 0:
		return c, errors.New("metadata config: CacheEntries is negative")
	case c.CacheBytes < 0:
		return c, errors.New("metadata config: CacheBytes is negative")
	}
	c.MaxConns = cmp.Or(c.MaxConns, 16)
	c.CacheEntries = cmp.Or(c.CacheEntries, 20_000)
	c.CacheBytes = cmp.Or(c.CacheBytes, 64<<20)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Store is the gateway's access to its database. Safe for concurrent use. Every
// method keeps its context's deadline; when Postgres cannot be reached it
// returns ErrUnavailable, and works again when Postgres is back.
type Store struct {
	pool     *pgxpool.Pool
	clock    func() time.Time
	instance string
	logger   *slog.Logger
	cache    *cache
	listener *listener
	writer   *writer
	metrics  *metrics

	queueEvents bool
}

// Open connects to a database that [Migrate] has brought to this binary's schema
// and starts to listen. It refuses another schema, and a server that could lose
// what it has committed unless cfg says so. ctx is for opening alone.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		pool: pool, clock: cfg.Clock, instance: cfg.Instance, logger: cfg.Logger,
		cache:       newCache(cfg.Clock, cfg.CacheEntries, cfg.CacheBytes),
		queueEvents: cfg.QueueEvents,
	}
	if err := s.start(ctx, cfg); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) start(ctx context.Context, cfg Config) (err error) {
	if s.metrics, err = newMetrics(cfg.Metrics, s.cache, s.pool); err != nil {
		return err
	}
	s.writer, err = newWriter(ctx, writerConfig{
		pool: s.pool, instance: s.instance, clock: s.clock, logger: s.logger, covered: s.cache.covered,
		observe: s.metrics.observeBatch,
	})
	if err != nil {
		s.metrics.unregister()
		return err
	}
	s.listener = startListener(s.pool.Config().ConnConfig, s.cache, s.clock, s.logger)
	return nil
}

// Close finishes the audit records that are waiting, stops listening and closes
// the connections. No other method may be running or be called after it. If ctx
// ends first, its error is returned and connections may stay open.
func (s *Store) Close(ctx context.Context) error {
	err := s.writer.close(ctx)
	s.listener.stop()
	s.metrics.unregister()
	closed := make(chan struct{})
	go func() {
		s.pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("close metadata store: %w", ctx.Err()))
	}
}

// Record makes the audit records of a request, one for each account concerned,
// durable before it returns: all of them or none. ErrStale
// if an account that v saw has moved and no lease covers it: decide again on a new
// View, then record. ErrUnavailable if the record cannot be made durable before
// ctx ends: the request must not be answered with a result.
func (s *Store) Record(ctx context.Context, v *View, records ...Record) error {
	err := s.writer.record(ctx, v.versions(), records...)
	if errors.Is(err, ErrStale) {
		s.cache.drop(v.versions())
	}
	return err
}
