package metadata

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"kmsgate/metadata/audit"
)

// item is what enters the chain together or not at all: one record, or the
// records of one request in several accounts.
type item struct {
	records  [][]byte
	uses     []audit.Use
	refusals []*Refusal // of the records; most have none
	seen     []accountVersion
	outbox   uuid.UUID // of its outbox row; zero if it has none
	queued   time.Time
	done     chan error // buffered; gets one answer. Nil if nobody waits.

	abandoned bool // its caller gave up; guarded by queue.mu
}

// size is the bytes of the item's records and refusals.
func (it *item) size() (bytes int) {
	for _, r := range it.records {
		bytes += len(r)
	}
	for _, r := range it.refusals {
		bytes += len(r.Document)
	}
	return bytes
}

func (it *item) answer(err error) {
	if it.done != nil {
		it.done <- err
	}
}

// queue holds the records that wait for a batch, in the order of arrival.
type queue struct {
	maxRecords, maxBytes int
	wake                 chan struct{} // holds a token when there is something to do

	mu     sync.Mutex
	items  []*item
	bytes  int
	outbox map[uuid.UUID]struct{} // outbox rows that are in items or on their way
	closed bool
}

func newQueue(maxRecords, maxBytes int) *queue {
	return &queue{
		maxRecords: maxRecords, maxBytes: maxBytes,
		wake: make(chan struct{}, 1), outbox: make(map[uuid.UUID]struct{}),
	}
}

// add puts a record at the end, or returns ErrUnavailable at once if too many
// are waiting.
func (q *queue) add(it *item) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("audit record: %w: %w", ErrUnavailable, errClosing)
	}
	if len(q.items) >= q.maxRecords || q.bytes+it.size() > q.maxBytes {
		return fmt.Errorf("audit record: %w: %d records are waiting", ErrUnavailable, len(q.items))
	}
	q.addLocked(it)
	return nil
}

// addOutbox puts an outbox row at the end and tells whether it did: not if it is
// there already, nor if too much is waiting. The row is in the database and
// will be found again.
func (q *queue) addOutbox(it *item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, known := q.outbox[it.outbox]
	if known || q.closed || len(q.items) >= q.maxRecords || q.bytes+it.size() > q.maxBytes {
		return false
	}
	q.outbox[it.outbox] = struct{}{}
	q.addLocked(it)
	return true
}

func (q *queue) addLocked(it *item) {
	q.items = append(q.items, it)
	q.bytes += it.size()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for records and takes the first of them, at least one, up to the
// limits. It returns nil when ctx ends, or when the queue is closed and empty.
func (q *queue) next(ctx context.Context, maxRecords, maxBytes int) []*item {
	for {
		batch, closed := q.take(maxRecords, maxBytes)
		if batch != nil || closed {
			return batch
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (q *queue) take(maxRecords, maxBytes int) (batch []*item, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.items) && n < maxRecords {
		size += q.items[n].size()
		if n > 0 && size > maxBytes {
			break
		}
		n++
	}
	if n == 0 {
		return nil, q.closed
	}
	batch = slices.Clone(q.items[:n])
	q.items = slices.Delete(q.items, 0, n)
	for _, it := range batch {
		q.bytes -= it.size()
	}
	return batch, q.closed
}

// giveUp drops a record that is still waiting; one that is on its way is only
// marked.
func (q *queue) giveUp(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it.abandoned = true
	if i := slices.Index(q.items, it); i >= 0 {
		q.items = slices.Delete(q.items, i, i+1)
		q.bytes -= it.size()
	}
}

// wanted drops those of a batch whose callers gave up; none of it may have been
// stored.
func (q *queue) wanted(batch []*item) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.DeleteFunc(batch, func(it *item) bool { return it.abandoned })
}

// finish answers the callers of records that are stored, or will not be.
func (q *queue) finish(err error, batch ...*item) {
	q.mu.Lock()
	for _, it := range batch {
		delete(q.outbox, it.outbox)
	}
	q.mu.Unlock()
	for _, it := range batch {
		it.answer(err)
	}
}

// held are the outbox rows that are waiting or on their way.
func (q *queue) held() []uuid.UUID {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.outbox))
}

// close refuses further records. Those that wait are still taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// fail gives everything that waits the same answer.
func (q *queue) fail(err error) {
	q.mu.Lock()
	items := q.items
	q.items, q.bytes = nil, 0
	q.mu.Unlock()
	q.finish(err, items...)
}
