package pkcs11

/*
#cgo CFLAGS: -std=gnu11 -O2 -Wall
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "fast.h"
#cgo noescape km_login
#cgo nocallback km_login
#cgo noescape km_gcm_encrypt
#cgo nocallback km_gcm_encrypt
#cgo noescape km_gcm_decrypt
#cgo nocallback km_gcm_decrypt
#cgo noescape km_sign
#cgo nocallback km_sign
#cgo noescape km_random
#cgo nocallback km_random
#cgo noescape km_wrap
#cgo nocallback km_wrap
#cgo noescape km_unwrap
#cgo nocallback km_unwrap
#cgo noescape km_generate
#cgo nocallback km_generate
#cgo noescape km_encrypt
#cgo nocallback km_encrypt
#cgo noescape km_decrypt
#cgo nocallback km_decrypt
#cgo noescape km_verify
#cgo nocallback km_verify
#cgo noescape km_create
#cgo nocallback km_create
#cgo noescape km_generate_pair
#cgo nocallback km_generate_pair
#cgo noescape km_derive
#cgo nocallback km_derive
#cgo noescape km_attribute
#cgo nocallback km_attribute
#cgo noescape km_encapsulate
#cgo nocallback km_encapsulate
#cgo noescape km_decapsulate
#cgo nocallback km_decapsulate
#cgo noescape km_destroy
#cgo nocallback km_destroy
#cgo noescape km_gcm_encrypt_loop
#cgo nocallback km_gcm_encrypt_loop
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// handle is a CK_OBJECT_HANDLE or a CK_SESSION_HANDLE.
type handle uint

// library is the data plane of a module: the same file, and so the same
// sessions and objects, that miekg/pkcs11 manages. Its methods are C calls:
// they may block for ever, and crash the process if the session is in use by
// another goroutine or the module is finalised meanwhile.
type library struct {
	file        unsafe.Pointer
	functions   *C.km_functions
	functions32 *C.km_functions // of PKCS#11 v3.2; nil if the module has none
}

func loadLibrary(path string) (*library, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var problem *C.char
	file := C.km_load(name, &problem)
	if file == nil {
		return nil, fmt.Errorf("load PKCS#11 module: %s; it must be the path of the vendor's PKCS#11 library, built for this machine", C.GoString(problem))
	}
	functions := C.km_function_list(file)
	if functions == nil {
		C.km_unload(file)
		return nil, fmt.Errorf("load PKCS#11 module: %s is none: it has no C_GetFunctionList that works; it must be the vendor's PKCS#11 library", path)
	}
	return &library{file: file, functions: functions, functions32: C.km_function_list_32(file)}, nil
}

func (l *library) unload() { C.km_unload(l.file) }

// login logs the user in. The pin stays the caller's to clear.
func (l *library) login(session handle, pin []byte) error {
	return check("C_Login", C.km_login(l.functions, C.km_ulong(session), data(pin), length(pin)))
}

// gcmEncrypt encrypts in to out and returns how many bytes it wrote. iv is the
// caller's value, or zeros for the token to write its own over, or empty where
// the token appends it to the output.
func (l *library) gcmEncrypt(session, key handle, iv, aad, in, out []byte) (int, error) {
	r := C.km_gcm_encrypt(l.functions, C.km_ulong(session), C.km_ulong(key), data(iv), length(iv),
		data(aad), length(aad), data(in), length(in), data(out), length(out))
	return int(r.n), check("C_Encrypt", r.rv)
}

// gcmDecrypt decrypts in to out, which needs len(in) bytes even though the
// plaintext is shorter. On an error out is zeros.
func (l *library) gcmDecrypt(session, key handle, iv, aad, in, out []byte) (int, error) {
	r := C.km_gcm_decrypt(l.functions, C.km_ulong(session), C.km_ulong(key), data(iv), length(iv),
		data(aad), length(aad), data(in), length(in), data(out), length(out))
	return int(r.n), check("C_Decrypt", r.rv)
}

// sign writes the signature or MAC of in to out and returns its length.
func (l *library) sign(session, key handle, m mechanism, in, out []byte) (int, error) {
	r := C.km_sign(l.functions, C.km_ulong(session), C.km_ulong(key), C.km_ulong(m.kind), data(m.params), length(m.params),
		data(in), length(in), data(out), length(out))
	return int(r.n), check("C_Sign", r.rv)
}

// verify verifies the signature of in.
func (l *library) verify(session, key handle, m mechanism, in, signature []byte) error {
	return check("C_Verify", C.km_verify(l.functions, C.km_ulong(session), C.km_ulong(key), C.km_ulong(m.kind), data(m.params), length(m.params),
		data(in), length(in), data(signature), length(signature)))
}

// encrypt encrypts in to out and returns how many bytes it wrote.
func (l *library) encrypt(session, key handle, m mechanism, in, out []byte) (int, error) {
	r := C.km_encrypt(l.functions, C.km_ulong(session), C.km_ulong(key), C.km_ulong(m.kind), data(m.params), length(m.params),
		data(in), length(in), data(out), length(out))
	return int(r.n), check("C_Encrypt", r.rv)
}

// decrypt decrypts in to out and returns how many bytes it wrote.
func (l *library) decrypt(session, key handle, m mechanism, in, out []byte) (int, error) {
	r := C.km_decrypt(l.functions, C.km_ulong(session), C.km_ulong(key), C.km_ulong(m.kind), data(m.params), length(m.params),
		data(in), length(in), data(out), length(out))
	return int(r.n), check("C_Decrypt", r.rv)
}

// random fills out from the token's random generator.
func (l *library) random(session handle, out []byte) error {
	return check("C_GenerateRandom", C.km_random(l.functions, C.km_ulong(session), data(out), length(out)))
}

// wrap writes key, encrypted under the domain key, to out.
func (l *library) wrap(session handle, kind uint, domainKey, key handle, out []byte) (int, error) {
	return l.wrapWith(session, mechanism{kind: kind}, domainKey, key, out)
}

// wrapWith writes key, encrypted under any key, to out.
func (l *library) wrapWith(session handle, m mechanism, wrappingKey, key handle, out []byte) (int, error) {
	r := C.km_wrap(l.functions, C.km_ulong(session), C.km_ulong(m.kind), data(m.params), length(m.params), C.km_ulong(wrappingKey),
		C.km_ulong(key), data(out), length(out))
	return int(r.n), check("C_WrapKey", r.rv)
}

// unwrap makes an object of a blob under a domain key.
func (l *library) unwrap(session handle, kind uint, domainKey handle, blob []byte, t template) (handle, error) {
	return l.unwrapWith(session, mechanism{kind: kind}, domainKey, blob, t)
}

// unwrapWith makes an object of a blob under any key.
func (l *library) unwrapWith(session handle, m mechanism, key handle, blob []byte, t template) (handle, error) {
	encoded := t.encode()
	r := C.km_unwrap(l.functions, C.km_ulong(session), C.km_ulong(m.kind), data(m.params), length(m.params), C.km_ulong(key),
		data(blob), length(blob), data(encoded), length(encoded))
	return handle(r.n), check("C_UnwrapKey", r.rv)
}

// generate makes a secret key.
func (l *library) generate(session handle, mechanism uint, t template) (handle, error) {
	encoded := t.encode()
	r := C.km_generate(l.functions, C.km_ulong(session), C.km_ulong(mechanism), data(encoded), length(encoded))
	return handle(r.n), check("C_GenerateKey", r.rv)
}

// generatePair makes a key pair.
func (l *library) generatePair(session handle, mechanism uint, public, private template) (publicKey, privateKey handle, err error) {
	a, b := public.encode(), private.encode()
	r := C.km_generate_pair(l.functions, C.km_ulong(session), C.km_ulong(mechanism), data(a), length(a), data(b), length(b))
	return handle(r.public_key), handle(r.private_key), check("C_GenerateKeyPair", r.rv)
}

// create makes an object of the values in its template.
func (l *library) create(session handle, t template) (handle, error) {
	encoded := t.encode()
	defer clear(encoded)
	r := C.km_create(l.functions, C.km_ulong(session), data(encoded), length(encoded))
	return handle(r.n), check("C_CreateObject", r.rv)
}

// derive makes the raw ECDH secret with the peer's point as an object.
func (l *library) derive(session, key handle, peer []byte, t template) (handle, error) {
	encoded := t.encode()
	r := C.km_derive(l.functions, C.km_ulong(session), C.km_ulong(key), data(peer), length(peer), data(encoded), length(encoded))
	return handle(r.n), check("C_DeriveKey", r.rv)
}

// attribute reads one attribute of an object to out and returns its length.
func (l *library) attribute(session, object handle, kind uint, out []byte) (int, error) {
	r := C.km_attribute(l.functions, C.km_ulong(session), C.km_ulong(object), C.km_ulong(kind), data(out), length(out))
	return int(r.n), check("C_GetAttributeValue", r.rv)
}

var errNoInterface = &callError{function: "C_GetInterface", code: 0x054} // CKR_FUNCTION_NOT_SUPPORTED

// encapsulate makes a fresh secret as an object and writes its encapsulation
// to out (PKCS#11 v3.2).
func (l *library) encapsulate(session, publicKey handle, mechanism uint, t template, out []byte) (secret handle, n int, err error) {
	if l.functions32 == nil {
		return 0, 0, errNoInterface
	}
	encoded := t.encode()
	r := C.km_encapsulate(l.functions32, C.km_ulong(session), C.km_ulong(mechanism), C.km_ulong(publicKey),
		data(encoded), length(encoded), data(out), length(out))
	return handle(r.secret), int(r.n), check("C_EncapsulateKey", r.rv)
}

// decapsulate recovers an encapsulated secret as an object (PKCS#11 v3.2).
func (l *library) decapsulate(session, privateKey handle, mechanism uint, t template, in []byte) (handle, error) {
	if l.functions32 == nil {
		return 0, errNoInterface
	}
	encoded := t.encode()
	r := C.km_decapsulate(l.functions32, C.km_ulong(session), C.km_ulong(mechanism), C.km_ulong(privateKey),
		data(encoded), length(encoded), data(in), length(in))
	return handle(r.n), check("C_DecapsulateKey", r.rv)
}

// destroy destroys an object.
func (l *library) destroy(session, object handle) error {
	return check("C_DestroyObject", C.km_destroy(l.functions, C.km_ulong(session), C.km_ulong(object)))
}

// encryptLoop encrypts n times in C, see [RawEncryptLoop].
func (l *library) encryptLoop(session, key handle, iv *[12]byte, in, out []byte, n int) error {
	r := C.km_gcm_encrypt_loop(l.functions, C.km_ulong(session), C.km_ulong(key), data(iv[:]), nil, 0,
		data(in), length(in), data(out), length(out), C.km_ulong(n))
	return check("C_Encrypt", r.rv)
}

// unwrapTemplate is the value of a domain key's CKA_UNWRAP_TEMPLATE: C
// attributes whose pointers stay valid as long as the process.
func unwrapTemplate() []byte {
	var size C.km_ulong
	t := C.km_unwrap_template(&size)
	return C.GoBytes(unsafe.Pointer(t), C.int(size))
}

// reserved is C_Initialize's reserved string in C memory. Modules may keep the
// pointer, so it is never freed.
func reserved(arguments string) unsafe.Pointer {
	if arguments == "" {
		return nil
	}
	return unsafe.Pointer(C.CString(arguments))
}

func data(b []byte) *C.km_byte   { return (*C.km_byte)(unsafe.SliceData(b)) }
func length(b []byte) C.km_ulong { return C.km_ulong(len(b)) }

// check makes a CK_RV an error.
func check(function string, rv C.km_ulong) error {
	if rv == 0 {
		return nil
	}
	return &callError{function: function, code: returnCode(rv)}
}
