package pqtoken_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/softhsm/pqtoken"
)

func TestGenerationIsStrictAboutTemplates(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		name                  string
		mech                  uint
		onPublic, onPrivate   *pkcs11.Attribute
		withoutSet, duplicate bool
		code                  uint // zero: it is made
	}{
		{name: "nothing more", mech: ckmMLDSAKeyPairGen},
		{name: "usage of the type", mech: ckmMLKEMKeyPairGen, onPublic: attr(ckaEncapsulate, true), onPrivate: attr(ckaDecapsulate, true)},
		{name: "other usages off", mech: ckmMLDSAKeyPairGen, onPublic: attr(pkcs11.CKA_ENCRYPT, false), onPrivate: attr(pkcs11.CKA_DECRYPT, false)},
		{name: "class and key type", mech: ckmMLDSAKeyPairGen, onPublic: attr(pkcs11.CKA_KEY_TYPE, ckkMLDSA), onPrivate: attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)},
		{name: "not to be copied", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_COPYABLE, false)},
		{name: "no parameter set", mech: ckmMLDSAKeyPairGen, withoutSet: true, code: pkcs11.CKR_TEMPLATE_INCOMPLETE},
		{name: "parameter set 4", mech: ckmMLDSAKeyPairGen, onPublic: attr(ckaParameterSet, 4), code: ckrParameterSetNotSupported},
		{name: "short parameter set", mech: ckmMLDSAKeyPairGen, onPublic: attr(ckaParameterSet, []byte{1}), code: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID},
		{name: "parameter set of the private key", mech: ckmMLDSAKeyPairGen, onPrivate: attr(ckaParameterSet, 1), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "seed", mech: ckmMLKEMKeyPairGen, onPrivate: attr(ckaSeed, make([]byte, 64)), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "value", mech: ckmMLKEMKeyPairGen, onPublic: attr(pkcs11.CKA_VALUE, make([]byte, 800)), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "read-only attribute", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_LOCAL, true), code: pkcs11.CKR_ATTRIBUTE_READ_ONLY},
		{name: "usage of another type", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_DECRYPT, true), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "usage of the other type", mech: ckmMLDSAKeyPairGen, onPrivate: attr(ckaDecapsulate, true), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "signing with ML-KEM", mech: ckmMLKEMKeyPairGen, onPrivate: attr(pkcs11.CKA_SIGN, true), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "derivation", mech: ckmMLKEMKeyPairGen, onPublic: attr(pkcs11.CKA_DERIVE, true), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "usage of the other class", mech: ckmMLDSAKeyPairGen, onPublic: attr(pkcs11.CKA_SIGN, false), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "attribute of the other class", mech: ckmMLDSAKeyPairGen, onPublic: attr(pkcs11.CKA_SENSITIVE, true), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "attribute of EC keys", mech: ckmMLDSAKeyPairGen, onPublic: attr(pkcs11.CKA_EC_PARAMS, []byte{5, 0}), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "length of secret keys", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_VALUE_LEN, 32), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "unknown attribute", mech: ckmMLDSAKeyPairGen, onPrivate: attr(0x7FFF, true), code: pkcs11.CKR_ATTRIBUTE_TYPE_INVALID},
		{name: "vendor's attribute", mech: ckmMLDSAKeyPairGen, onPublic: attr(0x80000001, true), code: pkcs11.CKR_ATTRIBUTE_TYPE_INVALID},
		{name: "boolean 2", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_SIGN, []byte{2}), code: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID},
		{name: "boolean of eight bytes", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_SIGN, 1), code: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID},
		{name: "another class", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "another key type", mech: ckmMLDSAKeyPairGen, onPublic: attr(pkcs11.CKA_KEY_TYPE, ckkMLKEM), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "an attribute twice", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_SIGN, true), duplicate: true, code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
		{name: "to be copied", mech: ckmMLDSAKeyPairGen, onPrivate: attr(pkcs11.CKA_COPYABLE, true), code: pkcs11.CKR_TEMPLATE_INCONSISTENT},
	} {
		publicTemplate, privateTemplate := []*pkcs11.Attribute{attr(ckaParameterSet, 1)}, []*pkcs11.Attribute{}
		if tc.withoutSet {
			publicTemplate = nil
		}
		if tc.onPublic != nil {
			publicTemplate = template(append(publicTemplate, tc.onPublic)...)
		}
		if tc.onPrivate != nil {
			privateTemplate = append(privateTemplate, tc.onPrivate)
		}
		if tc.duplicate {
			privateTemplate = append(privateTemplate, tc.onPrivate)
		}
		before := len(b.find())
		_, _, err := b.GenerateKeyPair(b.s, mech(tc.mech), publicTemplate, privateTemplate)
		made := len(b.find()) - before
		if tc.code == 0 {
			if err != nil || made != 2 {
				t.Errorf("%s: %v, %d objects, want two", tc.name, err, made)
			}
			continue
		}
		b.refused(tc.name, err, tc.code)
		if made != 0 {
			t.Errorf("%s: left %d objects", tc.name, made)
		}
	}
	withParameter := []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmMLDSAKeyPairGen, make([]byte, 24))}
	_, _, err := b.GenerateKeyPair(b.s, withParameter, template(attr(ckaParameterSet, 1)), nil)
	b.refused("generation with a parameter", err, pkcs11.CKR_MECHANISM_PARAM_INVALID)
}

func TestCreationIsStrictAboutTemplates(t *testing.T) {
	b := newBench(t)
	good := template(attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), attr(pkcs11.CKA_KEY_TYPE, ckkMLKEM), attr(ckaParameterSet, 2),
		attr(pkcs11.CKA_VALUE, make([]byte, 1184)))
	_, err := b.CreateObject(b.s, good)
	b.must(err)
	tooLarge := bytes.Repeat([]byte{0xFF}, 1184) // coefficients that are not below q
	for name, tc := range map[string]struct {
		t    []*pkcs11.Attribute
		code uint
	}{
		"no class":           {good[1:], pkcs11.CKR_TEMPLATE_INCOMPLETE},
		"secret":             {append(good[1:], attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)), pkcs11.CKR_TEMPLATE_INCONSISTENT},
		"no parameter set":   {[]*pkcs11.Attribute{good[0], good[1], good[3]}, pkcs11.CKR_TEMPLATE_INCOMPLETE},
		"no value":           {good[:3], pkcs11.CKR_TEMPLATE_INCOMPLETE},
		"short":              {append(good[:3:3], attr(pkcs11.CKA_VALUE, make([]byte, 1183))), pkcs11.CKR_ATTRIBUTE_VALUE_INVALID},
		"not reduced":        {append(good[:3:3], attr(pkcs11.CKA_VALUE, tooLarge)), pkcs11.CKR_ATTRIBUTE_VALUE_INVALID},
		"private with value": {template(append(good, attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))...), pkcs11.CKR_TEMPLATE_INCOMPLETE},
		"short seed": {
			template(append(good[:3:3], attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(ckaSeed, make([]byte, 32)))...),
			pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
		},
	} {
		_, err := b.CreateObject(b.s, tc.t)
		b.refused(name, err, tc.code)
	}
}

func TestSecretPartsAreRevealedOnlyIfTheyMay(t *testing.T) {
	b := newBench(t)
	for _, sensitive := range []bool{false, true} {
		for _, extractable := range []bool{false, true} {
			publicKey, privateKey := b.mldsaPair(1, attr(pkcs11.CKA_SENSITIVE, sensitive), attr(pkcs11.CKA_EXTRACTABLE, extractable))
			for kind, n := range map[uint]int{ckaSeed: 32, pkcs11.CKA_VALUE: 2560} {
				got, err := b.GetAttributeValue(b.s, privateKey, []*pkcs11.Attribute{attr(kind, nil)})
				if sensitive || !extractable {
					b.refused("C_GetAttributeValue", err, pkcs11.CKR_ATTRIBUTE_SENSITIVE)
				} else if err != nil || len(got[0].Value) != n {
					t.Errorf("attribute 0x%X: %v, want %d bytes", kind, err, n)
				}
			}
			if found := b.find(attr(ckaSeed, make([]byte, 32))); len(found) > 0 {
				t.Errorf("a search by seed finds %v", found)
			}
			for kind, want := range map[uint]bool{pkcs11.CKA_ALWAYS_SENSITIVE: sensitive, pkcs11.CKA_NEVER_EXTRACTABLE: !extractable, pkcs11.CKA_LOCAL: true} {
				if got := b.value(privateKey, kind); (got[0] == 1) != want {
					t.Errorf("sensitive %t, extractable %t: attribute 0x%X = %v", sensitive, extractable, kind, got)
				}
			}
			if got := b.value(publicKey, ckaParameterSet); !bytes.Equal(got, ulong(1)) {
				t.Errorf("parameter set %v, want 1", got)
			}
			_, err := b.GetAttributeValue(b.s, publicKey, []*pkcs11.Attribute{attr(pkcs11.CKA_SENSITIVE, nil)})
			b.refused("SENSITIVE of a public key", err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		}
	}
}

func TestAttributesChangeOnlyOneWay(t *testing.T) {
	b := newBench(t)
	_, privateKey := b.mldsaPair(1, attr(pkcs11.CKA_SENSITIVE, false), attr(pkcs11.CKA_EXTRACTABLE, true))
	_, fixed := b.mldsaPair(1, attr(pkcs11.CKA_MODIFIABLE, false))
	set := func(o pkcs11.ObjectHandle, kind uint, value any) error {
		return b.SetAttributeValue(b.s, o, []*pkcs11.Attribute{attr(kind, value)})
	}
	b.must(set(privateKey, pkcs11.CKA_LABEL, "name"))
	b.must(set(privateKey, pkcs11.CKA_SENSITIVE, true))
	b.must(set(privateKey, pkcs11.CKA_EXTRACTABLE, false))
	b.refused("SENSITIVE=0", set(privateKey, pkcs11.CKA_SENSITIVE, false), pkcs11.CKR_ATTRIBUTE_READ_ONLY)
	b.refused("EXTRACTABLE=1", set(privateKey, pkcs11.CKA_EXTRACTABLE, true), pkcs11.CKR_ATTRIBUTE_READ_ONLY)
	b.refused("SIGN=0", set(privateKey, pkcs11.CKA_SIGN, false), pkcs11.CKR_ATTRIBUTE_READ_ONLY)
	b.refused("an unknown attribute", set(privateKey, 0x7FFF, true), pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
	b.refused("SENSITIVE=2", set(privateKey, pkcs11.CKA_SENSITIVE, []byte{2}), pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
	b.refused("a key that is not modifiable", set(fixed, pkcs11.CKA_LABEL, "name"), pkcs11.CKR_ACTION_PROHIBITED)
	if got := b.value(privateKey, pkcs11.CKA_LABEL); string(got) != "name" {
		t.Errorf("label %q", got)
	}
	_, err := b.CopyObject(b.s, privateKey, nil)
	b.refused("C_CopyObject", err, pkcs11.CKR_ACTION_PROHIBITED)
	_, err = b.GetObjectSize(b.s, privateKey)
	b.refused("C_GetObjectSize", err, pkcs11.CKR_INFORMATION_SENSITIVE)
}

func TestObjectsAreFoundBesideSoftHSMs(t *testing.T) {
	b := newBench(t)
	id := []byte("0123456789abcdef")
	withID := attr(pkcs11.CKA_ID, id)
	aes, err := b.GenerateKey(b.s, mech(pkcs11.CKM_AES_KEY_GEN), template(attr(pkcs11.CKA_VALUE_LEN, 32), withID))
	b.must(err)
	publicKey, privateKey, err := b.GenerateKeyPair(b.s, mech(ckmMLDSAKeyPairGen),
		template(attr(ckaParameterSet, 3), withID), template(withID, attr(pkcs11.CKA_TOKEN, true)))
	b.must(err)
	b.mldsaPair(1)
	for _, tc := range []struct {
		name string
		t    []*pkcs11.Attribute
		want []pkcs11.ObjectHandle
	}{
		{"id", template(withID), []pkcs11.ObjectHandle{aes, publicKey, privateKey}},
		{"id and class", template(withID, attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)), []pkcs11.ObjectHandle{privateKey}},
		{"id and residence", template(withID, attr(pkcs11.CKA_TOKEN, true)), []pkcs11.ObjectHandle{privateKey}},
		{"parameter set", template(attr(ckaParameterSet, 3), attr(pkcs11.CKA_KEY_TYPE, ckkMLDSA)), []pkcs11.ObjectHandle{publicKey, privateKey}},
		{"another id", template(attr(pkcs11.CKA_ID, id[1:])), nil},
		{"another value", template(attr(pkcs11.CKA_VALUE, id)), nil},
	} {
		if got := b.find(tc.t...); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(tc.want))) {
			t.Errorf("by %s: found %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestSessionObjectsGoWithTheirSession(t *testing.T) {
	b := newBench(t)
	inOther := func(s pkcs11.SessionHandle, more ...*pkcs11.Attribute) pkcs11.ObjectHandle {
		_, privateKey, err := b.GenerateKeyPair(s, mech(ckmMLDSAKeyPairGen), template(attr(ckaParameterSet, 1)),
			template(append(more, attr(pkcs11.CKA_SIGN, true))...))
		b.must(err)
		return privateKey
	}
	one, two := b.session(), b.session()
	first, second, resident := inOther(one), inOther(two), inOther(one, attr(pkcs11.CKA_TOKEN, true))
	b.sign(first, mech(ckmMLDSA), nil) // from another session
	b.must(b.CloseSession(one))
	b.refused("C_SignInit after C_CloseSession", b.SignInit(b.s, mech(ckmMLDSA), first), pkcs11.CKR_KEY_HANDLE_INVALID)
	b.sign(second, mech(ckmMLDSA), nil)
	b.sign(resident, mech(ckmMLDSA), nil)
	b.must(b.CloseAllSessions(b.slot))
	b.s = b.session()
	b.must(b.Login(b.s, pkcs11.CKU_USER, b.pin))
	b.refused("C_SignInit after C_CloseAllSessions", b.SignInit(b.s, mech(ckmMLDSA), second), pkcs11.CKR_KEY_HANDLE_INVALID)
	b.sign(resident, mech(ckmMLDSA), nil)
}

func TestTokenObjectsOutliveTheModule(t *testing.T) {
	b := newBench(t)
	id := attr(pkcs11.CKA_ID, []byte("resident"))
	publicKey, privateKey, err := b.GenerateKeyPair(b.s, mech(ckmMLDSAKeyPairGen),
		template(attr(ckaParameterSet, 1), attr(pkcs11.CKA_VERIFY, true), attr(pkcs11.CKA_TOKEN, true), id),
		template(attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_TOKEN, true), id))
	b.must(err)
	b.must(b.Finalize())
	b.start()
	b.refused("C_SignInit with a handle of before", b.SignInit(b.s, mech(ckmMLDSA), privateKey), pkcs11.CKR_KEY_HANDLE_INVALID)
	found := b.find(id)
	if len(found) != 2 || slices.Contains(found, publicKey) {
		t.Fatalf("found %v after C_Finalize, want two with new handles", found)
	}
	signature := b.sign(found[1], mech(ckmMLDSA), nil)
	b.must(b.verify(found[0], mech(ckmMLDSA), nil, signature))
	b.must(b.DestroyObject(b.s, found[1]))
	if found := b.find(id); len(found) != 1 {
		t.Errorf("found %v after C_DestroyObject, want the public key", found)
	}
}

func TestObjectsWantTheirSessionAndLogin(t *testing.T) {
	b := newBench(t)
	readOnly, err := b.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION)
	b.must(err)
	make := func(s pkcs11.SessionHandle, more ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		_, privateKey, err := b.GenerateKeyPair(s, mech(ckmMLDSAKeyPairGen), template(attr(ckaParameterSet, 1)),
			template(append(more, attr(pkcs11.CKA_SIGN, true))...))
		return privateKey, err
	}
	resident, err := make(b.s, attr(pkcs11.CKA_TOKEN, true))
	b.must(err)
	lasting, err := make(b.s, attr(pkcs11.CKA_DESTROYABLE, false))
	b.must(err)
	_, err = make(readOnly, attr(pkcs11.CKA_TOKEN, true))
	b.refused("a token object in a read-only session", err, pkcs11.CKR_SESSION_READ_ONLY)
	_, err = make(readOnly)
	b.must(err)
	b.refused("C_DestroyObject in a read-only session", b.DestroyObject(readOnly, resident), pkcs11.CKR_SESSION_READ_ONLY)
	b.refused("C_SetAttributeValue in a read-only session", b.SetAttributeValue(readOnly, resident, template(attr(pkcs11.CKA_LABEL, "x"))),
		pkcs11.CKR_SESSION_READ_ONLY)
	b.refused("C_DestroyObject of what is not destroyable", b.DestroyObject(b.s, lasting), pkcs11.CKR_ACTION_PROHIBITED)
	b.must(b.Logout(b.s))
	if found := b.find(); len(found) != 3 {
		t.Errorf("found %v after C_Logout, want the three public keys", found)
	}
	b.refused("C_SignInit without login", b.SignInit(b.s, mech(ckmMLDSA), resident), pkcs11.CKR_KEY_HANDLE_INVALID)
	_, err = make(b.s)
	b.refused("a private object without login", err, pkcs11.CKR_USER_NOT_LOGGED_IN)
	_, err = make(b.s, attr(pkcs11.CKA_PRIVATE, false))
	b.must(err)
	b.must(b.Login(b.s, pkcs11.CKU_USER, b.pin))
	b.refused("C_SignInit with a handle of before the login", b.SignInit(b.s, mech(ckmMLDSA), resident), pkcs11.CKR_KEY_HANDLE_INVALID)
	if found := b.find(attr(pkcs11.CKA_TOKEN, true)); len(found) != 1 {
		t.Errorf("found %v after C_Login, want the resident key", found)
	}
}

func TestInitialisedTokensAreEmpty(t *testing.T) {
	b := newBench(t)
	_, _, err := b.GenerateKeyPair(b.s, mech(ckmMLDSAKeyPairGen), template(attr(ckaParameterSet, 1), attr(pkcs11.CKA_TOKEN, true)), nil)
	b.must(err)
	b.must(b.CloseAllSessions(b.slot))
	soPIN := readFile(t, b.softHSM.PINFile[:len(b.softHSM.PINFile)-len(".pin")]+".so-pin")
	b.must(b.InitToken(b.slot, soPIN, "pq"))
	b.s = b.session()
	if found := b.find(); len(found) > 0 {
		t.Errorf("found %v after C_InitToken", found)
	}
}

func TestMechanismsAreListed(t *testing.T) {
	b := newBench(t)
	list, err := b.GetMechanismList(b.slot)
	b.must(err)
	for _, m := range []uint{pkcs11.CKM_AES_GCM, ckmMLDSA, ckmMLDSAKeyPairGen, ckmMLKEM, ckmMLKEMKeyPairGen} {
		if !slices.ContainsFunc(list, func(l *pkcs11.Mechanism) bool { return l.Mechanism == m }) {
			t.Errorf("mechanism 0x%X is not listed", m)
		}
	}
	for kind, want := range map[uint]pkcs11.MechanismInfo{
		ckmMLDSAKeyPairGen: {MinKeySize: 1312, MaxKeySize: 2592, Flags: pkcs11.CKF_GENERATE_KEY_PAIR},
		ckmMLDSA:           {MinKeySize: 1312, MaxKeySize: 2592, Flags: pkcs11.CKF_SIGN | pkcs11.CKF_VERIFY},
		ckmMLKEMKeyPairGen: {MinKeySize: 800, MaxKeySize: 1568, Flags: pkcs11.CKF_GENERATE_KEY_PAIR},
		ckmMLKEM:           {MinKeySize: 800, MaxKeySize: 1568, Flags: 0x10000000 | 0x20000000},
	} {
		if got, err := b.GetMechanismInfo(b.slot, mech(kind)); err != nil || got != want {
			t.Errorf("C_GetMechanismInfo(0x%X) = %+v, %v, want %+v", kind, got, err, want)
		}
	}
	if got, err := b.GetMechanismInfo(b.slot, mech(pkcs11.CKM_AES_GCM)); err != nil || got.Flags&pkcs11.CKF_ENCRYPT == 0 {
		t.Errorf("C_GetMechanismInfo of SoftHSM's = %+v, %v", got, err)
	}
	_, err = b.GetMechanismInfo(b.slot+1000, mech(ckmMLDSA))
	b.refused("C_GetMechanismInfo of no slot", err, pkcs11.CKR_SLOT_ID_INVALID)
	info, err := b.GetInfo()
	if err != nil || info.CryptokiVersion != (pkcs11.Version{Major: 3, Minor: 2}) {
		t.Errorf("C_GetInfo = %+v, %v, want Cryptoki 3.2", info, err)
	}
}

func TestClosedTokensAreBroken(t *testing.T) {
	b := newBenchOf(t, pqtoken.Config{})
	_, privateKey := b.mldsaPair(1)
	b.must(b.token.Close())
	b.refused("C_SignInit", b.SignInit(b.s, mech(ckmMLDSA), privateKey), pkcs11.CKR_DEVICE_ERROR)
	b.must(b.Finalize())
	b.refused("C_Initialize", b.Initialize(), pkcs11.CKR_DEVICE_ERROR)
}
