package pkcs11

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// serviceID names one generation of one service key.
type serviceID struct {
	store      string
	kind       hsm.ServiceKeyKind
	generation int32
}

// serviceKey is a service key in service.
type serviceKey struct {
	row    hsm.ServiceKey
	handle handle

	// copied is the handle of a binding key's copy, see copyBindingKey; 0 without.
	copied atomic.Uint64

	// Of a domain key.
	wrapMech    uint
	needsLength bool // CKA_VALUE_LEN in templates of C_UnwrapKey
}

// serviceKeys is what is in service; it is replaced, never changed.
type serviceKeys struct {
	keys map[serviceID]*serviceKey
}

func (s *serviceKeys) find(store string, kind hsm.ServiceKeyKind, generation int32) (*serviceKey, bool) {
	k, ok := s.keys[serviceID{store, kind, generation}]
	return k, ok
}

// newest is the highest generation of which the store has both keys that a
// material needs; materials name one generation for both.
func (s *serviceKeys) newest(store string) (generation int32, ok bool) {
	for id := range s.keys {
		if id.store == store && id.kind == hsm.DomainKey && id.generation > generation {
			if _, both := s.find(store, hsm.BindingKey, id.generation); both {
				generation = id.generation
			}
		}
	}
	return generation, generation > 0
}

// newestSealing is the store's sealing key for new secrets.
func (s *serviceKeys) newestSealing(store string) (newest *serviceKey, ok bool) {
	for id, k := range s.keys {
		if id.store == store && id.kind == hsm.SealingKey && (newest == nil || id.generation > newest.row.Generation) {
			newest = k
		}
	}
	return newest, newest != nil
}

// kindRow is how service keys of one kind are made, found and proved.
type kindRow struct {
	generate uint // mechanism
	keyType  uint
	// rest is the part of the template that differs between kinds. A domain key has
	// one wrap mechanism.
	rest func(wrapMech uint) []*pkcs11.Attribute
	// may is what a key is for as long as it is a session object; see ceremony.go.
	may uint
	// shut are attributes that must be false on a key that is found.
	shut []uint
	// prove makes the check value if check is nil, else compares it;
	// ErrWrongMaterial if it is another key's.
	prove func(s *session, k *serviceKey, check []byte) ([]byte, error)
}

var kinds = map[hsm.ServiceKeyKind]kindRow{
	hsm.DomainKey: {
		generate: mechAESKeyGen, keyType: pkcs11.CKK_AES, rest: domainTemplate, may: mayWrap, prove: (*session).proveDomain,
		// With DECRYPT a blob could be decrypted to the key in it.
		shut: []uint{pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT},
	},
	hsm.BindingKey: {
		generate: mechGenericKeyGen, keyType: pkcs11.CKK_GENERIC_SECRET, rest: bindingTemplate, may: maySign, prove: (*session).proveBinding,
		shut: []uint{pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_DERIVE},
	},
	hsm.SealingKey: {
		generate: mechAESKeyGen, keyType: pkcs11.CKK_AES, rest: sealingTemplate, may: mayEncrypt, prove: (*session).proveSealing,
		shut: []uint{pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP},
	},
}

func attribute(t uint, v any) *pkcs11.Attribute { return pkcs11.NewAttribute(t, v) }

func usage(wrap, encrypt, sign bool) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		attribute(pkcs11.CKA_WRAP, wrap), attribute(pkcs11.CKA_UNWRAP, wrap),
		attribute(pkcs11.CKA_ENCRYPT, encrypt), attribute(pkcs11.CKA_DECRYPT, encrypt),
		attribute(pkcs11.CKA_SIGN, sign), attribute(pkcs11.CKA_VERIFY, sign),
		attribute(pkcs11.CKA_DERIVE, false),
	}
}

func domainTemplate(wrapMech uint) []*pkcs11.Attribute {
	return append(usage(true, false, false),
		attribute(pkcs11.CKA_ALLOWED_MECHANISMS, wrapMech),
		attribute(pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate()))
}

func bindingTemplate(uint) []*pkcs11.Attribute {
	return append(usage(false, false, true), attribute(pkcs11.CKA_ALLOWED_MECHANISMS, uint(mechHMACSHA256)))
}

func sealingTemplate(uint) []*pkcs11.Attribute {
	return append(usage(false, true, false), attribute(pkcs11.CKA_ALLOWED_MECHANISMS, uint(mechAESGCM)))
}

// locate finds the key's object by its CKA_ID; zero if there is none. A copy, which
// has the same, is none of the token's objects.
func (s *session) locate(k *hsm.ServiceKey) (handle, error) {
	m := s.engine.module
	found, err := m.find(s.handle, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_SECRET_KEY)), attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_ID, k.ID),
	})
	if err != nil || len(found) == 0 {
		return 0, err
	}
	if len(found) > 1 {
		return 0, fmt.Errorf("%w: several objects have the id of %s", hsm.ErrUnavailable, describe(k))
	}
	for _, a := range kinds[k.Kind].shut {
		v, err := m.ctx.GetAttributeValue(pkcs11.SessionHandle(s.handle), pkcs11.ObjectHandle(found[0]), []*pkcs11.Attribute{attribute(a, nil)})
		if err != nil {
			return 0, managed("C_GetAttributeValue", err)
		}
		if len(v) != 1 || !allZero(v[0].Value) {
			return 0, fmt.Errorf("%w: attribute 0x%X of %s is not false", hsm.ErrUnavailable, a, describe(k))
		}
	}
	return found[0], nil
}

// create makes the key's object.
func (s *session) create(k *hsm.ServiceKey) (handle, error) {
	t := append(serviceTemplate(k, s.engine.wrapMech), attribute(pkcs11.CKA_VALUE_LEN, serviceKeyBytes))
	return s.withoutSpares(k.Kind, t, func(t []*pkcs11.Attribute) (handle, error) {
		return s.engine.module.generateTokenKey(s.handle, kinds[k.Kind].generate, t)
	})
}

// serviceKeyBytes is the length of every service key.
const serviceKeyBytes = 32

// serviceTemplate is what a service key's object is like, but for what must come last.
func serviceTemplate(k *hsm.ServiceKey, wrapMech uint) []*pkcs11.Attribute {
	kind := kinds[k.Kind]
	return append([]*pkcs11.Attribute{
		attribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_SECRET_KEY)),
		attribute(pkcs11.CKA_KEY_TYPE, kind.keyType),
		attribute(pkcs11.CKA_TOKEN, true),
		attribute(pkcs11.CKA_PRIVATE, true),
		attribute(pkcs11.CKA_SENSITIVE, true),
		attribute(pkcs11.CKA_EXTRACTABLE, false),
		attribute(pkcs11.CKA_LABEL, serviceLabel(k)),
		attribute(pkcs11.CKA_ID, k.ID),
	}, kind.rest(wrapMech)...)
}

// withoutSpares makes a token object, if need be without what the token may not know.
func (s *session) withoutSpares(kind hsm.ServiceKeyKind, t []*pkcs11.Attribute, do func([]*pkcs11.Attribute) (handle, error)) (handle, error) {
	modifiable := false
	if kind == hsm.BindingKey {
		var err error
		if modifiable, err = s.mustStayModifiable(); err != nil {
			return 0, err
		}
	} else {
		t = append(t, attribute(pkcs11.CKA_COPYABLE, false))
	}
	made, err := do(endOfTemplate(t, modifiable))
	for _, spare := range spareAttributes {
		if !mayRefuseAttribute(err) {
			break
		}
		s.engine.cfg.Logger.Warn("token objects are made without an attribute, which the token may not know", "attribute", spare.name, "error", err)
		t = slices.DeleteFunc(t, func(a *pkcs11.Attribute) bool { return a.Type == spare.kind })
		made, err = do(endOfTemplate(t, modifiable))
	}
	return made, err
}

// endOfTemplate adds that an object cannot be changed. It is last: SoftHSM refuses the
// attributes that come after MODIFIABLE. A binding key is copied, see copyBindingKey,
// and may be modifiable where it could not be copied otherwise; but only if it is held
// to one mechanism, which nobody changes.
func endOfTemplate(t []*pkcs11.Attribute, modifiable bool) []*pkcs11.Attribute {
	held := slices.ContainsFunc(t, func(a *pkcs11.Attribute) bool { return a.Type == pkcs11.CKA_ALLOWED_MECHANISMS })
	if modifiable && held {
		return t
	}
	return append(slices.Clone(t), attribute(pkcs11.CKA_MODIFIABLE, false))
}

// spareAttributes are those that some tokens do not store in their own objects, in
// the order in which they are left out there. What they forbid, others do too: a
// copy stays as sensitive as the key, and CKA_ENCRYPT and its like limit the use.
var spareAttributes = []struct {
	kind uint
	name string
}{{pkcs11.CKA_COPYABLE, "CKA_COPYABLE"}, {pkcs11.CKA_ALLOWED_MECHANISMS, "CKA_ALLOWED_MECHANISMS"}}

// mayRefuseAttribute tells whether an error may be about an attribute of a
// template. NSS says CKR_GENERAL_ERROR of one that its database has no place for.
func mayRefuseAttribute(err error) bool {
	call, ok := errors.AsType[*callError](err)
	return ok && (call.code == pkcs11.CKR_GENERAL_ERROR || classOf(err, false) == classUnsupported)
}

func serviceLabel(k *hsm.ServiceKey) string {
	return fmt.Sprintf("kmsgate/%s/%s/%d", k.Store, k.Kind, k.Generation)
}

func describe(k *hsm.ServiceKey) string {
	return fmt.Sprintf("%s key, generation %d, of store %s", k.Kind, k.Generation, k.Store)
}

// bringIn finds a service key, makes it if mayCreate, and proves it.
func (s *session) bringIn(row hsm.ServiceKey, mayCreate bool) (*serviceKey, error) {
	if _, ok := kinds[row.Kind]; !ok || len(row.ID) == 0 || row.Generation < 1 || row.Store == "" || len(row.Store) > maxStoreName {
		return nil, fmt.Errorf("%w: not a service key: %s", hsm.ErrUnsupported, describe(&row))
	}
	h, err := s.locate(&row)
	if err != nil {
		return nil, err
	}
	if h == 0 {
		// A key that has a check value was there once: making another would
		// only hide that it is lost.
		if !mayCreate || row.CheckValue != nil {
			return nil, fmt.Errorf("%w: the token has no %s (CKA_ID %x); is this the token that kmsgate init has used, and the database that belongs to it?",
				hsm.ErrUnavailable, describe(&row), row.ID)
		}
		if err := s.alone(func() (err error) {
			h, err = s.create(&row)
			return err
		}); err != nil {
			return nil, err
		}
	}
	k := &serviceKey{row: row, handle: h, wrapMech: s.engine.wrapMech}
	check, err := kinds[row.Kind].prove(s, k, row.CheckValue)
	if errors.Is(err, hsm.ErrWrongMaterial) {
		return nil, fmt.Errorf("%s: %w: the key in the token is not the one that the database knows; connect the token, or restore the database, that belongs to it", describe(&row), err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", describe(&row), err)
	}
	k.row.ID, k.row.CheckValue = slices.Clone(row.ID), check
	if row.Kind == hsm.BindingKey {
		s.copyBindingKey(k)
	}
	return k, nil
}

// domainCheck layout: version, wrap mechanism (8 bytes), blob length (2),
// blob of an AES-256 key, canary under that key.
const domainCheckVersion = 1

func (s *session) proveDomain(k *serviceKey, check []byte) (_ []byte, err error) {
	if check == nil {
		return s.makeDomainCheck(k)
	}
	blob, made, ok := parseDomainCheck(check)
	if !ok {
		return nil, hsm.ErrWrongMaterial
	}
	k.wrapMech = domainMechanism(check)
	key, err := s.unwrapEitherWay(k, blob)
	if err != nil {
		return nil, err
	}
	defer s.destroyAfter(key, &err)
	return check, s.checkCanary(key, made, serviceInput(&k.row))
}

// unwrapEitherWay unwraps the AES key of a domain key's check value, and finds
// out whether this token and mechanism want to be told its length.
func (s *session) unwrapEitherWay(k *serviceKey, blob []byte) (handle, error) {
	key, err := s.unwrap(k, blob, keyTypeAES)
	if err == nil || broken(err) {
		return key, err
	}
	k.needsLength = !k.needsLength
	if key, again := s.unwrap(k, blob, keyTypeAES); again == nil {
		return key, nil
	}
	k.needsLength = !k.needsLength
	return 0, err
}

func (s *session) makeDomainCheck(k *serviceKey) (check []byte, err error) {
	lib, t := s.engine.module.lib, keyTypeAES
	t.may |= mayBeExtracted
	key, err := lib.generate(s.handle, mechAESKeyGen, t)
	if err != nil {
		return nil, err
	}
	defer s.destroyAfter(key, &err)
	blob := make([]byte, maxBlobBytes)
	n, err := lib.wrap(s.handle, k.wrapMech, k.handle, key, blob)
	if err != nil {
		return nil, err
	}
	check = append(check, domainCheckVersion)
	check = binary.BigEndian.AppendUint64(check, uint64(k.wrapMech))
	check = binary.BigEndian.AppendUint16(check, uint16(n))
	check = append(check, blob[:n]...)
	made, err := s.makeCanary(key, serviceInput(&k.row))
	return append(check, made...), err
}

// domainMechanism is the wrap mechanism in a domain key's check value.
func domainMechanism(check []byte) uint { return uint(binary.BigEndian.Uint64(check[1:])) }

// parseDomainCheck returns the parts of a domain key's check value.
func parseDomainCheck(check []byte) (blob, made []byte, ok bool) {
	const head = 1 + 8 + 2
	if len(check) < head || check[0] != domainCheckVersion {
		return nil, nil, false
	}
	end := head + int(binary.BigEndian.Uint16(check[9:]))
	if len(check) < end {
		return nil, nil, false
	}
	return check[head:end], check[end:], true
}

func (s *session) proveBinding(k *serviceKey, check []byte) ([]byte, error) {
	mac := func() ([]byte, error) { return s.mac(k.handle, serviceInput(&k.row)) }
	if check == nil {
		return mac()
	}
	good, err := agreed(mac, check)
	if err == nil && !good {
		err = hsm.ErrWrongMaterial
	}
	return check, err
}

func (s *session) proveSealing(k *serviceKey, check []byte) ([]byte, error) {
	if check == nil {
		return s.makeCanary(k.handle, serviceInput(&k.row))
	}
	return check, s.checkCanary(k.handle, check, serviceInput(&k.row))
}

// findServiceKeys puts exactly these keys in service, on the anchor session.
// Nobody else is inside the gate.
func (e *Engine) findServiceKeys(rows []hsm.ServiceKey) error {
	found := &serviceKeys{keys: make(map[serviceID]*serviceKey, len(rows))}
	s := e.anchorSession()
	for _, row := range rows {
		if row.CheckValue == nil {
			return fmt.Errorf("%w: %s has no check value yet; create it first", hsm.ErrUnavailable, describe(&row))
		}
		k, err := s.bringIn(row, false)
		if err != nil {
			return err
		}
		found.keys[serviceID{row.Store, row.Kind, row.Generation}] = k
	}
	e.service.Store(found)
	return nil
}

// anchorSession is the anchor as a session that is used by its caller's own
// goroutine, while nobody else is inside the gate.
func (e *Engine) anchorSession() *session {
	return &session{engine: e, handle: e.anchor, epoch: e.epoch.Load()}
}

// CreateServiceKeys makes the service keys that are not in the token yet,
// puts all of rows in service and returns them with their check values. It can
// be repeated: a key that is there is used and, where its row has a check
// value, proved. A key that has a check value but is not there is an error.
// It is for the one process that holds the rows locked.
func (e *Engine) CreateServiceKeys(ctx context.Context, rows []hsm.ServiceKey) ([]hsm.ServiceKey, error) {
	return e.addServiceKeys(ctx, rows, true)
}

// LoadServiceKeys puts more service keys in service, for example a new
// generation that another instance has made. Each must be in the token.
func (e *Engine) LoadServiceKeys(ctx context.Context, rows []hsm.ServiceKey) error {
	_, err := e.addServiceKeys(ctx, rows, false)
	return err
}

func (e *Engine) addServiceKeys(ctx context.Context, rows []hsm.ServiceKey, mayCreate bool) ([]hsm.ServiceKey, error) {
	e.serviceMu.Lock()
	defer e.serviceMu.Unlock()
	filled := make([]hsm.ServiceKey, 0, len(rows))
	for _, row := range rows {
		made := make(chan *serviceKey, 1)
		w := work{mechanism: "service-key", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
			k, err := s.bringIn(row, mayCreate)
			if err != nil {
				return nil, err
			}
			old := s.engine.service.Load()
			next := &serviceKeys{keys: maps.Clone(old.keys)}
			if next.keys == nil {
				next.keys = map[serviceID]*serviceKey{}
			}
			id := serviceID{row.Store, row.Kind, row.Generation}
			next.keys[id] = k
			s.engine.service.Store(next)
			if before, ok := old.keys[id]; ok {
				s.destroyCopy(before)
			}
			made <- k
			return nil, nil
		}}
		if _, err := e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w); err != nil {
			return nil, err
		}
		filled = append(filled, (<-made).row)
	}
	return filled, nil
}

// dropServiceKey takes a service key out of service, and has its copy destroyed.
func (e *Engine) dropServiceKey(ctx context.Context, row *hsm.ServiceKey) {
	next := &serviceKeys{keys: maps.Clone(e.service.Load().keys)}
	id := serviceID{row.Store, row.Kind, row.Generation}
	gone, ok := next.keys[id]
	delete(next.keys, id)
	e.service.Store(next)
	if !ok || gone.copied.Load() == 0 {
		return
	}
	w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		s.destroyCopy(gone)
		return nil, nil
	}}
	_, _ = e.do(ctx, hsm.Call{Class: hsm.Background}, nil, &w) // else it goes with the anchor session
}

// provedKeys are the rows in service, for finding them again.
func (s *serviceKeys) provedKeys() []hsm.ServiceKey {
	rows := make([]hsm.ServiceKey, 0, len(s.keys))
	for _, k := range s.keys {
		rows = append(rows, k.row)
	}
	return rows
}
