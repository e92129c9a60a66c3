package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// beatInterval is how often a heartbeat is sent: a lease survives the loss of
	// two.
	beatInterval = 250 * time.Millisecond
	// beatTimeout is how long a heartbeat may take to be committed, and to come
	// back, before the connection is given up.
	beatTimeout = 3 * time.Second
	// Pauses between attempts to connect double from the one to the other.
	minReconnect = 50 * time.Millisecond
	maxReconnect = 2 * time.Second
)

// listener owns the connection that listens. It hears the notices of every
// instance, applies them to the cache, and keeps the lease.
//
// It is one goroutine on one connection: heartbeats are sent on the connection
// that they come back on, between waits.
type listener struct {
	config *pgx.ConnConfig
	cache  *cache
	clock  func() time.Time
	logger *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
}

func startListener(config *pgx.ConnConfig, c *cache, clock func() time.Time, logger *slog.Logger) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{config: config.Copy(), cache: c, clock: clock, logger: logger, cancel: cancel, done: make(chan struct{})}
	l.config.RuntimeParams["application_name"] = "kmsgate listen"
	go l.run(ctx)
	return l
}

// stop closes the connection and waits for the goroutine.
func (l *listener) stop() {
	l.cancel()
	<-l.done
}

func (l *listener) run(ctx context.Context) {
	defer close(l.done)
	pause := minReconnect
	for ctx.Err() == nil {
		s := &session{listener: l, id: rand.Text()}
		err := s.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.beaten > 0 {
			pause = minReconnect
		}
		l.logger.WarnContext(ctx, "listening connection lost, caching without a lease",
			slog.Any("error", err), slog.Duration("retry_in", pause))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxReconnect)
	}
}

// session is one life of the listening connection.
type session struct {
	*listener
	id     string // random: a heartbeat of another life counts for nothing
	conn   *pgx.Conn
	beat   int64               // number of the newest heartbeat sent
	beaten int64               // number of the newest that came back
	sent   map[int64]time.Time // when those that did not come back were sent
}

// run listens until the connection is lost or ctx ends.
func (s *session) run(ctx context.Context) (err error) {
	if s.conn, err = pgx.ConnectConfig(ctx, s.config); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatTimeout)
		defer cancel()
		err = errors.Join(err, s.conn.Close(closing))
	}()
	if err := s.exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	s.cache.forget() // after LISTEN: what is read from here on is watched
	s.sent = make(map[int64]time.Time)
	for {
		if err := s.sendBeat(ctx); err != nil {
			return err
		}
		if err := s.wait(ctx); err != nil {
			return err
		}
		if oldest, ok := s.sent[s.beaten+1]; ok && s.clock().Sub(oldest) > beatTimeout {
			return fmt.Errorf("heartbeat %d did not come back", s.beaten+1)
		}
	}
}

const notifyBeat = `SELECT pg_notify('kmsgate', json_build_object('s', $1::text, 'n', $2::bigint)::text)`

// sendBeat commits a heartbeat. The lease counts from before it was sent.
func (s *session) sendBeat(ctx context.Context) error {
	s.beat++
	s.sent[s.beat] = s.clock()
	return s.exec(ctx, notifyBeat, s.id, s.beat)
}

func (s *session) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	if _, err := s.conn.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%.6s: %w", sql, err)
	}
	return nil
}

// wait handles what comes in until the next heartbeat is due.
func (s *session) wait(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, beatInterval)
	defer cancel()
	for {
		n, err := s.conn.WaitForNotification(wait)
		switch {
		case err == nil:
			s.handle(ctx, n)
		case wait.Err() != nil && ctx.Err() == nil && !s.conn.IsClosed():
			return nil // the next heartbeat is due
		default:
			return fmt.Errorf("wait: %w", err)
		}
	}
}

func (s *session) handle(ctx context.Context, received *pgconn.Notification) {
	n, err := parseNotice(received.Payload)
	switch {
	case err != nil: // not ours, or of a release to come: trust nothing
		s.logger.WarnContext(ctx, "unreadable notice, cache dropped", slog.Any("error", err))
		s.cache.forget()
	case n.Account != "":
		s.cache.apply(n)
	case n.Session == s.id:
		s.cameBack(n.Beat)
	}
}

// cameBack extends the lease by a heartbeat and forgets those before it.
func (s *session) cameBack(beat int64) {
	if sent, ok := s.sent[beat]; ok {
		s.cache.extendLease(sent)
	}
	for ; s.beaten < beat; s.beaten++ {
		delete(s.sent, s.beaten+1)
	}
}
