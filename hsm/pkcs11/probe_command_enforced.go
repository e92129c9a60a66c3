package pkcs11

import (
	"errors"

	"github.com/miekg/pkcs11"
)

// brokenPromise is a token that does what an attribute forbids, and what that means.
type brokenPromise string

func (b brokenPromise) Error() string { return string(b) }

var errNotKnown = errors.New("the token does not know the attribute")

var yes, no = []byte{1}, []byte{0}

// What it means that a promise is not kept.
const (
	keysGetOut     = "who has the PIN can take keys out of this token"
	keysDoMore     = "who has the PIN can use keys for what they are not for"
	keysAreChanged = "who has the PIN can change keys that are in use"
)

// enforcementTrials do what an attribute forbids. One that succeeds is a danger.
var enforcementTrials = []struct {
	what  string
	means string // if it is not kept
	may   uint   // of the AES key that is tried
	more  []valueAttr
	do    func(p *prober, key handle) error
}{
	{"CKA_SENSITIVE: no value is read", keysGetOut, mayEncrypt, nil, func(p *prober, key handle) error {
		_, err := p.engine.module.lib.attribute(p.handle, key, pkcs11.CKA_VALUE, make([]byte, 32))
		return err
	}},
	{"CKA_SENSITIVE: it cannot be taken back", keysGetOut, mayEncrypt, nil, func(p *prober, key handle) error {
		return p.setAttribute(key, pkcs11.CKA_SENSITIVE, false)
	}},
	{"CKA_EXTRACTABLE: a key that is not cannot be wrapped", keysGetOut, mayEncrypt, nil, (*prober).wrapUnderDomain},
	{"CKA_EXTRACTABLE: it cannot be given", keysGetOut, mayEncrypt, nil, func(p *prober, key handle) error {
		return p.setAttribute(key, pkcs11.CKA_EXTRACTABLE, true)
	}},
	{"CKA_EXTRACTABLE: a copy cannot have it either", keysGetOut, mayEncrypt, nil, func(p *prober, key handle) error {
		return p.copyWith(key, attribute(pkcs11.CKA_EXTRACTABLE, true))
	}},
	{"CKA_ENCRYPT: a key without it does not encrypt", keysDoMore, maySign, nil, (*prober).encryptOnce},
	{"CKA_WRAP: a key without it does not wrap", keysGetOut, mayEncrypt, nil, (*prober).wrapUnder},
	{
		"CKA_ALLOWED_MECHANISMS: another mechanism is refused", keysDoMore, mayEncrypt,
		[]valueAttr{{pkcs11.CKA_ALLOWED_MECHANISMS, ulongs(pkcs11.CKM_AES_CBC)}},
		(*prober).encryptOnce,
	},
	{
		"CKA_WRAP_WITH_TRUSTED: only a trusted key wraps it", keysGetOut, mayEncrypt | mayBeExtracted,
		[]valueAttr{{pkcs11.CKA_WRAP_WITH_TRUSTED, yes}},
		(*prober).wrapUnderDomain,
	},
	{
		"CKA_MODIFIABLE: nothing is changed without it", keysAreChanged, mayEncrypt,
		[]valueAttr{{pkcs11.CKA_MODIFIABLE, no}},
		func(p *prober, key handle) error {
			return p.setAttribute(key, pkcs11.CKA_LABEL, "changed")
		},
	},
	{
		"CKA_COPYABLE: no copy is made without it", keysAreChanged, mayEncrypt,
		[]valueAttr{{pkcs11.CKA_COPYABLE, no}},
		func(p *prober, key handle) error {
			return p.copyWith(key, attribute(pkcs11.CKA_LABEL, "copy"))
		},
	},
	{"CKA_UNWRAP_TEMPLATE: what it demands cannot be left out", keysGetOut, mayEncrypt | mayBeExtracted, nil, (*prober).unwrapOpenly},
}

func (p *prober) enforcement() error {
	for _, t := range enforcementTrials {
		err := p.try(&p.profile.Enforced, t.what, func() (err error) {
			making := keyTypeAES
			making.may, making.more = t.may, t.more
			key, err := p.engine.module.lib.generate(p.handle, mechAESKeyGen, making)
			if err != nil {
				return err // the token does not know the attribute
			}
			defer p.destroyAfter(key, &err)
			refused := t.do(p, key)
			if refused == nil {
				return brokenPromise(t.means)
			}
			if lost(refused) || errors.Is(refused, errNotKnown) {
				return refused
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *prober) setAttribute(key handle, kind uint, value any) error {
	return managed("C_SetAttributeValue", p.engine.module.ctx.SetAttributeValue(
		pkcs11.SessionHandle(p.handle), pkcs11.ObjectHandle(key), []*pkcs11.Attribute{attribute(kind, value)}))
}

func (p *prober) copyWith(key handle, a *pkcs11.Attribute) (err error) {
	made, err := p.engine.module.ctx.CopyObject(pkcs11.SessionHandle(p.handle), pkcs11.ObjectHandle(key), []*pkcs11.Attribute{a})
	if err != nil {
		return managed("C_CopyObject", err)
	}
	p.destroyAfter(handle(made), &err)
	return nil
}

func (p *prober) encryptOnce(key handle) error {
	_, err := p.encrypt(key, canary[:], nil)
	return err
}

// domain makes a key that wraps.
func (p *prober) domain(more ...valueAttr) (handle, error) {
	return p.engine.module.lib.generate(p.handle, mechAESKeyGen, template{
		class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayWrap, valueLen: 32, more: more,
	})
}

func (p *prober) wrapUnderDomain(key handle) (err error) {
	domain, err := p.domain()
	if err != nil {
		return err
	}
	defer p.destroyAfter(domain, &err)
	_, err = p.engine.module.lib.wrap(p.handle, p.engine.wrapMech, domain, key, make([]byte, maxBlobBytes))
	return err
}

// wrapUnder wraps another key under one that is not for that.
func (p *prober) wrapUnder(wrapping handle) (err error) {
	making := keyTypeAES
	making.may |= mayBeExtracted
	key, err := p.engine.module.lib.generate(p.handle, mechAESKeyGen, making)
	if err != nil {
		return err
	}
	defer p.destroyAfter(key, &err)
	_, err = p.engine.module.lib.wrap(p.handle, p.engine.wrapMech, wrapping, key, make([]byte, maxBlobBytes))
	return err
}

// unwrapOpenly asks for a key that can be read, of a domain key whose template
// demands SENSITIVE. A token that makes it sensitive nevertheless keeps its word.
func (p *prober) unwrapOpenly(key handle) (err error) {
	domain, err := p.domain(valueAttr{pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate()})
	if err != nil {
		return errNotKnown
	}
	defer p.destroyAfter(domain, &err)
	lib, blob := p.engine.module.lib, make([]byte, maxBlobBytes)
	n, err := lib.wrap(p.handle, p.engine.wrapMech, domain, key, blob)
	if err != nil {
		return err
	}
	opening := keyTypeAES
	opening.may |= mayBeRead
	if !p.engine.unwrapNeedsLength {
		opening.valueLen = 0
	}
	open, err := lib.unwrap(p.handle, p.engine.wrapMech, domain, blob[:n], opening)
	if err != nil {
		return err
	}
	defer p.destroyAfter(open, &err)
	_, err = lib.attribute(p.handle, open, pkcs11.CKA_VALUE, make([]byte, 32))
	return err
}
