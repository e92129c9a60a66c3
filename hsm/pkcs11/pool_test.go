package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// takeAll takes every session that the class gets.
func takeAll(t *testing.T, e *Engine, on hsm.Call) (taken []*session) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		s, err := e.pool.get(ctx, on)
		cancel()
		if errors.Is(err, hsm.ErrBusy) {
			return taken
		}
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, s)
	}
}

func putAll(e *Engine, taken []*session, c hsm.Class) {
	for _, s := range taken {
		e.pool.put(s, c)
	}
}

func TestClassesCannotStarveEachOther(t *testing.T) {
	clock := newStoppedClock()
	e := openWithKeys(t, func(c *Config) { c.MaxSessions, c.Clock = 8, clock.now })
	for _, c := range []struct {
		class hsm.Class
		want  int
	}{{hsm.Background, 8}, {hsm.Interactive, 8}, {hsm.Generation, 4}, {hsm.Background, 1}} {
		taken := takeAll(t, e, hsm.Call{Class: c.class})
		if len(taken) != c.want {
			t.Errorf("class %d gets %d of 8 sessions, want %d", c.class, len(taken), c.want)
		}
		if err := e.Check(within(t, time.Second)); err != nil {
			t.Errorf("Check while class %d has all it gets = %v", c.class, err)
		}
		putAll(e, taken, c.class)
	}
	taken := takeAll(t, e, client)
	if _, err := e.Random(within(t, 10*time.Millisecond), client, 8); !errors.Is(err, hsm.ErrBusy) {
		t.Errorf("Random with every session taken = %v, want %v", err, hsm.ErrBusy)
	}
	putAll(e, taken, hsm.Interactive)
	if _, err := e.Random(t.Context(), hsm.Call{Class: 200}, 8); err != nil {
		t.Errorf("Random of an unknown class = %v", err)
	}
}

func TestAccountsTakeTurns(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.MaxSessions = 1 })
	taken := takeAll(t, e, client)
	order := make(chan string, 20)
	wait := func(account string) {
		s, err := e.pool.get(t.Context(), hsm.Call{Account: account})
		if err != nil {
			t.Error(err)
			return
		}
		order <- account
		e.pool.put(s, hsm.Interactive)
	}
	for i, account := range strings.Split("aaaaaabbc", "") {
		go wait(account)
		eventually(t, "the caller waits", func() bool { return e.Stats().Waiting == i+1 })
	}
	putAll(e, taken, hsm.Interactive)
	var got []string
	for range 9 {
		got = append(got, <-order)
	}
	if want := strings.Split("abcabaaaa", ""); !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v", got, want)
	}
}

func TestLessUrgentClassesHaveTheirTurn(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.MaxSessions = 1 })
	taken := takeAll(t, e, client)
	order := make(chan hsm.Class, 20)
	waiting := 0
	for _, c := range []hsm.Class{hsm.Generation, hsm.Interactive} {
		for range 4 {
			go func() {
				s, err := e.pool.get(t.Context(), hsm.Call{Class: c})
				if err != nil {
					t.Error(err)
					return
				}
				order <- c
				e.pool.put(s, c)
			}()
			waiting++
			eventually(t, "the caller waits", func() bool { return e.Stats().Waiting == waiting })
		}
	}
	putAll(e, taken, hsm.Interactive)
	first := map[hsm.Class]int{}
	for i := range 8 {
		c := <-order
		if _, seen := first[c]; !seen {
			first[c] = i
		}
	}
	if first[hsm.Interactive] > 1 || first[hsm.Generation] > 3 {
		t.Errorf("first turns of the classes = %v", first)
	}
}

func TestQueueIsBounded(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.MaxSessions, c.MaxQueue = 1, 3 })
	taken := takeAll(t, e, client)
	results := make(chan error, 3)
	for i := range 3 {
		go func() {
			_, err := e.Random(t.Context(), hsm.Call{Account: fmt.Sprint(i)}, 8)
			results <- err
		}()
	}
	eventually(t, "three callers wait", func() bool { return e.Stats().Waiting == 3 })
	if _, err := e.Random(t.Context(), client, 8); !errors.Is(err, hsm.ErrBusy) {
		t.Errorf("Random with a full queue = %v, want %v", err, hsm.ErrBusy)
	}
	putAll(e, taken, hsm.Interactive)
	for range 3 {
		if err := <-results; err != nil {
			t.Errorf("Random of a caller that waited = %v", err)
		}
	}
}

func TestOneAccountLeavesRoomInTheQueue(t *testing.T) {
	p := newPool(1, newStoppedClock())
	p.engine.cfg.MaxQueue = 16
	if !start(p, hsm.Interactive) {
		t.Fatal("nobody gets the session")
	}
	wait := func(account string, c hsm.Class) (n int) {
		for {
			g, _ := p.enter(hsm.Call{Account: account, Class: c})
			if errors.Is(g.err, hsm.ErrBusy) {
				return n
			}
			n++
		}
	}
	got := []int{wait("a", hsm.Interactive), wait("b", hsm.Interactive), wait("c", hsm.Generation), wait("a", hsm.Interactive)}
	if want := []int{8, 4, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("accounts get %d places of 16, one after the other, want %d", got, want)
	}
	if g, w := p.enter(hsm.Call{Class: hsm.Health}); g.err != nil || w != nil {
		t.Errorf("health gets %v and waits: %v", g.err, w != nil)
	}
}

func TestPoolMakesDoWhereTheTokenHasNoMoreSessions(t *testing.T) {
	var ahead atomic.Int64
	e, shim := openWithShim(t, func(c *Config) {
		c.MaxSessions = 8
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	taken := takeAll(t, e, client)
	putAll(e, taken[:2], hsm.Interactive)
	for _, s := range taken[2:] {
		e.pool.discard(s, hsm.Interactive)
	}
	held := []*session{}
	for range 2 {
		s, err := e.pool.get(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, s)
	}
	shim.Fail(softhsm.OpenSession, 0xB1, 1<<40)
	if _, err := e.Random(t.Context(), client, 8); !errors.Is(err, hsm.ErrBusy) {
		t.Errorf("Random = %v, want %v", err, hsm.ErrBusy)
	}
	putAll(e, held, hsm.Interactive)
	if s := e.Stats(); s.SessionsMax >= 8 || s.SessionsMax < 1 {
		t.Errorf("SessionsMax = %d, want it cut", s.SessionsMax)
	}
	if _, err := e.Random(t.Context(), client, 8); err != nil {
		t.Errorf("Random with fewer sessions = %v", err)
	}
	shim.Fail(softhsm.OpenSession, 0, 0)
	for range 10 {
		ahead.Add(int64(growAfter))
		if _, err := e.Random(t.Context(), client, 8); err != nil {
			t.Errorf("Random while the pool grows = %v", err)
		}
	}
	if s := e.Stats(); s.SessionsMax != 8 {
		t.Errorf("SessionsMax = %d after ten minutes, want 8 again", s.SessionsMax)
	}
}

func TestPoolUsesTheLastSessionFirst(t *testing.T) {
	e := openWithKeys(t, nil)
	for range 20 {
		if _, err := e.Random(t.Context(), client, 8); err != nil {
			t.Fatal(err)
		}
	}
	if s := e.Stats(); s.SessionsIdle != 1 {
		t.Errorf("%d sessions open after calls one at a time, want 1", s.SessionsIdle)
	}
}
