package pkcs11

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// Import brings in material that was wrapped to a pair of this token's. See
// [hsm.Token].
func (e *Engine) Import(ctx context.Context, on hsm.Call, wrapping *hsm.Key, a keyspec.WrappingAlgorithm, wrapped []byte, k hsm.Key) (hsm.Key, error) {
	t, err := typeOf(&k)
	if err != nil {
		return hsm.Key{}, err
	}
	if err := e.Imports(k.Store, k.Spec, k.Usage, a); err != nil {
		return hsm.Key{}, err
	}
	if k.Origin != keyspec.External || wrapping.Usage != keyspec.ImportWrapping {
		return hsm.Key{}, fmt.Errorf("%w: import into a key of origin %q with one for %q", hsm.ErrUnsupported, k.Origin, wrapping.Usage)
	}
	row, _ := keyspec.LookupWrapping(a)
	if n := modulusBytes[wrapping.Spec]; len(wrapped) < n || len(wrapped) > n && !row.Hybrid || len(wrapped) > maxBlobBytes {
		return hsm.Key{}, hsm.ErrInvalidCiphertext
	}
	k = cloneKey(&k)
	if k.Generation, err = e.newestGeneration(k.Store); err != nil {
		return hsm.Key{}, err
	}
	k.Residency = e.residencyFor(&k)
	made := make(chan hsm.Key, 1)
	w := work{mechanism: "import", slow: t.isPair(), in: [3][]byte{wrapped}, run: func(s *session, key handle, in [3][]byte) ([]byte, error) {
		k := cloneKey(&k)
		err := s.importMaterial(key, &row, in[0], &t, &k)
		if err == nil {
			made <- k
		}
		return nil, err
	}}
	if _, err := e.do(ctx, on, wrapping, &w); err != nil {
		return hsm.Key{}, err
	}
	return <-made, nil
}

// Imports is nil if material can be brought in under a wrapping algorithm. See
// [hsm.Token].
func (e *Engine) Imports(store string, spec keyspec.Spec, usage keyspec.Usage, a keyspec.WrappingAlgorithm) error {
	row, ok := keyspec.LookupWrapping(a)
	if !ok || !row.WrapsSpec(spec) {
		return fmt.Errorf("%w: %s keys under %s", hsm.ErrUnsupported, spec, a)
	}
	if err := e.findings.makes(spec, usage); err != nil {
		return err
	}
	if _, err := e.newestGeneration(store); err != nil {
		return err
	}
	p := e.findings.importing[a]
	way := p.Pairs
	if t := keyTypes[spec][usage]; !t.isPair() {
		way = p.Secrets
	}
	switch {
	case way == Nowhere || way == "":
		return fmt.Errorf("%w: import under %s: %s", hsm.ErrUnsupported, a, p.Problem)
	case way != InToken && e.findings.strict:
		return fmt.Errorf("%w: %s keys under %s pass through the process, and the token's configuration is strict", hsm.ErrUnsupported, spec, a)
	}
	return nil
}

// incoming is material on its way into the token.
type incoming struct {
	// bring makes an object of it. It may be called several times.
	bring func(template) (handle, error)
	// public is the public key that came with it; its Point is nil if none did. Nil
	// for secret keys.
	public *der.Public
	clear  func()
}

// importMaterial opens wrapped material, finds out what it is and fills in k's
// material id and outcome. wrapping is the private key that it was wrapped to.
func (s *session) importMaterial(wrapping handle, row *keyspec.WrappingRow, wrapped []byte, t *keyType, k *hsm.Key) (err error) {
	m, err := s.openIncoming(wrapping, row, wrapped, t, k.Spec)
	if err != nil {
		return err
	}
	defer m.clear()
	expected := k.MaterialID
	if t.isPair() {
		err = s.identifyPair(m, k)
	} else {
		err = s.identifySecret(m, k)
	}
	switch {
	case err != nil:
		return err
	case expected != hsm.MaterialID{} && expected != k.MaterialID:
		return fmt.Errorf("%w: other material than was expected", hsm.ErrIncorrectMaterial)
	case k.Residency == hsm.Resident && expected == hsm.MaterialID{}:
		k.Residency, k.PublicKey = hsm.Absent, nil // nothing is made that may not be wanted
		return nil
	case k.Residency == hsm.Resident:
		return s.importResident(m, t, k)
	}
	making := t.template
	making.valueLen = 0
	making.may |= mayBeExtracted
	key, err := m.bring(making)
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	if err := s.checkImported(t, key, k); err != nil {
		return err
	}
	if err := s.wrapAndBind(key, k); err != nil {
		return err
	}
	return s.comesBack(t, k)
}

// checkImported is check of material that others have made.
func (s *session) checkImported(t *keyType, key handle, k *hsm.Key) error {
	err := s.check(t, key, k)
	if errors.Is(err, hsm.ErrWrongMaterial) {
		return fmt.Errorf("%w: the private key is not that of its public key", hsm.ErrIncorrectMaterial)
	}
	return err
}

// comesBack proves that the blob opens to the same material: its length may be one
// that the domain key's mechanism does not keep.
func (s *session) comesBack(t *keyType, k *hsm.Key) (err error) {
	back, err := s.admitWrapped(t, k, 0)
	if err == nil {
		defer s.destroyAfter(back, &err)
		err = t.compare(s, t, back, k)
	}
	if errors.Is(err, hsm.ErrWrongMaterial) {
		return fmt.Errorf("%w: the domain key does not bring this material back", hsm.ErrUnsupported)
	}
	return err
}

// openIncoming opens wrapped material: in the token if that was found to work, else here.
func (s *session) openIncoming(wrapping handle, row *keyspec.WrappingRow, wrapped []byte, t *keyType, spec keyspec.Spec) (*incoming, error) {
	way := s.engine.findings.importing[row.Algorithm]
	if !t.isPair() && way.Secrets == InToken {
		return &incoming{bring: func(making template) (handle, error) {
			key, err := s.unwrapIncoming(wrapping, row, wrapped, making)
			return key, s.judge(err, s.engine.findings.badWrapped, hsm.ErrInvalidCiphertext)
		}, clear: func() {}}, nil
	}
	material, err := s.openHere(wrapping, row, wrapped)
	if err != nil {
		return nil, err
	}
	if !t.isPair() {
		return s.incomingOf([]valueAttr{{pkcs11.CKA_VALUE, material}}, nil, func() { clear(material) }), nil
	}
	defer clear(material)
	p, err := der.ParsePrivate(spec, material)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrIncorrectMaterial, err)
	}
	var values []valueAttr
	for _, part := range privateParts[t.template.keyType] {
		values = append(values, valueAttr{part.attribute, *part.into(p)})
	}
	if len(p.N) > 0 {
		values = append(values, valueAttr{pkcs11.CKA_MODULUS, p.N}, valueAttr{pkcs11.CKA_PUBLIC_EXPONENT, p.E})
	} else {
		values = append(values, curveAttr(spec))
	}
	return s.incomingOf(values, &p.Public, p.Clear), nil
}

// incomingOf is material that is here, as attributes of an object.
func (s *session) incomingOf(values []valueAttr, public *der.Public, wipe func()) *incoming {
	return &incoming{public: public, clear: wipe, bring: func(making template) (handle, error) {
		making.more = slices.Concat(making.more, values)
		return s.engine.module.lib.create(s.handle, making)
	}}
}

// unwrapIncoming makes an object of wrapped material in the token.
func (s *session) unwrapIncoming(wrapping handle, row *keyspec.WrappingRow, wrapped []byte, making template) (key handle, err error) {
	lib, m := s.engine.module.lib, oaep(row.Hash)
	if row.Hybrid {
		n := s.wrappingBytes()
		outer, err := lib.unwrapWith(s.handle, m, wrapping, wrapped[:n], template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayWrap})
		if err != nil {
			return 0, err
		}
		defer s.destroyAfter(outer, &err)
		wrapping, wrapped, m = outer, wrapped[n:], mechanism{kind: s.engine.findings.importWrap}
	}
	return lib.unwrapWith(s.handle, m, wrapping, wrapped, making)
}

// wrappingBytes is the length of the RSA ciphertexts of the wrapping key.
func (s *session) wrappingBytes() int {
	if s.entry == nil { // while the token is explored
		return modulusBytes[keyspec.RSA2048]
	}
	return modulusBytes[s.entry.key.Spec]
}

// openHere has the token do the RSA step and opens the rest here. What it returns
// is the caller's to clear.
func (s *session) openHere(wrapping handle, row *keyspec.WrappingRow, wrapped []byte) ([]byte, error) {
	n := s.wrappingBytes()
	way := s.engine.findings.ways[wayID{keyspec.RSA2048, oaepAlgorithms[row.Hash]}].Private
	opened, err := s.oaepDecrypt(wrapping, way, row.Hash, wrapped[:n])
	if err != nil || !row.Hybrid {
		return opened, err
	}
	defer clear(opened)
	return unwrapPadded(opened, wrapped[n:])
}

// oaepAlgorithms are OAEP's algorithms by their hash.
var oaepAlgorithms = map[crypto.Hash]keyspec.Algorithm{crypto.SHA1: keyspec.RSAESOAEPSHA1, crypto.SHA256: keyspec.RSAESOAEPSHA256}

// identifySecret checks the length of a secret and derives its id from an HMAC
// that the token makes with it: the same for the same material of the same key, in
// every Region.
func (s *session) identifySecret(m *incoming, k *hsm.Key) (err error) {
	secret, err := m.bring(template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, may: maySign})
	if err != nil {
		return err
	}
	defer s.destroyAfter(secret, &err)
	n, err := s.secretLength(secret)
	if err != nil {
		return err
	}
	row, _ := keyspec.Lookup(k.Spec)
	if least, most := row.ImportedBytes(); n < least || n > most {
		return fmt.Errorf("%w: %d bytes for %s", hsm.ErrIncorrectMaterial, n, k.Spec)
	}
	hash := crypto.SHA256
	if algorithm, ok := keyspec.LookupAlgorithm(row.Algorithms[k.Usage][0]); ok && algorithm.Hash != 0 {
		hash = algorithm.Hash
	}
	fingerprint, err := s.hmac(secret, hash, fields(nil).text(labelMaterial).text(k.KeyID))
	k.MaterialID = materialID(k, fingerprint)
	return err
}

// secretLength is the length of a secret in bytes, as the token tells it; zero from
// tokens that do not know it of what they unwrapped.
func (s *session) secretLength(secret handle) (int, error) {
	length, err := s.readUpTo(secret, pkcs11.CKA_VALUE_LEN, ulongBytes)
	return int(binary.NativeEndian.Uint64(append(length, make([]byte, ulongBytes)...))), err
}

// materialID is the id of material that one value stands for.
func materialID(k *hsm.Key, of []byte) hsm.MaterialID {
	return sha256.Sum256(fields(nil).text(labelMaterial).text(k.KeyID).text(string(k.Spec)).add(of))
}

// identifyPair finds the public key, where none came along, and derives the id of
// the material from it.
func (s *session) identifyPair(m *incoming, k *hsm.Key) (err error) {
	if m.public.Point == nil && der.FieldBytes(k.Spec) > 0 {
		if m.public.Point, err = s.findPoint(m, k.Spec); err != nil {
			return err
		}
	}
	if k.PublicKey, err = m.public.Encode(); err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrIncorrectMaterial, err)
	}
	k.MaterialID = materialID(k, k.PublicKey)
	return nil
}

// findPoint is the public key of an EC private key: its x-coordinate is the secret
// that it agrees on with the base point, and of the two points that have it, the
// right one verifies what the key signs.
func (s *session) findPoint(m *incoming, spec keyspec.Spec) ([]byte, error) {
	t := keyTypes[spec][keyspec.SignVerify]
	agreeing := t.template
	agreeing.may = mayDerive
	private, err := m.bring(agreeing)
	if err != nil {
		return nil, err
	}
	x, err := s.derive(private, spec, der.BasePoint(spec))
	s.destroyAfter(private, &err)
	if err != nil {
		return nil, err
	}
	signer, err := m.bring(t.template)
	if err != nil {
		return nil, err
	}
	defer s.destroyAfter(signer, &err)
	for _, point := range der.PointsOf(spec, x) {
		k := hsm.Key{Spec: spec, Usage: keyspec.SignVerify}
		if k.PublicKey, err = (&der.Public{Spec: spec, Point: point}).Encode(); err != nil {
			return nil, fmt.Errorf("%w: %w", hsm.ErrIncorrectMaterial, err)
		}
		if err = s.proveSigner(&t, signer, &k); !errors.Is(err, hsm.ErrWrongMaterial) {
			return point, err
		}
	}
	return nil, hsm.ErrIncorrectMaterial
}
