package pkcs11

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// module is one PKCS#11 module file, initialised once in this process.
type module struct {
	ctx *pkcs11.Ctx // management
	lib *library    // data plane
	// gate is held for reading by every C call and for writing by those that
	// end sessions under everybody: C_Finalize with a call in flight crashes
	// the process.
	gate sync.RWMutex
	args string // C_Initialize's reserved string
}

// gatePoll is how often closeGate looks whether the last call has returned.
const gatePoll = time.Millisecond

func loadModule(path, initArguments string) (*module, error) {
	lib, err := loadLibrary(path)
	if err != nil {
		return nil, err
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		lib.unload()
		return nil, fmt.Errorf("load PKCS#11 module: %s cannot be opened", path)
	}
	return &module{ctx: ctx, lib: lib, args: initArguments}, nil
}

func (m *module) unload() {
	m.ctx.Destroy()
	m.lib.unload()
}

// initialize calls C_Initialize. The module must be ours alone: an engine
// whose sessions somebody else can end is none.
func (m *module) initialize() error {
	err := m.ctx.Initialize(pkcs11.InitializeWithReserved(reserved(m.args)))
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return errors.New("the PKCS#11 module is in use in this process already")
	}
	return managed("C_Initialize", err)
}

func (m *module) finalize() error {
	err := managed("C_Finalize", m.ctx.Finalize())
	if call, ok := errors.AsType[*callError](err); ok && call.code == pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED {
		return nil
	}
	return err
}

// closeGate waits until no call is in flight and keeps new ones out. It is
// false, and the gate open, if a call has not returned within patience.
func (m *module) closeGate(patience time.Duration) bool {
	if m.gate.TryLock() {
		return true
	}
	ticker := time.NewTicker(gatePoll)
	defer ticker.Stop()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case <-ticker.C:
			if m.gate.TryLock() {
				return true
			}
		case <-timeout.C:
			return false
		}
	}
}

func (m *module) openSession(slot uint) (handle, error) {
	s, err := m.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return handle(s), managed("C_OpenSession", err)
}

func (m *module) closeSession(s handle) error {
	return managed("C_CloseSession", m.ctx.CloseSession(pkcs11.SessionHandle(s)))
}

// sessionState is CKS_RW_USER_FUNCTIONS if the session is good and logged in.
func (m *module) sessionState(s handle) (uint, error) {
	info, err := m.ctx.GetSessionInfo(pkcs11.SessionHandle(s))
	return info.State, managed("C_GetSessionInfo", err)
}

func (m *module) tokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := m.ctx.GetTokenInfo(slot)
	return info, managed("C_GetTokenInfo", err)
}

func (m *module) mechanismInfo(slot, mechanism uint) (pkcs11.MechanismInfo, error) {
	info, err := m.ctx.GetMechanismInfo(slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)})
	return info, managed("C_GetMechanismInfo", err)
}

// find returns the handles, two at most, of the objects that have these attributes.
func (m *module) find(s handle, t []*pkcs11.Attribute) (found []handle, err error) {
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
func (m *module) findAll(s handle, t []*pkcs11.Attribute) (found []handle, err error) {
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
func (m *module) generateTokenKey(s handle, mechanism uint, t []*pkcs11.Attribute) (handle, error) {
	h, err := m.ctx.GenerateKey(pkcs11.SessionHandle(s), []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, t)
	return handle(h), managed("C_GenerateKey", err)
}

// findSlot finds the one token with this label, or serial, or both.
func (m *module) findSlot(label, serial string) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, info, managed("C_GetSlotList", err)
	}
	matches := 0
	var present []string
	for _, id := range slots {
		t, err := m.tokenInfo(id)
		if err != nil || t.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		present = append(present, fmt.Sprintf("%q (serial %s)", t.Label, t.SerialNumber))
		if (label == "" || t.Label == label) && (serial == "" || t.SerialNumber == serial) {
			matches++
			slot, info = id, t
		}
	}
	if matches == 1 {
		return slot, info, nil
	}
	there := "none"
	if len(present) > 0 {
		there = strings.Join(present, ", ")
	}
	return 0, info, fmt.Errorf("%d tokens match label %q and serial %q; present: %s", matches, label, serial, there)
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
