package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"kmsgate/hsm"
)

// member is a token and whether it gets calls.
type member struct {
	Member
	bit      uint64
	inFlight atomic.Int64

	mu    sync.Mutex // guards the rest
	since time.Time  // when it was taken out; zero while it gets calls
	why   error
}

// A member that is out is tested at once and then again after a pause that doubles.
const (
	firstPause  = 50 * time.Millisecond
	mostPause   = 500 * time.Millisecond
	testTimeout = 5 * time.Second
)

// Out is a member that gets no calls.
type Out struct {
	Name  string
	Since time.Time
	Why   error
}

// Out returns the members that get no calls because they did not answer, in the order
// of the configuration.
func (c *Token) Out() []Out {
	var out []Out
	for _, m := range c.members {
		m.mu.Lock()
		if !m.since.IsZero() {
			out = append(out, Out{m.Name, m.since, m.why})
		}
		m.mu.Unlock()
	}
	return out
}

func (m *member) isOut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.since.IsZero()
}

// outages are the errors of a token that does not serve.
var outages = []error{hsm.ErrUnavailable, hsm.ErrDeadline, hsm.ErrPIN}

func isOutage(err error) bool {
	for _, outage := range outages {
		if errors.Is(err, outage) {
			return true
		}
	}
	return false
}

// noticed takes a member out whose answer is that of a token that does not serve. A
// caller that has gone says nothing about it.
func (c *Token) noticed(ctx context.Context, m *member, err error) {
	if !isOutage(err) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.since.IsZero() || !c.spawn(func() { c.bringBack(m) }) {
		return
	}
	m.since, m.why = c.clock(), err
	c.logger.Warn("token gets no more calls until it passes its self-test", "token", m.Name, "serial", m.Serial, "error", err)
}

// spawn runs f on a goroutine that Close waits for; false once it has begun.
func (c *Token) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.probing.Go(f)
	return true
}

// bringBack tests a member that is out until it passes.
func (c *Token) bringBack(m *member) {
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		ctx, cancel := context.WithTimeout(c.ctx, testTimeout)
		err := m.Token.Check(ctx)
		cancel()
		if err == nil {
			break
		}
		wait := time.NewTimer(pause)
		select {
		case <-c.ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
	m.mu.Lock()
	since := m.since
	m.since, m.why = time.Time{}, nil
	m.mu.Unlock()
	c.logger.Info("token passes its self-test and gets calls again", "token", m.Name, "serial", m.Serial, "out_since", since.UTC())
}
