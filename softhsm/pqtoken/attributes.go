package pqtoken

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Attributes, PKCS#11 v3.2, pkcs11t.h.
const (
	ckaClass              = 0x0
	ckaToken              = 0x1
	ckaPrivate            = 0x2
	ckaLabel              = 0x3
	ckaUniqueID           = 0x4
	ckaValue              = 0x11
	ckaTrusted            = 0x86
	ckaCheckValue         = 0x90
	ckaKeyType            = 0x100
	ckaSubject            = 0x101
	ckaID                 = 0x102
	ckaSensitive          = 0x103
	ckaEncrypt            = 0x104
	ckaDecrypt            = 0x105
	ckaWrap               = 0x106
	ckaUnwrap             = 0x107
	ckaSign               = 0x108
	ckaSignRecover        = 0x109
	ckaVerify             = 0x10A
	ckaVerifyRecover      = 0x10B
	ckaDerive             = 0x10C
	ckaStartDate          = 0x110
	ckaEndDate            = 0x111
	ckaModulus            = 0x120
	ckaModulusBits        = 0x121
	ckaPublicExponent     = 0x122
	ckaPublicKeyInfo      = 0x129
	ckaValueLen           = 0x161
	ckaExtractable        = 0x162
	ckaLocal              = 0x163
	ckaNeverExtractable   = 0x164
	ckaAlwaysSensitive    = 0x165
	ckaKeyGenMechanism    = 0x166
	ckaModifiable         = 0x170
	ckaCopyable           = 0x171
	ckaDestroyable        = 0x172
	ckaECParams           = 0x180
	ckaECPoint            = 0x181
	ckaAlwaysAuthenticate = 0x202
	ckaWrapWithTrusted    = 0x210
	ckaWrapTemplate       = 0x40000211
	ckaUnwrapTemplate     = 0x40000212
	ckaDeriveTemplate     = 0x40000213
	ckaAllowedMechanisms  = 0x40000600
	ckaParameterSet       = 0x61D
	ckaEncapsulate        = 0x633
	ckaDecapsulate        = 0x634
	ckaSeed               = 0x637
)

// Object classes.
const (
	ckoPublicKey  = 2
	ckoPrivateKey = 3
	ckoSecretKey  = 4
)

// classes are object classes that an attribute is for.
type classes uint8

const (
	public classes = 1 << iota
	private
	both    = public | private
	neither = classes(0) // an attribute of other objects
)

// ways are how an object comes by a value from a template. An attribute that no
// way sets is read-only.
type ways uint8

const (
	created ways = 1 << iota
	generated
	unwrapped
	modified

	made     = created | generated | unwrapped
	anyhow   = made | modified
	readOnly = ways(0)
)

// form is what the values of an attribute look like.
type form uint8

const (
	octets form = iota
	boolean
	number
	numbers
	date
)

// forms says whether a value is well formed.
var forms = map[form]func(v []byte) bool{
	octets:  func([]byte) bool { return true },
	boolean: func(v []byte) bool { return len(v) == 1 && v[0] <= 1 },
	number:  func(v []byte) bool { return len(v) == ulongBytes },
	numbers: func(v []byte) bool { return len(v)%ulongBytes == 0 },
	date:    func(v []byte) bool { return len(v) == 0 || len(v) == 8 },
}

// rule is what is known of an attribute of one class or both.
type rule struct {
	kind      uint64
	on        classes
	form      form
	may       ways
	initial   []byte // nil: keys lack it unless something gives it
	fixed     bool   // a template can only say what it is anyway
	sensitive bool   // not revealed if SENSITIVE or not EXTRACTABLE
}

var (
	yes = []byte{1}
	no  = []byte{0}
)

// rules are the attributes of keys (PKCS#11 v3.2, sections 4.4, 4.8 to 4.10, and
// the tables of ML-DSA and ML-KEM keys in section 6). Where a usage is fixed,
// [usages] may still allow it.
var rules = []rule{
	{kind: ckaClass, on: both, form: number, may: made},
	{kind: ckaToken, on: both, form: boolean, may: made, initial: no},
	{kind: ckaPrivate, on: public, form: boolean, may: made, initial: no},
	{kind: ckaPrivate, on: private, form: boolean, may: made, initial: yes},
	{kind: ckaModifiable, on: both, form: boolean, may: made, initial: yes},
	{kind: ckaCopyable, on: both, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaDestroyable, on: both, form: boolean, may: made, initial: yes},
	{kind: ckaLabel, on: both, may: anyhow, initial: []byte{}},
	{kind: ckaUniqueID, on: both, may: readOnly},
	{kind: ckaKeyType, on: both, form: number, may: made},
	{kind: ckaID, on: both, may: anyhow, initial: []byte{}},
	{kind: ckaStartDate, on: both, form: date, may: anyhow, initial: []byte{}},
	{kind: ckaEndDate, on: both, form: date, may: anyhow, initial: []byte{}},
	{kind: ckaDerive, on: both, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaLocal, on: both, form: boolean, may: readOnly},
	{kind: ckaKeyGenMechanism, on: both, form: number, may: readOnly},
	{kind: ckaAllowedMechanisms, on: both, form: numbers, may: made},
	{kind: ckaSubject, on: both, may: anyhow, initial: []byte{}},
	{kind: ckaPublicKeyInfo, on: both, may: readOnly},

	{kind: ckaEncrypt, on: public, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaVerify, on: public, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaVerifyRecover, on: public, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaWrap, on: public, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaEncapsulate, on: public, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaTrusted, on: public, form: boolean, may: made, initial: no, fixed: true},

	{kind: ckaDecrypt, on: private, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaSign, on: private, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaSignRecover, on: private, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaUnwrap, on: private, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaDecapsulate, on: private, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaAlwaysAuthenticate, on: private, form: boolean, may: made, initial: no, fixed: true},
	{kind: ckaSensitive, on: private, form: boolean, may: anyhow, initial: yes},
	{kind: ckaExtractable, on: private, form: boolean, may: anyhow, initial: no},
	{kind: ckaAlwaysSensitive, on: private, form: boolean, may: readOnly},
	{kind: ckaNeverExtractable, on: private, form: boolean, may: readOnly},
	{kind: ckaWrapWithTrusted, on: private, form: boolean, may: made, initial: no},

	{kind: ckaParameterSet, on: public, form: number, may: created | generated},
	{kind: ckaParameterSet, on: private, form: number, may: created},
	{kind: ckaValue, on: public, may: created},
	{kind: ckaValue, on: private, may: created, sensitive: true},
	{kind: ckaSeed, on: private, may: created, sensitive: true},

	{kind: ckaCheckValue, on: neither},
	{kind: ckaModulus, on: neither},
	{kind: ckaModulusBits, on: neither},
	{kind: ckaPublicExponent, on: neither},
	{kind: ckaValueLen, on: neither},
	{kind: ckaECParams, on: neither},
	{kind: ckaECPoint, on: neither},
	{kind: ckaWrapTemplate, on: neither},
	{kind: ckaUnwrapTemplate, on: neither},
	{kind: ckaDeriveTemplate, on: neither},
}

// usages are what keys of a type can be for, by class.
var usages = map[uint64]map[classes]uint64{
	ckkMLDSA: {public: ckaVerify, private: ckaSign},
	ckkMLKEM: {public: ckaEncapsulate, private: ckaDecapsulate},
}

// ruleFor is the rule of an attribute for a class. The standard tells an
// attribute that there is not from one that other objects have (section 4.1.1).
func ruleFor(kind uint64, on classes) (rule, error) {
	err := ckrAttributeTypeInvalid
	for _, r := range rules {
		if r.kind == kind && r.on&on != 0 {
			return r, nil
		}
		if r.kind == kind {
			err = ckrTemplateInconsistent
		}
	}
	return rule{}, err
}

// admit says whether a template may give an attribute that value.
func (r *rule) admit(a attribute, by ways, keyType uint64, on classes) error {
	switch {
	case r.may == readOnly:
		return ckrAttributeReadOnly
	case r.may&by == 0:
		return ckrTemplateInconsistent
	case !forms[r.form](a.value):
		return ckrAttributeValueInvalid
	case r.fixed && usages[keyType][on] != r.kind && !bytes.Equal(a.value, r.initial):
		return ckrTemplateInconsistent
	}
	return nil
}

// object is a key.
type object struct {
	on         classes
	set        *parameterSet
	attributes map[uint64][]byte

	slot    uint64
	owner   *client // of a session object; nil if it is the token's
	session uint64  // of a session object
}

// is tells whether the object has a boolean attribute that is true.
func (o *object) is(kind uint64) bool { return bytes.Equal(o.attributes[kind], yes) }

// number is the value of a numeric attribute.
func (o *object) number(kind uint64) (uint64, bool) {
	if v := o.attributes[kind]; len(v) == ulongBytes {
		return binary.NativeEndian.Uint64(v), true
	}
	return 0, false
}

// objectClasses are the classes of keys here.
var objectClasses = map[classes]uint64{public: ckoPublicKey, private: ckoPrivateKey}

// newObject makes an object of a template, with the defaults for what that does
// not say.
func newObject(on classes, keyType uint64, t []attribute, by ways) (*object, error) {
	o := &object{on: on, attributes: map[uint64][]byte{}}
	given := map[uint64]bool{}
	for _, a := range t {
		r, err := ruleFor(a.kind, on)
		if err == nil {
			err = r.admit(a, by, keyType, on)
		}
		if err == nil && given[a.kind] {
			err = ckrTemplateInconsistent
		}
		if err != nil {
			return nil, err
		}
		given[a.kind] = true
		o.attributes[a.kind] = bytes.Clone(a.value)
	}
	contributed := []attribute{{ckaClass, ulongs(objectClasses[on])}, {ckaKeyType, ulongs(keyType)}}
	for _, a := range contributed {
		if given[a.kind] && !bytes.Equal(o.attributes[a.kind], a.value) {
			return nil, ckrTemplateInconsistent
		}
		o.attributes[a.kind] = a.value
	}
	for _, r := range rules {
		if r.on&on != 0 && r.initial != nil && !given[r.kind] {
			o.attributes[r.kind] = r.initial
		}
	}
	if by == unwrapped && !given[ckaExtractable] { // section 5.18, C_UnwrapKey
		o.attributes[ckaExtractable] = yes
	}
	return o, nil
}

// reads is the value of an attribute for somebody who asks.
func (o *object) reads(kind uint64) ([]byte, error) {
	v, ok := o.attributes[kind]
	if !ok {
		return nil, ckrAttributeTypeInvalid
	}
	if r, err := ruleFor(kind, o.on); err != nil || (r.sensitive && (o.is(ckaSensitive) || !o.is(ckaExtractable))) {
		return nil, ckrAttributeSensitive
	}
	return v, nil
}

// matches tells whether the object has all attributes of a template.
func (o *object) matches(t []attribute) bool {
	for _, a := range t {
		if v, err := o.reads(a.kind); err != nil || !bytes.Equal(v, a.value) {
			return false
		}
	}
	return true
}

// allows tells whether the object may be used with a mechanism.
func (o *object) allows(mechanism uint64) bool {
	allowed, ok := o.attributes[ckaAllowedMechanisms]
	return !ok || slices.ContainsFunc(slices.Collect(slices.Chunk(allowed, ulongBytes)), func(m []byte) bool {
		return bytes.Equal(m, ulongs(mechanism))
	})
}

// change sets attributes as C_SetAttributeValue does: all or none.
func (o *object) change(t []attribute) error {
	if !o.is(ckaModifiable) {
		return ckrActionProhibited
	}
	keyType, _ := o.number(ckaKeyType)
	for _, a := range t {
		r, err := ruleFor(a.kind, o.on)
		if err != nil {
			return err
		}
		if r.may&modified == 0 {
			return ckrAttributeReadOnly
		}
		if err := r.admit(a, modified, keyType, o.on); err != nil {
			return err
		}
		// SENSITIVE only becomes true, EXTRACTABLE only false (section 4.10).
		if (a.kind == ckaSensitive && o.is(ckaSensitive) || a.kind == ckaExtractable && !o.is(ckaExtractable)) &&
			!bytes.Equal(a.value, o.attributes[a.kind]) {
			return ckrAttributeReadOnly
		}
	}
	for _, a := range t {
		o.attributes[a.kind] = bytes.Clone(a.value)
	}
	return nil
}
