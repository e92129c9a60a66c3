package pqtoken

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What module and server say to each other, see module/wire.h.

// ulongBytes is the size of a CK_ULONG.
const ulongBytes = 8

// maxMessageBytes bounds what a module may send at once.
const maxMessageBytes = 1 << 24

// code is a CK_RV.
type code uint64

func (c code) Error() string { return fmt.Sprintf("CK_RV 0x%X", uint64(c)) }

// Return codes, PKCS#11 v3.2, section 5.1.
const (
	ckrOK                       code = 0
	ckrAttributeReadOnly        code = 0x10
	ckrAttributeSensitive       code = 0x11
	ckrAttributeTypeInvalid     code = 0x12
	ckrAttributeValueInvalid    code = 0x13
	ckrActionProhibited         code = 0x1B
	ckrDataLenRange             code = 0x21
	ckrDeviceError              code = 0x30
	ckrKeyHandleInvalid         code = 0x60
	ckrKeyTypeInconsistent      code = 0x63
	ckrKeyFunctionNotPermitted  code = 0x68
	ckrKeyNotWrappable          code = 0x69
	ckrKeyUnextractable         code = 0x6A
	ckrMechanismInvalid         code = 0x70
	ckrMechanismParamInvalid    code = 0x71
	ckrObjectHandleInvalid      code = 0x82
	ckrSessionReadOnly          code = 0xB5
	ckrSignatureInvalid         code = 0xC0
	ckrSignatureLenRange        code = 0xC1
	ckrTemplateIncomplete       code = 0xD0
	ckrTemplateInconsistent     code = 0xD1
	ckrUserNotLoggedIn          code = 0x101
	ckrWrappedKeyInvalid        code = 0x110
	ckrWrappedKeyLenRange       code = 0x112
	ckrParameterSetNotSupported code = 0x209
)

// codeOf is the CK_RV of an error.
func codeOf(err error) code {
	if err == nil {
		return ckrOK
	}
	if c, ok := errors.AsType[code](err); ok {
		return c
	}
	return ckrDeviceError
}

// errMessage: the module has sent something that is not of the agreed form.
var errMessage = errors.New("pqtoken: malformed message")

// caller is who asks for something: a session, and its state (CKS_).
type caller struct {
	slot, session, state uint64
}

// Session states in which the user is logged in, or token objects cannot be written.
const (
	cksROPublic = 0
	cksROUser   = 1
	cksRWUser   = 3
)

func (c caller) isUser() bool     { return c.state == cksROUser || c.state == cksRWUser }
func (c caller) isReadOnly() bool { return c.state == cksROPublic || c.state == cksROUser }

// attribute is a CK_ATTRIBUTE.
type attribute struct {
	kind  uint64
	value []byte
}

// mechanism is a CK_MECHANISM.
type mechanism struct {
	kind, param, hedge uint64
	context            []byte
}

// Kinds of mechanism parameters.
const (
	paramNone        = 0
	paramSignContext = 1 // CK_SIGN_ADDITIONAL_CONTEXT
)

// request is what is left to read of a message. After the first error it gives
// zeros.
type request struct {
	rest []byte
	err  error
}

func (r *request) ulong() uint64 {
	if len(r.rest) < ulongBytes {
		r.rest, r.err = nil, errMessage
		return 0
	}
	v := binary.NativeEndian.Uint64(r.rest)
	r.rest = r.rest[ulongBytes:]
	return v
}

func (r *request) bytes() []byte {
	n := r.ulong()
	if n > uint64(len(r.rest)) {
		r.rest, r.err = nil, errMessage
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *request) template() []attribute {
	var t []attribute
	for n := r.ulong(); n > 0 && r.err == nil; n-- {
		kind := r.ulong()
		t = append(t, attribute{kind, r.bytes()})
	}
	return t
}

func (r *request) mechanism() mechanism {
	m := mechanism{kind: r.ulong()}
	if m.param = r.ulong(); m.param == paramSignContext {
		m.hedge = r.ulong()
		m.context = r.bytes()
	}
	return m
}

func (r *request) caller() caller {
	return caller{slot: r.ulong(), session: r.ulong(), state: r.ulong()}
}

// done is the error of what was read, or that something is left.
func (r *request) done() error {
	if r.err == nil && len(r.rest) > 0 {
		return errMessage
	}
	return r.err
}

// ulongs are CK_ULONGs as C has them in memory.
func ulongs(values ...uint64) []byte {
	b := make([]byte, 0, len(values)*ulongBytes)
	for _, v := range values {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

// withBytes adds a byte string to a message.
func withBytes(message, b []byte) []byte {
	return append(append(message, ulongs(uint64(len(b)))...), b...)
}

func readMessage(from io.Reader) ([]byte, error) {
	var n [ulongBytes]byte
	if _, err := io.ReadFull(from, n[:]); err != nil {
		return nil, err
	}
	length := binary.NativeEndian.Uint64(n[:])
	if length > maxMessageBytes {
		return nil, errMessage
	}
	b := make([]byte, length)
	_, err := io.ReadFull(from, b)
	return b, err
}
