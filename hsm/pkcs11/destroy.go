package pkcs11

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// Destroy destroys a key. See [hsm.Token].
func (e *Engine) Destroy(ctx context.Context, on hsm.Call, k *hsm.Key) error {
	t, err := typeOf(k)
	if err != nil {
		return err
	}
	doomed := cloneKey(k)
	e.learn(ctx, &doomed)
	w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		if err := s.verifyBinding(&doomed); err != nil {
			return nil, err
		}
		if doomed.Residency != hsm.Resident {
			return nil, nil
		}
		return nil, s.destroyResident(&t, &doomed)
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.CallTimeout)
	defer cancel()
	return answer(e.handles.destroy(ctx, &doomed))
}

// destroyResident destroys a verified key's object, if it is there. The label is
// compared although the binding holds: a CKA_ID is unique only by chance.
func (s *session) destroyResident(t *keyType, k *hsm.Key) error {
	found, err := s.engine.module.find(s.handle, residentObject(t, k))
	if err != nil {
		return err
	}
	for _, object := range found {
		label, err := s.read(object, pkcs11.CKA_LABEL)
		if err != nil {
			return err
		}
		if string(label) != residentLabel+k.KeyID {
			return fmt.Errorf("%w: the object with the CKA_ID %x is labelled %q, not as key %s", hsm.ErrWrongMaterial, k.Blob, label, k.KeyID)
		}
		if err := s.engine.module.lib.destroy(s.handle, object); err != nil {
			return err
		}
	}
	return nil
}

// exercisePrefix is what the names of stores begin with whose service keys may all be
// destroyed: those of a conformance run.
const exercisePrefix = "exercise-"

// DestroyServiceKeys destroys service keys: those of a conformance run's stores, and
// of other stores domain and binding keys of a generation that is older than the
// newest in service. What is not there is destroyed already. [hsm.ErrUnsupported] if
// a key is none of these, or if the object with its CKA_ID is another key's.
func (e *Engine) DestroyServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error {
	e.serviceMu.Lock()
	defer e.serviceMu.Unlock()
	for _, row := range rows {
		if !e.mayDestroy(&row) {
			return fmt.Errorf("%w: the %s is not destroyed", hsm.ErrUnsupported, describe(&row))
		}
		w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
			return nil, s.destroyServiceKey(&row)
		}}
		if _, err := e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w); err != nil {
			return err
		}
		e.dropServiceKey(ctx, &row)
	}
	return nil
}

func (e *Engine) mayDestroy(row *hsm.ServiceKey) bool {
	if strings.HasPrefix(row.Store, exercisePrefix) {
		return true
	}
	newest, ok := e.service.Load().newest(row.Store)
	return ok && row.Generation < newest && (row.Kind == hsm.DomainKey || row.Kind == hsm.BindingKey)
}

// destroyServiceKey destroys a service key if there is one. The label is compared
// because a row's CKA_ID alone could be that of another store's key.
func (s *session) destroyServiceKey(row *hsm.ServiceKey) error {
	key, err := s.locate(row)
	if err != nil || key == 0 {
		return err
	}
	label, err := s.read(key, pkcs11.CKA_LABEL)
	if err != nil {
		return err
	}
	if string(label) != serviceLabel(row) {
		return fmt.Errorf("%w: the object with the CKA_ID %x is labelled %q, not as %s", hsm.ErrUnsupported, row.ID, label, describe(row))
	}
	return s.engine.module.lib.destroy(s.handle, key)
}
