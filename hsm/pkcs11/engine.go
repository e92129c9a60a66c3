// Package pkcs11 is the engine that keeps KMS keys in a PKCS#11 token. It
// implements [hsm.Token]: sessions, login, reconnect, the wrapping of keys and
// a cache of unwrapped ones are its business and seen by nobody else.
//
// One engine owns a token, and a [Module] a module file in a process: it alone
// initialises and finalises it, for all engines of its tokens. An engine trusts the module and the token; it does not trust the rows
// that keys come from. The rules it follows are those of PKCS#11 v2.40 and of
// what real tokens do, see the README of the hsm folder.
package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// Config says which token to use and how. One of Label and Serial, and PIN are
// required; Module is too, except for [Module.Open].
type Config struct {
	Module        string // path of the PKCS#11 module
	InitArguments string // C_Initialize's reserved string; NSS needs one
	Label         string // token label
	Serial        string // token serial number
	// PIN returns the user PIN; the engine clears it after use. See [PINFile].
	PIN func() ([]byte, error)

	// ServiceKeys are those of the stores that the token serves, all
	// generations that are to be usable. They must be there at Open.
	ServiceKeys []hsm.ServiceKey
	// FindServiceKeys returns the service keys of a store that are to be usable now,
	// for when a key names a generation that is not in service. Nil: none is added.
	FindServiceKeys func(ctx context.Context, store string) ([]hsm.ServiceKey, error)
	// Marks remembers refused PINs. Nil: only the token's own flags are heeded.
	Marks hsm.LoginMarks

	// MaxSessions bounds the work sessions. Zero: 32 for hardware, twice the
	// CPUs and at least 4 for a token in software. It is cut to what the token
	// allows; owner sessions, login and health have a few more.
	MaxSessions   int
	OwnerSessions int           // sessions that own the cached keys; zero means 4
	MaxHandles    int           // cached unwrapped keys in all; zero means 1000
	MaxQueue      int           // calls that wait for a session; zero means 1024
	CallTimeout   time.Duration // longest wait for one call, whatever its context allows; zero means 5 s
	// QuiesceTimeout is how long a reconnect waits for calls in flight; zero means 5 s.
	QuiesceTimeout time.Duration

	// Strict refuses what would be done outside the token for want of a
	// mechanism: such an algorithm is then [hsm.ErrUnsupported].
	Strict bool
	// Resident are the stores whose new keys are token objects even where the
	// token could wrap them.
	Resident []string
	// GenerateTimeout is CallTimeout for the making of key pairs, which takes
	// long in software; zero means 60 s.
	GenerateTimeout time.Duration

	// ReturnCodes gives the vendor's own return codes, from 0x80000000 on, the
	// class that decides what is done about them; the README of hsm lists the
	// classes. It comes before what is known of the vendor. A code that is
	// unknown is of the class device.
	ReturnCodes map[uint]string

	IV IVMode // who makes GCM's IVs
	// WrapMechanisms are tried in this order for new domain keys; nil means
	// the list that the README of hsm gives.
	WrapMechanisms []uint

	Logger *slog.Logger // nil: nothing is logged
	// Observe is told of every unit of work on the token: what it was, the
	// class of its outcome, both from closed sets, and how long it took. Nil:
	// nobody is. It is called from many goroutines and must not block.
	Observe func(mechanism, class string, d time.Duration)
	Clock   func() time.Time // nil means time.Now
}

// normalize checks the configuration and fills in its defaults.
func (c *Config) normalize() error {
	switch {
	case c.Module == "":
		return errors.New("pkcs11: Module is not set")
	case c.Label == "" && c.Serial == "":
		return errors.New("pkcs11: neither Label nor Serial is set")
	case c.PIN == nil:
		return errors.New("pkcs11: PIN is not set")
	case int(c.IV) >= len(ivModes):
		return fmt.Errorf("pkcs11: IV mode %d is unknown", c.IV)
	case c.MaxSessions < 0 || c.OwnerSessions < 0 || c.MaxHandles < 0 || c.MaxQueue < 0 || c.CallTimeout < 0 || c.GenerateTimeout < 0 || c.QuiesceTimeout < 0:
		return errors.New("pkcs11: a limit is negative")
	}
	if err := CheckReturnCodes(c.ReturnCodes); err != nil {
		return fmt.Errorf("pkcs11: %w", err)
	}
	c.OwnerSessions = orDefault(c.OwnerSessions, 4)
	c.MaxHandles = orDefault(c.MaxHandles, 1000)
	c.MaxQueue = orDefault(c.MaxQueue, 1024)
	c.CallTimeout = orDefault(c.CallTimeout, 5*time.Second)
	c.GenerateTimeout = orDefault(c.GenerateTimeout, time.Minute)
	c.QuiesceTimeout = orDefault(c.QuiesceTimeout, 5*time.Second)
	if c.WrapMechanisms == nil {
		c.WrapMechanisms = defaultWrapMechanisms
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, string, time.Duration) {}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return nil
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Engine is a token in service. All methods are safe for concurrent use.
type Engine struct {
	cfg    Config
	module *Module
	proven provenPIN // used by whoever brings the token up, one at a time

	// Found out when the token first came up, and not changed after.
	// Module.claim writes the serial number.
	serial            string
	codes             vendorCodes
	damaged           []returnCode // what C_Decrypt says of damaged ciphertexts
	damagedBlob       []returnCode // what C_UnwrapKey says of a damaged blob
	wrapMech          uint         // for new domain keys
	unwrapNeedsLength bool         // with wrapMech, CKA_VALUE_LEN in templates of C_UnwrapKey
	maxStuck          int64
	findings          *findings

	gate gate
	// Written with the gate closed, read inside it.
	found  bool // slot is the token's, since the module was last initialised
	slot   uint
	anchor handle // the session that holds the login and the copies of binding keys, and does nothing else
	// anchorTurn is held by whoever calls C with the anchor session inside the gate.
	anchorTurn sync.Mutex

	epoch     atomic.Uint64 // one higher after every reconnect
	failedIn  atomic.Uint64 // the generation of the module in which a reconnect failed last
	service   atomic.Pointer[serviceKeys]
	serviceMu sync.Mutex // held by whoever replaces service
	looks     looks

	creating chan struct{} // holds an element while somebody makes a token object

	pool    *pool
	handles *handles
	repair  repair

	drawn        lastBlock // of all sessions
	randomFaults atomic.Uint64

	stuck atomic.Int64 // calls whose caller has gone and that have not returned
	// stuckSince is when the first of them missed its deadline, in Unix nanoseconds.
	stuckSince atomic.Int64
	poisoned   atomic.Uint64
	hits       atomic.Uint64
	misses     atomic.Uint64

	ending     sync.Mutex // held by whoever closes the engine; guards ended
	ended      bool
	closed     chan struct{}
	mu         sync.Mutex // guards closing and the growth of goroutines
	closing    bool
	goroutines sync.WaitGroup
}

var errClosed = fmt.Errorf("%w: engine is closed", hsm.ErrUnavailable)

// Open opens a token of a module that this process uses no other token of. See
// [Module.Open].
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	return NewModule(cfg.Module, cfg.InitArguments).Open(ctx, cfg)
}

// Open finds the token, logs in, tests what the token can do and finds the
// service keys. The configuration's Module and InitArguments are the module's
// own. [hsm.ErrPIN] if the PIN was refused or must not be tried.
func (m *Module) Open(ctx context.Context, cfg Config) (*Engine, error) {
	cfg.Module, cfg.InitArguments = m.path, m.args
	if err := cfg.normalize(); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, module: m, closed: make(chan struct{}), creating: make(chan struct{}, 1), findings: newFindings(cfg.Strict)}
	var err error
	if e.proven, err = newProvenPIN(); err != nil {
		return nil, fmt.Errorf("pkcs11: %w", err)
	}
	e.handles = newHandles(e)
	e.pool = &pool{engine: e, max: 1, background: background{counted: cfg.Clock()}}
	e.service.Store(&serviceKeys{})
	e.repair.sooner = make(chan struct{}, 1)
	e.repair.running = make(chan struct{}) // the start is like a repair
	e.halt()
	e.gate.Lock()
	started := make(chan error)
	go func() {
		err := e.start(ctx)
		e.gate.Unlock()
		select {
		case started <- err:
		case <-ctx.Done(): // nobody waits any more
			e.abort(err)
		}
	}()
	select {
	case err = <-started:
	case <-ctx.Done():
		return nil, fmt.Errorf("pkcs11: %w", lateError(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("pkcs11: %w", err)
	}
	return e, nil
}

// abort undoes a start whose caller has gone.
func (e *Engine) abort(err error) {
	if err != nil {
		return
	}
	if err := e.Close(); err != nil {
		e.cfg.Logger.Warn("close an engine that came up too late", "error", err)
	}
}

// start brings the token up for the first time. The gate is closed.
func (e *Engine) start(ctx context.Context) error {
	if err := e.module.join(e); err != nil {
		return err
	}
	var info pkcs11.TokenInfo
	err := e.learnCodes()
	if err == nil {
		info, err = e.attach(ctx)
	}
	if err == nil {
		e.limit(info)
		err = e.selfTest()
	}
	if err == nil {
		err = e.findServiceKeys(e.cfg.ServiceKeys)
	}
	if err != nil {
		if e := e.module.leave(e); e != nil {
			err = fmt.Errorf("%w; and %w", err, e)
		}
		return answer(e.codes.explain(err))
	}
	for e.resume(); !e.repair.ended(); e.resume() { // halted by somebody who waits for the gate
	}
	e.cfg.Logger.Info("token in service", "label", info.Label, "serial", info.SerialNumber, "model", info.Model,
		"sessions", e.pool.max, "wrap_mechanism", mechanismName(e.wrapMech), "key_specs", e.findings.specs())
	return nil
}

// attach finds the token, opens the anchor session and logs in. The gate is
// closed.
func (e *Engine) attach(ctx context.Context) (info pkcs11.TokenInfo, err error) {
	if info, err = e.findToken(); err != nil {
		return info, err
	}
	if e.anchor, err = e.module.openSession(e.slot); err != nil {
		return info, err
	}
	e.epoch.Add(1)
	return info, e.login(ctx, e.anchor, info)
}

// findToken finds the token's slot by label and serial number. It looks first
// where the token was, because another one might keep it waiting.
func (e *Engine) findToken() (info pkcs11.TokenInfo, err error) {
	if info, there := e.inPlace(); there {
		return info, nil
	}
	label, serial := e.cfg.Label, e.cfg.Serial
	if e.serial != "" {
		serial = e.serial
	}
	slot, info, err := e.module.findSlot(label, serial)
	if err == nil && e.serial == "" {
		err = e.module.claim(e, info.SerialNumber)
	}
	if err == nil {
		e.slot, e.found = slot, true
	}
	return info, err
}

// Sessions beside the work sessions: a margin for the anchor, health, and for
// other users of the token.
const sessionMargin = 8

// limit sets the size of the pool.
func (e *Engine) limit(info pkcs11.TokenInfo) {
	n := e.cfg.MaxSessions
	if n == 0 {
		n = max(4, 2*runtime.GOMAXPROCS(0))
		if slot, err := e.module.ctx.GetSlotInfo(e.slot); err == nil && slot.Flags&pkcs11.CKF_HW_SLOT != 0 {
			n = max(n, 32)
		}
	}
	for _, most := range []uint{info.MaxRwSessionCount, info.MaxSessionCount} {
		if most != 0 && most != pkcs11.CK_UNAVAILABLE_INFORMATION {
			n = min(n, int(most)-sessionMargin)
		}
	}
	e.pool.max, e.pool.limit = max(n, 1), max(n, 1)
	e.maxStuck = int64(max(2, e.pool.max/2))
}

// spawn runs f on a goroutine that Close waits for; false once Close has begun.
func (e *Engine) spawn(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.goroutines.Go(f)
	return true
}

// Close stops the engine: it waits for the calls in flight, at most the
// quiesce timeout, ends the token's sessions and, if it is the module's last
// engine, finalises the module. If a call does not return, token and module
// stay as they are, because finalising the module would crash the process, and
// Close returns [hsm.ErrDeadline]; it may be called again once the call has returned.
func (e *Engine) Close() error {
	e.ending.Lock()
	defer e.ending.Unlock()
	if e.ended {
		return nil
	}
	e.mu.Lock()
	if !e.closing {
		e.closing = true
		close(e.closed)
	}
	e.mu.Unlock()
	e.pool.reset(errClosed)
	e.handles.reset()
	if !e.gate.close(e.cfg.QuiesceTimeout) {
		return fmt.Errorf("%w; the module is left as it is", errInFlight)
	}
	e.epoch.Add(1)
	err := e.module.leave(e)
	e.gate.Unlock()
	e.ended = true
	e.goroutines.Wait()
	return err
}

func (e *Engine) isClosed() bool {
	select {
	case <-e.closed:
		return true
	default:
		return false
	}
}

// Stats is a snapshot of the engine.
type Stats struct {
	Serial       string    // of the token
	Epoch        uint64    // reconnects and first connect
	Serving      bool      // neither reconnecting nor out of service
	AwaySince    time.Time // when callers began to be refused; zero while they are not
	SessionsMax  int       // work sessions
	SessionsBusy int
	SessionsIdle int
	Waiting      int // calls waiting for a session
	// SharedTime is the time of all sessions, added up, while clients had or wanted
	// some; BackgroundTime is what background work took of it.
	SharedTime, BackgroundTime time.Duration

	Poisoned     uint64 // sessions given up because a call missed its deadline
	Stuck        int64  // of these, whose call has not returned
	RandomFaults uint64 // draws of the token's random generator that were thrown away
	Handles      int    // cached unwrapped keys
	Hits, Misses uint64 // of that cache
}

// Stats returns a snapshot.
func (e *Engine) Stats() Stats {
	s := Stats{
		Serial: e.serial, Epoch: e.epoch.Load(), Serving: e.repair.admit() == nil, AwaySince: e.awaySince(),
		Poisoned: e.poisoned.Load(), Stuck: e.stuck.Load(), RandomFaults: e.randomFaults.Load(),
		Handles: e.handles.count(), Hits: e.hits.Load(), Misses: e.misses.Load(),
	}
	e.pool.mu.Lock()
	defer e.pool.mu.Unlock()
	e.pool.countLocked()
	s.SharedTime, s.BackgroundTime = e.pool.background.shared, e.pool.background.taken
	for _, n := range e.pool.busy {
		s.SessionsBusy += n
	}
	s.SessionsMax, s.SessionsIdle, s.Waiting = e.pool.max, len(e.pool.idle), e.pool.waiting
	return s
}
