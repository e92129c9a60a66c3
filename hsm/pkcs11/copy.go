package pkcs11

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// Every row that comes into service or is moved takes an HMAC with a binding key.
// Where a token reads its objects anew at every use that is dear, so the engine has a
// copy of each: a session object of the anchor session, as sensitive as the key. It
// goes with that session and is made again when the token comes up. Where a token
// makes none, or has lost it, the key itself serves.

// mustBeOfCopy is what a copy has to be before it is used.
var mustBeOfCopy = []valueAttr{
	{pkcs11.CKA_TOKEN, []byte{0}},
	{pkcs11.CKA_SENSITIVE, []byte{1}},
	{pkcs11.CKA_EXTRACTABLE, []byte{0}},
	{pkcs11.CKA_MODIFIABLE, []byte{0}},
}

// copyBindingKey gives k a copy, if the token makes one.
func (s *session) copyBindingKey(k *serviceKey) {
	e := s.engine
	if !e.anchorTurn.TryLock() { // a call with the anchor hangs
		return
	}
	defer e.anchorTurn.Unlock()
	made, err := e.anchorSession().makeCopy(k)
	if err != nil {
		e.cfg.Logger.Debug("a binding key is used without a copy", "key", describe(&k.row), "error", err)
		return
	}
	k.copied.Store(uint64(made))
}

// makeCopy copies a binding key that has been proved, and proves the copy.
func (s *session) makeCopy(k *serviceKey) (made handle, err error) {
	object, err := s.engine.module.ctx.CopyObject(pkcs11.SessionHandle(s.handle), pkcs11.ObjectHandle(k.handle),
		[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false), attribute(pkcs11.CKA_MODIFIABLE, false)})
	if err != nil {
		return 0, managed("C_CopyObject", err)
	}
	made = handle(object)
	defer func() {
		if err != nil {
			s.destroyAfter(made, &err)
		}
	}()
	for _, want := range mustBeOfCopy {
		got, err := s.readUpTo(made, want.kind, len(want.value))
		if err != nil {
			return 0, err
		}
		if subtle.ConstantTimeCompare(got, want.value) != 1 {
			return 0, fmt.Errorf("%w: attribute 0x%X of the copy", errNotTheSame, want.kind)
		}
	}
	return made, s.provesCopy(k, made)
}

// mustStayModifiable tells whether the token copies nothing that is not MODIFIABLE, as
// SoftHSM does not, and copies other keys.
func (s *session) mustStayModifiable() (bool, error) {
	plain := template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, may: maySign, valueLen: serviceKeyBytes}
	fixed := plain
	fixed.more = []valueAttr{{pkcs11.CKA_MODIFIABLE, []byte{0}}}
	copied, err := s.copiesSecret(fixed)
	if err != nil || copied {
		return false, err
	}
	return s.copiesSecret(plain)
}

// copiesSecret tells whether the token copies a session object of this kind.
func (s *session) copiesSecret(t template) (_ bool, err error) {
	key, err := s.engine.module.lib.generate(s.handle, mechGenericKeyGen, t)
	if err != nil {
		return false, err
	}
	defer s.destroyAfter(key, &err)
	made, err := s.engine.module.ctx.CopyObject(pkcs11.SessionHandle(s.handle), pkcs11.ObjectHandle(key),
		[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false)})
	if err != nil {
		err = managed("C_CopyObject", err)
		if broken(err) {
			return false, err
		}
		return false, nil
	}
	s.destroyAfter(handle(made), &err)
	return true, err
}

// provesCopy has a copy make the check value of its key again.
func (s *session) provesCopy(k *serviceKey, copied handle) error {
	good, err := agreed(func() ([]byte, error) { return s.mac(copied, serviceInput(&k.row)) }, k.row.CheckValue)
	if err == nil && !good {
		err = errNotTheSame
	}
	return err
}

// macOfRow is an HMAC with a binding key: with its copy, while that is there.
func (s *session) macOfRow(k *serviceKey, input []byte) ([]byte, error) {
	copied := k.copied.Load()
	if copied == 0 {
		return s.mac(k.handle, input)
	}
	out, err := s.mac(handle(copied), input)
	if classOf(err, true) != classObject {
		return out, err
	}
	k.copied.CompareAndSwap(copied, 0)
	return s.mac(k.handle, input)
}

// bindingIs tells whether a binding key makes this HMAC. What the copy does not
// confirm the key itself has to deny, and twice: a copy may have become something else.
func (s *session) bindingIs(k *serviceKey, input, want []byte) (bool, error) {
	copied := k.copied.Load()
	out, err := s.macOfRow(k, input)
	if err != nil || subtle.ConstantTimeCompare(out, want) == 1 {
		return err == nil, err
	}
	good, err := agreed(func() ([]byte, error) { return s.mac(k.handle, input) }, want)
	if good {
		k.copied.CompareAndSwap(copied, 0)
	}
	return good, err
}

// destroyCopy destroys the copy of a key that goes out of service. One that is not
// destroyed goes with the anchor session.
func (s *session) destroyCopy(k *serviceKey) {
	if copied := k.copied.Swap(0); copied != 0 {
		_ = s.engine.module.lib.destroy(s.handle, handle(copied))
	}
}

// bindingKey is the binding key of a generation that k is under or comes under.
func (s *session) bindingKey(k *hsm.Key) (*serviceKey, error) {
	key, ok := s.engine.service.Load().find(k.Store, hsm.BindingKey, k.Generation)
	if !ok {
		return nil, fmt.Errorf("%w: store %s has no binding key of generation %d here", hsm.ErrUnavailable, k.Store, k.Generation)
	}
	return key, nil
}

// bindings binds many keys, each with one HMAC, and proves once that they were made
// with the keys that they should.
type bindings map[*serviceKey]handle

// bind binds k under the binding key of k.Generation.
func (b bindings) bind(s *session, k *hsm.Key) error {
	key, err := s.bindingKey(k)
	if err != nil {
		return err
	}
	if _, ok := b[key]; !ok {
		b[key] = handle(key.copied.Load())
	}
	with := b[key]
	if with == 0 {
		with = key.handle
	}
	k.Binding, err = s.mac(with, bindingInput(k))
	return err
}

// prove has every key that has bound something prove itself.
func (b bindings) prove(s *session) (err error) {
	for key, copied := range b {
		if copied == 0 {
			continue
		}
		if e := s.provesCopy(key, copied); e != nil {
			key.copied.CompareAndSwap(uint64(copied), 0)
			err = errors.Join(err, e)
		}
	}
	return err
}
