package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// maxBlobBytes bounds a wrapped key, the largest RSA key included.
const maxBlobBytes = 8 << 10

// Generate makes a key in the token, where it stays or is wrapped under the
// store's newest domain key, and binds it. See [hsm.Token].
func (e *Engine) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	t, err := typeOf(&k)
	if err != nil {
		return hsm.Key{}, err
	}
	if k.Origin != keyspec.AWSKMS {
		return hsm.Key{}, fmt.Errorf("%w: key origin %q", hsm.ErrUnsupported, k.Origin)
	}
	if err := e.findings.makes(k.Spec, k.Usage); err != nil {
		return hsm.Key{}, err
	}
	k = cloneKey(&k)
	if k.Generation, err = e.newestGeneration(k.Store); err != nil {
		return hsm.Key{}, err
	}
	if k.Residency = e.residencyFor(&k); k.Residency == hsm.Resident {
		if wrapsTo(k.Usage) {
			return hsm.Key{}, fmt.Errorf("%w: pairs that others wrap to, which the token cannot wrap", hsm.ErrUnsupported)
		}
		k.Blob = newResidentID()
	}
	made, again := make(chan hsm.Key, 1), false
	var gone atomic.Bool // nobody waits for the key any more
	w := work{mechanism: "generate", slow: t.isPair(), run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		if again && k.Residency == hsm.Resident {
			if err := s.destroyUnfinished(&t, &k); err != nil {
				return nil, err
			}
		}
		again = true
		k := k
		err := s.generateMaterial(ctx, &t, &k)
		if err == nil && gone.Load() && k.Residency == hsm.Resident {
			return nil, s.destroyUnfinished(&t, &k)
		}
		if err == nil {
			made <- k
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		gone.Store(true)
		return hsm.Key{}, err
	}
	return <-made, nil
}

func (e *Engine) newestGeneration(store string) (int32, error) {
	generation, ok := e.service.Load().newest(store)
	if !ok {
		return 0, fmt.Errorf("%w: store %s has no service keys here", hsm.ErrUnavailable, store)
	}
	return generation, nil
}

// generateMaterial fills in k's outcome. A key that is to be wrapped exists in
// the open nowhere but in the token, and there only for the length of this call.
// ctx is the caller's.
func (s *session) generateMaterial(ctx context.Context, t *keyType, k *hsm.Key) (err error) {
	if k.Residency == hsm.Resident {
		return s.generateResident(ctx, t, k)
	}
	making := t.template
	making.may |= mayBeExtracted
	key, err := s.make(t, making, k)
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	if err := s.check(t, key, k); err != nil {
		return err
	}
	if err := s.wrapAndBind(key, k); err != nil {
		return err
	}
	return s.provesBlob(k)
}

// make makes the key of k as the template says, and fills in its public key.
func (s *session) make(t *keyType, making template, k *hsm.Key) (handle, error) {
	if !t.isPair() {
		return s.engine.module.lib.generate(s.handle, t.generate, making)
	}
	key, public, err := s.makePair(t, making, k.Spec)
	if err != nil {
		return 0, err
	}
	if k.PublicKey, err = public.Encode(); err != nil {
		err = fmt.Errorf("%w: the token made a pair whose public key is not valid: %w", hsm.ErrUnavailable, err)
		s.destroyAfter(key, &err)
		return 0, err
	}
	return key, nil
}

// makePair makes a pair and reads its public key, whose object it destroys.
func (s *session) makePair(t *keyType, making template, spec keyspec.Spec) (handle, *der.Public, error) {
	publicKey, key, err := s.engine.module.lib.generatePair(s.handle, t.generate, t.public, making)
	if err != nil {
		return 0, nil, err
	}
	public, err := t.readPublic(s, spec, publicKey)
	s.destroyAfter(publicKey, &err)
	if err != nil {
		s.destroyAfter(key, &err)
		return 0, nil, err
	}
	return key, public, nil
}

// check makes the check value of new material, or has a new pair prove itself.
func (s *session) check(t *keyType, key handle, k *hsm.Key) (err error) {
	if t.makeCheck == nil {
		return t.compare(s, t, key, k)
	}
	k.CheckValue, err = t.makeCheck(s, key, k)
	return err
}

// wrapAndBind wraps key under the domain key of k.Generation and binds k.
func (s *session) wrapAndBind(key handle, k *hsm.Key) error {
	if err := s.wrap(key, k); err != nil {
		return err
	}
	return s.bind(k)
}

// wrap wraps key under the domain key of k.Generation.
func (s *session) wrap(key handle, k *hsm.Key) error {
	domain, ok := s.engine.service.Load().find(k.Store, hsm.DomainKey, k.Generation)
	if !ok {
		return fmt.Errorf("%w: store %s has no domain key of generation %d here", hsm.ErrUnavailable, k.Store, k.Generation)
	}
	blob := make([]byte, maxBlobBytes)
	n, err := s.engine.module.lib.wrap(s.handle, domain.wrapMech, domain.handle, key, blob)
	if err != nil {
		return err
	}
	k.Blob = append([]byte(nil), blob[:n]...)
	return nil
}

// bind binds k under the binding key of k.Generation.
func (s *session) bind(k *hsm.Key) error {
	binding, err := s.bindingKey(k)
	if err != nil {
		return err
	}
	if k.Binding, err = s.mac(binding.handle, bindingInput(k)); err != nil {
		return err
	}
	if good, err := s.bindingIs(binding, bindingInput(k), k.Binding); err != nil || !good {
		return errors.Join(errNotTheSame, err)
	}
	return nil
}

// destroyAfter destroys a session object at the end of the function that made
// it; a failure there fails the function, and so closes the session and with
// it the object.
func (s *session) destroyAfter(key handle, err *error) {
	if e := s.engine.module.lib.destroy(s.handle, key); e != nil && *err == nil {
		*err = e
	}
}

// admitKey brings a key into service: it verifies the binding, unwraps the
// blob or finds the object, and compares the check value.
func (s *session) admitKey(k *hsm.Key, extra uint) (handle, error) {
	if err := s.verifyBinding(k); err != nil {
		return 0, err
	}
	t, err := typeOf(k)
	if err != nil {
		return 0, err
	}
	admit, ok := admissions[k.Residency]
	if !ok {
		return 0, fmt.Errorf("%w: residency %q", hsm.ErrUnsupported, k.Residency)
	}
	key, err := admit(s, &t, k, extra)
	if err != nil {
		return 0, err
	}
	if err := t.compare(s, &t, key, k); err != nil {
		if k.Residency == hsm.Wrapped {
			s.destroyAfter(key, &err)
		}
		return 0, fmt.Errorf("key %s: %w", k.KeyID, err)
	}
	return key, nil
}

// admissions are how keys come into service, by their residency.
var admissions = map[hsm.Residency]func(s *session, t *keyType, k *hsm.Key, extra uint) (handle, error){
	hsm.Wrapped:  (*session).admitWrapped,
	hsm.Resident: (*session).admitResident,
}

func (s *session) admitWrapped(t *keyType, k *hsm.Key, extra uint) (handle, error) {
	domain, ok := s.engine.service.Load().find(k.Store, hsm.DomainKey, k.Generation)
	if !ok {
		return 0, fmt.Errorf("%w: store %s has no domain key of generation %d here", hsm.ErrUnavailable, k.Store, k.Generation)
	}
	return s.unwrap(domain, k.Blob, s.opening(t, extra))
}

// opening is the template that material of the type is unwrapped with.
func (s *session) opening(t *keyType, extra uint) template {
	opening := t.template
	opening.may |= extra
	if s.engine.findings.unwrapNeedsParams {
		for _, a := range t.public.more {
			if a.kind == pkcs11.CKA_EC_PARAMS {
				opening.more = []valueAttr{a}
			}
		}
	}
	return opening
}

// unwrap opens a blob under a domain key. ErrWrongMaterial if the blob is not
// one that this domain key made.
func (s *session) unwrap(domain *serviceKey, blob []byte, t template) (handle, error) {
	if !domain.needsLength {
		t.valueLen = 0
	}
	key, err := s.engine.module.lib.unwrap(s.handle, domain.wrapMech, domain.handle, blob, t)
	if err != nil {
		return 0, s.judge(err, s.engine.damagedBlob, hsm.ErrWrongMaterial)
	}
	return key, nil
}
