package pkcs11

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// residentLabel is what the labels of resident keys begin with.
const residentLabel = "kms/"

// residentIDBytes is the length of a CKA_ID of ours.
const residentIDBytes = 16

// residencyFor says where a new key will live: in the token if its store wants
// that, or if the token cannot wrap such keys.
func (e *Engine) residencyFor(k *hsm.Key) hsm.Residency {
	if slices.Contains(e.cfg.Resident, k.Store) {
		return hsm.Resident
	}
	domain, ok := e.service.Load().find(k.Store, hsm.DomainKey, k.Generation)
	if ok && !e.findings.wraps(domain.wrapMech, k.Spec, k.Usage) {
		return hsm.Resident
	}
	return hsm.Wrapped
}

// lockCreation waits for the making of token objects, which some tokens get
// wrong in parallel. RSA keys take too long for that: where the token can, they
// are made as session objects and copied, and only the copy is made alone.
func (e *Engine) lockCreation(ctx context.Context, k *hsm.Key, t *keyType) (unlock func(), err error) {
	if k.Residency != hsm.Resident || t.template.keyType == pkcs11.CKK_RSA {
		return func() {}, nil
	}
	return e.lockTokenObjects(ctx)
}

// lockTokenObjects waits until nobody makes a token object.
func (e *Engine) lockTokenObjects(ctx context.Context) (unlock func(), err error) {
	select {
	case e.creating <- struct{}{}:
		return func() { <-e.creating }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: token objects are being made: %w", hsm.ErrBusy, context.Cause(ctx))
	}
}

// generateResident makes a key that stays in the token. Each try has a CKA_ID of
// its own, so that one whose outcome is unknown is never taken for another.
func (s *session) generateResident(t *keyType, k *hsm.Key) (err error) {
	k.Blob = make([]byte, residentIDBytes)
	rand.Read(k.Blob) // never fails
	key, err := s.makeResident(t, k)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // made in this call, and nobody's yet
			s.destroyAfter(key, &err)
		}
	}()
	if err := s.check(t, key, k); err != nil {
		return err
	}
	return s.bind(k)
}

func (s *session) makeResident(t *keyType, k *hsm.Key) (handle, error) {
	making := t.template
	name := []valueAttr{{pkcs11.CKA_ID, k.Blob}, {pkcs11.CKA_LABEL, []byte(residentLabel + k.KeyID)}}
	if t.template.keyType == pkcs11.CKK_RSA && s.engine.findings.copies {
		key, err := s.make(t, making, k)
		if err != nil {
			return 0, err
		}
		made, err := s.copyAlone(key, name)
		s.destroyAfter(key, &err)
		return made, err
	}
	making.may |= mayStay
	making.more = append(slices.Clone(making.more), name...)
	made, err := s.make(t, making, k)
	if mayRefuseAttribute(err) { // see spareAttributes
		making.may |= mayBeCopied
		made, err = s.make(t, making, k)
	}
	return made, err
}

// copyAlone copies a session object to the token while nobody else makes an
// object there.
func (s *session) copyAlone(key handle, name []valueAttr) (handle, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.engine.cfg.CallTimeout)
	defer cancel()
	unlock, err := s.engine.lockTokenObjects(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	return s.copyToToken(key, name)
}

// copyToToken copies a session object to the token, where it can be neither
// changed nor copied.
func (s *session) copyToToken(key handle, name []valueAttr) (handle, error) {
	t := []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true)}
	for _, a := range name {
		t = append(t, attribute(a.kind, a.value))
	}
	made, err := s.engine.module.ctx.CopyObject(pkcs11.SessionHandle(s.handle), pkcs11.ObjectHandle(key),
		append(t, attribute(pkcs11.CKA_MODIFIABLE, false)))
	return handle(made), managed("C_CopyObject", err)
}

// admitResident finds a resident key by its CKA_ID, never by its label.
func (s *session) admitResident(t *keyType, k *hsm.Key, _ uint) (handle, error) {
	found, err := s.engine.module.find(s.handle, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_CLASS, t.template.class), attribute(pkcs11.CKA_ID, k.Blob),
	})
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, fmt.Errorf("%w: key %s, CKA_ID %x", hsm.ErrMissing, k.KeyID, k.Blob)
	case len(found) > 1:
		return 0, fmt.Errorf("%w: several objects have the CKA_ID %x of key %s", hsm.ErrUnavailable, k.Blob, k.KeyID)
	}
	for _, want := range []valueAttr{
		{pkcs11.CKA_KEY_TYPE, ulongs(t.template.keyType)},
		{pkcs11.CKA_TOKEN, []byte{1}},
		{pkcs11.CKA_SENSITIVE, []byte{1}},
		{pkcs11.CKA_EXTRACTABLE, []byte{0}},
	} {
		got, err := s.readUpTo(found[0], want.kind, len(want.value))
		if err != nil {
			return 0, err
		}
		if !slices.Equal(got, want.value) {
			return 0, fmt.Errorf("%w: attribute 0x%X of the object of key %s", hsm.ErrWrongMaterial, want.kind, k.KeyID)
		}
	}
	return found[0], nil
}

// Resident is a KMS key's object in the token.
type Resident struct {
	ID      []byte // CKA_ID
	Label   string // "kms/" and the key's id
	Class   string // CKO_SECRET_KEY or CKO_PRIVATE_KEY
	KeyType string // as in [WrapProfile]
}

// residentClasses are the classes that a resident key may have.
var residentClasses = map[uint]string{pkcs11.CKO_SECRET_KEY: "CKO_SECRET_KEY", pkcs11.CKO_PRIVATE_KEY: "CKO_PRIVATE_KEY"}

// Residents calls f for every object in the token whose label is that of a KMS
// key, until f returns an error. It takes a session for all of that time, and
// searches through all objects of the token once for each class.
func (e *Engine) Residents(ctx context.Context, on hsm.Call, f func(Resident) error) error {
	for class := range residentClasses {
		found := make(chan []Resident, 1)
		w := work{mechanism: "residents", slow: true, run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
			residents, err := s.residents(class)
			if err == nil {
				found <- residents
			}
			return nil, err
		}}
		if _, err := e.do(ctx, on, nil, &w); err != nil {
			return err
		}
		for _, r := range <-found {
			if err := f(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) residents(class uint) (residents []Resident, err error) {
	objects, err := s.engine.module.findAll(s.handle, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_CLASS, class), attribute(pkcs11.CKA_TOKEN, true),
	})
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		label, err := s.read(o, pkcs11.CKA_LABEL)
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(string(label), residentLabel) {
			continue
		}
		id, err := s.read(o, pkcs11.CKA_ID)
		if err != nil {
			return nil, err
		}
		kind, err := s.readUpTo(o, pkcs11.CKA_KEY_TYPE, ulongBytes)
		if err != nil {
			return nil, err
		}
		r := Resident{ID: id, Label: string(label), Class: residentClasses[class]}
		if len(kind) == ulongBytes {
			r.KeyType = kindNames[uint(binary.NativeEndian.Uint64(kind))]
		}
		residents = append(residents, r)
	}
	return residents, nil
}

// exercisePrefix is what the names of stores begin with whose keys may be
// destroyed: those of a conformance run.
const exercisePrefix = "exercise-"

// DestroyResident destroys a resident key of a conformance run's store.
func (e *Engine) DestroyResident(ctx context.Context, k *hsm.Key) error {
	t, err := typeOf(k)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(k.Store, exercisePrefix) || k.Residency != hsm.Resident {
		return fmt.Errorf("%w: keys of store %s are not destroyed", hsm.ErrUnsupported, k.Store)
	}
	w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		if err := s.verifyBinding(k); err != nil {
			return nil, err
		}
		key, err := s.admitResident(&t, k, 0)
		if err != nil {
			return nil, err
		}
		return nil, s.engine.module.lib.destroy(s.handle, key)
	}}
	_, err = e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w)
	return err
}

// DestroyServiceKeys destroys service keys of a conformance run's stores.
func (e *Engine) DestroyServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error {
	e.serviceMu.Lock()
	defer e.serviceMu.Unlock()
	for _, row := range rows {
		if !strings.HasPrefix(row.Store, exercisePrefix) {
			return fmt.Errorf("%w: service keys of store %s are not destroyed", hsm.ErrUnsupported, row.Store)
		}
		w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
			key, err := s.locate(&row)
			if err != nil || key == 0 {
				return nil, err
			}
			return nil, s.engine.module.lib.destroy(s.handle, key)
		}}
		if _, err := e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w); err != nil {
			return err
		}
		e.dropServiceKey(&row)
	}
	return nil
}
