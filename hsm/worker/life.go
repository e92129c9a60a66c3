package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

// Token is a token whose engine is in a worker. All methods are safe for concurrent use.
type Token struct {
	worker *Worker
	cfg    pkcs11.Config
	number uint64
	turns  turns

	mu        sync.Mutex
	process   *process      // where it is open; nil while it is not
	opened    bool          // once
	attempted chan struct{} // closed after the first attempt to open it again
	since     time.Time     // when it was lost
	hopeless  error         // out of service for good
	services  map[serviceID]hsm.ServiceKey
	newest    pkcs11.Stats // as the engine has them
	past      pkcs11.Stats // counters of the engines before

	refusedPIN bool
}

// serviceID names a service key.
type serviceID struct {
	store      string
	kind       hsm.ServiceKeyKind
	generation int32
}

// keep remembers service keys that are in service.
func (t *Token) keep(rows []hsm.ServiceKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, row := range rows {
		t.services[serviceID{row.Store, row.Kind, row.Generation}] = row
	}
}

// forget is for service keys that are destroyed.
func (t *Token) forget(rows []hsm.ServiceKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, row := range rows {
		delete(t.services, serviceID{row.Store, row.Kind, row.Generation})
	}
}

func (t *Token) wasOpen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.opened
}

// current is the process that the token is open in.
func (t *Token) current() (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.process != nil:
		return t.process, nil
	case t.hopeless != nil:
		return nil, fmt.Errorf("%w: token is out of service: %w, since %s", hsm.ErrUnavailable, t.hopeless, t.since.UTC().Format(time.RFC3339))
	case !t.opened:
		return nil, errClosed
	}
	return nil, fmt.Errorf("%w: its worker is restarting, since %s", hsm.ErrUnavailable, t.since.UTC().Format(time.RFC3339))
}

// lose notes that a process has gone. What it returns is closed after the first
// attempt to open the token in another.
func (t *Token) lose(p *process) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process == p {
		t.process, t.attempted = nil, make(chan struct{})
		if t.since.IsZero() {
			t.since = time.Now()
		}
		t.past = counted(t.past, t.newest)
		t.newest = pkcs11.Stats{Serial: t.newest.Serial}
	}
	return t.attempted
}

// attempt tells those that wait that the token was attempted to be opened.
func (t *Token) attempt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.attempted:
	default:
		close(t.attempted)
	}
}

// openIn opens the token in a process. A library that does not return is ended with
// the process.
func (t *Token) openIn(ctx context.Context, p *process) error {
	rows, err := t.serviceKeys(ctx)
	if err != nil {
		return err
	}
	a := opened{Config: t.cfg, Finds: t.cfg.FindServiceKeys != nil}
	a.Config.ServiceKeys = rows
	answer, err := p.peer.call(ctx, openToken.name, t.number, a)
	var s pkcs11.Stats
	if err == nil {
		s, err = openToken.answerOf(answer)
	}
	switch {
	case errors.Is(err, errLost):
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	case errors.Is(err, hsm.ErrDeadline) || errors.Is(err, errMalformed):
		p.kill(err)
		return err
	case err != nil:
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(p.peer.ctx.Err(), context.Canceled) {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, context.Cause(p.peer.ctx))
	}
	t.process, t.opened, t.newest, t.since = p, true, s, time.Time{}
	return nil
}

// serviceKeys are those that the token is opened with: at first those of its
// configuration, later those that are to be usable now.
func (t *Token) serviceKeys(ctx context.Context) (rows []hsm.ServiceKey, err error) {
	t.mu.Lock()
	kept := map[string][]hsm.ServiceKey{}
	for _, row := range t.services {
		kept[row.Store] = append(kept[row.Store], row)
	}
	find := t.cfg.FindServiceKeys
	if !t.opened {
		find = nil
	}
	t.mu.Unlock()
	for store, of := range kept {
		if find != nil {
			found, err := find(ctx, store)
			if err != nil {
				return nil, fmt.Errorf("%w: look for the service keys of store %s: %w", hsm.ErrUnavailable, store, err)
			}
			found = slices.DeleteFunc(found, func(row hsm.ServiceKey) bool { return row.Spare })
			if len(found) > 0 { // else they are not recorded yet
				of = found
			}
		}
		rows = append(rows, of...)
	}
	return rows, nil
}

// reopen opens the token in the process that has replaced another, until it is open
// there, the process has ended or the PIN is refused.
func (t *Token) reopen(p *process) {
	for failures := 0; ; {
		ctx, cancel := context.WithTimeout(p.peer.ctx, reopenTimeout)
		err := t.hopeful()
		if err == nil {
			err = t.openIn(ctx, p)
		}
		cancel()
		if errors.Is(err, hsm.ErrPIN) {
			t.giveUp(err)
		}
		t.attempt()
		if err == nil || errors.Is(err, hsm.ErrPIN) {
			return
		}
		failures++
		t.worker.logger.Warn("open the token in its new worker", "label", t.cfg.Label, "error", err, "next_attempt_in", backoff(failures))
		select {
		case <-p.peer.ctx.Done():
			return
		case <-time.After(backoff(failures)):
		}
	}
}

// hopeful is the reason if the token is out of service for good.
func (t *Token) hopeful() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hopeless
}

// giveUp takes the token out of service until somebody restarts it.
func (t *Token) giveUp(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hopeless == nil {
		t.hopeless = why
		t.worker.logger.Error("token taken out of service", "label", t.cfg.Label, "error", why)
	}
}

// poll asks the engine for its numbers. It is an error if the process does not answer,
// or if calls hang in the token so that it serves nobody: only another process cures
// that.
func (t *Token) poll(p *process) error {
	t.mu.Lock()
	here := t.process == p
	t.mu.Unlock()
	if !here {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.peer.ctx, answerTimeout)
	defer cancel()
	answer, err := p.peer.call(ctx, stats.name, t.number, nothing{})
	if err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	s, err := stats.answerOf(answer)
	if errors.Is(err, errMalformed) {
		return err
	}
	if err != nil { // closed meanwhile
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process == p {
		t.newest = s
	}
	if s.Stuck > 0 && !s.AwaySince.IsZero() && time.Since(s.AwaySince) > hangGrace {
		return fmt.Errorf("%d calls hang in token %s, which serves nobody since %s", s.Stuck, s.Serial, s.AwaySince.UTC().Format(time.RFC3339))
	}
	return nil
}

// Stats returns a snapshot, half a second old at most. Counters go on where those of
// the engine in an earlier process ended.
func (t *Token) Stats() pkcs11.Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := counted(t.newest, t.past)
	if t.process == nil {
		s.Serving, s.AwaySince = false, t.since
	}
	return s
}

// counted adds the counters of past to a snapshot.
func counted(s, past pkcs11.Stats) pkcs11.Stats {
	s.Epoch += past.Epoch
	s.SharedTime += past.SharedTime
	s.BackgroundTime += past.BackgroundTime
	s.Poisoned += past.Poisoned
	s.RandomFaults += past.RandomFaults
	s.Hits += past.Hits
	s.Misses += past.Misses
	return s
}

// Close closes the token: its engine as that does it and, if it is the worker's last,
// the process, within the quiesce timeout or by force. See [pkcs11.Engine.Close].
func (t *Token) Close() error {
	t.worker.turn.Lock()
	defer t.worker.turn.Unlock()
	t.mu.Lock()
	p := t.process
	already := !t.opened
	t.process, t.opened = nil, false
	t.mu.Unlock()
	if already {
		return nil
	}
	if p != nil {
		t.closeIn(p)
	}
	t.worker.remove(t)
	return nil
}

// closeIn closes the engine. That the process has gone, or does not get it done and is
// ended, is as good.
func (t *Token) closeIn(p *process) {
	patience := t.cfg.QuiesceTimeout
	if patience == 0 {
		patience = defaultQuiesceTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience+hangGrace)
	defer cancel()
	answer, err := p.peer.call(ctx, closeToken.name, t.number, nothing{})
	if err == nil {
		_, err = closeToken.answerOf(answer)
	}
	if err != nil {
		p.kill(err)
	}
}
