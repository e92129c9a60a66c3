package pkcs11

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// Resident is a KMS key's object in the token.
type Resident struct {
	ID      []byte // CKA_ID
	Label   string // "kms/" and the key's id
	Class   string // CKO_SECRET_KEY or CKO_PRIVATE_KEY
	KeyType string // as in [WrapProfile]
}

// residentClasses are the classes that a resident key may have.
var residentClasses = map[uint]string{pkcs11.CKO_SECRET_KEY: "CKO_SECRET_KEY", pkcs11.CKO_PRIVATE_KEY: "CKO_PRIVATE_KEY"}

// residentPage is how many objects are looked at by one call.
const residentPage = 256

// Residents calls f for every object in the token whose label is that of a KMS
// key, until f returns an error. It searches through all objects of the token
// once for each class, and then looks at them page by page: what is made
// meanwhile may be left out, what is destroyed meanwhile too.
// [hsm.ErrUnavailable] if the token was reconnected meanwhile; begin again.
func (e *Engine) Residents(ctx context.Context, on hsm.Call, f func(Resident) error) error {
	for class := range residentClasses {
		objects, err := e.objectsOf(ctx, on, class)
		if err != nil {
			return err
		}
		for page := range slices.Chunk(objects.handles, residentPage) {
			residents, err := e.residentsAmong(ctx, on, class, objectList{objects.epoch, page})
			if err != nil {
				return err
			}
			for _, r := range residents {
				if err := f(r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// objectList are objects of the token, as their handles are in one epoch.
type objectList struct {
	epoch   uint64
	handles []handle
}

// objectsOf finds the token's objects of a class.
func (e *Engine) objectsOf(ctx context.Context, on hsm.Call, class uint) (objectList, error) {
	found := make(chan objectList, 1)
	w := work{mechanism: "residents", slow: true, run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		objects, err := e.module.findAll(s.handle, []*pkcs11.Attribute{
			attribute(pkcs11.CKA_CLASS, class), attribute(pkcs11.CKA_TOKEN, true),
		})
		if err == nil {
			found <- objectList{s.epoch, objects}
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		return objectList{}, err
	}
	return <-found, nil
}

// residentsAmong looks which objects are those of KMS keys.
func (e *Engine) residentsAmong(ctx context.Context, on hsm.Call, class uint, objects objectList) ([]Resident, error) {
	found := make(chan []Resident, 1)
	w := work{mechanism: "residents", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		if s.epoch != objects.epoch {
			return nil, fmt.Errorf("%w: reconnected while its objects were looked at", hsm.ErrUnavailable)
		}
		var residents []Resident
		for _, object := range objects.handles {
			r, ours, err := s.resident(object, class)
			if classOf(err, true) == classObject {
				continue // destroyed since it was found
			}
			if err != nil {
				return nil, err
			}
			if ours {
				residents = append(residents, r)
			}
		}
		found <- residents
		return nil, nil
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		return nil, err
	}
	return <-found, nil
}

// noLabelOfOurs are the codes for a label that is longer than all of ours, and
// for an object without one.
var noLabelOfOurs = []returnCode{
	pkcs11.CKR_BUFFER_TOO_SMALL, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE,
}

// resident describes an object; ours is false if it is no KMS key's.
func (s *session) resident(object handle, class uint) (r Resident, ours bool, err error) {
	label, err := s.read(object, pkcs11.CKA_LABEL)
	if call, ok := errors.AsType[*callError](err); ok && slices.Contains(noLabelOfOurs, call.code) {
		return r, false, nil
	}
	if err != nil || !strings.HasPrefix(string(label), residentLabel) {
		return r, false, err
	}
	id, err := s.read(object, pkcs11.CKA_ID)
	if err != nil {
		return r, false, err
	}
	kind, err := s.readUpTo(object, pkcs11.CKA_KEY_TYPE, ulongBytes)
	if err != nil {
		return r, false, err
	}
	r = Resident{ID: id, Label: string(label), Class: residentClasses[class]}
	if len(kind) == ulongBytes {
		r.KeyType = kindNames[uint(binary.NativeEndian.Uint64(kind))]
	}
	return r, true, nil
}
