package pkcs11

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"kmsgate/hsm"
)

// queue is the waiters of one class, by account: accounts take turns.
type queue struct {
	lines  map[string]*line
	ring   list.List // of *line, the next one in front
	length int
}

// line is the waiters of one account, first come, first served.
type line struct {
	account string
	waiters list.List // of *waiter
	place   *list.Element
}

// waitingFor is how many waiters an account has.
func (q *queue) waitingFor(account string) int {
	if l, ok := q.lines[account]; ok {
		return l.waiters.Len()
	}
	return 0
}

func (q *queue) push(account string, w *waiter) {
	if q.lines == nil {
		q.lines = map[string]*line{}
	}
	l, ok := q.lines[account]
	if !ok {
		l = &line{account: account}
		l.place = q.ring.PushBack(l)
		q.lines[account] = l
	}
	w.line, w.place = l, l.waiters.PushBack(w)
	q.length++
}

// pop takes the first waiter of the account whose turn it is.
func (q *queue) pop() *waiter {
	l, _ := q.ring.Front().Value.(*line)
	w, _ := l.waiters.Front().Value.(*waiter)
	q.remove(w)
	if l.waiters.Len() > 0 {
		q.ring.MoveToBack(l.place)
	}
	return w
}

func (q *queue) remove(w *waiter) {
	w.line.waiters.Remove(w.place)
	w.place = nil
	q.length--
	if w.line.waiters.Len() == 0 {
		q.ring.Remove(w.line.place)
		delete(q.lines, w.line.account)
	}
}

// turn is a right that one caller has at a time; accounts take turns. Safe for
// concurrent use.
type turn struct {
	mu    sync.Mutex
	taken bool
	queue queue
}

// take waits for the turn; ErrBusy if it does not come by ctx's deadline.
func (t *turn) take(ctx context.Context, account string) error {
	w := t.enter(account)
	if w == nil {
		return nil
	}
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.place == nil { // it came meanwhile
		return nil
	}
	t.queue.remove(w)
	return fmt.Errorf("%w: keys wait to be unwrapped: %w", hsm.ErrBusy, ctx.Err())
}

// enter takes the turn, or gets in line for it.
func (t *turn) enter(account string) *waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.taken {
		t.taken = true
		return nil
	}
	w := &waiter{granted: make(chan grant, 1)}
	t.queue.push(account, w)
	return w
}

// give gives the turn to the next.
func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queue.length > 0 {
		t.queue.pop().granted <- grant{}
		return
	}
	t.taken = false
}
