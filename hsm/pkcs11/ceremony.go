package pkcs11

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// The ceremony gives several tokens the same service keys. Each token makes a
// transport pair, whose public key an operator confirms. One token makes the service
// keys as session objects, in one call on one session: they are extractable for the
// length of that call, in which it makes their check values, wraps them to every
// transport pair and destroys them. Each token, that one too, then unwraps its parcels
// to objects that are like those that CreateServiceKeys makes, and proves them by the
// check values. In this process there are wrapped keys only.

// TransportPair is the public half of a pair in a token that service keys travel to.
type TransportPair struct {
	PublicKey []byte // SubjectPublicKeyInfo, as read from the token
	Ways      []byte // in which keys travel to the token
}

// transportLabel is the label of a store's transport pair.
func transportLabel(store string) string { return fmt.Sprintf("kmsgate/%s/transport", store) }

// transportKey names a store's transport pair as an object of its token.
func transportKey(store string) *hsm.Key {
	id := sha256.Sum256([]byte(transportLabel(store)))
	return &hsm.Key{
		Store: store, KeyID: "transport", Spec: keyspec.RSA3072, Usage: keyspec.Transport,
		Residency: hsm.Resident, Blob: id[:residentIDBytes],
	}
}

// transportType is what transport pairs are.
func transportType() keyType { return keyTypes[keyspec.RSA3072][keyspec.Transport] }

// TransportPair finds the pair that a store's service keys travel through to this
// token, or makes it, as a token object: an operator may want to compare the public
// key in peace. [hsm.ErrUnsupported] if keys do not travel to such tokens.
func (e *Engine) TransportPair(ctx context.Context, store string) (TransportPair, error) {
	if !e.findings.transport.works() {
		return TransportPair{}, fmt.Errorf("%w: keys on their way from another token", hsm.ErrUnsupported)
	}
	made := make(chan []byte, 1)
	w := work{mechanism: "transport-pair", slow: true, run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		k := transportKey(store)
		_, err := s.findTransport(k)
		if errors.Is(err, hsm.ErrMissing) {
			err = s.alone(func() error { return s.makeTransport(k) })
		}
		if err == nil {
			made <- k.PublicKey
		}
		return nil, err
	}}
	if _, err := e.do(ctx, orderly, nil, &w); err != nil {
		return TransportPair{}, err
	}
	return TransportPair{PublicKey: <-made, Ways: e.findings.transport.encode()}, nil
}

// orderly is how the ceremony asks a token.
var orderly = hsm.Call{Class: hsm.Background}

// findTransport finds a store's transport pair, reads its public key and has the two
// halves prove that they belong together.
func (s *session) findTransport(k *hsm.Key) (handle, error) {
	t := transportType()
	key, err := s.admitResident(&t, k, 0)
	if err != nil {
		return 0, err
	}
	public, err := t.readPublic(s, k.Spec, key)
	if err != nil {
		return 0, err
	}
	if k.PublicKey, err = public.Encode(); err != nil {
		return 0, fmt.Errorf("%w: the public key of the transport pair is not valid: %w", hsm.ErrUnavailable, err)
	}
	return key, t.compare(s, &t, key, k)
}

// makeTransport makes a store's transport pair, of which the token keeps the private
// key.
func (s *session) makeTransport(k *hsm.Key) error {
	t := transportType()
	making := t.template
	making.may |= mayStay
	making.more = append(slices.Clone(making.more), valueAttr{pkcs11.CKA_ID, k.Blob}, valueAttr{pkcs11.CKA_LABEL, []byte(transportLabel(k.Store))})
	_, err := s.make(&t, making, k)
	if mayRefuseAttribute(err) { // see spareAttributes
		making.may |= mayBeCopied
		_, err = s.make(&t, making, k)
	}
	if err == nil {
		_, err = s.findTransport(k)
	}
	return err
}

// DestroyTransportPair destroys a store's transport pair, if there is one.
func (e *Engine) DestroyTransportPair(ctx context.Context, store string) error {
	w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		k, t := transportKey(store), transportType()
		found, err := e.module.find(s.handle, residentObject(&t, k))
		if err != nil {
			return nil, err
		}
		for _, object := range found {
			label, err := s.read(object, pkcs11.CKA_LABEL)
			if err != nil {
				return nil, err
			}
			if string(label) != transportLabel(store) {
				return nil, fmt.Errorf("%w: the object with the CKA_ID %x is labelled %q, not as a transport pair", hsm.ErrUnsupported, k.Blob, label)
			}
			if err := e.module.lib.destroy(s.handle, object); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}}
	_, err := e.do(ctx, orderly, nil, &w)
	return err
}

// Parcels are service keys on their way: for each pair they go to, one each row.
type Parcels [][][]byte

// PackServiceKeys makes the service keys of rows and wraps them to each pair. It
// returns the rows with their check values, and the parcels in the order of both. No
// object is left. Each call makes other keys.
func (e *Engine) PackServiceKeys(ctx context.Context, rows []hsm.ServiceKey, to []TransportPair) ([]hsm.ServiceKey, Parcels, error) {
	type packed struct {
		rows    []hsm.ServiceKey
		parcels Parcels
	}
	made := make(chan packed, 1)
	w := work{mechanism: "pack", slow: true, run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
		p := packed{parcels: make(Parcels, len(to))}
		for _, row := range rows {
			filled, parcels, err := s.packServiceKey(row, to)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", describe(&row), err)
			}
			p.rows = append(p.rows, filled)
			for i := range parcels {
				p.parcels[i] = append(p.parcels[i], parcels[i])
			}
		}
		made <- p
		return nil, nil
	}}
	if _, err := e.do(ctx, orderly, nil, &w); err != nil {
		return nil, nil, err
	}
	p := <-made
	return p.rows, p.parcels, nil
}

// packServiceKey makes one service key, its check value and a parcel for each pair.
func (s *session) packServiceKey(row hsm.ServiceKey, to []TransportPair) (_ hsm.ServiceKey, parcels [][]byte, err error) {
	kind, ok := kinds[row.Kind]
	if !ok || len(row.ID) == 0 || row.CheckValue != nil {
		return row, nil, fmt.Errorf("%w: not a service key that could be made", hsm.ErrUnsupported)
	}
	key, err := s.engine.module.lib.generate(s.handle, kind.generate, template{
		class: pkcs11.CKO_SECRET_KEY, keyType: kind.keyType, may: kind.may | mayBeExtracted, valueLen: serviceKeyBytes,
	})
	if err != nil {
		return row, nil, err
	}
	defer s.destroyAfter(key, &err)
	k := &serviceKey{row: row, handle: key, wrapMech: s.engine.wrapMech}
	if row.CheckValue, err = kind.prove(s, k, nil); err != nil {
		return row, nil, err
	}
	for _, pair := range to {
		target, err := transportTarget(&hsm.Key{Spec: keyspec.RSA3072, Usage: keyspec.Transport, PublicKey: pair.PublicKey})
		if err != nil {
			return row, nil, err
		}
		ways, err := s.engine.findings.transport.meets(pair.Ways)
		if err != nil {
			return row, nil, err
		}
		parcel, err := s.pack(key, target, &ways)
		if err != nil {
			return row, nil, err
		}
		parcels = append(parcels, parcel)
	}
	return row, parcels, nil
}

// AdoptServiceKeys makes token objects of the service keys that parcels bring through
// the store's transport pair, in the order of rows, which have check values, proves
// them and puts them in service. The pair must still be the one that an operator has
// confirmed. One that is there already is proved.
func (e *Engine) AdoptServiceKeys(ctx context.Context, rows []hsm.ServiceKey, confirmed TransportPair, parcels [][]byte) error {
	if len(parcels) != len(rows) {
		return fmt.Errorf("%w: %d parcels for %d service keys", hsm.ErrUnsupported, len(parcels), len(rows))
	}
	for i := range rows {
		row, parcel := rows[i], parcels[i]
		if row.CheckValue == nil {
			return fmt.Errorf("%w: %s has no check value", hsm.ErrUnsupported, describe(&row))
		}
		wrap, err := e.findings.transport.opens(parcel, modulusBytes[keyspec.RSA3072])
		if err != nil {
			return err
		}
		w := work{mechanism: "adopt", in: [3][]byte{parcel}, run: func(s *session, _ handle, in [3][]byte) ([]byte, error) {
			there, err := s.locate(&row)
			if err != nil || there != 0 {
				return nil, err
			}
			return nil, s.alone(func() error { return s.adopt(&row, confirmed.PublicKey, in[0], wrap) })
		}}
		if _, err := e.do(ctx, orderly, nil, &w); err != nil {
			return fmt.Errorf("%s: %w", describe(&row), err)
		}
	}
	return e.LoadServiceKeys(ctx, rows)
}

// adopt unwraps a service key to its object.
func (s *session) adopt(row *hsm.ServiceKey, confirmed, parcel []byte, wrap *transportWrap) (err error) {
	k := transportKey(row.Store)
	through, err := s.findTransport(k)
	if err != nil {
		return err
	}
	if !bytes.Equal(k.PublicKey, confirmed) {
		return fmt.Errorf("%w: the token's transport pair is not the one that was confirmed", hsm.ErrWrongMaterial)
	}
	n := parcelHead + modulusBytes[k.Spec]
	carrier, err := s.unwrapCarrier(through, transportHash(parcel[1]), parcel[parcelHead:n])
	if err != nil {
		return err
	}
	defer s.destroyAfter(carrier, &err)
	mechanism := s.engine.wrapMech
	if row.Kind == hsm.DomainKey {
		if _, _, ok := parseDomainCheck(row.CheckValue); !ok {
			return hsm.ErrWrongMaterial
		}
		mechanism = domainMechanism(row.CheckValue)
	}
	t := serviceTemplate(row, mechanism)
	if wrap.needsLength {
		t = append(t, attribute(pkcs11.CKA_VALUE_LEN, serviceKeyBytes))
	}
	_, err = s.withoutSpares(row.Kind, t, func(t []*pkcs11.Attribute) (handle, error) {
		h, err := s.engine.module.ctx.UnwrapKey(pkcs11.SessionHandle(s.handle),
			[]*pkcs11.Mechanism{pkcs11.NewMechanism(wrap.mechanism, nil)}, pkcs11.ObjectHandle(carrier), parcel[n:], t)
		return handle(h), managed("C_UnwrapKey", err)
	})
	return s.judge(err, s.engine.findings.badParcel, hsm.ErrInvalidCiphertext)
}

// DestroyUnfinished destroys what a ceremony that was cut off has left of service keys
// that no database has ever called made: they have no check value and are not in
// service. What is not there is destroyed already.
func (e *Engine) DestroyUnfinished(ctx context.Context, rows []hsm.ServiceKey) error {
	e.serviceMu.Lock()
	defer e.serviceMu.Unlock()
	for _, row := range rows {
		if _, used := e.service.Load().find(row.Store, row.Kind, row.Generation); used || row.CheckValue != nil {
			return fmt.Errorf("%w: the %s was made, and is not destroyed", hsm.ErrUnsupported, describe(&row))
		}
		w := work{mechanism: "destroy", run: func(s *session, _ handle, _ [3][]byte) ([]byte, error) {
			return nil, s.destroyServiceKey(&row)
		}}
		if _, err := e.do(ctx, orderly, nil, &w); err != nil {
			return err
		}
	}
	return nil
}
