package main

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// The two libraries that read a token.
const (
	readByCrypto11 = "crypto11"
	readByMiekg    = "miekg/pkcs11"
)

// attributeKind divides attributes for the table.
type attributeKind uint8

const (
	kindState attributeKind = iota // what can become of the object
	kindUse                        // what it may be used for
)

// inspectedAttributes are the attributes asked for, in the order of the table.
var inspectedAttributes = []struct {
	name      string
	attribute uint
	kind      attributeKind
}{
	{"TOKEN", pkcs11.CKA_TOKEN, kindState},
	{"PRIVATE", pkcs11.CKA_PRIVATE, kindState},
	{"SENSITIVE", pkcs11.CKA_SENSITIVE, kindState},
	{"ALWAYS_SENSITIVE", pkcs11.CKA_ALWAYS_SENSITIVE, kindState},
	{"EXTRACTABLE", pkcs11.CKA_EXTRACTABLE, kindState},
	{"NEVER_EXTRACTABLE", pkcs11.CKA_NEVER_EXTRACTABLE, kindState},
	{"WRAP_WITH_TRUSTED", pkcs11.CKA_WRAP_WITH_TRUSTED, kindState},
	{"TRUSTED", pkcs11.CKA_TRUSTED, kindState},
	{"MODIFIABLE", pkcs11.CKA_MODIFIABLE, kindState},
	{"ENCRYPT", pkcs11.CKA_ENCRYPT, kindUse},
	{"DECRYPT", pkcs11.CKA_DECRYPT, kindUse},
	{"SIGN", pkcs11.CKA_SIGN, kindUse},
	{"VERIFY", pkcs11.CKA_VERIFY, kindUse},
	{"WRAP", pkcs11.CKA_WRAP, kindUse},
	{"UNWRAP", pkcs11.CKA_UNWRAP, kindUse},
	{"DERIVE", pkcs11.CKA_DERIVE, kindUse},
}

// Names of classes and key types, those of PKCS#11 without their prefix.
var (
	classNames = map[uint]string{
		pkcs11.CKO_DATA: "DATA", pkcs11.CKO_CERTIFICATE: "CERTIFICATE", pkcs11.CKO_PUBLIC_KEY: "PUBLIC_KEY",
		pkcs11.CKO_PRIVATE_KEY: "PRIVATE_KEY", pkcs11.CKO_SECRET_KEY: "SECRET_KEY",
		pkcs11.CKO_HW_FEATURE: "HW_FEATURE", pkcs11.CKO_DOMAIN_PARAMETERS: "DOMAIN_PARAMETERS", pkcs11.CKO_MECHANISM: "MECHANISM",
	}
	keyTypeNames = map[uint]string{
		pkcs11.CKK_RSA: "RSA", pkcs11.CKK_DSA: "DSA", pkcs11.CKK_DH: "DH", pkcs11.CKK_EC: "EC",
		pkcs11.CKK_GENERIC_SECRET: "GENERIC_SECRET", pkcs11.CKK_DES3: "DES3", pkcs11.CKK_AES: "AES",
		pkcs11.CKK_SHA_1_HMAC: "SHA_1_HMAC", pkcs11.CKK_SHA224_HMAC: "SHA224_HMAC", pkcs11.CKK_SHA256_HMAC: "SHA256_HMAC",
		pkcs11.CKK_SHA384_HMAC: "SHA384_HMAC", pkcs11.CKK_SHA512_HMAC: "SHA512_HMAC",
		0x40: "EC_EDWARDS", 0x41: "EC_MONTGOMERY", 0x49: "ML_KEM", 0x4A: "ML_DSA", 0x4B: "SLH_DSA", // v3.0 and v3.2
	}
	// keyClasses are the classes whose objects have a key type.
	keyClasses = []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY}
)

// nameOf is a number's name, or the number.
func nameOf(names map[uint]string, n uint) string {
	if name, ok := names[n]; ok {
		return name
	}
	return fmt.Sprintf("0x%X", n)
}

// group is a class and, of keys, a type. crypto11 fails as a whole on a search that
// finds one key which it does not understand, so it is asked group by group.
type group struct {
	class, keyType uint
}

func (g group) names() (class, keyType string) {
	if slices.Contains(keyClasses, g.class) {
		keyType = nameOf(keyTypeNames, g.keyType)
	}
	return nameOf(classNames, g.class), keyType
}

// read reads the token through crypto11 and, for what that one cannot read, through a
// context of miekg/pkcs11 on the module that crypto11 has initialised and logged in to.
func (t *inspectedToken) read(c *crypto11.Context, configured configuredToken) error {
	beside := pkcs11.New(configured.module.Path)
	if beside == nil {
		return fmt.Errorf("%s cannot be opened a second time", configured.module.Path)
	}
	defer beside.Destroy()
	slot, err := t.findSlot(beside, configured)
	if err != nil {
		return err
	}
	session, err := beside.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return fmt.Errorf("C_OpenSession: %w", err)
	}
	defer beside.CloseSession(session) //nolint:errcheck // crypto11 finalises the module next
	r := &miekgReader{beside, session}
	groups, err := r.groups()
	if err != nil {
		return err
	}
	for g, handles := range groups {
		t.readGroup(c, r, g, handles)
	}
	slices.SortFunc(t.Objects, func(a, b inspectedObject) int {
		return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Class, b.Class))
	})
	slices.SortFunc(t.Unread, func(a, b unreadGroup) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.KeyType, b.KeyType))
	})
	return nil
}

// findSlot finds the one slot of the token, which the login has found before.
func (t *inspectedToken) findSlot(ctx *pkcs11.Ctx, configured configuredToken) (uint, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("C_GetSlotList: %w", err)
	}
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil || (configured.Label != "" && info.Label != configured.Label) || (configured.Serial != "" && info.SerialNumber != configured.Serial) {
			continue
		}
		t.Label, t.Serial, t.Manufacturer, t.Model = info.Label, info.SerialNumber, info.ManufacturerID, info.Model
		t.Firmware = fmt.Sprintf("%d.%d", info.FirmwareVersion.Major, info.FirmwareVersion.Minor)
		return slot, nil
	}
	return 0, errors.New("the token has gone")
}

// readGroup reads the objects of a group.
func (t *inspectedToken) readGroup(c *crypto11.Context, r *miekgReader, g group, handles []pkcs11.ObjectHandle) {
	class, keyType := g.names()
	keys, err := findWithCrypto11(c, g)
	if err == nil && len(keys) != len(handles) {
		t.Problems = append(t.Problems, fmt.Sprintf("crypto11 finds %d objects of class %s, type %s, and miekg/pkcs11 %d", len(keys), class, dash(keyType), len(handles)))
	}
	if err == nil {
		for _, key := range keys {
			t.Objects = append(t.Objects, readObject(class, keyType, readByCrypto11, func(attribute uint) ([]byte, error) {
				a, err := c.GetAttribute(key, attribute)
				if err != nil {
					return nil, err
				}
				return a.Value, nil
			}))
		}
		return
	}
	t.Unread = append(t.Unread, unreadGroup{class, keyType, len(handles), err.Error()})
	for _, handle := range handles {
		t.Objects = append(t.Objects, readObject(class, keyType, readByMiekg, func(attribute uint) ([]byte, error) {
			return r.attribute(handle, attribute)
		}))
	}
}

// findWithCrypto11 finds the objects of a group.
func findWithCrypto11(c *crypto11.Context, g group) ([]any, error) {
	filter := crypto11.NewAttributeSet()
	for kind, value := range map[crypto11.AttributeType]any{crypto11.CkaToken: true, crypto11.CkaKeyType: g.keyType} {
		if err := filter.Set(kind, value); err != nil {
			return nil, err
		}
	}
	var found []any
	switch g.class {
	case pkcs11.CKO_SECRET_KEY:
		keys, err := c.FindKeysWithAttributes(filter)
		for _, key := range keys {
			found = append(found, key)
		}
		return found, err
	case pkcs11.CKO_PRIVATE_KEY:
		keys, err := c.FindPrivateKeysWithAttributes(filter)
		for _, key := range keys {
			found = append(found, key)
		}
		return found, err
	}
	return nil, errors.New("it reads no objects of that class by themselves")
}

// readObject reads one object, attribute by attribute: asked for several at once,
// tokens answer with an error if one is not there.
func readObject(class, keyType, reader string, attribute func(uint) ([]byte, error)) inspectedObject {
	o := inspectedObject{Class: class, KeyType: keyType, Reader: reader, Attributes: map[string]bool{}, Problems: []string{}}
	if label, err := attribute(pkcs11.CKA_LABEL); err == nil {
		o.Label = string(label)
	}
	if id, err := attribute(pkcs11.CKA_ID); err == nil {
		o.ID = hex.EncodeToString(id)
	}
	for _, a := range inspectedAttributes {
		if value, err := attribute(a.attribute); err == nil && len(value) == 1 {
			o.Attributes[a.name] = isTrue(value)
		}
	}
	return o
}

// miekgReader reads objects through miekg/pkcs11, in a session of its own.
type miekgReader struct {
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
}

// findAtOnce is how many handles are fetched with one call.
const findAtOnce = 100

// groups are the handles of all token objects, by group.
func (r *miekgReader) groups() (map[group][]pkcs11.ObjectHandle, error) {
	if err := r.ctx.FindObjectsInit(r.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}); err != nil {
		return nil, fmt.Errorf("C_FindObjectsInit: %w", err)
	}
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := r.ctx.FindObjects(r.session, findAtOnce)
		if err != nil {
			return nil, fmt.Errorf("C_FindObjects: %w", err)
		}
		if all = append(all, some...); len(some) == 0 {
			break
		}
	}
	if err := r.ctx.FindObjectsFinal(r.session); err != nil {
		return nil, fmt.Errorf("C_FindObjectsFinal: %w", err)
	}
	groups := map[group][]pkcs11.ObjectHandle{}
	for _, handle := range all {
		g, err := r.group(handle)
		if err != nil {
			return nil, err
		}
		groups[g] = append(groups[g], handle)
	}
	return groups, nil
}

// group finds the group of an object.
func (r *miekgReader) group(handle pkcs11.ObjectHandle) (g group, err error) {
	value, err := r.attribute(handle, pkcs11.CKA_CLASS)
	if err == nil {
		g.class, err = ulong(value)
	}
	if err == nil && slices.Contains(keyClasses, g.class) {
		if value, err = r.attribute(handle, pkcs11.CKA_KEY_TYPE); err == nil {
			g.keyType, err = ulong(value)
		}
	}
	return g, err
}

func (r *miekgReader) attribute(handle pkcs11.ObjectHandle, attribute uint) ([]byte, error) {
	got, err := r.ctx.GetAttributeValue(r.session, handle, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil {
		return nil, fmt.Errorf("C_GetAttributeValue of 0x%X: %w", attribute, err)
	}
	return got[0].Value, nil
}

// ulong is a CK_ULONG as a token returns it.
func ulong(value []byte) (uint, error) {
	if len(value) != 8 {
		return 0, fmt.Errorf("a number of %d bytes", len(value))
	}
	return uint(binary.NativeEndian.Uint64(value)), nil
}
