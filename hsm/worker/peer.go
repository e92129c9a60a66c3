package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"kmsgate/hsm"
)

// A frame is its length (four bytes, big endian, of what follows), its kind and a
// body. Kinds.
const (
	kindRequest byte = iota // id, method, token, microseconds left or 0, arguments
	kindAnswer              // id, error, result
	kindCancel              // id of a request that nobody waits for any more
	kindNotice              // of the child, answered by nothing
)

const (
	headBytes = 4
	// maxFrame bounds a frame: several times what a batch of the largest keys takes.
	maxFrame = 4 << 20
	// maxBacklog bounds what waits to be written.
	maxBacklog = 32 << 20
	// writeTimeout is how long the other end may take nothing before it is broken.
	writeTimeout = 5 * time.Second
	// answerGrace is how much longer than its caller a call waits for its answer: the
	// engine has the same deadline and says better what was wrong.
	answerGrace = 50 * time.Millisecond
)

// errLost: the other end has gone, and what it did of a call is unknown.
var errLost = errors.New("worker: the process has ended")

// server answers what the other end asks.
type server interface {
	// request does what a method asks for; the result is encoded, and its secrets
	// are cleared. errMalformed breaks the connection.
	request(ctx context.Context, method string, token uint64, arguments *decoder) (any, error)
	notice(body *decoder)
}

// peer is one end of the connection between the gateway and its worker: any number
// of calls at once, both ways.
type peer struct {
	conn net.Conn
	own  server
	ctx  context.Context // of what is done for the other end
	end  context.CancelCauseFunc
	last atomic.Uint64 // id of a request

	mu      sync.Mutex
	calls   map[uint64]chan []byte // that wait for an answer
	doing   map[uint64]context.CancelFunc
	broken  error
	out     encoder
	spare   []byte
	writing bool

	working sync.WaitGroup
}

func newPeer(conn net.Conn, own server) *peer {
	p := &peer{conn: conn, own: own, calls: map[uint64]chan []byte{}, doing: map[uint64]context.CancelFunc{}}
	p.ctx, p.end = context.WithCancelCause(context.Background())
	return p
}

// fail ends the connection; the first reason holds.
func (p *peer) fail(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failLocked(why)
}

func (p *peer) failLocked(why error) {
	if p.broken != nil {
		return
	}
	p.broken = fmt.Errorf("%w: %w", errLost, why)
	p.end(p.broken)
	p.conn.Close()
	for _, answer := range p.calls {
		close(answer)
	}
	p.calls = nil
}

// read takes frames until the connection ends, and then waits for what it has begun.
func (p *peer) read() {
	p.fail(p.readFrames())
	p.working.Wait()
}

func (p *peer) readFrames() error {
	buffer := make([]byte, 64<<10)
	have := 0
	defer func() { clear(buffer) }()
	for {
		n, err := p.conn.Read(buffer[have:])
		if err != nil {
			return err
		}
		have += n
		used := 0
		for have-used >= headBytes {
			size := int(binary.BigEndian.Uint32(buffer[used:]))
			if size == 0 || size > maxFrame {
				return errMalformed
			}
			if have-used < headBytes+size {
				break
			}
			if err := p.take(buffer[used+headBytes : used+headBytes+size]); err != nil {
				return err
			}
			used += headBytes + size
		}
		buffer = makeRoom(buffer, used, have)
		have -= used
	}
}

// makeRoom moves what is left to the beginning, into a larger buffer if the frame
// that has begun needs one, and clears the rest.
func makeRoom(buffer []byte, used, have int) []byte {
	need := 0
	if have-used >= headBytes {
		need = headBytes + int(binary.BigEndian.Uint32(buffer[used:]))
	}
	if need <= len(buffer) {
		n := copy(buffer, buffer[used:have])
		clear(buffer[n:have])
		return buffer
	}
	larger := make([]byte, min(need, headBytes+maxFrame)) // readFrames refuses more
	copy(larger, buffer[used:have])
	clear(buffer)
	return larger
}

// take has one frame done or handed over.
func (p *peer) take(frame []byte) error {
	kind, d := frame[0], &decoder{b: frame[1:]}
	switch kind {
	case kindNotice:
		p.own.notice(d)
		return d.end()
	case kindAnswer:
		p.answered(d.uint(), d)
	case kindCancel:
		p.cancelled(d.uint())
		return d.end()
	case kindRequest:
		return p.begin(d)
	default:
		return errMalformed
	}
	if d.bad {
		return errMalformed
	}
	return nil
}

// answered hands the rest of an answer to whoever waits for it, if anybody does.
func (p *peer) answered(id uint64, d *decoder) {
	p.mu.Lock()
	answer, ok := p.calls[id]
	delete(p.calls, id)
	p.mu.Unlock()
	if ok {
		answer <- append(make([]byte, 0, len(d.b)), d.b...) // has room for one
	}
}

func (p *peer) cancelled(id uint64) {
	p.mu.Lock()
	cancel := p.doing[id]
	p.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// begin does a request on a goroutine of its own.
func (p *peer) begin(d *decoder) error {
	id, method, token, left := d.uint(), d.string(), d.uint(), d.uint()
	if d.bad {
		return errMalformed
	}
	body := append(make([]byte, 0, len(d.b)), d.b...)
	ctx, cancel := context.WithCancel(p.ctx)
	if left > 0 {
		cancel()
		ctx, cancel = context.WithTimeout(p.ctx, time.Duration(min(left, uint64(time.Hour/time.Microsecond)))*time.Microsecond)
	}
	p.mu.Lock()
	p.doing[id] = cancel
	p.mu.Unlock()
	p.working.Go(func() {
		defer cancel()
		result, err := p.own.request(ctx, method, token, &decoder{b: body})
		clear(body)
		p.mu.Lock()
		delete(p.doing, id)
		p.mu.Unlock()
		if errors.Is(err, errMalformed) {
			p.fail(err)
			return
		}
		p.answer(id, result, err)
	})
	return nil
}

func (p *peer) answer(id uint64, result any, err error) {
	var e encoder
	e.room(256)
	e.b = append(e.b, kindAnswer)
	e.uint(id)
	e.error(err)
	if err == nil {
		v := reflect.ValueOf(result)
		e.value(v)
		wipe(v)
	}
	if len(e.b) > maxFrame {
		clear(e.b)
		p.answer(id, nil, fmt.Errorf("%w: an answer of %d bytes", hsm.ErrUnavailable, len(e.b)))
		return
	}
	p.send(&e)
}

// call asks the other end and waits for the answer, which the caller clears. The
// answer's error is the call's. errLost if the other end has gone.
func (p *peer) call(ctx context.Context, method string, token uint64, arguments any) ([]byte, error) {
	if ctx.Err() != nil { // or the other end might still find time for it
		return nil, lateError(ctx)
	}
	var e encoder
	e.room(1024)
	id := p.last.Add(1)
	e.b = append(e.b, kindRequest)
	e.uint(id)
	e.string(method)
	e.uint(token)
	e.uint(microsLeft(ctx))
	e.value(reflect.ValueOf(arguments))
	if len(e.b) > maxFrame {
		clear(e.b)
		return nil, fmt.Errorf("%w: a call of %d bytes", hsm.ErrUnsupported, len(e.b))
	}
	answer := make(chan []byte, 1)
	p.mu.Lock()
	if p.broken != nil {
		p.mu.Unlock()
		clear(e.b)
		return nil, p.broken
	}
	p.calls[id] = answer
	p.mu.Unlock()
	p.send(&e)
	var got []byte
	ok := false
	select {
	case got, ok = <-answer:
	case <-ctx.Done():
		if got, ok = p.giveUp(ctx, id, answer); got == nil && ok {
			return nil, lateError(ctx)
		}
	}
	if !ok {
		return nil, p.broken
	}
	return got, nil
}

// giveUp tells the other end that nobody waits for an answer any more, or takes it if
// it comes at the last moment. Without an answer it is nil, and true unless the
// connection has ended.
func (p *peer) giveUp(ctx context.Context, id uint64, answer chan []byte) ([]byte, bool) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		grace := time.NewTimer(answerGrace)
		defer grace.Stop()
		select {
		case got, ok := <-answer:
			return got, ok
		case <-grace.C:
		}
	}
	p.mu.Lock()
	_, waiting := p.calls[id]
	delete(p.calls, id)
	p.mu.Unlock()
	if !waiting { // it is there, or the connection has ended
		got, ok := <-answer
		return got, ok
	}
	var e encoder
	e.b = append(e.b, kindCancel)
	e.uint(id)
	p.send(&e)
	return nil, true
}

// microsLeft is how long a caller still waits, at least one; zero for ever.
func microsLeft(ctx context.Context) uint64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return uint64(max(time.Until(deadline).Microseconds(), 1))
}

// send writes a frame, with those that others have put there meanwhile, and clears
// it. Whoever finds nobody writing writes for all.
func (p *peer) send(e *encoder) {
	p.mu.Lock()
	p.queueLocked(e)
	for !p.writing && len(p.out.b) > 0 && p.broken == nil {
		p.writing = true
		batch := p.out.b
		p.out.b, p.spare = p.spare[:0], nil
		p.mu.Unlock()
		err := p.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err == nil {
			_, err = p.conn.Write(batch)
		}
		clear(batch)
		if err != nil {
			p.fail(err)
		}
		p.mu.Lock()
		p.spare, p.writing = batch, false
	}
	p.mu.Unlock()
}

// queueLocked puts a frame where the next that is sent takes it along.
func (p *peer) queueLocked(e *encoder) {
	switch {
	case p.broken != nil:
	case len(p.out.b) > maxBacklog:
		p.failLocked(errors.New("it reads nothing any more"))
	default:
		p.out.room(headBytes + len(e.b))
		p.out.b = binary.BigEndian.AppendUint32(p.out.b, uint32(len(e.b)))
		p.out.b = append(p.out.b, e.b...)
	}
	clear(e.b)
}

// queue puts a frame where the next one that is sent takes it along.
func (p *peer) queue(e *encoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queueLocked(e)
}
