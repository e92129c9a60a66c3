package pkcs11

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// keyType is how materials of one spec and usage are made, checked and used.
type keyType struct {
	template template // of the secret or private key, with its permissions in use
	generate uint     // mechanism
	// public is the template of a pair's public key when it is made; its more
	// says which pair. Zero for secret keys.
	public template
	// readPublic takes the public key from the object that was made.
	readPublic func(s *session, spec keyspec.Spec, public handle) (*der.Public, error)
	// makeCheck makes the check value; nil where the public key is all there is.
	makeCheck func(s *session, key handle, k *hsm.Key) ([]byte, error)
	// compare refuses material that is not what the row says.
	compare func(s *session, t *keyType, key handle, k *hsm.Key) error
}

func (t *keyType) isPair() bool { return t.readPublic != nil }

// kinds of materials, as the profile names them.
const (
	kindAES     = "AES"
	kindGeneric = "GENERIC_SECRET"
	kindRSA     = "RSA"
	kindEC      = "EC"
	kindEdwards = "EC_EDWARDS"
	kindMLDSA   = "ML_DSA"
	kindMLKEM   = "ML_KEM"
)

// kindNames are the names of key types.
var kindNames = map[uint]string{
	pkcs11.CKK_AES: kindAES, pkcs11.CKK_GENERIC_SECRET: kindGeneric, pkcs11.CKK_RSA: kindRSA, pkcs11.CKK_EC: kindEC,
	keyTypeEdwards: kindEdwards, keyTypeMLDSA: kindMLDSA, keyTypeMLKEM: kindMLKEM,
}

// keyTypes are the specs that this engine knows, with their usages.
var keyTypes = map[keyspec.Spec]map[keyspec.Usage]keyType{
	keyspec.SymmetricDefault: {keyspec.EncryptDecrypt: {
		template:  template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayEncrypt, valueLen: 32},
		generate:  mechAESKeyGen,
		makeCheck: func(s *session, key handle, k *hsm.Key) ([]byte, error) { return s.makeCanary(key, checkInput(k)) },
		compare: func(s *session, _ *keyType, key handle, k *hsm.Key) error {
			return s.checkCanary(key, k.CheckValue, checkInput(k))
		},
	}},
	keyspec.HMAC224: hmacType(keyspec.HMACSHA224, 28),
	keyspec.HMAC256: hmacType(keyspec.HMACSHA256, 32),
	keyspec.HMAC384: hmacType(keyspec.HMACSHA384, 48),
	keyspec.HMAC512: hmacType(keyspec.HMACSHA512, 64),
	keyspec.RSA2048: rsaTypes(2048),
	keyspec.RSA3072: withTransport(rsaTypes(3072)),
	keyspec.RSA4096: withTransport(rsaTypes(4096)),

	keyspec.ECCNISTP256:   ecTypes(keyspec.ECCNISTP256, keyspec.SignVerify, keyspec.KeyAgreement),
	keyspec.ECCNISTP384:   ecTypes(keyspec.ECCNISTP384, keyspec.SignVerify, keyspec.KeyAgreement),
	keyspec.ECCNISTP521:   ecTypes(keyspec.ECCNISTP521, keyspec.SignVerify, keyspec.KeyAgreement),
	keyspec.ECCSECGP256K1: ecTypes(keyspec.ECCSECGP256K1, keyspec.SignVerify),
	keyspec.ECCNISTEdwards25519: {
		keyspec.SignVerify: pair(keyTypeEdwards, mechEdwardsKeyGen, keyspec.SignVerify, (*session).readPoint, curveAttr(keyspec.ECCNISTEdwards25519)),
	},
	keyspec.MLDSA44:   pqTypes(keyTypeMLDSA, mechMLDSAKeyGen, keyspec.SignVerify, 1),
	keyspec.MLDSA65:   pqTypes(keyTypeMLDSA, mechMLDSAKeyGen, keyspec.SignVerify, 2),
	keyspec.MLDSA87:   pqTypes(keyTypeMLDSA, mechMLDSAKeyGen, keyspec.SignVerify, 3),
	keyspec.MLKEM512:  pqTypes(keyTypeMLKEM, mechMLKEMKeyGen, keyspec.EncapsulateDecapsulate, 1),
	keyspec.MLKEM768:  pqTypes(keyTypeMLKEM, mechMLKEMKeyGen, keyspec.EncapsulateDecapsulate, 2),
	keyspec.MLKEM1024: pqTypes(keyTypeMLKEM, mechMLKEMKeyGen, keyspec.EncapsulateDecapsulate, 3),
}

func hmacType(a keyspec.Algorithm, keyBytes uint) map[keyspec.Usage]keyType {
	row, _ := keyspec.LookupAlgorithm(a)
	return map[keyspec.Usage]keyType{keyspec.GenerateVerifyMAC: {
		template: template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, may: maySign, valueLen: keyBytes},
		generate: mechGenericKeyGen,
		makeCheck: func(s *session, key handle, k *hsm.Key) ([]byte, error) {
			return s.hmac(key, row.Hash, checkInput(k))
		},
		compare: func(s *session, _ *keyType, key handle, k *hsm.Key) error {
			return s.checkHMAC(key, row.Hash, k.CheckValue, checkInput(k))
		},
	}}
}

// usages are what a pair's keys may be used for.
var pairUsages = map[keyspec.Usage]struct {
	private, public uint
	compare         func(s *session, t *keyType, key handle, k *hsm.Key) error
}{
	keyspec.SignVerify:             {maySign, maySign, (*session).proveSigner},
	keyspec.EncryptDecrypt:         {mayEncrypt, mayEncrypt, (*session).proveDecrypter},
	keyspec.KeyAgreement:           {mayDerive, 0, (*session).proveAgreement},
	keyspec.EncapsulateDecapsulate: {mayDecapsulate, mayDecapsulate, (*session).proveDecapsulation},
	keyspec.ImportWrapping:         {mayEncrypt | mayWrap, mayEncrypt, (*session).proveDecrypter},
	keyspec.Transport:              {mayWrap, 0, (*session).proveUnwrapper},
}

func pair(kind, generate uint, usage keyspec.Usage, read func(*session, keyspec.Spec, handle) (*der.Public, error), which ...valueAttr) keyType {
	u := pairUsages[usage]
	return keyType{
		template:   template{class: pkcs11.CKO_PRIVATE_KEY, keyType: kind, may: u.private},
		generate:   generate,
		public:     template{class: pkcs11.CKO_PUBLIC_KEY, keyType: kind, may: u.public, more: which},
		readPublic: read,
		compare:    u.compare,
	}
}

func rsaTypes(bits uint) map[keyspec.Usage]keyType {
	which := []valueAttr{{pkcs11.CKA_MODULUS_BITS, ulongs(bits)}, {pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}}}
	return map[keyspec.Usage]keyType{
		keyspec.SignVerify:     pair(pkcs11.CKK_RSA, mechRSAKeyGen, keyspec.SignVerify, (*session).readModulus, which...),
		keyspec.EncryptDecrypt: pair(pkcs11.CKK_RSA, mechRSAKeyGen, keyspec.EncryptDecrypt, (*session).readModulus, which...),
		keyspec.ImportWrapping: pair(pkcs11.CKK_RSA, mechRSAKeyGen, keyspec.ImportWrapping, (*session).readModulus, which...),
	}
}

// withTransport adds pairs that keys travel to. What they take stands in the place
// of their check value.
func withTransport(types map[keyspec.Usage]keyType) map[keyspec.Usage]keyType {
	t := types[keyspec.ImportWrapping]
	u := pairUsages[keyspec.Transport]
	t.template.may, t.public.may, t.compare = u.private, u.public, u.compare
	t.makeCheck = func(s *session, key handle, k *hsm.Key) ([]byte, error) {
		return s.engine.findings.transport.encode(), s.proveUnwrapper(nil, key, k)
	}
	types[keyspec.Transport] = t
	return types
}

func curveAttr(spec keyspec.Spec) valueAttr {
	return valueAttr{pkcs11.CKA_EC_PARAMS, der.CurveParameters(spec)}
}

func ecTypes(spec keyspec.Spec, usages ...keyspec.Usage) map[keyspec.Usage]keyType {
	types := map[keyspec.Usage]keyType{}
	for _, u := range usages {
		types[u] = pair(pkcs11.CKK_EC, mechECKeyGen, u, (*session).readPoint, curveAttr(spec))
	}
	return types
}

func pqTypes(kind, generate uint, usage keyspec.Usage, set uint) map[keyspec.Usage]keyType {
	return map[keyspec.Usage]keyType{
		usage: pair(kind, generate, usage, (*session).readValue, valueAttr{attrParameterSet, ulongs(set)}),
	}
}

func typeOf(k *hsm.Key) (keyType, error) {
	t, ok := keyTypes[k.Spec][k.Usage]
	if !ok {
		return keyType{}, fmt.Errorf("%w: key spec %q for %q", hsm.ErrUnsupported, k.Spec, k.Usage)
	}
	return t, nil
}

// maxPublicBytes bounds a public key as tokens give it out: ML-DSA-87 is the longest.
const maxPublicBytes = 4 << 10

// read reads an attribute that is not secret.
func (s *session) read(object handle, attribute uint) ([]byte, error) {
	return s.readUpTo(object, attribute, maxPublicBytes)
}

// readUpTo reads an attribute of at most so many bytes. NSS gives a CK_ULONG of an
// object in its database only to a buffer that is no longer than that.
func (s *session) readUpTo(object handle, attribute uint, most int) ([]byte, error) {
	buffer := make([]byte, most)
	n, err := s.engine.module.lib.attribute(s.handle, object, attribute, buffer)
	return buffer[:n:n], err
}

func (s *session) readModulus(spec keyspec.Spec, public handle) (*der.Public, error) {
	n, err := s.read(public, pkcs11.CKA_MODULUS)
	if err != nil {
		return nil, err
	}
	e, err := s.read(public, pkcs11.CKA_PUBLIC_EXPONENT)
	return &der.Public{Spec: spec, N: trimZeros(n), E: trimZeros(e)}, err
}

func trimZeros(n []byte) []byte {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	return n
}

func (s *session) readPoint(spec keyspec.Spec, public handle) (*der.Public, error) {
	value, err := s.read(public, pkcs11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	point, _, err := der.ECPointFromToken(spec, value)
	if err != nil {
		return nil, fmt.Errorf("%w: CKA_EC_POINT of %d bytes: %w", hsm.ErrUnsupported, len(value), err)
	}
	if spec == keyspec.ECCNISTEdwards25519 {
		return &der.Public{Spec: spec, Raw: point}, nil
	}
	return &der.Public{Spec: spec, Point: point}, nil
}

func (s *session) readValue(spec keyspec.Spec, public handle) (*der.Public, error) {
	value, err := s.read(public, pkcs11.CKA_VALUE)
	return &der.Public{Spec: spec, Raw: value}, err
}

// publicTemplate is the template of a public key's object.
func (s *session) publicTemplate(t *keyType, p *der.Public) template {
	made := template{class: pkcs11.CKO_PUBLIC_KEY, keyType: t.public.keyType, may: t.public.may}
	switch t.public.keyType {
	case pkcs11.CKK_RSA:
		made.more = []valueAttr{{pkcs11.CKA_MODULUS, p.N}, {pkcs11.CKA_PUBLIC_EXPONENT, p.E}}
	case pkcs11.CKK_EC:
		made.more = []valueAttr{curveAttr(p.Spec), {pkcs11.CKA_EC_POINT, der.ECPointForToken(p.Point, s.engine.findings.pointDER)}}
	case keyTypeEdwards:
		made.more = []valueAttr{curveAttr(p.Spec), {pkcs11.CKA_EC_POINT, der.ECPointForToken(p.Raw, s.engine.findings.pointDER)}}
	default:
		made.more = append(append(made.more, t.public.more...), valueAttr{pkcs11.CKA_VALUE, p.Raw})
	}
	return made
}
