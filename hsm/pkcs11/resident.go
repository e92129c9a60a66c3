package pkcs11

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

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
	if !wrapsTo(k.Usage) && slices.Contains(e.cfg.Resident, k.Store) {
		return hsm.Resident
	}
	domain, ok := e.service.Load().find(k.Store, hsm.DomainKey, k.Generation)
	if ok && !e.findings.wraps(domain.wrapMech, k.Spec, k.Usage) {
		return hsm.Resident
	}
	return hsm.Wrapped
}

// newResidentID is a CKA_ID that no object has.
func newResidentID() []byte {
	id := make([]byte, residentIDBytes)
	rand.Read(id) // never fails
	return id
}

// alone runs f while nobody else makes a token object: some tokens get that
// wrong in parallel. It is called on a session that has its turn already, so
// that whoever waits here waits for one call and not for a queue.
func (s *session) alone(f func() error) error {
	timer := time.NewTimer(s.engine.cfg.CallTimeout)
	defer timer.Stop()
	select {
	case s.engine.creating <- struct{}{}:
		defer func() { <-s.engine.creating }()
		return f()
	case <-timer.C:
		return fmt.Errorf("%w: token objects are being made", hsm.ErrBusy)
	}
}

// generateResident makes a key that stays in the token, with the CKA_ID that k
// has. One whose caller has gone is destroyed again: nobody will ever name it.
func (s *session) generateResident(ctx context.Context, t *keyType, k *hsm.Key) (err error) {
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
	if t.makeCheck != nil { // nothing has looked yet whether it is right
		if err := t.compare(s, t, key, k); err != nil {
			return fmt.Errorf("the token made a check value that is not its own: %v", err) //nolint:errorlint // not what the caller gave
		}
	}
	if err := s.bind(k); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return lateError(ctx)
	}
	return nil
}

// destroyUnfinished destroys what a try before this one may have left in the
// token. The CKA_ID was chosen for this one key, and no row has it yet.
func (s *session) destroyUnfinished(t *keyType, k *hsm.Key) error {
	found, err := s.engine.module.find(s.handle, residentObject(t, k))
	if err != nil {
		return err
	}
	for _, object := range found {
		if err := s.engine.module.lib.destroy(s.handle, object); err != nil {
			return err
		}
	}
	return nil
}

// makeResident makes a key's object. Making RSA keys takes too long to keep
// others from making theirs: where the token can, one is made as a session
// object and copied, and only the copy is made alone.
func (s *session) makeResident(t *keyType, k *hsm.Key) (key handle, err error) {
	making := t.template
	name := []valueAttr{{pkcs11.CKA_ID, k.Blob}, {pkcs11.CKA_LABEL, []byte(residentLabel + k.KeyID)}}
	isRSA := t.template.keyType == pkcs11.CKK_RSA
	if isRSA && s.engine.findings.copies {
		return s.makeAndCopy(t, k, name)
	}
	making.may |= mayStay
	making.more = append(slices.Clone(making.more), name...)
	do := func() error {
		key, err = s.make(t, making, k)
		if mayRefuseAttribute(err) { // see spareAttributes
			making.may |= mayBeCopied
			key, err = s.make(t, making, k)
		}
		return err
	}
	if isRSA {
		err = do()
	} else {
		err = s.alone(do)
	}
	return key, err
}

// makeAndCopy makes a key as a session object, and its copy in the token.
func (s *session) makeAndCopy(t *keyType, k *hsm.Key, name []valueAttr) (made handle, err error) {
	key, err := s.make(t, t.template, k)
	if err != nil {
		return 0, err
	}
	defer func() {
		s.destroyAfter(key, &err)
		if err != nil && made != 0 {
			s.destroyAfter(made, &err)
		}
	}()
	err = s.alone(func() (err error) {
		made, err = s.copyToToken(key, name)
		return err
	})
	return made, err
}

// copyToToken copies a session object to the token, where it cannot be changed.
// CKA_COPYABLE is left as it is: SoftHSM does not take it here, and a copy is no
// more extractable than its original.
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
	found, err := s.engine.module.find(s.handle, residentObject(t, k))
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

// residentObject is what the object of a resident key is found by.
func residentObject(t *keyType, k *hsm.Key) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{attribute(pkcs11.CKA_CLASS, t.template.class), attribute(pkcs11.CKA_ID, k.Blob)}
}
