package pkcs11

import (
	"encoding/binary"

	"github.com/miekg/pkcs11"
)

// ulongBytes is the size of a CK_ULONG on every platform that Go and PKCS#11
// modules share but Windows.
const ulongBytes = 8

// mechanism is a CK_MECHANISM: its type, and its parameter structure as bytes.
type mechanism struct {
	kind   uint
	params []byte
}

// ulongs are CK_ULONGs as C has them in memory.
func ulongs(values ...uint) []byte {
	b := make([]byte, 0, len(values)*ulongBytes)
	for _, v := range values {
		b = binary.NativeEndian.AppendUint64(b, uint64(v))
	}
	return b
}

// Permissions of a key, see template.
const (
	mayBeExtracted = 1 << iota // EXTRACTABLE: it will be wrapped at once, or is the mover's
	mayBeRead                  // not SENSITIVE: its value is for the caller
	mayEncrypt                 // ENCRYPT and DECRYPT, as far as the class has them
	maySign                    // SIGN and VERIFY, as far as the class has them
	mayWrap                    // WRAP and UNWRAP, as far as the class has them
	mayDerive                  // DERIVE
	mayDecapsulate             // DECAPSULATE of a private key, ENCAPSULATE of a public one
	mayStay                    // TOKEN, and then neither MODIFIABLE nor COPYABLE
	mayBeCopied                // says nothing of COPYABLE
)

// template is what an object is made with. Secret and private keys are PRIVATE,
// SENSITIVE and not EXTRACTABLE, and everything is a session object, unless the
// permissions say otherwise.
type template struct {
	class, keyType uint
	may            uint        // permissions
	valueLen       uint        // bytes; zero leaves it out
	more           []valueAttr // beyond what follows from the above
}

// valueAttr is an attribute with its value as C has it.
type valueAttr struct {
	kind  uint
	value []byte
}

// classAttributes are the usage flags that a class has, with their permission.
var classAttributes = map[uint][]struct{ kind, may uint }{
	pkcs11.CKO_SECRET_KEY: {
		{pkcs11.CKA_ENCRYPT, mayEncrypt},
		{pkcs11.CKA_DECRYPT, mayEncrypt},
		{pkcs11.CKA_SIGN, maySign},
		{pkcs11.CKA_VERIFY, maySign},
		{pkcs11.CKA_WRAP, mayWrap},
		{pkcs11.CKA_UNWRAP, mayWrap},
		{pkcs11.CKA_DERIVE, mayDerive},
	},
	pkcs11.CKO_PRIVATE_KEY: {
		{pkcs11.CKA_DECRYPT, mayEncrypt}, {pkcs11.CKA_SIGN, maySign}, {pkcs11.CKA_UNWRAP, mayWrap}, {pkcs11.CKA_DERIVE, mayDerive},
	},
	pkcs11.CKO_PUBLIC_KEY: {
		{pkcs11.CKA_ENCRYPT, mayEncrypt}, {pkcs11.CKA_VERIFY, maySign}, {pkcs11.CKA_WRAP, mayWrap},
	},
}

// capsuleAttributes are the usage flags of key encapsulation.
var capsuleAttributes = map[uint]uint{pkcs11.CKO_PRIVATE_KEY: attrDecapsulate, pkcs11.CKO_PUBLIC_KEY: attrEncapsulate}

// encode writes the template as the data plane reads it.
func (t *template) encode() []byte {
	// Room for all of it: where values are secret, growing would leave copies behind.
	room := flagsRoom
	for _, a := range t.more {
		room += 3*ulongBytes + len(a.value)
	}
	b := make(encodedTemplate, 0, room)
	b = b.add(pkcs11.CKA_CLASS, ulongs(t.class)).add(pkcs11.CKA_KEY_TYPE, ulongs(t.keyType))
	b = b.flag(pkcs11.CKA_TOKEN, t.may&mayStay != 0).flag(pkcs11.CKA_PRIVATE, t.class != pkcs11.CKO_PUBLIC_KEY)
	if t.class != pkcs11.CKO_PUBLIC_KEY {
		b = b.flag(pkcs11.CKA_SENSITIVE, t.may&mayBeRead == 0).flag(pkcs11.CKA_EXTRACTABLE, t.may&(mayBeExtracted|mayBeRead) != 0)
	}
	for _, a := range classAttributes[t.class] {
		b = b.flag(a.kind, t.may&a.may != 0)
	}
	if a, ok := capsuleAttributes[t.class]; ok && t.may&mayDecapsulate != 0 {
		b = b.flag(a, true) // of v3.2: left out where it is not needed
	}
	if t.valueLen != 0 {
		b = b.add(pkcs11.CKA_VALUE_LEN, ulongs(t.valueLen))
	}
	for _, a := range t.more {
		b = b.add(a.kind, a.value)
	}
	if t.may&mayStay != 0 {
		if t.may&mayBeCopied == 0 {
			b = b.flag(pkcs11.CKA_COPYABLE, false)
		}
		// Last: SoftHSM refuses the attributes that come after MODIFIABLE.
		b = b.flag(pkcs11.CKA_MODIFIABLE, false)
	}
	return b
}

// flagsRoom is more than what an encoded template has besides its values.
const flagsRoom = 512

// encodedTemplate is a template as the data plane reads it, see fast.h.
type encodedTemplate []byte

func (b encodedTemplate) add(kind uint, value []byte) encodedTemplate {
	b = binary.NativeEndian.AppendUint64(b, uint64(kind))
	b = binary.NativeEndian.AppendUint64(b, uint64(len(value)))
	b = append(b, value...)
	for len(b)%ulongBytes != 0 {
		b = append(b, 0)
	}
	return b
}

func (b encodedTemplate) flag(kind uint, on bool) encodedTemplate {
	v := []byte{0}
	if on {
		v[0] = 1
	}
	return b.add(kind, v)
}
