package pkcs11

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// maxBlobBytes bounds a wrapped key, the largest RSA key included.
const maxBlobBytes = 8 << 10

// Mechanisms, PKCS#11 v2.40 and vendors' headers.
const (
	mechAESKeyGen     = pkcs11.CKM_AES_KEY_GEN
	mechGenericKeyGen = pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	mechAESGCM        = pkcs11.CKM_AES_GCM
	mechHMACSHA256    = pkcs11.CKM_SHA256_HMAC
	mechAESKeyWrap    = pkcs11.CKM_AES_KEY_WRAP
	mechAESKeyWrapPad = pkcs11.CKM_AES_KEY_WRAP_PAD
	mechAESKeyWrapKWP = 0x210B     // CKM_AES_KEY_WRAP_KWP, v3.0
	mechLunaAESKWP    = 0x80000171 // CKM_AES_KWP of Thales Luna
)

// keyType is how materials of one kind are made, checked and used.
type keyType struct {
	template  template // without permissions
	generate  uint     // mechanism
	may       uint     // permissions in use
	makeCheck func(s *session, key handle, k *hsm.Key) ([]byte, error)
	compare   func(s *session, key handle, k *hsm.Key) error
}

// keyTypes are the specs that this engine makes, with their usage.
var keyTypes = map[keyspec.Spec]map[keyspec.Usage]keyType{
	keyspec.SymmetricDefault: {keyspec.EncryptDecrypt: {
		template: template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, valueLen: 32},
		generate: mechAESKeyGen,
		may:      mayEncrypt,
		makeCheck: func(s *session, key handle, k *hsm.Key) ([]byte, error) {
			return s.makeCanary(key, checkInput(k))
		},
		compare: func(s *session, key handle, k *hsm.Key) error {
			return s.checkCanary(key, k.CheckValue, checkInput(k))
		},
	}},
}

func typeOf(k *hsm.Key) (keyType, error) {
	t, ok := keyTypes[k.Spec][k.Usage]
	if !ok {
		return keyType{}, fmt.Errorf("%w: key spec %q for %q", hsm.ErrUnsupported, k.Spec, k.Usage)
	}
	return t, nil
}

// Generate makes a key in the token, wraps it there under the store's newest
// domain key and binds it. See [hsm.Token].
func (e *Engine) Generate(ctx context.Context, on hsm.Call, k hsm.Key) (hsm.Key, error) {
	t, err := typeOf(&k)
	if err != nil {
		return hsm.Key{}, err
	}
	if k.Origin != keyspec.AWSKMS {
		return hsm.Key{}, fmt.Errorf("%w: key origin %q", hsm.ErrUnsupported, k.Origin)
	}
	k = cloneKey(&k)
	made := make(chan hsm.Key, 1)
	w := work{mechanism: "generate", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		k := k
		err := s.generateMaterial(t, &k)
		if err == nil {
			made <- k
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		return hsm.Key{}, err
	}
	return <-made, nil
}

// generateMaterial fills in k's outcome. The key exists in the open nowhere
// but in the token, and there only for the length of this call.
func (s *session) generateMaterial(t keyType, k *hsm.Key) (err error) {
	generation, ok := s.engine.service.Load().newest(k.Store)
	if !ok {
		return fmt.Errorf("%w: store %s has no service keys here", hsm.ErrUnavailable, k.Store)
	}
	k.Residency, k.Generation, k.PublicKey = hsm.Wrapped, generation, nil
	making := t.template
	making.may = t.may | mayBeExtracted
	key, err := s.engine.module.lib.generate(s.handle, t.generate, making)
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	if k.CheckValue, err = t.makeCheck(s, key, k); err != nil {
		return err
	}
	return s.wrapAndBind(key, k)
}

// wrapAndBind wraps key under the domain key of k.Generation and binds k.
func (s *session) wrapAndBind(key handle, k *hsm.Key) error {
	service := s.engine.service.Load()
	domain, ok1 := service.find(k.Store, hsm.DomainKey, k.Generation)
	binding, ok2 := service.find(k.Store, hsm.BindingKey, k.Generation)
	if !ok1 || !ok2 {
		return fmt.Errorf("%w: store %s has no service keys of generation %d here", hsm.ErrUnavailable, k.Store, k.Generation)
	}
	blob := make([]byte, maxBlobBytes)
	n, err := s.engine.module.lib.wrap(s.handle, domain.wrapMech, domain.handle, key, blob)
	if err != nil {
		return err
	}
	k.Blob = append([]byte(nil), blob[:n]...)
	k.Binding, err = s.mac(binding.handle, bindingInput(k))
	return err
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
// blob and compares the check value.
func (s *session) admitKey(k *hsm.Key, extra uint) (handle, error) {
	if err := s.verifyBinding(k); err != nil {
		return 0, err
	}
	t, err := typeOf(k)
	if err != nil {
		return 0, err
	}
	if k.Residency != hsm.Wrapped {
		return 0, fmt.Errorf("%w: residency %q", hsm.ErrUnsupported, k.Residency)
	}
	domain, ok := s.engine.service.Load().find(k.Store, hsm.DomainKey, k.Generation)
	if !ok {
		return 0, fmt.Errorf("%w: store %s has no domain key of generation %d here", hsm.ErrUnavailable, k.Store, k.Generation)
	}
	opening := t.template
	opening.may = t.may | extra
	key, err := s.unwrap(domain, k.Blob, opening)
	if err != nil {
		return 0, err
	}
	if err := t.compare(s, key, k); err != nil {
		s.destroyAfter(key, &err)
		return 0, fmt.Errorf("key %s: %w", k.KeyID, err)
	}
	return key, nil
}

// unwrap opens a blob under a domain key. ErrWrongMaterial if the blob is not
// one that this domain key made.
func (s *session) unwrap(domain *serviceKey, blob []byte, t template) (handle, error) {
	if !s.engine.unwrapNeedsLength {
		t.valueLen = 0
	}
	key, err := s.engine.module.lib.unwrap(s.handle, domain.wrapMech, domain.handle, blob, t)
	if err != nil {
		return 0, s.judge(err, s.engine.damagedBlob, hsm.ErrWrongMaterial)
	}
	return key, nil
}

// Rewrap moves a key to another generation of its store's service keys: it
// verifies it, wraps it under the other domain key and binds it anew. The
// material, its id and its ciphertexts stay what they are. It is the mover:
// the only code that unwraps a key EXTRACTABLE, for the length of one call.
func (e *Engine) Rewrap(ctx context.Context, on hsm.Call, k *hsm.Key, generation int32) (hsm.Key, error) {
	from := cloneKey(k)
	made := make(chan hsm.Key, 1)
	w := work{mechanism: "rewrap", run: func(s *session, _ handle, _ [3][]byte) (_ []byte, err error) {
		key, err := s.admitKey(&from, mayBeExtracted)
		if err != nil {
			return nil, err
		}
		moved := cloneKey(&from)
		moved.Generation = generation
		err = s.wrapAndBind(key, &moved)
		s.destroyAfter(key, &err)
		if err == nil {
			made <- moved
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, nil, &w); err != nil {
		return hsm.Key{}, err
	}
	return <-made, nil
}
