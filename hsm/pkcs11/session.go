package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kmsgate/hsm"
)

// maxKeptScratch is the largest input buffer, in bytes, that a session keeps
// for its next call.
const maxKeptScratch = 16 << 10

// work is what a session is to do. run is called on the session's own
// goroutine, inside the gate, with in copied to memory of that call; what it
// returns belongs to whoever waits.
type work struct {
	mechanism string  // metrics label
	part      keyPart // of the key that it needs, if any
	slow      bool    // makes a pair: its deadline is GenerateTimeout
	in        [3][]byte
	run       func(s *session, key handle, in [3][]byte) ([]byte, error)
}

// session is one PKCS#11 session and the one goroutine that calls C with it.
// Whoever took it from the pool (or holds an owner's turn) is its only user.
type session struct {
	engine *Engine
	handle handle
	epoch  uint64 // of the engine when it was opened

	mu      sync.Mutex // guards stopped and the closing of jobs
	stopped bool
	jobs    chan job
	done    chan outcome
	// state is running while a job is with the goroutine and its caller still
	// waits; abandoned once the caller has gone for good.
	state atomic.Uint32

	// entry is the cached handle that the job uses, with its verified key; it is
	// released when the C call has returned, not when the caller stops waiting.
	entry *entry
	// unused, if not nil, is closed when nothing uses the session's objects.
	unused <-chan struct{}

	scratch []byte // input of the job; the goroutine's while it runs
	ivs     []byte // random bytes for IVs, each used once
	stock   []byte // random bytes for keys, likewise; cleared as they are used
	lastIV  []byte // of the encryption before
	drawn   lastBlock
}

const (
	stateIdle uint32 = iota
	stateRunning
	stateAbandoned
)

type job struct {
	work
	key   handle
	epoch uint64 // of key; zero if there is none
}

type outcome struct {
	out []byte
	err error
}

// newSession starts a session's goroutine; the session is opened by its first
// job, see open. ErrUnavailable once the engine is closed.
func (e *Engine) newSession(unused <-chan struct{}) (*session, error) {
	s := &session{
		engine: e,
		epoch:  e.epoch.Load(),
		jobs:   make(chan job, 1),
		done:   make(chan outcome, 1),
		unused: unused,
	}
	if !e.spawn(s.serve) {
		return nil, errClosed
	}
	return s, nil
}

// openWork opens the session.
var openWork = work{mechanism: "open-session", run: (*session).open}

func (s *session) open(handle, [3][]byte) (_ []byte, err error) {
	if !s.engine.found {
		return nil, errStale
	}
	s.handle, err = s.engine.module.openSession(s.engine.slot)
	return nil, err
}

// serve is the session's goroutine: it makes the C calls, one at a time. It
// ends after stop or when a caller has abandoned a job.
func (s *session) serve() {
	for j := range s.jobs {
		out, err := s.call(j)
		clear(s.scratch)
		if cap(s.scratch) > maxKeptScratch {
			s.scratch = nil
		}
		if s.state.CompareAndSwap(stateRunning, stateIdle) {
			s.done <- outcome{out, err}
			continue
		}
		clear(out)
		s.engine.stuck.Add(-1)
		s.engine.noticed(classOf(err, j.key != 0))
		s.releaseEntry()
		break
	}
	clear(s.stock)
	if s.unused != nil {
		<-s.unused
	}
	s.close()
}

// call runs a job inside the gate.
func (s *session) call(j job) ([]byte, error) {
	e := s.engine
	e.gate.RLock()
	defer e.gate.RUnlock()
	if s.epoch != e.epoch.Load() || (j.epoch != 0 && j.epoch != s.epoch) {
		return nil, errStale
	}
	start := e.cfg.Clock()
	out, err := j.run(s, j.key, j.in)
	err = e.codes.explain(err)
	e.cfg.Observe(j.mechanism, classes[classOf(err, j.key != 0)].name, e.cfg.Clock().Sub(start))
	return out, err
}

// close closes the session at the token, if the token still knows it.
func (s *session) close() {
	e := s.engine
	e.gate.RLock()
	defer e.gate.RUnlock()
	if s.handle == 0 || s.epoch != e.epoch.Load() {
		return
	}
	if err := e.module.closeSession(s.handle); err != nil {
		e.cfg.Logger.Debug("close session", "error", err)
	}
}

// stop ends the session's goroutine once it has done what it was given.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.stopped = true
		close(s.jobs)
	}
}

// begin hands the work to the session's goroutine; false if that has stopped.
func (s *session) begin(w *work, en *entry) bool {
	j := job{work: *w}
	if en != nil {
		s.entry, j.key, j.epoch = en, en.handle, en.epoch
	}
	total := len(w.in[0]) + len(w.in[1]) + len(w.in[2])
	if cap(s.scratch) < total {
		s.scratch = make([]byte, 0, max(total, 512))
	}
	s.scratch = s.scratch[:0]
	for i, b := range w.in {
		from := len(s.scratch)
		s.scratch = append(s.scratch, b...)
		j.in[i] = s.scratch[from:len(s.scratch):len(s.scratch)]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.state.Store(stateRunning)
	s.jobs <- j
	return true
}

// abandon gives the session up while its call has not returned. It is false if
// the call returned meanwhile; its outcome is then in done.
func (s *session) abandon() bool {
	if s.engine.stuck.Add(1) == 1 {
		s.engine.stuckSince.Store(s.engine.cfg.Clock().UnixNano())
	}
	if s.state.CompareAndSwap(stateRunning, stateAbandoned) {
		s.engine.poisoned.Add(1)
		return true
	}
	s.engine.stuck.Add(-1)
	return false
}

func (s *session) releaseEntry() {
	if s.entry != nil {
		s.entry.release()
		s.entry = nil
	}
}

// execute runs the work and waits for it until ctx's deadline. If the session
// was lost, because the token did not answer, the error is ErrDeadline and the
// session must not be touched again.
func (s *session) execute(ctx context.Context, w *work) (out []byte, err error, lost bool) {
	if !s.begin(w, nil) {
		return nil, errStale, false
	}
	select {
	case o := <-s.done:
		return o.out, o.err, false
	case <-ctx.Done():
		if s.abandon() {
			return nil, lateError(ctx), true
		}
		o := <-s.done
		return o.out, o.err, false
	}
}

// lateError is the answer to a caller whose ctx has ended.
func lateError(ctx context.Context) error {
	return fmt.Errorf("%w: %w", hsm.ErrDeadline, context.Cause(ctx))
}

// expired tells a deadline that has passed from a caller that went away.
func expired(ctx context.Context) bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }

// nextIV hands out 12 bytes of the token's random generator that nobody has
// had before. The slice is good until the next call.
func (s *session) nextIV() ([]byte, error) {
	if len(s.ivs) < ivBytes {
		batch := make([]byte, ivBatch*ivBytes)
		if err := s.random(batch); err != nil {
			return nil, err
		}
		s.ivs = batch
	}
	iv := s.ivs[:ivBytes:ivBytes]
	s.ivs = s.ivs[ivBytes:]
	return iv, nil
}

// remaining is how long ctx lets a call run.
func (e *Engine) remaining(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(deadline.Sub(e.cfg.Clock()), 0)
	}
	return e.cfg.CallTimeout
}
