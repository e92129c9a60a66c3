package pkcs11

import (
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// bindingKeyOf is the test store's binding key of a generation.
func bindingKeyOf(t *testing.T, e *Engine, generation int32) *serviceKey {
	t.Helper()
	k, ok := e.service.Load().find(testStore, hsm.BindingKey, generation)
	if !ok {
		t.Fatalf("no binding key of generation %d", generation)
	}
	return k
}

// passingSession is a session that goes when the token comes up again.
func passingSession(t *testing.T, e *Engine) *session {
	t.Helper()
	h, err := e.module.openSession(e.slot)
	must(t, err)
	return &session{engine: e, handle: h, epoch: e.epoch.Load()}
}

// TestBindingKeysHaveCopies which are no less shut than they, and go with them.
func TestBindingKeysHaveCopies(t *testing.T) {
	e := openWithKeys(t, nil)
	_, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 2))
	must(t, err)
	if n := sessionObjects(t, e); n != 2 {
		t.Errorf("%d session objects, want the copies of two binding keys", n)
	}
	s, first, second := passingSession(t, e), bindingKeyOf(t, e, 1), bindingKeyOf(t, e, 2)
	for _, k := range []*serviceKey{first, second} {
		copied := handle(k.copied.Load())
		for kind, want := range map[uint]byte{
			pkcs11.CKA_TOKEN: 0, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0, pkcs11.CKA_MODIFIABLE: 0,
			pkcs11.CKA_SIGN: 1, pkcs11.CKA_ENCRYPT: 0, pkcs11.CKA_DECRYPT: 0, pkcs11.CKA_WRAP: 0, pkcs11.CKA_UNWRAP: 0, pkcs11.CKA_DERIVE: 0,
		} {
			if got, err := s.readUpTo(copied, kind, 1); err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("attribute 0x%X of a copy is %v, %v, want %d", kind, got, err, want)
			}
		}
	}
	must(t, e.LoadServiceKeys(t.Context(), []hsm.ServiceKey{second.row}))
	if again := bindingKeyOf(t, e, 2); again == second || second.copied.Load() != 0 || again.copied.Load() == 0 || sessionObjects(t, e) != 2 {
		t.Error("a key that is put in service again does not have one copy")
	}
	must(t, e.DestroyServiceKeys(t.Context(), []hsm.ServiceKey{first.row}))
	if n := sessionObjects(t, e); n != 1 || first.copied.Load() != 0 {
		t.Errorf("%d session objects after a binding key was destroyed, want the copy of the other", n)
	}
	must(t, e.reattach())
	if n := sessionObjects(t, e); n != 1 || bindingKeyOf(t, e, 2).copied.Load() == 0 {
		t.Errorf("%d session objects after the token came up again, want a copy", n)
	}
}

// TestCopiesThatFailAreDoneWithout has the copies be refused, go, and become another
// key: nobody is told that what is good is bad, and nothing is bound that is not good.
func TestCopiesThatFailAreDoneWithout(t *testing.T) {
	e, shim := openWithShim(t, nil)
	k, other := generate(t, e, "k"), makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC)
	another, err := passingSession(t, e).admitKey(other, 0)
	must(t, err)
	moves := func(copied handle) (hsm.Key, error) {
		bindingKeyOf(t, e, 1).copied.Store(uint64(copied))
		return e.Rewrap(t.Context(), client, k, 1)
	}
	present := func(copied handle) {
		t.Helper()
		bindingKeyOf(t, e, 1).copied.Store(uint64(copied))
		proved, err := e.ProveAll(t.Context(), client, []hsm.Key{*k})
		must(t, err)
		must(t, proved[0].Err)
		if now := handle(bindingKeyOf(t, e, 1).copied.Load()); now != 0 {
			t.Errorf("the copy %d, which is not good, is used still", copied)
		}
	}
	gone := handle(1 << 40)
	present(gone)
	present(another)
	moved, err := moves(gone)
	must(t, err)
	must(t, e.Present(t.Context(), client, &moved))
	bad := hsm.Key{}
	w := work{mechanism: "test", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		bound := bindings{bindingKeyOf(t, e, 1): another}
		bad = cloneKey(k)
		if err := bound.bind(s, &bad); err != nil {
			return nil, err
		}
		return nil, bound.prove(s)
	}}
	if _, err := e.do(t.Context(), client, nil, &w); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("what a copy has bound that is another key by now: %v, want %v", err, hsm.ErrUnavailable)
	}
	shim.Fail(softhsm.CopyObject, pkcs11.CKR_ATTRIBUTE_READ_ONLY, 1_000_000)
	must(t, e.reattach())
	if bindingKeyOf(t, e, 1).copied.Load() != 0 {
		t.Error("there is a copy that the token has not made")
	}
	eventually(t, "another generation is made", func() bool {
		_, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 2))
		return err == nil
	})
	if got, err := passingSession(t, e).readUpTo(bindingKeyOf(t, e, 2).handle, pkcs11.CKA_MODIFIABLE, 1); err != nil || got[0] != 0 {
		t.Errorf("a binding key of a token that copies nothing: MODIFIABLE is %v, %v", got, err)
	}
	moved, err = e.Rewrap(t.Context(), client, k, 2)
	must(t, err)
	must(t, e.Present(t.Context(), client, &moved))
	encryptWorks(t, e, &moved)
}

// TestBindingKeyCannotBeMisused: it may be changed, and so copied, on SoftHSM. Whatever
// its flags are set to, it makes HMACs and nothing else, and is not taken into service.
func TestBindingKeyCannotBeMisused(t *testing.T) {
	e := openWithKeys(t, nil)
	k := bindingKeyOf(t, e, 1)
	c := foreign(t, e)
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	object := pkcs11.ObjectHandle(k.handle)
	for name, a := range map[string]*pkcs11.Attribute{
		"EXTRACTABLE given":     attribute(pkcs11.CKA_EXTRACTABLE, true),
		"SENSITIVE taken away":  attribute(pkcs11.CKA_SENSITIVE, false),
		"another mechanism":     attribute(pkcs11.CKA_ALLOWED_MECHANISMS, uint(pkcs11.CKM_SHA_1_HMAC)),
		"TOKEN taken away":      attribute(pkcs11.CKA_TOKEN, false),
		"PRIVATE taken away":    attribute(pkcs11.CKA_PRIVATE, false),
		"ALWAYS_SENSITIVE":      attribute(pkcs11.CKA_ALWAYS_SENSITIVE, false),
		"WRAP_WITH_TRUSTED not": attribute(pkcs11.CKA_WRAP_WITH_TRUSTED, false),
	} {
		if err := c.SetAttributeValue(s, object, []*pkcs11.Attribute{a}); err == nil {
			t.Errorf("%s: nobody minds", name)
		}
		if copied, err := c.CopyObject(s, object, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false), a}); err == nil && a.Type != pkcs11.CKA_TOKEN {
			t.Errorf("%s of copy %d: nobody minds", name, copied)
		}
	}
	must(t, c.SetAttributeValue(s, object, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_DERIVE, true), attribute(pkcs11.CKA_ENCRYPT, true), attribute(pkcs11.CKA_WRAP, true),
	}))
	must(t, c.CloseSession(s))
	if err := e.reattach(); err == nil || !strings.Contains(err.Error(), "is not false") {
		t.Errorf("a binding key whose flags were changed: %v, want that it is refused", err)
	}
}
