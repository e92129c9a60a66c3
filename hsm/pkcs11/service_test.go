package pkcs11

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

func TestServiceKeysSurviveARestartAndAreCreatedOnce(t *testing.T) {
	cfg := configFor(newToken(t))
	rows := serviceKeyRows(testStore, 1)
	e, err := Open(t.Context(), cfg)
	must(t, err)
	filled, err := e.CreateServiceKeys(t.Context(), rows)
	must(t, err)
	again, err := e.CreateServiceKeys(t.Context(), filled)
	must(t, err)
	if d := cmp.Diff(filled, again); d != "" {
		t.Errorf("second CreateServiceKeys differs: %s", d)
	}
	// After a crash between creation and commit the rows have no check value.
	late, err := e.CreateServiceKeys(t.Context(), rows)
	must(t, err)
	must(t, e.LoadServiceKeys(t.Context(), late))
	k := generate(t, e, "k")
	c, err := e.Encrypt(t.Context(), client, k, []byte("hello"), nil)
	must(t, err)
	sealed, err := e.Seal(t.Context(), client, testStore, []byte("secret"), nil)
	must(t, err)
	must(t, e.Close())

	cfg.ServiceKeys = slices.Concat(filled[:1], late[1:])
	e = open(t, cfg)
	if p, err := e.Decrypt(t.Context(), client, k, c, nil); err != nil || string(p) != "hello" {
		t.Errorf("Decrypt after a restart = %q, %v", p, err)
	}
	if p, err := e.Open(t.Context(), client, sealed, nil); err != nil || string(p) != "secret" {
		t.Errorf("Open after a restart = %q, %v", p, err)
	}
}

func TestOpenRefusesServiceKeysThatAreNotTheOnesMade(t *testing.T) {
	cfg := configFor(newToken(t))
	e, err := Open(t.Context(), cfg)
	must(t, err)
	one, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1))
	must(t, err)
	two, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 2))
	must(t, err)
	missing := hsm.ServiceKey{Store: testStore, Kind: hsm.DomainKey, Generation: 3, ID: bytes.Repeat([]byte{7}, 16), CheckValue: one[0].CheckValue}
	if _, err := e.CreateServiceKeys(t.Context(), []hsm.ServiceKey{missing}); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("CreateServiceKeys of a lost key = %v, want %v: it must not be made anew", err, hsm.ErrUnavailable)
	}
	must(t, e.Close())

	change := func(k hsm.ServiceKey, f func(*hsm.ServiceKey)) []hsm.ServiceKey {
		f(&k)
		return []hsm.ServiceKey{k}
	}
	cases := map[string]struct {
		rows []hsm.ServiceKey
		want error
	}{
		"missing":        {[]hsm.ServiceKey{missing}, hsm.ErrUnavailable},
		"no check value": {change(one[0], func(k *hsm.ServiceKey) { k.CheckValue = nil }), hsm.ErrUnavailable},
		"unknown kind":   {change(one[0], func(k *hsm.ServiceKey) { k.Kind = "other" }), hsm.ErrUnsupported},
		"no id":          {change(one[0], func(k *hsm.ServiceKey) { k.ID = nil }), hsm.ErrUnsupported},
		"no store":       {change(one[0], func(k *hsm.ServiceKey) { k.Store = "" }), hsm.ErrUnsupported},
	}
	for i, kind := range hsm.ServiceKeyKinds {
		cases["swapped "+string(kind)] = struct {
			rows []hsm.ServiceKey
			want error
		}{change(one[i], func(k *hsm.ServiceKey) { k.ID = two[i].ID }), hsm.ErrWrongMaterial}
		cases["other generation "+string(kind)] = struct {
			rows []hsm.ServiceKey
			want error
		}{change(one[i], func(k *hsm.ServiceKey) { k.Generation = 5 }), hsm.ErrWrongMaterial}
		cases["flipped "+string(kind)] = struct {
			rows []hsm.ServiceKey
			want error
		}{change(one[i], func(k *hsm.ServiceKey) {
			k.CheckValue = bytes.Clone(k.CheckValue)
			k.CheckValue[len(k.CheckValue)-1] ^= 1
		}), hsm.ErrWrongMaterial}
		cases["empty check of "+string(kind)] = struct {
			rows []hsm.ServiceKey
			want error
		}{change(one[i], func(k *hsm.ServiceKey) { k.CheckValue = []byte{} }), hsm.ErrWrongMaterial}
	}
	for name, c := range cases {
		cfg.ServiceKeys = c.rows
		e, err := Open(t.Context(), cfg)
		if err == nil {
			e.Close()
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Open = %v, want %v", name, err, c.want)
		}
	}
}

func TestServiceKeysCannotBeMisused(t *testing.T) {
	e := openWithKeys(t, nil)
	c := foreign(t, e)
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	mechanism := func(m uint) []*pkcs11.Mechanism { return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)} }
	object := func(kind hsm.ServiceKeyKind) pkcs11.ObjectHandle {
		k, ok := e.service.Load().find(testStore, kind, 1)
		if !ok {
			t.Fatalf("no %s key", kind)
		}
		return pkcs11.ObjectHandle(k.handle)
	}
	for _, kind := range hsm.ServiceKeyKinds {
		if err := c.SetAttributeValue(s, object(kind), []*pkcs11.Attribute{attribute(pkcs11.CKA_DECRYPT, true)}); err == nil && kind != hsm.BindingKey {
			t.Errorf("%s key: CKA_DECRYPT could be set", kind)
		}
		if _, err := c.CopyObject(s, object(kind), []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false)}); err == nil && kind != hsm.BindingKey {
			t.Errorf("%s key could be copied", kind)
		}
		if _, err := c.GetAttributeValue(s, object(kind), []*pkcs11.Attribute{attribute(pkcs11.CKA_VALUE, nil)}); err == nil {
			t.Errorf("%s key: CKA_VALUE could be read", kind)
		}
		if _, err := c.WrapKey(s, mechanism(e.wrapMech), object(hsm.DomainKey), object(kind)); err == nil {
			t.Errorf("%s key could be wrapped", kind)
		}
	}
	if err := c.DecryptInit(s, mechanism(pkcs11.CKM_AES_ECB), object(hsm.DomainKey)); err == nil {
		t.Error("the domain key decrypts")
	}
	k := generate(t, e, "k")
	unwrapAs := func(extra ...*pkcs11.Attribute) error {
		_, err := c.UnwrapKey(s, mechanism(e.wrapMech), object(hsm.DomainKey), k.Blob, append([]*pkcs11.Attribute{
			attribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_SECRET_KEY)), attribute(pkcs11.CKA_KEY_TYPE, uint(pkcs11.CKK_AES)),
		}, extra...))
		return err
	}
	on, off := true, false
	ordinary := []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, off), attribute(pkcs11.CKA_PRIVATE, on), attribute(pkcs11.CKA_SENSITIVE, on)}
	must(t, unwrapAs(ordinary...))
	for i, name := range []string{"token", "public", "not sensitive"} {
		t3 := slices.Clone(ordinary)
		t3[i] = attribute(t3[i].Type, t3[i].Value[0] == 0)
		if unwrapAs(t3...) == nil {
			t.Errorf("a blob opens as an object that is %s", name)
		}
	}
	must(t, c.CloseSession(s))
}

func TestWrapMechanismIsTheOneThatKeepsLengths(t *testing.T) {
	e := openWithKeys(t, nil)
	if e.wrapMech != mechAESKeyWrap || e.unwrapNeedsLength {
		t.Errorf("wrap mechanism 0x%X (length needed: %v), want 0x%X on SoftHSM", e.wrapMech, e.unwrapNeedsLength, mechAESKeyWrap)
	}
	cfg := e.cfg
	cfg.WrapMechanisms = []uint{0x80000171}
	must(t, e.Close())
	_, err := Open(t.Context(), cfg)
	if !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), "wraps") {
		t.Errorf("Open with a wrap mechanism that is not there = %v, want %v", err, hsm.ErrUnsupported)
	}
}

func TestWrongMaterialBehindAnHonestBindingIsRefused(t *testing.T) {
	e := openWithKeys(t, nil)
	k, other := generate(t, e, "k"), generate(t, e, "other")
	// Only the token can make such a row: another blob, bound as if it were k's.
	forged := cloneKey(k)
	forged.Blob = other.Blob
	rebind(t, e, &forged)
	if _, err := e.Encrypt(t.Context(), client, &forged, []byte("x"), nil); !errors.Is(err, hsm.ErrWrongMaterial) {
		t.Errorf("Encrypt with other material = %v, want %v", err, hsm.ErrWrongMaterial)
	}
	if _, err := e.Rewrap(t.Context(), client, &forged, 1); !errors.Is(err, hsm.ErrWrongMaterial) {
		t.Errorf("Rewrap of other material = %v, want %v", err, hsm.ErrWrongMaterial)
	}
	forged = cloneKey(k)
	forged.CheckValue = sealUnder(t, e, k, make([]byte, len(canary)))
	rebind(t, e, &forged)
	if _, err := e.Encrypt(t.Context(), client, &forged, []byte("x"), nil); !errors.Is(err, hsm.ErrWrongMaterial) {
		t.Errorf("Encrypt with a check value of another plaintext = %v, want %v", err, hsm.ErrWrongMaterial)
	}
	for name, blob := range map[string][]byte{"empty": {}, "short": {1}, "damaged": append(bytes.Clone(k.Blob[1:]), 0)} {
		forged = cloneKey(k)
		forged.Blob = blob
		rebind(t, e, &forged)
		if _, err := e.Encrypt(t.Context(), client, &forged, []byte("x"), nil); err == nil {
			t.Errorf("Encrypt with a bound %s blob = nil, want an error", name)
		}
		encryptWorks(t, e, k)
	}
}

// rebind binds a key as it is.
func rebind(t *testing.T, e *Engine, k *hsm.Key) {
	t.Helper()
	w := work{mechanism: "test", run: func(s *session, _ handle, _ [3][]byte) (_ []byte, err error) {
		binding, _ := s.engine.service.Load().find(k.Store, hsm.BindingKey, k.Generation)
		k.Binding, err = s.mac(binding.handle, bindingInput(k))
		return nil, err
	}}
	_, err := e.do(t.Context(), client, nil, &w)
	must(t, err)
}

// sealUnder encrypts a plaintext as if it were k's canary.
func sealUnder(t *testing.T, e *Engine, k *hsm.Key, plaintext []byte) []byte {
	t.Helper()
	w := work{mechanism: "test", run: func(s *session, key handle, _ [3][]byte) ([]byte, error) {
		return s.encrypt(key, plaintext, checkInput(k))
	}}
	sealed, err := e.do(t.Context(), client, k, &w)
	must(t, err)
	return sealed
}
