package pkcs11

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"kmsgate/hsm"
)

const classCount = int(hsm.Health) + 1

// pool is the bounded set of work sessions. A session that becomes free goes
// to the class whose turn it is, and within the class to the account whose
// turn it is; idle sessions are used last in, first out. Health has one
// session more than everybody else and never waits for clients.
type pool struct {
	engine *Engine

	mu      sync.Mutex
	max     int // sessions for all classes but health
	limit   int // what max was at first
	cutAt   time.Time
	idle    []*session
	busy    [classCount]int
	queues  [classCount]queue
	waiting int
	turn    uint
	refuse  error // not nil: why nobody gets a session now

	background background
	overload   [classCount]overload
}

// waiter waits for a session; granted tells how that ended.
type waiter struct {
	class   hsm.Class
	line    *line
	place   *list.Element
	since   time.Time  // when it began to wait for a session
	granted chan grant // capacity 1
}

// grant is the right to one more session: an idle one, or nil to open one.
type grant struct {
	session *session
	err     error
}

// get waits for a session. ErrBusy if there is none by ctx's deadline or the
// queue is full. The class is one of hsm's.
func (p *pool) get(ctx context.Context, on hsm.Call) (*session, error) {
	g, w := p.enter(on)
	if w != nil {
		select {
		case g = <-w.granted:
		case <-ctx.Done():
			if !p.leave(w) {
				g = <-w.granted
				break
			}
			return nil, fmt.Errorf("%w: %w", hsm.ErrBusy, context.Cause(ctx))
		}
	}
	if g.err != nil {
		return nil, g.err
	}
	if g.session != nil {
		return g.session, nil
	}
	return p.open(ctx, on.Class)
}

// enter grants a session at once or queues the caller.
func (p *pool) enter(on hsm.Call) (grant, *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != nil {
		return grant{err: p.refuse}, nil
	}
	p.countLocked()
	p.growLocked()
	if p.queues[on.Class].length == 0 && p.mayStart(on.Class) {
		p.overload[on.Class] = overload{}
		return p.grantLocked(on.Class), nil
	}
	if !p.hasRoomLocked(on) {
		return grant{err: fmt.Errorf("%w: %d calls are waiting", hsm.ErrBusy, p.waiting)}, nil
	}
	w := &waiter{class: on.Class, since: p.engine.cfg.Clock(), granted: make(chan grant, 1)}
	p.queues[on.Class].push(on.Account, w)
	p.waiting++
	p.wakeLocked()
	return grant{}, w
}

// hasRoomLocked tells whether one call more may wait. Who has many waiting leaves
// room for others; the gateway's own calls, without an account, are few.
func (p *pool) hasRoomLocked(on hsm.Call) bool {
	room := p.engine.cfg.MaxQueue - p.waiting
	if on.Class == hsm.Health {
		return true
	}
	if on.Account == "" {
		return room > 0
	}
	if p.overload[on.Class].declared {
		room = min(room, overloadQueue*p.max-p.queues[on.Class].length)
	}
	return p.queues[on.Class].waitingFor(on.Account) < room
}

// leave takes a waiter out of the queue; false if it was granted meanwhile.
func (p *pool) leave(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.place == nil {
		return false
	}
	p.countLocked()
	p.queues[w.class].remove(w)
	p.waiting--
	return true
}

// open opens a new session for the place that was granted.
func (p *pool) open(ctx context.Context, c hsm.Class) (*session, error) {
	s, err := p.engine.newSession(nil)
	if err != nil {
		p.put(nil, c)
		return nil, err
	}
	_, err, lost := s.execute(ctx, &openWork)
	if err == nil {
		return s, nil
	}
	if !lost {
		s.stop()
	}
	p.put(nil, c)
	return nil, err
}

// put gives a place back, with its session if that can be used again.
func (p *pool) put(s *session, c hsm.Class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countLocked()
	p.busy[c]--
	if s != nil {
		if p.refuse != nil || s.epoch != p.engine.epoch.Load() {
			s.stop()
		} else {
			p.idle = append(p.idle, s)
		}
	}
	p.dispatchLocked()
}

// discard gives a place back and closes its session.
func (p *pool) discard(s *session, c hsm.Class) {
	s.stop()
	p.put(nil, c)
}

// mayStart tells whether a call of the class may have a session now.
// Generation may hold half of them; background work has all that no client
// wants, and else its share.
func (p *pool) mayStart(c hsm.Class) bool {
	clients := p.busy[hsm.Interactive] + p.busy[hsm.Generation] + p.busy[hsm.Background]
	switch c {
	case hsm.Health:
		return p.busy[c] == 0 && clients <= p.max
	case hsm.Generation:
		return clients < p.max && p.busy[c] < max(1, p.max/2)
	case hsm.Background:
		return clients < p.max && p.mayStartBackground()
	case hsm.Interactive:
	}
	return clients < p.max
}

func (p *pool) grantLocked(c hsm.Class) grant {
	p.busy[c]++
	n := len(p.idle)
	if n == 0 {
		return grant{}
	}
	s := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return grant{session: s}
}

// turns are the orders in which the classes are asked. Background work goes
// before clients: it is asked only while it has not had its share. One time in
// four key generation goes before other clients, so that neither starves.
var turns = [4][classCount]hsm.Class{
	{hsm.Health, hsm.Background, hsm.Interactive, hsm.Generation},
	{hsm.Health, hsm.Background, hsm.Interactive, hsm.Generation},
	{hsm.Health, hsm.Background, hsm.Generation, hsm.Interactive},
	{hsm.Health, hsm.Background, hsm.Interactive, hsm.Generation},
}

// dispatchLocked grants what can be granted.
func (p *pool) dispatchLocked() {
	for p.waiting > 0 && p.dispatchOneLocked() {
		p.turn++
	}
	p.wakeLocked()
}

func (p *pool) dispatchOneLocked() bool {
	for _, c := range turns[p.turn%uint(len(turns))] {
		if p.queues[c].length > 0 && p.mayStart(c) {
			w := p.queues[c].pop()
			p.waiting--
			p.overload[c].waited(w.since, p.engine.cfg.Clock())
			w.granted <- p.grantLocked(c)
			return true
		}
	}
	return false
}

// reset closes all idle sessions and, if err is not nil, refuses everybody who
// waits and comes until the next reset.
func (p *pool) reset(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countLocked()
	p.refuse = err
	for _, s := range p.idle {
		s.stop()
	}
	p.idle = nil
	if err == nil {
		return
	}
	for c := range p.queues {
		for p.queues[c].length > 0 {
			p.queues[c].pop().granted <- grant{err: err}
		}
	}
	p.waiting = 0
}

// shrink makes do with the sessions that there are, at least one.
func (p *pool) shrink() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countLocked()
	open := len(p.idle)
	for _, n := range p.busy {
		open += n
	}
	p.max, p.cutAt = max(1, min(p.max, open-1)), p.engine.cfg.Clock()
}

// growAfter is how long the pool waits before it tries one session more after
// the token had none left.
const growAfter = time.Minute

func (p *pool) growLocked() {
	if p.max >= p.limit {
		return
	}
	if now := p.engine.cfg.Clock(); now.Sub(p.cutAt) >= growAfter {
		p.max, p.cutAt = p.max+1, now
	}
}
