package pkcs11

import (
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
)

// stoppedClock is a clock that tests move.
type stoppedClock struct {
	start time.Time
	ahead atomic.Int64
}

func newStoppedClock() *stoppedClock { return &stoppedClock{start: time.Now()} }

func (c *stoppedClock) now() time.Time { return c.start.Add(time.Duration(c.ahead.Load())) }

func (c *stoppedClock) move(d time.Duration) { c.ahead.Add(int64(d)) }

// newPool makes a pool that nothing opens sessions for.
func newPool(sessions int, clock *stoppedClock) *pool {
	p := &pool{engine: &Engine{cfg: Config{MaxQueue: 10, Clock: clock.now}}, max: sessions, limit: sessions}
	p.background.counted = clock.now()
	return p
}

// start takes a place in the pool if there is one now.
func start(p *pool, c hsm.Class) bool {
	_, w := p.enter(hsm.Call{Class: c})
	return w == nil || !p.leave(w)
}

// crowd is callers of one class, who always have one more waiting. Each works for
// a number of steps.
type crowd struct {
	pool    *pool
	class   hsm.Class
	steps   int
	next    *waiter
	working []int // steps that are left
}

// finish ends the calls whose time is over.
func (c *crowd) finish() {
	still := c.working[:0]
	for _, left := range c.working {
		if left > 1 {
			still = append(still, left-1)
			continue
		}
		c.pool.put(nil, c.class)
	}
	c.working = still
}

// begin begins the calls that have been given a session; false if there are none.
func (c *crowd) begin() (any bool) {
	for {
		if c.next != nil {
			select {
			case <-c.next.granted:
			default:
				return any
			}
			c.working, any = append(c.working, c.steps), true
		}
		for c.next = nil; c.next == nil; {
			if _, c.next = c.pool.enter(hsm.Call{Class: c.class}); c.next == nil {
				c.working, any = append(c.working, c.steps), true
			}
		}
	}
}

func TestBackgroundWorkTakesATenthWhileClientsAreThere(t *testing.T) {
	const step = 5 * time.Millisecond
	for name, c := range map[string]struct{ sessions, client, background int }{
		"one session":                  {1, 1, 1},
		"one session and long calls":   {1, 1, 200},
		"four sessions":                {4, 1, 3},
		"many sessions":                {32, 1, 1},
		"many sessions and long calls": {32, 1, 200},
		"long calls of clients":        {4, 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newStoppedClock()
			p := newPool(c.sessions, clock)
			clients := &crowd{pool: p, class: hsm.Interactive, steps: c.client}
			background := &crowd{pool: p, class: hsm.Background, steps: c.background}
			for clients.begin(); clock.now().Sub(clock.start) < 2*time.Minute; clock.move(step) {
				clients.finish()
				background.finish()
				for background.begin() || clients.begin() {
				}
			}
			p.mu.Lock() // the pool may look by itself, late
			defer p.mu.Unlock()
			share := float64(p.background.taken) / float64(p.background.shared)
			if share < 0.08 || share > 0.101 {
				t.Errorf("background work took %.4f of the time, want a tenth and no more", share)
			}
		})
	}
}

func TestBackgroundWorkHasAllThatNoClientWants(t *testing.T) {
	clock, got := newStoppedClock(), make(chan *session, 4)
	e := openWithKeys(t, func(c *Config) { c.MaxSessions, c.Clock = 4, clock.now })
	if _, err := e.Random(t.Context(), client, 8); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		go func() {
			taken, err := e.pool.get(t.Context(), hsm.Call{Class: hsm.Background})
			if err != nil {
				t.Error(err)
			}
			got <- taken
		}()
	}
	eventually(t, "a client was there: background work has one session, and three wait", func() bool {
		s := e.Stats()
		return s.SessionsBusy == 1 && s.Waiting == 3
	})
	clock.move(lull)
	eventually(t, "the clients are gone: background work has all sessions", func() bool {
		s := e.Stats()
		return s.SessionsBusy == 4 && s.Waiting == 0
	})
	if s := e.Stats(); s.BackgroundTime != lull {
		t.Errorf("BackgroundTime = %v, want that of one session until the clients were gone, %v", s.BackgroundTime, lull)
	}
	clock.move(time.Hour)
	if s := e.Stats(); s.BackgroundTime != lull || s.SharedTime != 4*lull {
		t.Errorf("BackgroundTime = %v of %v an hour later, want no more than before", s.BackgroundTime, s.SharedTime)
	}
	for range 4 {
		putAll(e, []*session{<-got}, hsm.Background)
	}
}

func TestBackgroundWorkWaitsUntilItsDebtIsPaidOff(t *testing.T) {
	clock := newStoppedClock()
	p := newPool(1, clock)
	if !start(p, hsm.Background) {
		t.Fatal("background work gets no session of an idle token")
	}
	_, client := p.enter(hsm.Call{})
	if client == nil {
		t.Fatal("a client gets a session that is in use")
	}
	clock.move(time.Second)
	p.put(nil, hsm.Background)
	<-client.granted
	_, waiter := p.enter(hsm.Call{Class: hsm.Background})
	for range 89 { // clients come and go, one after the other
		clock.move(100 * time.Millisecond)
		p.put(nil, hsm.Interactive)
		if !start(p, hsm.Interactive) {
			t.Fatal("background work begins before its debt is paid off")
		}
	}
	clock.move(100 * time.Millisecond)
	p.put(nil, hsm.Interactive)
	if start(p, hsm.Interactive) {
		t.Error("background work does not begin when its debt is paid off")
	}
	<-waiter.granted
}
