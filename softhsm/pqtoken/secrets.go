package pqtoken

import "slices"

// sharedSecretBytes is what ML-KEM gives with all parameter sets (FIPS 203).
const sharedSecretBytes = 32

// admitSecret says whether a template can be that of a shared secret, as far as
// SoftHSM does not say so when the module makes the object.
func admitSecret(t []attribute) error {
	has := func(kind uint64) bool {
		return slices.ContainsFunc(t, func(a attribute) bool { return a.kind == kind })
	}
	class, _ := valueOf(t, ckaClass)
	length, _ := valueOf(t, ckaValueLen)
	switch {
	case !has(ckaKeyType) || !has(ckaClass):
		return ckrTemplateIncomplete
	case class != ckoSecretKey, has(ckaValue), has(ckaValueLen) && length != sharedSecretBytes:
		return ckrTemplateInconsistent
	}
	return nil
}

// encapsulate is C_EncapsulateKey: the ciphertext and the secret.
func (c *client) encapsulate(from caller, r *request) ([]byte, error) {
	o, err := c.key(from, r.mechanism(), r.ulong(), toEncapsulate)
	t := r.template()
	if err != nil {
		return nil, err
	}
	if err := r.done(); err != nil {
		return nil, err
	}
	if err := admitSecret(t); err != nil {
		return nil, err
	}
	key, err := o.set.encapsulations.UnmarshalBinaryPublicKey(o.attributes[ckaValue])
	if err != nil {
		return nil, err
	}
	ciphertext, secret, err := o.set.encapsulations.Encapsulate(key)
	return withBytes(withBytes(nil, ciphertext), secret), err
}

// decapsulate is C_DecapsulateKey: the secret.
func (c *client) decapsulate(from caller, r *request) ([]byte, error) {
	o, err := c.key(from, r.mechanism(), r.ulong(), toDecapsulate)
	t, ciphertext := r.template(), r.bytes()
	if err != nil {
		return nil, err
	}
	if err := r.done(); err != nil {
		return nil, err
	}
	if err := admitSecret(t); err != nil {
		return nil, err
	}
	// Of the codes that C_DecapsulateKey has, this is the one for a length.
	if len(ciphertext) != o.set.encapsulations.CiphertextSize() {
		return nil, ckrWrappedKeyLenRange
	}
	_, key := o.set.encapsulations.DeriveKeyPair(o.attributes[ckaSeed])
	secret, err := o.set.encapsulations.Decapsulate(key, ciphertext)
	return withBytes(nil, secret), err
}

// wrap gives the PrivateKeyInfo of a key that may be wrapped, for C_WrapKey.
func (c *client) wrap(from caller, r *request) ([]byte, error) {
	o, ok := c.object(from, r.ulong())
	switch {
	case r.done() != nil:
		return nil, r.done()
	case !ok:
		return nil, ckrKeyHandleInvalid
	case o.on == private && !o.is(ckaExtractable):
		return nil, ckrKeyUnextractable
	case o.on != private || !c.store.config.Wraps || o.is(ckaWrapWithTrusted):
		return nil, ckrKeyNotWrappable
	}
	der, err := o.set.wrapSeed(o.attributes[ckaSeed])
	return withBytes(nil, der), err
}

// unwrap makes a key of what C_UnwrapKey has found, which the module sends
// wrapped once more under a key that it sends too.
func (c *client) unwrap(from caller, r *request) ([]byte, error) {
	kek, wrapped, t := r.bytes(), r.bytes(), r.template()
	if err := r.done(); err != nil {
		return nil, err
	}
	keyType, _ := valueOf(t, ckaKeyType) // the module has seen it
	o, err := newObject(private, keyType, t, unwrapped)
	if err != nil {
		return nil, err
	}
	if !c.store.config.Wraps {
		return nil, ckrWrappedKeyInvalid
	}
	der, err := unwrapPadded(kek, wrapped)
	if err != nil {
		return nil, err
	}
	p, seed, err := unwrapSeed(der, keyType)
	if err != nil {
		return nil, err
	}
	if err := o.become(p, seed, nil); err != nil {
		return nil, err
	}
	o.remember(noMechanism)
	return c.add(from, o)
}
