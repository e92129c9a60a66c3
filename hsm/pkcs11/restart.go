package pkcs11

import (
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// How long a token that does not come back waits until the module is
// initialised anew although other tokens of it are well.
const (
	firstPause   = time.Minute
	longestPause = time.Hour
)

// sparing says when a module may be initialised anew although it costs tokens
// that are well a moment of service: some time after the first wish, and each
// time after twice as long. It begins anew when nobody has wished it for long.
type sparing struct {
	pause time.Duration // until the next time, once one is due
	due   time.Time
	asked time.Time // last
}

func (s *sparing) allows(now time.Time) bool {
	switch since := now.Sub(s.asked); {
	case since > longestPause:
		s.pause, s.due = firstPause, now.Add(firstPause)
	case since > 2*maxBackoff: // another outage
		s.due = now.Add(s.pause)
	}
	s.asked = now
	if now.Before(s.due) {
		return false
	}
	s.pause = min(2*s.pause, longestPause)
	s.due = now.Add(s.pause)
	return true
}

var (
	errSpared   = fmt.Errorf("%w: the module is not initialised anew while other tokens of it are well", hsm.ErrUnavailable)
	errInFlight = fmt.Errorf("%w: a call has not returned", hsm.ErrDeadline)
)

// restart finalises the module and initialises it anew, for an engine whose
// token does not come back otherwise, unless somebody has done it since the
// generation that was seen. The sessions of all engines end: none may have a
// call in flight, and each has its token brought back by its own repair.
// errSpared if that would cost other tokens too much.
func (m *Module) restart(e *Engine, seen uint64) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	if m.generation.Load() != seen {
		return nil
	}
	others := m.others(e)
	if err := m.mayRestart(e, others); err != nil {
		return err
	}
	defer func() {
		for _, o := range others {
			o.startRepair(classLogin)
			o.repair.hurry()
		}
	}()
	for _, o := range others {
		o.halt()
	}
	closed, all := m.closeGates(e.cfg.QuiesceTimeout)
	defer func() {
		for _, o := range closed {
			o.gate.Unlock()
		}
	}()
	if !all {
		return errInFlight
	}
	if e.isClosed() {
		return errClosed
	}
	err := m.renew(closed)
	if err == nil {
		e.cfg.Logger.Warn("module initialised anew", "module", m.path, "for", e.serial, "tokens", len(closed))
	}
	return err
}

// mayRestart says why the module is not to be initialised anew now.
func (m *Module) mayRestart(e *Engine, others []*Engine) error {
	for _, o := range append([]*Engine{e}, others...) {
		if o.stuck.Load() > 0 {
			return errInFlight
		}
	}
	spare := false
	for _, o := range others {
		spare = o.isWell() || spare
	}
	if spare && !m.sparing.allows(e.cfg.Clock()) {
		return errSpared
	}
	return nil
}

// isWell tells whether the token serves, or may do so again without the module
// being initialised anew. A repair begins if it seems to serve and does not.
func (e *Engine) isWell() bool {
	if e.repair.admit() != nil {
		return !e.repair.isHopeless() && e.failedIn.Load() != e.module.generation.Load()
	}
	if e.probe() == nil {
		return true
	}
	e.startRepair(classDevice)
	return false
}

// closeGates stops all engines of the module and closes their gates. Those that
// it has closed are the caller's to open; all tells whether there are no others.
func (m *Module) closeGates(patience time.Duration) (closed []*Engine, all bool) {
	all = poll(patience, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		open := false
		for _, e := range m.engines {
			switch {
			case slices.Contains(closed, e):
			case e.gate.TryLock():
				e.halt()
				closed = append(closed, e)
			default:
				open = true
			}
		}
		return !open
	})
	return closed, all
}

// renew initialises the module anew while the gates of its engines are closed.
func (m *Module) renew(engines []*Engine) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.finalize(); err != nil {
		return err
	}
	for _, e := range engines {
		e.epoch.Add(1)
		e.found = false
	}
	return m.initialize()
}

// endSessions ends the sessions of the engine's token, if that is where it was
// found. The gate is closed.
func (e *Engine) endSessions() error {
	if _, there := e.inPlace(); !there {
		return nil
	}
	return managed("C_CloseAllSessions", e.module.ctx.CloseAllSessions(e.slot))
}

// inPlace tells whether the token is in the slot where it was found. The slot
// may be another token's once the module was initialised anew.
func (e *Engine) inPlace() (info pkcs11.TokenInfo, there bool) {
	if !e.found {
		return info, false
	}
	info, err := e.module.tokenInfo(e.slot)
	return info, err == nil && info.SerialNumber == e.serial
}
