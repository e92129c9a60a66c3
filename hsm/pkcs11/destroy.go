package pkcs11

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

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
	doomed := cloneKey(k)
	w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		if err := s.verifyBinding(&doomed); err != nil {
			return nil, err
		}
		key, err := s.admitResident(&t, &doomed, 0)
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
			return nil, s.destroyServiceKey(&row)
		}}
		if _, err := e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w); err != nil {
			return err
		}
		e.dropServiceKey(&row)
	}
	return nil
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
