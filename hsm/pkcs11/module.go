package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// Module is a PKCS#11 module file for all of its tokens that this process
// serves: loaded and initialised with the first engine that is opened, until
// the last one is closed. Its methods are safe for concurrent use.
type Module struct {
	path string
	args string // C_Initialize's reserved string

	// Written while there is no engine.
	ctx *pkcs11.Ctx // management
	lib *library    // data plane; nil while the file is not loaded

	generation atomic.Uint64 // how often the module was initialised

	turn    sync.Mutex // held by whoever initialises the module; taken before mu
	sparing sparing    // of whoever holds turn

	mu      sync.Mutex // guards engines, and the loading and finalising
	engines []*Engine
}

// NewModule names a module file, which is loaded when the first engine is
// opened. initArguments is C_Initialize's reserved string; NSS needs one.
func NewModule(path, initArguments string) *Module {
	return &Module{path: path, args: initArguments}
}

func (m *Module) load() (err error) {
	if m.lib != nil {
		return nil
	}
	if m.lib, err = loadLibrary(m.path); err != nil {
		return err
	}
	if m.ctx = pkcs11.New(m.path); m.ctx == nil {
		m.lib.unload()
		m.lib = nil
		return fmt.Errorf("load PKCS#11 module: %s cannot be opened", m.path)
	}
	return nil
}

func (m *Module) unload() {
	m.ctx.Destroy()
	m.lib.unload()
	m.ctx, m.lib = nil, nil
}

// start loads the module and initialises it.
func (m *Module) start() error {
	if err := m.load(); err != nil {
		return err
	}
	err := m.initialize()
	if err != nil {
		m.unload()
	}
	return err
}

// end finalises the module and lets go of the file. If the module cannot be
// finalised it is left as it is.
func (m *Module) end() error {
	err := m.finalize()
	if err == nil {
		m.unload()
	}
	return err
}

// alone has the module for do, which is to look at it and at nothing that an
// engine uses.
func (m *Module) alone(do func() error) (err error) {
	if err := m.start(); err != nil {
		return err
	}
	defer func() {
		if e := m.end(); err == nil {
			err = e
		}
	}()
	return do()
}

// join takes an engine in; the first one has the module loaded and initialised.
func (m *Module) join(e *Engine) error {
	m.turn.Lock() // nobody joins while the module is initialised anew
	defer m.turn.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.engines) == 0 {
		if err := m.start(); err != nil {
			return err
		}
	}
	m.engines = append(m.engines, e)
	return nil
}

// claim makes a token the engine's, by its serial number. No other engine of
// the module can have it: they would end each other's sessions.
func (m *Module) claim(e *Engine, serial string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.engines {
		if other != e && other.serial == serial {
			return fmt.Errorf("token %s is in service already under another name: it is meant twice", serial)
		}
	}
	e.serial = serial
	return nil
}

// leave lets an engine go whose gate is closed: its sessions end or, with the
// last engine, all that the module has.
func (m *Module) leave(e *Engine) error {
	var err error
	if len(m.others(e)) > 0 {
		err = e.endSessions()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.engines = slices.DeleteFunc(m.engines, func(other *Engine) bool { return other == e })
	if len(m.engines) > 0 {
		return err
	}
	return m.end()
}

// others are the engines of the module beside one.
func (m *Module) others(e *Engine) []*Engine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.engines), func(other *Engine) bool { return other == e })
}

// initialize calls C_Initialize. The module must be ours alone: an engine
// whose sessions somebody else can end is none.
func (m *Module) initialize() error {
	err := m.ctx.Initialize(pkcs11.InitializeWithReserved(reserved(m.args)))
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return errors.New("the PKCS#11 module is in use in this process already")
	}
	if err == nil {
		m.generation.Add(1)
	}
	return managed("C_Initialize", err)
}

func (m *Module) finalize() error {
	err := managed("C_Finalize", m.ctx.Finalize())
	if call, ok := errors.AsType[*callError](err); ok && call.code == pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED {
		return nil
	}
	return err
}

func (m *Module) openSession(slot uint) (handle, error) {
	s, err := m.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return handle(s), managed("C_OpenSession", err)
}

func (m *Module) closeSession(s handle) error {
	return managed("C_CloseSession", m.ctx.CloseSession(pkcs11.SessionHandle(s)))
}

// sessionState is CKS_RW_USER_FUNCTIONS if the session is good and logged in.
func (m *Module) sessionState(s handle) (uint, error) {
	info, err := m.ctx.GetSessionInfo(pkcs11.SessionHandle(s))
	return info.State, managed("C_GetSessionInfo", err)
}

func (m *Module) tokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := m.ctx.GetTokenInfo(slot)
	return info, managed("C_GetTokenInfo", err)
}

func (m *Module) mechanismInfo(slot, mechanism uint) (pkcs11.MechanismInfo, error) {
	info, err := m.ctx.GetMechanismInfo(slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)})
	return info, managed("C_GetMechanismInfo", err)
}

// find returns the handles, two at most, of the objects that have these attributes.
func (m *Module) find(s handle, t []*pkcs11.Attribute) (found []handle, err error) {
	session := pkcs11.SessionHandle(s)
	if err := managed("C_FindObjectsInit", m.ctx.FindObjectsInit(session, t)); err != nil {
		return nil, err
	}
	defer func() {
		if e := managed("C_FindObjectsFinal", m.ctx.FindObjectsFinal(session)); err == nil {
			err = e
		}
	}()
	objects, _, err := m.ctx.FindObjects(session, 2)
	for _, o := range objects {
		found = append(found, handle(o))
	}
	return found, managed("C_FindObjects", err)
}

// findAll returns the handles of all objects that have these attributes.
func (m *Module) findAll(s handle, t []*pkcs11.Attribute) (found []handle, err error) {
	session := pkcs11.SessionHandle(s)
	if err := managed("C_FindObjectsInit", m.ctx.FindObjectsInit(session, t)); err != nil {
		return nil, err
	}
	defer func() {
		if e := managed("C_FindObjectsFinal", m.ctx.FindObjectsFinal(session)); err == nil {
			err = e
		}
	}()
	for {
		const page = 256
		objects, _, err := m.ctx.FindObjects(session, page)
		if err != nil {
			return nil, managed("C_FindObjects", err)
		}
		for _, o := range objects {
			found = append(found, handle(o))
		}
		if len(objects) < page {
			return found, nil
		}
	}
}

// generateTokenKey makes a secret key as the template says.
func (m *Module) generateTokenKey(s handle, mechanism uint, t []*pkcs11.Attribute) (handle, error) {
	h, err := m.ctx.GenerateKey(pkcs11.SessionHandle(s), []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, t)
	return handle(h), managed("C_GenerateKey", err)
}

// managed gives miekg's errors the form of the data plane's.
func managed(function string, err error) error {
	if err == nil {
		return nil
	}
	if code, ok := errors.AsType[pkcs11.Error](err); ok {
		return &callError{function: function, code: returnCode(code)}
	}
	return fmt.Errorf("%s: %w", function, err)
}
