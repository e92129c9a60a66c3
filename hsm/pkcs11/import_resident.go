package pkcs11

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// importedID is the CKA_ID of an imported material's object. It follows from the
// material's name, so that the same material finds the object of an import that was
// cut off, or of one that it renews.
func importedID(k *hsm.Key) []byte {
	id := sha256.Sum256(fields(nil).text(labelImported).text(k.Store).text(k.Region).text(k.Account).text(k.KeyID).add(k.MaterialID[:]))
	return id[:residentIDBytes]
}

// importResident makes an object in the token of material that has been identified,
// or takes the one that there is of it, and fills in k's outcome. It destroys none:
// what is left of a call that is cut off is found by the next import of the same.
func (s *session) importResident(m *incoming, t *keyType, k *hsm.Key) (err error) {
	k.Blob = importedID(k)
	making := t.template
	making.valueLen = 0
	key, err := m.bring(making)
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	if err := s.checkImported(t, key, k); err != nil {
		return err
	}
	err = s.alone(func() error {
		object, err := s.admitResident(t, k, 0)
		if errors.Is(err, hsm.ErrMissing) {
			object, err = s.bringToStay(m, making, k)
		}
		if err != nil {
			return err
		}
		label, err := s.read(object, pkcs11.CKA_LABEL)
		if err == nil && string(label) != residentLabel+k.KeyID {
			err = fmt.Errorf("%w: the object with the CKA_ID %x is labelled %q, not as key %s", hsm.ErrWrongMaterial, k.Blob, label, k.KeyID)
		}
		if err == nil {
			err = t.compare(s, t, object, k)
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.bind(k)
}

// bringToStay makes an object in the token of material from outside.
func (s *session) bringToStay(m *incoming, making template, k *hsm.Key) (handle, error) {
	making.may |= mayStay
	making.more = append(slices.Clone(making.more), valueAttr{pkcs11.CKA_ID, k.Blob}, valueAttr{pkcs11.CKA_LABEL, []byte(residentLabel + k.KeyID)})
	key, err := m.bring(making)
	if mayRefuseAttribute(err) { // see spareAttributes
		making.may |= mayBeCopied
		key, err = m.bring(making)
	}
	return key, err
}
