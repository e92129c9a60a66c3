package pkcs11

import (
	"errors"
	"fmt"

	"kmsgate/hsm"
)

// returnCode is a CK_RV.
type returnCode uint

// String is the code's name in PKCS#11, or its number.
func (c returnCode) String() string {
	if row, ok := returnCodes[c]; ok {
		return row.name
	}
	return fmt.Sprintf("CKR_0x%08X", uint(c))
}

// callError is a C call that did not return CKR_OK.
type callError struct {
	function string
	code     returnCode
	vendor   *codeRow // what the module's vendor means by the code, if it is one of the vendor's
}

func (e *callError) Error() string {
	name := e.code.String()
	if e.vendor != nil {
		name = e.vendor.name
	}
	return fmt.Sprintf("%s: %s (0x%X)", e.function, name, uint(e.code))
}

// row is what is known of the code; false if nothing is.
func (e *callError) row() (codeRow, bool) {
	if e.vendor != nil {
		return *e.vendor, true
	}
	row, known := returnCodes[e.code]
	return row, known
}

// class is what a return code means for the engine; it decides what is done.
type class uint8

const (
	classOK          class = iota
	classAnswer            // one of hsm's errors already: answer it
	classData              // the caller's data: answer
	classUnsupported       // the token will not do what is asked: answer
	classSession           // the session: drop it, retry once on another
	classObject            // this handle: make it again, retry once
	classLogin             // nobody is logged in: log in again (single flight), retry once
	classDevice            // the token or the way to it: look, reconnect
	classBusy              // too much work: answer
	classCapacity          // sessions or memory used up: make do with less, answer
	classPIN               // the PIN is refused: stop
	classFatal             // the token is out of service until somebody repairs it
)

// classRow is what the engine does about a class.
type classRow struct {
	name         string // metrics label
	means        string // for the README
	answer       error  // what the caller gets if nothing helps
	retry        bool   // once, after the class's repair
	keepsSession bool   // the session is as good as before
	remade       string // by the class's repair; for the README
}

// classes is indexed by class. The README of hsm shows them.
var classes = [...]classRow{
	classOK:     {name: "ok", keepsSession: true},
	classAnswer: {name: "refused", answer: hsm.ErrUnavailable, keepsSession: true},
	classData: {
		name: "data", means: "the caller's data are not good", answer: hsm.ErrUnsupported, keepsSession: true,
	},
	classUnsupported: {
		name: "unsupported", means: "the token will not do what is asked", answer: hsm.ErrUnsupported, keepsSession: true,
	},
	classSession: {
		name: "session", means: "the session is gone or in the way", answer: hsm.ErrUnavailable, retry: true,
		remade: "the session; all, if a new one does not work",
	},
	classObject: {
		name: "object", means: "the object is gone", answer: hsm.ErrUnavailable, retry: true, keepsSession: true,
		remade: "the object: it is unwrapped or found again",
	},
	classLogin: {
		name: "login", means: "nobody is logged in", answer: hsm.ErrUnavailable, retry: true,
		remade: "the login, sessions, objects; all, if that does not help",
	},
	classDevice: {
		name: "device", means: "the token or the way to it is in trouble", answer: hsm.ErrUnavailable,
		remade: "the session; all from `C_Initialize` on, if a new one does not work or it happens again and again",
	},
	classBusy: {name: "busy", means: "the token has too much to do", answer: hsm.ErrBusy, keepsSession: true},
	classCapacity: {
		name: "capacity", means: "the token has no room", answer: hsm.ErrBusy,
		remade: "fewer sessions, fewer objects",
	},
	classPIN:   {name: "pin", means: "the PIN is refused", answer: hsm.ErrPIN, remade: "nothing, until an operator acts"},
	classFatal: {name: "fatal", means: "the token is out of order", answer: hsm.ErrUnavailable, remade: "nothing, until a restart"},
}

// codeRow is what the table says of one return code.
type codeRow struct {
	name  string
	class class
	// onKey is the class where the call used a cached handle, if another: a
	// handle whose object is gone or another gives such codes.
	onKey class
}

// hsmErrors are what crosses the seam as it is.
var hsmErrors = []error{
	hsm.ErrInvalidCiphertext, hsm.ErrInvalidSignature, hsm.ErrInvalidPublicKey, hsm.ErrIncorrectMaterial, hsm.ErrMissing, hsm.ErrBinding, hsm.ErrWrongMaterial, hsm.ErrUnsupported,
	hsm.ErrUnavailable, hsm.ErrBusy, hsm.ErrDeadline, hsm.ErrPIN,
}

// errStale is a session or handle of an epoch that is over.
var errStale = errors.New("made before the last reconnect")

// classOf tells what an error means; onKey says that the call used a cached handle.
func classOf(err error, onKey bool) class {
	if err == nil {
		return classOK
	}
	for _, e := range hsmErrors {
		if errors.Is(err, e) {
			return classAnswer
		}
	}
	if call, ok := errors.AsType[*callError](err); ok {
		row, known := call.row()
		switch {
		case !known:
			return classDevice
		case onKey && row.onKey != classOK:
			return row.onKey
		}
		return row.class
	}
	if errors.Is(err, errStale) {
		return classSession
	}
	return classDevice
}

// answer makes any error of the engine one that may cross the seam.
func answer(err error) error {
	if err == nil {
		return nil
	}
	c := classOf(err, false)
	if c == classAnswer {
		return err
	}
	return fmt.Errorf("%w: %w", classes[c].answer, err)
}
