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

// Reconnecting: how long between attempts at first, and for how long at first;
// how long then, twice as long each time; and how often it is looked meanwhile
// whether the token is there again. And how often within how long the token may
// seem well after a failure of the class device before it is reconnected all the
// same, at most once in how long.
const (
	firstBackoff = 500 * time.Millisecond
	hopeful      = time.Minute
	maxBackoff   = 30 * time.Second
	tokenLook    = 200 * time.Millisecond
	falseAlarms  = 3
	alarmWindow  = 10 * time.Second
	distrustRest = time.Minute
)

// repair is the single flight that brings a token back.
type repair struct {
	refusal atomic.Pointer[error] // why callers are refused; nil while serving

	mu       sync.Mutex
	running  chan struct{} // closed after the first attempt; nil if no repair runs
	hopeless bool          // out of service for good

	sooner chan struct{} // capacity 1; holds an element if the next attempt is to be made at once

	// Of the goroutine that runs a repair.
	alarms     []time.Time // false ones, the newest falseAlarms
	distrusted time.Time   // when the token was last reconnected for them
}

// admit fails fast while the token is away.
func (r *repair) admit() error {
	if refused := r.refusal.Load(); refused != nil {
		return *refused
	}
	return nil
}

var errReconnecting = fmt.Errorf("%w: reconnecting", hsm.ErrUnavailable)

// noticed starts what an error's class asks for, and does not wait for it. The
// channel, if not nil, is closed when the token is well or a first attempt to
// bring it back has failed.
func (e *Engine) noticed(c class) <-chan struct{} {
	switch c {
	case classSession, classLogin, classObject, classDevice:
		return e.startRepair(c)
	case classFatal, classPIN:
		e.takeOut(fmt.Errorf("%w: token is out of service: %s", classes[c].answer, classes[c].name))
	case classCapacity:
		e.pool.shrink()
		e.handles.trim()
	case classOK, classAnswer, classData, classUnsupported, classBusy:
	}
	return nil
}

// distrusts counts a failure after which the token seems well, and tells
// whether there were too many of them. The repair that runs is its only caller.
func (r *repair) distrusts(now time.Time) bool {
	if len(r.alarms) == falseAlarms {
		r.alarms = r.alarms[1:]
	}
	r.alarms = append(r.alarms, now)
	if len(r.alarms) < falseAlarms || now.Sub(r.alarms[0]) > alarmWindow || now.Sub(r.distrusted) < distrustRest {
		return false
	}
	r.alarms, r.distrusted = nil, now
	return true
}

// takeOut ends the service until somebody restarts it.
func (e *Engine) takeOut(why error) {
	e.repair.mu.Lock()
	defer e.repair.mu.Unlock()
	if !e.repair.hopeless {
		e.repair.hopeless = true
		why = e.away(why)
		e.repair.refusal.Store(&why)
		e.pool.reset(why)
		e.cfg.Logger.Error("token taken out of service", "serial", e.serial, "error", why)
	}
}

// startRepair runs a repair unless one runs already.
func (e *Engine) startRepair(cause class) <-chan struct{} {
	r := &e.repair
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hopeless {
		return nil
	}
	if r.running != nil {
		return r.running
	}
	running := make(chan struct{})
	if !e.spawn(func() { e.runRepair(cause, running) }) {
		return nil
	}
	r.running = running
	return running
}

// runRepair brings the token back, and again if the module was initialised anew
// meanwhile.
func (e *Engine) runRepair(cause class, running chan struct{}) {
	attempted := sync.OnceFunc(func() { close(running) })
	defer attempted()
	for !e.isClosed() {
		e.bringBack(cause, attempted)
		if e.repair.ended() {
			return
		}
	}
}

// bringBack looks whether the token is well after all, else logs in again, else
// has the module initialised anew, until the token is back.
func (e *Engine) bringBack(cause class, attempted func()) {
	epoch := e.epoch.Load()
	reconnect := false
	if e.probe() == nil {
		if cause != classDevice || !e.repair.distrusts(e.cfg.Clock()) {
			e.resumeIn(epoch)
			return
		}
		reconnect = true
	}
	e.halt()
	e.cfg.Logger.Warn("token lost, reconnecting", "serial", e.serial)
	start := e.cfg.Clock()
	for backoff := firstBackoff; ; {
		gone := !e.isThere()
		err := e.rebuild(reconnect)
		if err == nil {
			e.cfg.Logger.Info("token back in service", "serial", e.serial, "epoch", e.epoch.Load())
			return
		}
		if errors.Is(err, hsm.ErrPIN) {
			e.takeOut(fmt.Errorf("%w: %w", hsm.ErrUnavailable, err))
			return
		}
		e.cfg.Logger.Warn("reconnect", "serial", e.serial, "error", err, "next_attempt_in", backoff)
		attempted()
		reconnect = !e.pause(backoff, gone)
		if e.isClosed() {
			return
		}
		if e.cfg.Clock().Sub(start) > hopeful {
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// pause waits for the time of the next attempt. It ends early, and is true, if the
// token, gone before, is there again: then nothing more than a login may be needed.
func (e *Engine) pause(backoff time.Duration, gone bool) (returned bool) {
	timer, look := time.NewTimer(backoff), time.NewTicker(tokenLook)
	defer timer.Stop()
	defer look.Stop()
	for {
		select {
		case <-e.closed:
			return false
		case <-e.repair.sooner:
			return false
		case <-timer.C:
			return false
		case <-look.C:
			there := e.isThere()
			if there && gone {
				return true
			}
			gone = !there
		}
	}
}

// isThere tells whether the library sees the token.
func (e *Engine) isThere() bool {
	e.gate.RLock()
	defer e.gate.RUnlock()
	if e.isClosed() {
		return false
	}
	_, _, err := e.module.findSlot(e.cfg.Label, e.serial)
	return err == nil
}

// ended ends a repair, unless the engine was halted again meanwhile.
func (r *repair) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusal.Load() != nil && !r.hopeless {
		return false
	}
	r.running = nil
	return true
}

func (r *repair) isHopeless() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hopeless
}

// hurry has a repair that waits for its next attempt make it at once.
func (r *repair) hurry() {
	select {
	case r.sooner <- struct{}{}:
	default:
	}
}

// halt refuses callers until a repair has the token back.
func (e *Engine) halt() {
	e.repair.mu.Lock()
	defer e.repair.mu.Unlock()
	if !e.repair.hopeless {
		why := e.away(errReconnecting)
		e.repair.refusal.Store(&why)
		e.pool.reset(errReconnecting)
	}
}

// resume lets callers in again.
func (e *Engine) resume() {
	e.repair.mu.Lock()
	defer e.repair.mu.Unlock()
	if !e.repair.hopeless {
		e.pool.reset(nil)
		e.repair.refusal.Store(nil)
	}
}

// resumeIn lets callers in again who were refused for nothing, if the sessions
// are still those of an epoch.
func (e *Engine) resumeIn(epoch uint64) {
	e.gate.RLock()
	defer e.gate.RUnlock()
	if e.epoch.Load() == epoch && e.repair.admit() != nil {
		e.resume()
	}
}

// probe asks the token once, on a session of its own, without setting off
// another repair.
func (e *Engine) probe() error {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.CallTimeout)
	defer cancel()
	s, err := e.newSession(nil)
	if err != nil {
		return err
	}
	for _, w := range []*work{&openWork, &checkWork} {
		_, err, lost := s.execute(ctx, w)
		if lost {
			return err
		}
		if c := classOf(err, false); c == classCapacity || c == classBusy {
			s.stop()
			return nil // it has no room for us, but it is there
		}
		if err != nil {
			s.stop()
			return err
		}
	}
	s.stop()
	return nil
}

// rebuild makes everything anew: with a new login or, where that does not help
// or reconnect is set, in a module that is initialised anew.
func (e *Engine) rebuild(reconnect bool) error {
	seen := e.module.generation.Load()
	var first error
	if !reconnect {
		if first = e.reattach(); first == nil || errors.Is(first, hsm.ErrPIN) {
			return first
		}
	}
	again := e.module.restart(e, seen)
	if again != nil && first != nil {
		return fmt.Errorf("%w; %w", first, again)
	}
	return e.reattach()
}

// reattach has the token come up again with nobody inside the gate.
func (e *Engine) reattach() error {
	if !e.gate.close(e.cfg.QuiesceTimeout) {
		e.failedIn.Store(e.module.generation.Load())
		return errInFlight
	}
	defer e.gate.Unlock()
	if e.isClosed() {
		return errClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.CallTimeout)
	defer cancel()
	err := e.comeUp(ctx)
	if err != nil {
		e.failedIn.Store(e.module.generation.Load())
	}
	return err
}

// comeUp ends the token's sessions, logs in and puts the service keys in service
// again.
func (e *Engine) comeUp(ctx context.Context) error {
	if err := e.endSessions(); err != nil {
		return err
	}
	if _, err := e.attach(ctx); err != nil {
		return err
	}
	if err := e.findServiceKeys(e.service.Load().provedKeys()); err != nil {
		return err
	}
	e.handles.reset()
	e.resume()
	return nil
}
