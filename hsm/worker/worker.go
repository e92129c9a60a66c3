// Package worker runs a PKCS#11 module in a process of its own, so that a library
// that crashes or hangs for good costs that process and not the gateway. The process
// is the same binary: [Serve] has the engines of all tokens of one module there, and
// a [Worker] starts it, watches over it and replaces it. A [Token] is one of its
// engines as the gateway has it, a [hsm.Token] like the engine itself.
//
// The two speak over a socket pair that the worker inherits. The worker has no PIN
// file and no database: it asks the gateway for the PIN at each login, for the marks
// of refused PINs and for service keys.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

// Supervision of a worker.
const (
	pollEvery     = 500 * time.Millisecond
	answerTimeout = 5 * time.Second // for what needs no token
	// hangGrace is how much longer than the time of a call the token may serve nobody
	// while calls hang in it.
	hangGrace = time.Second
	// steady is how long a worker must have lived for its end to be the first of a row.
	steady       = 30 * time.Second
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 30 * time.Second

	defaultCallTimeout    = 5 * time.Second
	defaultQuiesceTimeout = 5 * time.Second
	reopenTimeout         = time.Minute
)

var errClosed = fmt.Errorf("%w: the worker is closed", hsm.ErrUnavailable)

// Worker is a module in a process of its own. Its methods are safe for concurrent use.
type Worker struct {
	args      []string
	logger    *slog.Logger
	callbacks map[string]row[*Token]

	turn sync.Mutex // held by whoever opens or closes a token

	mu       sync.Mutex
	tokens   map[uint64]*Token
	last     uint64
	process  *process // the newest
	ending   chan struct{}
	ended    chan struct{} // closed when nobody watches over it any more
	restarts uint64
}

// New names a worker, which is started when its first token is opened: this binary
// with these arguments, which has to call [Serve] with the file [Inherited]. logger
// may be nil.
func New(args []string, logger *slog.Logger) *Worker {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Worker{args: args, logger: logger, callbacks: callbackMethods(), tokens: map[uint64]*Token{}}
}

// Restarts is how often the process was replaced.
func (w *Worker) Restarts() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.restarts
}

// Open opens a token of the worker's module, which all of its configurations name. See
// [pkcs11.Module.Open]; Logger and Clock stay behind: the worker has its own.
func (w *Worker) Open(ctx context.Context, cfg pkcs11.Config) (*Token, error) {
	if cfg.PIN == nil {
		return nil, errors.New("worker: PIN is not set")
	}
	w.turn.Lock()
	defer w.turn.Unlock()
	t := &Token{worker: w, cfg: cfg, services: map[serviceID]hsm.ServiceKey{}, attempted: make(chan struct{})}
	t.keep(cfg.ServiceKeys)
	p, err := w.begin(t)
	if err == nil {
		err = t.openIn(ctx, p)
	}
	if err != nil {
		w.remove(t)
		return nil, err
	}
	return t, nil
}

// begin takes a token in, and starts the process with the first one.
func (w *Worker) begin(t *Token) (*process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	t.number = w.last
	w.tokens[t.number] = t
	if w.ending == nil {
		p, err := launch(w.args, w)
		if err != nil {
			return nil, err
		}
		w.process, w.ending, w.ended = p, make(chan struct{}), make(chan struct{})
		go w.supervise(p, w.ending, w.ended)
	}
	return w.process, nil
}

// remove lets a token go, and with the last one the process.
func (w *Worker) remove(t *Token) {
	w.mu.Lock()
	delete(w.tokens, t.number)
	ending, ended := w.ending, w.ended
	last := len(w.tokens) == 0 && ending != nil
	if last {
		w.ending = nil
	}
	w.mu.Unlock()
	if last {
		close(ending)
		<-ended
	}
}

// request answers what the worker asks for one of its tokens.
func (w *Worker) request(ctx context.Context, method string, token uint64, arguments *decoder) (any, error) {
	w.mu.Lock()
	t := w.tokens[token]
	w.mu.Unlock()
	r, ok := w.callbacks[method]
	if !ok {
		return nil, errMalformed
	}
	if t == nil {
		return nil, fmt.Errorf("%w: the token is closed", hsm.ErrUnavailable)
	}
	return r.serve(ctx, t, arguments)
}

// notice takes what an engine has observed.
func (w *Worker) notice(body *decoder) {
	token, mechanism, class, took := body.uint(), body.string(), body.string(), time.Duration(body.int())
	if body.bad {
		return
	}
	w.mu.Lock()
	t := w.tokens[token]
	w.mu.Unlock()
	if t != nil && t.cfg.Observe != nil {
		t.cfg.Observe(mechanism, class, took)
	}
}

// list are the tokens that have been opened once.
func (w *Worker) list() (all []*Token) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tokens {
		if t.wasOpen() {
			all = append(all, t)
		}
	}
	return all
}

// supervise watches over the process and replaces it when it has ended, until ending
// is closed. It is the only one that starts another: one at a time, and later and
// later if they do not last.
func (w *Worker) supervise(p *process, ending, ended chan struct{}) {
	defer close(ended)
	for failures := 0; ; {
		why := w.watch(p, ending)
		if why == nil {
			p.finish(defaultQuiesceTimeout)
			return
		}
		p.kill(why)
		for _, t := range w.list() {
			t.lose(p)
			t.turns.endAll()
		}
		p.wait()
		if time.Since(p.begun) > steady {
			failures = 0
		}
		w.logger.Error("worker lost, starting another", "module", w.module(), "pid", p.cmd.Process.Pid, "error", why, "status", p.status)
		if p = w.replace(&failures, ending); p == nil {
			return
		}
	}
}

// replace starts another process, as soon as the back-off lets; nil if ending is
// closed before.
func (w *Worker) replace(failures *int, ending chan struct{}) *process {
	for {
		wait := time.NewTimer(backoff(*failures))
		select {
		case <-ending:
			wait.Stop()
			return nil
		case <-wait.C:
		}
		*failures++
		p, err := launch(w.args, w)
		if err != nil {
			w.logger.Error("start a worker", "error", err, "next_attempt_in", backoff(*failures))
			for _, t := range w.list() {
				t.attempt()
			}
			continue
		}
		w.mu.Lock()
		w.process = p
		w.restarts++
		w.mu.Unlock()
		for _, t := range w.list() {
			p.opening.Go(func() { t.reopen(p) })
		}
		return p
	}
}

// backoff is how long the next start waits after so many that did not last.
func backoff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(firstBackoff<<min(failures-1, 16), maxBackoff)
}

// watch returns why the process has to be replaced, or nil when ending is closed.
func (w *Worker) watch(p *process, ending chan struct{}) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ending:
			return nil
		case <-p.exited:
			return errors.New("it has ended")
		case <-p.peer.ctx.Done():
			return context.Cause(p.peer.ctx)
		case <-tick.C:
		}
		for _, t := range w.list() {
			if err := t.poll(p); err != nil {
				return err
			}
		}
	}
}

func (w *Worker) module() string {
	for _, t := range w.list() {
		return t.cfg.Module
	}
	return ""
}
