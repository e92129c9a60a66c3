package pkcs11

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// A parcel is what travels: its version, the hash of RSAES-OAEP, the form of AES key
// wrap, a byte each; then an AES-256 key that the sending token made for this one key,
// under RSA, and then the material under that.
const (
	parcelVersion = 1
	parcelHead    = 3
)

// transportHashes are the hashes of RSAES-OAEP, the best first, by the numbers that
// parcels have for them. Numbers differ in two bits, so that no single flip makes one
// of another.
var transportHashes = []struct {
	number byte
	hash   crypto.Hash
}{{2, crypto.SHA256}, {1, crypto.SHA1}}

// Forms of AES key wrap, as parcels number them.
const (
	formPlain  = 1 // RFC 3394
	formPadded = 2 // RFC 5649
)

// formNames are the forms, the best first.
var formNames = []struct {
	form byte
	name string
}{{formPadded, "RFC 5649"}, {formPlain, "RFC 3394"}}

// transportWays are the ways in which keys travel, the best first.
type transportWays struct {
	hashes []byte // numbers of transportHashes
	wraps  []transportWrap
}

// transportWrap is a form of AES key wrap and how this token does it.
type transportWrap struct {
	form        byte
	mechanism   uint
	needsLength bool // CKA_VALUE_LEN in templates of C_UnwrapKey
}

func (w *transportWays) works() bool { return len(w.hashes) > 0 && len(w.wraps) > 0 }

// encode writes what a token takes: for hashes and forms each their number and they.
func (w *transportWays) encode() []byte {
	b := append([]byte{parcelVersion, byte(len(w.hashes))}, w.hashes...)
	b = append(b, byte(len(w.wraps)))
	for _, wrap := range w.wraps {
		b = append(b, wrap.form)
	}
	return b
}

// meets are the ways that this token has and another takes. [hsm.ErrUnsupported] if
// there are none.
func (w *transportWays) meets(taken []byte) (transportWays, error) {
	var both transportWays
	if len(taken) < 2 || taken[0] != parcelVersion || len(taken) < 3+int(taken[1]) {
		return both, fmt.Errorf("%w: the other token takes keys in no way that is known here", hsm.ErrUnsupported)
	}
	hashes, forms := taken[2:2+taken[1]], taken[3+taken[1]:]
	for _, h := range w.hashes {
		if slices.Contains(hashes, h) {
			both.hashes = append(both.hashes, h)
		}
	}
	for _, wrap := range w.wraps {
		if slices.Contains(forms, wrap.form) {
			both.wraps = append(both.wraps, wrap)
		}
	}
	if !both.works() {
		return both, fmt.Errorf("%w: no way in which keys travel is known to both tokens", hsm.ErrUnsupported)
	}
	return both, nil
}

// transportTemplate is the key that one material travels under.
var transportTemplate = template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayWrap, valueLen: 32}

// Send wraps a key for another token. The material is wrapped where it is unwrapped,
// in one call on one session: it is in the clear in the token alone. See [hsm.Token].
func (e *Engine) Send(ctx context.Context, on hsm.Call, k *hsm.Key, to *hsm.Key) ([]byte, error) {
	if _, err := travels(k); err != nil {
		return nil, err
	}
	if k.Residency != hsm.Wrapped {
		return nil, fmt.Errorf("%w: key %s stays in its token and cannot travel", hsm.ErrUnsupported, k.KeyID)
	}
	target, err := transportTarget(to)
	if err != nil {
		return nil, err
	}
	ways, err := e.findings.transport.meets(to.CheckValue)
	if err != nil {
		return nil, err
	}
	from := cloneKey(k)
	e.learn(ctx, &from)
	w := work{mechanism: "send", run: func(s *session, _ handle, _ [3][]byte) (_ []byte, err error) {
		key, err := s.admitKey(&from, mayBeExtracted)
		if err != nil {
			return nil, err
		}
		defer s.destroyAfter(key, &err)
		return s.pack(key, target, &ways)
	}}
	return e.do(ctx, on, nil, &w)
}

// travels is the type of a key that may travel: those of the KMS API, not the pairs
// that others wrap to.
func travels(k *hsm.Key) (keyType, error) {
	if wrapsTo(k.Usage) {
		return keyType{}, fmt.Errorf("%w: pairs for %s do not travel", hsm.ErrUnsupported, k.Usage)
	}
	return typeOf(k)
}

// transportTarget is the public key of a pair that keys travel to.
// [hsm.ErrInvalidPublicKey] if it is none.
func transportTarget(to *hsm.Key) (*der.Public, error) {
	t, ok := keyTypes[to.Spec][to.Usage]
	if !ok || to.Usage != keyspec.Transport || t.template.keyType != pkcs11.CKK_RSA {
		return nil, fmt.Errorf("%w: a key does not travel to one of %q for %q", hsm.ErrUnsupported, to.Spec, to.Usage)
	}
	public, err := der.ParsePublic(to.PublicKey)
	if err != nil || public.Spec != to.Spec {
		return nil, fmt.Errorf("%w: of the pair to travel to", hsm.ErrInvalidPublicKey)
	}
	return public, nil
}

// pack wraps a key that may be extracted for another token.
func (s *session) pack(key handle, target *der.Public, ways *transportWays) (_ []byte, err error) {
	lib := s.engine.module.lib
	to, err := lib.create(s.handle, template{
		class: pkcs11.CKO_PUBLIC_KEY, keyType: pkcs11.CKK_RSA, may: mayWrap,
		more: []valueAttr{{pkcs11.CKA_MODULUS, target.N}, {pkcs11.CKA_PUBLIC_EXPONENT, target.E}},
	})
	if err != nil {
		return nil, err
	}
	defer s.destroyAfter(to, &err)
	making := transportTemplate
	making.may |= mayBeExtracted
	carrier, err := lib.generate(s.handle, mechAESKeyGen, making)
	if err != nil {
		return nil, err
	}
	defer s.destroyAfter(carrier, &err)
	for _, wrap := range ways.wraps {
		var parcel []byte
		if parcel, err = s.wrapParcel(key, carrier, to, target.Spec, ways.hashes[0], &wrap); err == nil || !refuses(err) {
			return parcel, err
		}
	}
	return nil, err
}

// refuses tells a token that does not wrap such a key in one way from one in trouble.
func refuses(err error) bool {
	c := classOf(err, false)
	return c == classUnsupported || c == classData
}

// wrapParcel writes a parcel.
func (s *session) wrapParcel(key, carrier, to handle, spec keyspec.Spec, hash byte, wrap *transportWrap) ([]byte, error) {
	lib, n := s.engine.module.lib, modulusBytes[spec]
	parcel := make([]byte, parcelHead+n+maxBlobBytes)
	copy(parcel, []byte{parcelVersion, hash, wrap.form})
	outer, err := lib.wrapWith(s.handle, oaep(transportHash(hash)), to, carrier, parcel[parcelHead:][:n])
	if err != nil {
		return nil, err
	}
	if outer != n {
		return nil, fmt.Errorf("%w: a key wrapped under %s has %d bytes", hsm.ErrUnavailable, spec, outer)
	}
	inner, err := lib.wrap(s.handle, wrap.mechanism, carrier, key, parcel[parcelHead+n:])
	return parcel[:parcelHead+n+inner], err
}

// transportHash is the hash of a number of transportHashes; zero if it is none.
func transportHash(number byte) crypto.Hash {
	for _, h := range transportHashes {
		if h.number == number {
			return h.hash
		}
	}
	return 0
}

// Receive brings in a key that another token has sent. See [hsm.Token].
func (e *Engine) Receive(ctx context.Context, on hsm.Call, through *hsm.Key, parcel []byte, k hsm.Key) (hsm.Key, error) {
	t, err := e.receives(through, &k)
	if err != nil {
		return hsm.Key{}, err
	}
	k = cloneKey(&k)
	if k.Residency, k.Generation, err = e.arrival(&k); err != nil {
		return hsm.Key{}, err
	}
	wrap, err := e.findings.transport.opens(parcel, modulusBytes[through.Spec])
	if err != nil {
		return hsm.Key{}, err
	}
	made := make(chan hsm.Key, 1)
	w := work{mechanism: "receive", in: [3][]byte{parcel}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		k := cloneKey(&k)
		err := s.unpack(key, in[0], wrap, &t, &k)
		if err == nil {
			made <- k
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, through, &w); err != nil {
		return hsm.Key{}, err
	}
	return <-made, nil
}

// Receives is nil if such keys can be received. See [hsm.Token].
func (e *Engine) Receives(store string, spec keyspec.Spec, usage keyspec.Usage) error {
	k := hsm.Key{Store: store, Spec: spec, Usage: usage}
	if _, err := travels(&k); err != nil {
		return err
	}
	for _, made := range []keyID{{spec, usage}, {keyspec.RSA3072, keyspec.Transport}} {
		if err := e.findings.makes(made.spec, made.usage); err != nil {
			return err
		}
	}
	_, _, err := e.arrival(&k)
	return err
}

// arrival is how a key that arrives lives in its store, and under which generation.
func (e *Engine) arrival(k *hsm.Key) (hsm.Residency, int32, error) {
	generation, err := e.newestGeneration(k.Store)
	if err != nil {
		return "", 0, err
	}
	arriving := *k
	arriving.Generation = generation
	residency := e.residencyFor(&arriving)
	if residency != hsm.Wrapped {
		return "", 0, fmt.Errorf("%w: %s keys stay in the token here, and none travel to it", hsm.ErrUnsupported, k.Spec)
	}
	return residency, generation, nil
}

// receives is the type of a key that is to come through a pair of this token's.
func (e *Engine) receives(through, k *hsm.Key) (t keyType, err error) {
	if t, err = travels(k); err != nil {
		return t, err
	}
	if through.Usage != keyspec.Transport {
		return t, fmt.Errorf("%w: keys do not travel through a pair for %q", hsm.ErrUnsupported, through.Usage)
	}
	if _, err := typeOf(through); err != nil {
		return t, err
	}
	if t.isPair() && len(k.CheckValue) > 0 || !t.isPair() && len(k.PublicKey) > 0 {
		return t, fmt.Errorf("%w: a key of %s with what one of another kind has", hsm.ErrWrongMaterial, k.Spec)
	}
	return t, e.findings.makes(k.Spec, k.Usage)
}

// opens is how a parcel's material is unwrapped. [hsm.ErrInvalidCiphertext] if it is
// no parcel, [hsm.ErrUnsupported] if its ways are not this token's.
func (w *transportWays) opens(parcel []byte, modulus int) (*transportWrap, error) {
	if len(parcel) <= parcelHead+modulus || len(parcel) > parcelHead+modulus+maxBlobBytes || parcel[0] != parcelVersion ||
		transportHash(parcel[1]) == 0 || parcel[2] != formPlain && parcel[2] != formPadded {
		return nil, fmt.Errorf("%w: no parcel", hsm.ErrInvalidCiphertext)
	}
	i := slices.IndexFunc(w.wraps, func(wrap transportWrap) bool { return wrap.form == parcel[2] })
	if i < 0 || !slices.Contains(w.hashes, parcel[1]) {
		return nil, fmt.Errorf("%w: a parcel in a way that this token does not open", hsm.ErrUnsupported)
	}
	return &w.wraps[i], nil
}

// unpack opens a parcel, proves what comes out and fills in k's outcome. The key
// may be extracted until it is wrapped, which is at once.
func (s *session) unpack(through handle, parcel []byte, wrap *transportWrap, t *keyType, k *hsm.Key) (err error) {
	key, err := s.openParcel(through, parcel, wrap, t)
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	if err := t.compare(s, t, key, k); err != nil {
		return fmt.Errorf("key %s, which has travelled: %w", k.KeyID, err)
	}
	if err := s.wrapAndBind(key, k); err != nil {
		return err
	}
	return s.comesBack(t, k)
}

// openParcel makes an object of a parcel's material.
func (s *session) openParcel(through handle, parcel []byte, wrap *transportWrap, t *keyType) (key handle, err error) {
	n := parcelHead + s.wrappingBytes()
	carrier, err := s.unwrapCarrier(through, transportHash(parcel[1]), parcel[parcelHead:n])
	if err != nil {
		return 0, err
	}
	defer s.destroyAfter(carrier, &err)
	opening := s.opening(t, mayBeExtracted)
	if !wrap.needsLength {
		opening.valueLen = 0
	}
	key, err = s.engine.module.lib.unwrap(s.handle, wrap.mechanism, carrier, parcel[n:], opening)
	return key, s.judge(err, s.engine.findings.badParcel, hsm.ErrInvalidCiphertext)
}

// unwrapCarrier makes an object of the key that the material of a parcel is under.
func (s *session) unwrapCarrier(through handle, h crypto.Hash, wrapped []byte) (handle, error) {
	opening := transportTemplate
	opening.valueLen = 0
	carrier, err := s.engine.module.lib.unwrapWith(s.handle, oaep(h), through, wrapped, opening)
	return carrier, s.judge(err, s.engine.findings.badParcel, hsm.ErrInvalidCiphertext)
}

// proveUnwrapper has a private key unwrap what the row's public key encrypted.
func (s *session) proveUnwrapper(_ *keyType, key handle, k *hsm.Key) (err error) {
	ways := &s.engine.findings.transport
	if !ways.works() {
		return fmt.Errorf("%w: keys on their way from another token", hsm.ErrUnsupported)
	}
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	known, err := s.bringUnder(key, public, transportHash(ways.hashes[0]), knownKey[:], keyTypeAES)
	if errors.Is(err, hsm.ErrInvalidCiphertext) { // or a token in trouble: only twice is no
		known, err = s.bringUnder(key, public, transportHash(ways.hashes[0]), knownKey[:], keyTypeAES)
	}
	if errors.Is(err, hsm.ErrInvalidCiphertext) {
		return hsm.ErrWrongMaterial
	}
	if err != nil {
		return err
	}
	defer s.destroyAfter(known, &err)
	if err := s.isKnown(known); errors.Is(err, errOther) {
		return hsm.ErrWrongMaterial
	} else {
		return err
	}
}

// bringUnder brings a secret that everybody knows in under a public key.
func (s *session) bringUnder(through handle, public *der.Public, h crypto.Hash, secret []byte, making template) (handle, error) {
	wrapped, err := encryptHere(public, h, secret)
	if err != nil {
		return 0, err
	}
	making.valueLen = 0
	key, err := s.engine.module.lib.unwrapWith(s.handle, oaep(h), through, wrapped, making)
	return key, s.judge(err, s.engine.findings.badParcel, hsm.ErrInvalidCiphertext)
}
