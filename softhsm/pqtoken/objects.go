package pqtoken

import (
	"bytes"
	"encoding/binary"
)

// valueOf is the numeric value that a template gives an attribute.
func valueOf(t []attribute, kind uint64) (uint64, bool) {
	for _, a := range t {
		if a.kind == kind && len(a.value) == ulongBytes {
			return binary.NativeEndian.Uint64(a.value), true
		}
	}
	return 0, false
}

// create is C_CreateObject. Private keys need their seed.
func (c *client) create(from caller, r *request) ([]byte, error) {
	t := r.template()
	if err := r.done(); err != nil {
		return nil, err
	}
	class, ok := valueOf(t, ckaClass)
	keyType, _ := valueOf(t, ckaKeyType) // the module has seen it
	if !ok {
		return nil, ckrTemplateIncomplete
	}
	for on, known := range objectClasses {
		if class == known {
			o, err := newObject(on, keyType, t, created)
			if err == nil {
				err = o.importKey(keyType)
			}
			if err != nil {
				return nil, err
			}
			return c.add(from, o)
		}
	}
	return nil, ckrTemplateInconsistent
}

// importKey makes an object the key that its template has.
func (o *object) importKey(keyType uint64) error {
	p, err := lookupSet(keyType, o)
	if err != nil {
		return err
	}
	seed, value := o.attributes[ckaSeed], o.attributes[ckaValue]
	switch {
	case o.on == public && value == nil, o.on == private && seed == nil:
		return ckrTemplateIncomplete
	case o.on == public && !p.isPublicKey(value), o.on == private && len(seed) != p.seedBytes():
		return ckrAttributeValueInvalid
	}
	if err := o.become(p, seed, value); err != nil {
		return err
	}
	if value != nil && !bytes.Equal(value, o.attributes[ckaValue]) {
		return ckrAttributeValueInvalid
	}
	o.remember(noMechanism)
	return nil
}

// existing is the object whose handle comes next.
func (c *client) existing(from caller, r *request) (*object, error) {
	o, ok := c.object(from, r.ulong())
	if !ok {
		return nil, ckrObjectHandleInvalid
	}
	return o, nil
}

// destroy is C_DestroyObject.
func (c *client) destroy(from caller, r *request) ([]byte, error) {
	o, err := c.existing(from, r)
	switch {
	case err != nil:
		return nil, err
	case o.owner == nil && from.isReadOnly():
		return nil, ckrSessionReadOnly
	case !o.is(ckaDestroyable):
		return nil, ckrActionProhibited
	}
	c.store.drop(func(other *object) bool { return other == o })
	return nil, nil
}

// get is C_GetAttributeValue: for each attribute a code and a value.
func (c *client) get(from caller, r *request) (reply []byte, err error) {
	o, err := c.existing(from, r)
	if err != nil {
		return nil, err
	}
	for n := r.ulong(); n > 0 && r.err == nil; n-- {
		v, err := o.reads(r.ulong())
		reply = append(reply, ulongs(uint64(codeOf(err)))...)
		reply = withBytes(reply, v)
	}
	return reply, r.done()
}

// set is C_SetAttributeValue.
func (c *client) set(from caller, r *request) ([]byte, error) {
	o, err := c.existing(from, r)
	t := r.template()
	switch {
	case err != nil:
		return nil, err
	case r.done() != nil:
		return nil, r.done()
	case o.owner == nil && from.isReadOnly():
		return nil, ckrSessionReadOnly
	}
	return nil, o.change(t)
}

// find is C_FindObjectsInit and all C_FindObjects.
func (c *client) find(from caller, r *request) ([]byte, error) {
	t := r.template()
	if err := r.done(); err != nil {
		return nil, err
	}
	var found []uint64
	for _, o := range c.store.objects {
		if c.sees(from, o) && o.matches(t) {
			found = append(found, c.handle(o))
		}
	}
	return ulongs(append([]uint64{uint64(len(found))}, found...)...), nil
}
