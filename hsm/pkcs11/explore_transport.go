package pkcs11

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// transportMechanisms may be a form of AES key wrap. Which one shows when a known key
// is wrapped.
var transportMechanisms = []uint{mechAESKeyWrapKWP, mechLunaAESKWP, mechAESKeyWrapPad, mechAESKeyWrap}

// transports finds out in which ways keys travel to other tokens and come from them.
// Only ways that are exactly as their standards have it count: another kind of token
// may be at the other end.
func (x *explorer) transports(pair handle, k *hsm.Key) error {
	found, p := &x.f.transport, &x.f.profile.Transport
	var problem error
	for _, h := range transportHashes {
		err := x.sure(func() error { return x.transportUnder(pair, k, h.hash) })
		if broken(err) {
			return err
		}
		if err != nil {
			problem = err
			continue
		}
		found.hashes = append(found.hashes, h.number)
		p.OAEP = append(p.OAEP, h.hash.String())
	}
	for _, form := range formNames {
		for _, w := range found.wraps {
			if w.form == form.form {
				p.Wraps = append(p.Wraps, form.name+" by "+mechanismName(w.mechanism))
			}
		}
	}
	if !found.works() {
		p.Problem = problemOf(problem)
	}
	return nil
}

// transportUnder sends a known key through both ways of travelling under one hash.
func (x *explorer) transportUnder(pair handle, k *hsm.Key, h crypto.Hash) (err error) {
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	outer, err := x.bringUnder(pair, public, h, outerKey[:], transportTemplate)
	if err != nil {
		return err
	}
	defer x.destroyAfter(outer, &err)
	making := keyTypeAES
	making.may |= mayBeExtracted
	known, err := x.bringUnder(pair, public, h, knownKey[:], making)
	if err != nil {
		return err
	}
	defer x.destroyAfter(known, &err)
	if len(x.f.transport.wraps) == 0 {
		if err := x.transportForms(outer, known); err != nil {
			return err
		}
	}
	one := transportWays{hashes: []byte{numberOf(h)}, wraps: x.f.transport.wraps[:1]}
	parcel, err := x.pack(known, public, &one)
	if err != nil {
		return err
	}
	return x.opensParcel(pair, parcel)
}

// numberOf is a hash's number in transportHashes.
func numberOf(h crypto.Hash) byte {
	for _, row := range transportHashes {
		if row.hash == h {
			return row.number
		}
	}
	return 0
}

// transportForms finds out which mechanisms are which forms of AES key wrap: they
// must give what the standard says, and take it back.
func (x *explorer) transportForms(outer, known handle) error {
	var problem error
	for _, m := range transportMechanisms {
		w, err := x.transportForm(m, outer, known)
		if broken(err) {
			return err
		}
		if err != nil {
			problem = err
			continue
		}
		if !slices.ContainsFunc(x.f.transport.wraps, func(have transportWrap) bool { return have.form == w.form }) {
			x.f.transport.wraps = append(x.f.transport.wraps, w)
		}
	}
	if len(x.f.transport.wraps) == 0 {
		return problem
	}
	return nil
}

func (x *explorer) transportForm(m uint, outer, known handle) (w transportWrap, err error) {
	blob := make([]byte, maxBlobBytes)
	n, err := x.engine.module.lib.wrap(x.handle, m, outer, known, blob)
	if err != nil {
		return w, err
	}
	w.mechanism = m
	for form, wrap := range map[byte]func(key, secret []byte) ([]byte, error){formPlain: wrapPlain, formPadded: wrapPadded} {
		want, err := wrap(outerKey[:], knownKey[:])
		if err != nil {
			return w, err
		}
		if bytes.Equal(want, blob[:n]) {
			w.form = form
		}
	}
	if w.form == 0 {
		return w, fmt.Errorf("%w: %s is no form of AES key wrap that others know", hsm.ErrUnsupported, mechanismName(m))
	}
	domain := &serviceKey{handle: outer, wrapMech: m}
	back, err := x.unwrapEitherWay(domain, blob[:n])
	if err != nil {
		return w, err
	}
	w.needsLength = domain.needsLength
	defer x.destroyAfter(back, &err)
	return w, x.isKnown(back)
}

// opensParcel is nil if the known key comes out of a parcel, and nothing of what was
// damaged; it learns what the token says of that.
func (x *explorer) opensParcel(pair handle, parcel []byte) (err error) {
	t, wrap := keyType{template: keyTypeAES}, &x.f.transport.wraps[0]
	back, err := x.openParcel(pair, parcel, wrap, &t)
	if err != nil {
		return err
	}
	defer x.destroyAfter(back, &err)
	if err := x.isKnown(back); err != nil {
		return err
	}
	for _, at := range []int{parcelHead, len(parcel) - 1} {
		bad := bytes.Clone(parcel)
		bad[at] ^= 1
		if err := x.learnsRefusal(pair, bad, wrap, &t); err != nil {
			return err
		}
	}
	for _, spec := range []keyspec.Spec{keyspec.RSA2048, keyspec.ECCNISTP256} { // which the known key is not
		of := keyTypes[spec][keyspec.SignVerify]
		if err := x.learnsRefusal(pair, parcel, wrap, &of); err != nil {
			return err
		}
	}
	return nil
}

// learnsRefusal learns what the token says of a parcel that must not open.
func (x *explorer) learnsRefusal(pair handle, parcel []byte, wrap *transportWrap, t *keyType) error {
	key, err := x.openParcel(pair, parcel, wrap, t)
	if err == nil {
		x.destroyAfter(key, &err)
		return errOther
	}
	learn(&x.f.badParcel, err)
	return nil
}
