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
}

func (e *callError) Error() string {
	return fmt.Sprintf("%s: %s (0x%X)", e.function, e.code, uint(e.code))
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
	answer       error  // what the caller gets if nothing helps
	retry        bool   // once, after the class's repair
	keepsSession bool   // the session is as good as before
}

// classes is indexed by class.
var classes = [...]classRow{
	classOK:          {name: "ok", keepsSession: true},
	classAnswer:      {name: "refused", answer: hsm.ErrUnavailable, keepsSession: true},
	classData:        {name: "data", answer: hsm.ErrUnsupported, keepsSession: true},
	classUnsupported: {name: "unsupported", answer: hsm.ErrUnsupported, keepsSession: true},
	classSession:     {name: "session", answer: hsm.ErrUnavailable, retry: true},
	classObject:      {name: "object", answer: hsm.ErrUnavailable, retry: true, keepsSession: true},
	classLogin:       {name: "login", answer: hsm.ErrUnavailable, retry: true},
	classDevice:      {name: "device", answer: hsm.ErrUnavailable},
	classBusy:        {name: "busy", answer: hsm.ErrBusy, keepsSession: true},
	classCapacity:    {name: "capacity", answer: hsm.ErrBusy},
	classPIN:         {name: "pin", answer: hsm.ErrPIN},
	classFatal:       {name: "fatal", answer: hsm.ErrUnavailable},
}

// codeRow is what the table says of one return code.
type codeRow struct {
	name  string
	class class
	// onKey is the class where the call used a cached handle, if another: a
	// handle whose object is gone or another gives such codes.
	onKey class
}

// returnCodes are all return codes of PKCS#11 v2.40, those of v3 that v2.40
// modules return too, and the vendor codes that mean something to us. A code
// that is not here is of the class device.
var returnCodes = map[returnCode]codeRow{
	0x000: {name: "CKR_OK", class: classOK},
	0x001: {name: "CKR_CANCEL", class: classSession},
	0x002: {name: "CKR_HOST_MEMORY", class: classCapacity},
	0x003: {name: "CKR_SLOT_ID_INVALID", class: classDevice},
	0x005: {name: "CKR_GENERAL_ERROR", class: classDevice},
	0x006: {name: "CKR_FUNCTION_FAILED", class: classDevice},
	0x007: {name: "CKR_ARGUMENTS_BAD", class: classUnsupported},
	0x008: {name: "CKR_NO_EVENT", class: classDevice},
	0x009: {name: "CKR_NEED_TO_CREATE_THREADS", class: classFatal},
	0x00A: {name: "CKR_CANT_LOCK", class: classFatal},
	0x010: {name: "CKR_ATTRIBUTE_READ_ONLY", class: classUnsupported},
	0x011: {name: "CKR_ATTRIBUTE_SENSITIVE", class: classUnsupported},
	0x012: {name: "CKR_ATTRIBUTE_TYPE_INVALID", class: classUnsupported},
	0x013: {name: "CKR_ATTRIBUTE_VALUE_INVALID", class: classUnsupported},
	0x01B: {name: "CKR_ACTION_PROHIBITED", class: classUnsupported},
	0x020: {name: "CKR_DATA_INVALID", class: classData},
	0x021: {name: "CKR_DATA_LEN_RANGE", class: classData},
	0x030: {name: "CKR_DEVICE_ERROR", class: classDevice},
	0x031: {name: "CKR_DEVICE_MEMORY", class: classCapacity},
	0x032: {name: "CKR_DEVICE_REMOVED", class: classDevice},
	0x040: {name: "CKR_ENCRYPTED_DATA_INVALID", class: classData},
	0x041: {name: "CKR_ENCRYPTED_DATA_LEN_RANGE", class: classData},
	0x042: {name: "CKR_AEAD_DECRYPT_FAILED", class: classData},
	0x050: {name: "CKR_FUNCTION_CANCELED", class: classSession},
	0x051: {name: "CKR_FUNCTION_NOT_PARALLEL", class: classUnsupported},
	0x054: {name: "CKR_FUNCTION_NOT_SUPPORTED", class: classUnsupported},
	0x060: {name: "CKR_KEY_HANDLE_INVALID", class: classObject},
	0x062: {name: "CKR_KEY_SIZE_RANGE", class: classUnsupported},
	0x063: {name: "CKR_KEY_TYPE_INCONSISTENT", class: classUnsupported, onKey: classObject},
	0x064: {name: "CKR_KEY_NOT_NEEDED", class: classUnsupported},
	0x065: {name: "CKR_KEY_CHANGED", class: classUnsupported},
	0x066: {name: "CKR_KEY_NEEDED", class: classUnsupported},
	0x067: {name: "CKR_KEY_INDIGESTIBLE", class: classUnsupported},
	0x068: {name: "CKR_KEY_FUNCTION_NOT_PERMITTED", class: classUnsupported, onKey: classObject},
	0x069: {name: "CKR_KEY_NOT_WRAPPABLE", class: classUnsupported},
	0x06A: {name: "CKR_KEY_UNEXTRACTABLE", class: classUnsupported},
	0x070: {name: "CKR_MECHANISM_INVALID", class: classUnsupported, onKey: classObject},
	0x071: {name: "CKR_MECHANISM_PARAM_INVALID", class: classUnsupported},
	0x082: {name: "CKR_OBJECT_HANDLE_INVALID", class: classObject},
	0x090: {name: "CKR_OPERATION_ACTIVE", class: classSession},
	0x091: {name: "CKR_OPERATION_NOT_INITIALIZED", class: classSession},
	0x0A0: {name: "CKR_PIN_INCORRECT", class: classPIN},
	0x0A1: {name: "CKR_PIN_INVALID", class: classPIN},
	0x0A2: {name: "CKR_PIN_LEN_RANGE", class: classPIN},
	0x0A3: {name: "CKR_PIN_EXPIRED", class: classPIN},
	0x0A4: {name: "CKR_PIN_LOCKED", class: classPIN},
	0x0B0: {name: "CKR_SESSION_CLOSED", class: classSession},
	0x0B1: {name: "CKR_SESSION_COUNT", class: classCapacity},
	0x0B3: {name: "CKR_SESSION_HANDLE_INVALID", class: classSession},
	0x0B4: {name: "CKR_SESSION_PARALLEL_NOT_SUPPORTED", class: classUnsupported},
	0x0B5: {name: "CKR_SESSION_READ_ONLY", class: classUnsupported},
	0x0B6: {name: "CKR_SESSION_EXISTS", class: classUnsupported},
	0x0B7: {name: "CKR_SESSION_READ_ONLY_EXISTS", class: classUnsupported},
	0x0B8: {name: "CKR_SESSION_READ_WRITE_SO_EXISTS", class: classUnsupported},
	0x0C0: {name: "CKR_SIGNATURE_INVALID", class: classData},
	0x0C1: {name: "CKR_SIGNATURE_LEN_RANGE", class: classData},
	0x0D0: {name: "CKR_TEMPLATE_INCOMPLETE", class: classUnsupported},
	0x0D1: {name: "CKR_TEMPLATE_INCONSISTENT", class: classUnsupported},
	0x0E0: {name: "CKR_TOKEN_NOT_PRESENT", class: classDevice},
	0x0E1: {name: "CKR_TOKEN_NOT_RECOGNIZED", class: classDevice},
	0x0E2: {name: "CKR_TOKEN_WRITE_PROTECTED", class: classUnsupported},
	0x0F0: {name: "CKR_UNWRAPPING_KEY_HANDLE_INVALID", class: classObject},
	0x0F1: {name: "CKR_UNWRAPPING_KEY_SIZE_RANGE", class: classUnsupported},
	0x0F2: {name: "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", class: classUnsupported},
	0x100: {name: "CKR_USER_ALREADY_LOGGED_IN", class: classUnsupported},
	0x101: {name: "CKR_USER_NOT_LOGGED_IN", class: classLogin},
	0x102: {name: "CKR_USER_PIN_NOT_INITIALIZED", class: classFatal},
	0x103: {name: "CKR_USER_TYPE_INVALID", class: classUnsupported},
	0x104: {name: "CKR_USER_ANOTHER_ALREADY_LOGGED_IN", class: classLogin},
	0x105: {name: "CKR_USER_TOO_MANY_TYPES", class: classLogin},
	0x110: {name: "CKR_WRAPPED_KEY_INVALID", class: classData},
	0x112: {name: "CKR_WRAPPED_KEY_LEN_RANGE", class: classData},
	0x113: {name: "CKR_WRAPPING_KEY_HANDLE_INVALID", class: classObject},
	0x114: {name: "CKR_WRAPPING_KEY_SIZE_RANGE", class: classUnsupported},
	0x115: {name: "CKR_WRAPPING_KEY_TYPE_INCONSISTENT", class: classUnsupported},
	0x120: {name: "CKR_RANDOM_SEED_NOT_SUPPORTED", class: classUnsupported},
	0x121: {name: "CKR_RANDOM_NO_RNG", class: classUnsupported},
	0x130: {name: "CKR_DOMAIN_PARAMS_INVALID", class: classData},
	0x140: {name: "CKR_CURVE_NOT_SUPPORTED", class: classUnsupported},
	0x150: {name: "CKR_BUFFER_TOO_SMALL", class: classSession}, // the operation is still active
	0x160: {name: "CKR_SAVED_STATE_INVALID", class: classUnsupported},
	0x170: {name: "CKR_INFORMATION_SENSITIVE", class: classUnsupported},
	0x180: {name: "CKR_STATE_UNSAVEABLE", class: classUnsupported},
	0x190: {name: "CKR_CRYPTOKI_NOT_INITIALIZED", class: classDevice},
	0x191: {name: "CKR_CRYPTOKI_ALREADY_INITIALIZED", class: classUnsupported},
	0x1A0: {name: "CKR_MUTEX_BAD", class: classFatal},
	0x1A1: {name: "CKR_MUTEX_NOT_LOCKED", class: classFatal},
	0x1B0: {name: "CKR_NEW_PIN_MODE", class: classPIN},
	0x1B1: {name: "CKR_NEXT_OTP", class: classPIN},
	0x1B5: {name: "CKR_EXCEEDED_MAX_ITERATIONS", class: classDevice},
	0x1B6: {name: "CKR_FIPS_SELF_TEST_FAILED", class: classFatal},
	0x1B7: {name: "CKR_LIBRARY_LOAD_FAILED", class: classFatal},
	0x1B8: {name: "CKR_PIN_TOO_WEAK", class: classPIN},
	0x1B9: {name: "CKR_PUBLIC_KEY_INVALID", class: classData},
	0x200: {name: "CKR_FUNCTION_REJECTED", class: classUnsupported},
	0x201: {name: "CKR_TOKEN_RESOURCE_EXCEEDED", class: classCapacity},
	0x202: {name: "CKR_OPERATION_CANCEL_FAILED", class: classSession},
	0x203: {name: "CKR_KEY_EXHAUSTED", class: classUnsupported},

	// Thales Luna, from its cryptoki_v2.h.
	0x80000007: {name: "CKR_LUNA_PIN_LOCKED", class: classPIN},
	0x8000000E: {name: "CKR_LUNA_INVALID_ENTRY", class: classData},
	0x8000001B: {name: "CKR_LUNA_CONTAINER_OBJECT_STORAGE_FULL", class: classCapacity},
	0x8000001F: {name: "CKR_LUNA_UNABLE_TO_CONNECT", class: classDevice},
	0x80000020: {name: "CKR_LUNA_PARTITION_DISABLED", class: classFatal},
	0x80000024: {name: "CKR_LUNA_TIMEOUT", class: classDevice},
	0x8000002A: {name: "CKR_LUNA_NO_SESSIONS", class: classCapacity},
	0x8000002B: {name: "CKR_LUNA_DEVICE_TIMEOUT", class: classDevice},
	0x8000002C: {name: "CKR_LUNA_MEMORY_FULL", class: classCapacity},
	0x8000002F: {name: "CKR_LUNA_DATA_INVALID", class: classData},
	0x80000031: {name: "CKR_LUNA_OBJECTS_FULL", class: classCapacity},
	0x80000041: {name: "CKR_LUNA_AGAIN", class: classBusy},
	0x80000076: {name: "CKR_LUNA_TAMPERED", class: classFatal},
	0x8000008D: {name: "CKR_LUNA_RESTART_REQUIRED", class: classFatal},
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
		row, known := returnCodes[call.code]
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
