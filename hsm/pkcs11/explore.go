package pkcs11

import (
	"bytes"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
)

// explorer finds out what a token does by doing it, with session objects.
type explorer struct {
	*session
	f *findings
	// domains are scratch domain keys, one for each wrap mechanism that matters.
	domains []*serviceKey
}

// explore fills in the findings about keys and algorithms. That a token cannot
// do something is a finding; an error is a token that does not answer.
func (s *session) explore(mechanisms []uint) (err error) {
	x := &explorer{session: s, f: s.engine.findings}
	for _, m := range mechanisms {
		domain, err := s.scratchDomain(m)
		if err != nil {
			return err
		}
		defer s.destroyAfter(domain.handle, &err)
		if err := s.testDomain(domain); broken(err) {
			return err
		}
		x.domains = append(x.domains, domain)
		x.f.wrapped[m] = map[keyID]bool{}
	}
	for _, row := range keyspec.Specs {
		if _, known := keyTypes[row.Spec]; !known {
			continue
		}
		for _, usage := range row.Usages() {
			if err := x.key(row.Spec, usage); err != nil {
				return fmt.Errorf("explore %s for %s: %w", row.Spec, usage, err)
			}
		}
	}
	if err := x.dataKeyPairs(); err != nil {
		return err
	}
	return x.pairsToWrapTo()
}

// broken tells a token that is away from one that cannot do something.
func broken(err error) bool {
	if err == nil {
		return false
	}
	c := classOf(err, false)
	return lost(err) || c == classBusy || c == classCapacity
}

// lost tells a token that does not answer any more from one that says no.
func lost(err error) bool {
	if errors.Is(err, hsm.ErrDeadline) || errors.Is(err, errTrouble) {
		return true
	}
	switch c := classOf(err, false); c {
	case classSession, classLogin, classPIN, classFatal:
		return true
	case classDevice:
		call, ok := errors.AsType[*callError](err)
		if !ok {
			return false
		}
		_, known := call.row()
		return known && !slices.Contains(ambiguous, call.code)
	default:
		return false
	}
}

// ambiguous are the codes that tokens have for all that they have no other for.
var ambiguous = []returnCode{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_ERROR}

// errTrouble: the token failed in a way that says nothing of what it can do.
var errTrouble = errors.New("the token is in trouble while it is looked at")

// sure repeats a trial that failed as a token in trouble does: what is found
// stays for the life of the process, so that only what fails twice on a session
// that works is a finding.
func (s *session) sure(try func() error) error {
	err := try()
	if err == nil || broken(err) || classOf(err, false) != classDevice {
		return err
	}
	var random [8]byte
	if e := s.engine.module.lib.random(s.handle, random[:]); e != nil {
		return fmt.Errorf("%w: %w", errTrouble, e)
	}
	return try()
}

// key explores one spec and usage.
func (x *explorer) key(spec keyspec.Spec, usage keyspec.Usage) error {
	found := KeyProfile{Spec: spec, Usage: usage, Residency: Nowhere}
	var residency hsm.Residency
	err := x.sure(func() (err error) {
		residency, err = x.tryKey(spec, usage)
		return err
	})
	if broken(err) {
		return err
	}
	if err != nil {
		found.Problem = problemOf(err)
	} else {
		found.Residency = string(residency)
	}
	x.f.keys[keyID{spec, usage}] = found
	x.f.profile.Keys = append(x.f.profile.Keys, found)
	row, _ := keyspec.Lookup(spec)
	for _, a := range row.Algorithms[usage] {
		way, ok := x.f.ways[wayID{spec, a}]
		if !ok {
			way = AlgorithmProfile{Spec: spec, Algorithm: a, Private: Nowhere, Problem: found.Problem}
			x.f.ways[wayID{spec, a}] = way
		}
		x.f.profile.Algorithms = append(x.f.profile.Algorithms, way)
	}
	return nil
}

// problemOf is an error as the profile has it: the return code where there is
// one, and no words that the profile says anyway.
func problemOf(err error) string {
	if call, ok := errors.AsType[*callError](err); ok {
		return fmt.Sprintf("%s: %s", call.function, call.code)
	}
	return strings.TrimPrefix(err.Error(), hsm.ErrUnsupported.Error()+": ")
}

// sameFamily are the specs whose abilities follow from those of a smaller one
// and from the key sizes that the token names, because making such a key takes
// too long for a start.
var sameFamily = map[keyspec.Spec]keyspec.Spec{keyspec.RSA3072: keyspec.RSA2048, keyspec.RSA4096: keyspec.RSA2048}

func (x *explorer) tryKey(spec keyspec.Spec, usage keyspec.Usage) (residency hsm.Residency, err error) {
	if like, ok := sameFamily[spec]; ok {
		return x.follow(spec, like, usage)
	}
	t := keyTypes[spec][usage]
	if err := x.makesSize(spec, &t); err != nil {
		return "", err
	}
	k := hsm.Key{KeyID: "explored", Spec: spec, Usage: usage}
	key, err := x.sample(&t, &k)
	if err != nil {
		return "", err
	}
	defer x.destroyAfter(key, &err)
	if t.makeCheck != nil { // of the key itself, for what comes back to be held against
		if err := x.check(&t, key, &k); err != nil {
			return "", err
		}
	}
	using := key
	residency = hsm.Resident
	for _, domain := range x.domains {
		var back handle
		err := x.sure(func() (err error) {
			back, err = x.roundTripProved(domain, &t, key, &k)
			return err
		})
		if broken(err) {
			return "", err
		}
		x.noteWrap(domain.wrapMech, &t, err)
		if err != nil {
			continue
		}
		x.f.wrapped[domain.wrapMech][keyID{spec, usage}] = true
		if domain.wrapMech == x.engine.wrapMech {
			residency = hsm.Wrapped
		}
		using = back
		defer x.destroyAfter(back, &err)
	}
	if err := explorations[usage](x, &t, &k, using); err != nil {
		return "", err
	}
	if err := t.compare(x.session, &t, using, &k); err != nil {
		return "", err
	}
	if t.template.keyType == pkcs11.CKK_RSA && (residency == hsm.Resident || len(x.engine.cfg.Resident) > 0) {
		err = x.copying(key)
	}
	return residency, err
}

// copying finds out whether a session object can be copied to the token, as it
// would be for keys that stay there.
func (x *explorer) copying(key handle) error {
	made, err := x.copyToToken(key, []valueAttr{{pkcs11.CKA_ID, newResidentID()}, {pkcs11.CKA_LABEL, []byte("kmsgate/explored")}})
	if err != nil {
		if broken(err) {
			return err
		}
		x.engine.cfg.Logger.Debug("session objects are not copied to the token", "error", err)
		return nil
	}
	x.f.copies = true
	return x.engine.module.lib.destroy(x.handle, made)
}

// follow says of a spec what is known of another one of its family.
func (x *explorer) follow(spec, like keyspec.Spec, usage keyspec.Usage) (hsm.Residency, error) {
	known := x.f.keys[keyID{like, usage}]
	if known.Residency == Nowhere {
		return "", fmt.Errorf("%w: as %s: %s", hsm.ErrUnsupported, like, known.Problem)
	}
	t := keyTypes[spec][usage]
	if err := x.makesSize(spec, &t); err != nil {
		return "", err
	}
	row, _ := keyspec.Lookup(spec)
	for _, a := range row.Algorithms[usage] {
		way := x.f.ways[wayID{like, a}]
		way.Spec = spec
		x.f.ways[wayID{spec, a}] = way
	}
	for mechanism := range x.f.wrapped {
		x.f.wrapped[mechanism][keyID{spec, usage}] = x.f.wrapped[mechanism][keyID{like, usage}]
	}
	return hsm.Residency(known.Residency), nil
}

// makesSize is nil unless the token says that it makes no RSA keys of this size.
// No key is made to find that out, so it is asked.
func (x *explorer) makesSize(spec keyspec.Spec, t *keyType) error {
	if t.template.keyType != pkcs11.CKK_RSA {
		return nil
	}
	info, err := x.engine.module.mechanismInfo(x.engine.slot, t.generate)
	if err != nil {
		return err
	}
	row, _ := keyspec.Lookup(spec)
	if info.MaxKeySize != 0 && int(info.MaxKeySize) < row.Bits {
		return fmt.Errorf("%w: keys of at most %d bits", hsm.ErrUnsupported, info.MaxKeySize)
	}
	return nil
}

// sample makes a key of the spec that may be wrapped or, where the token makes
// none, one that may not. RSA keys are brought from outside where that is possible.
func (x *explorer) sample(t *keyType, k *hsm.Key) (handle, error) {
	making := t.template
	making.may |= mayBeExtracted
	if t.template.keyType == pkcs11.CKK_RSA {
		key, err := x.importRSA(making, k)
		if err == nil || broken(err) {
			return key, err
		}
	}
	key, err := x.make(t, making, k)
	if err != nil && !broken(err) {
		key, err = x.make(t, t.template, k)
	}
	return key, err
}

// importRSA brings the published key in as a session object.
func (x *explorer) importRSA(making template, k *hsm.Key) (handle, error) {
	key, err := publishedRSA()
	if err != nil {
		return 0, err
	}
	if k.PublicKey, err = key.Public.Encode(); err != nil {
		return 0, err
	}
	for attribute, value := range map[uint][]byte{
		pkcs11.CKA_MODULUS: key.N, pkcs11.CKA_PUBLIC_EXPONENT: key.E, pkcs11.CKA_PRIVATE_EXPONENT: key.D,
		pkcs11.CKA_PRIME_1: key.P, pkcs11.CKA_PRIME_2: key.Q,
		pkcs11.CKA_EXPONENT_1: key.DP, pkcs11.CKA_EXPONENT_2: key.DQ, pkcs11.CKA_COEFFICIENT: key.QInv,
	} {
		making.more = append(making.more, valueAttr{attribute, value})
	}
	return x.engine.module.lib.create(x.handle, making)
}

// roundTripProved wraps a key and returns what comes back, if a secret key is
// still the same.
func (x *explorer) roundTripProved(domain *serviceKey, t *keyType, key handle, k *hsm.Key) (handle, error) {
	back, err := x.roundTrip(domain, t, key)
	if err != nil || t.makeCheck == nil {
		return back, err
	}
	if err := t.compare(x.session, t, back, k); err != nil {
		x.destroyAfter(back, &err)
		return 0, err
	}
	return back, nil
}

// roundTrip wraps a key and returns what comes back. A token that wants the
// curve in the template says so by refusing it without.
func (x *explorer) roundTrip(domain *serviceKey, t *keyType, key handle) (handle, error) {
	blob := make([]byte, maxBlobBytes)
	n, err := x.engine.module.lib.wrap(x.handle, domain.wrapMech, domain.handle, key, blob)
	if err != nil {
		return 0, err
	}
	back, err := x.unwrap(domain, blob[:n], x.opening(t, 0))
	if err == nil || x.f.unwrapNeedsParams || !slices.ContainsFunc(t.public.more, func(a valueAttr) bool { return a.kind == pkcs11.CKA_EC_PARAMS }) {
		return back, err
	}
	x.f.unwrapNeedsParams = true
	back, again := x.unwrap(domain, blob[:n], x.opening(t, 0))
	if again != nil {
		x.f.unwrapNeedsParams = false
		return 0, err
	}
	return back, nil
}

// noteWrap notes how a kind of key fared, once for each kind and mechanism.
func (x *explorer) noteWrap(mechanism uint, t *keyType, err error) {
	w := WrapProfile{Mechanism: mechanismName(mechanism), Key: kindNames[t.template.keyType], Works: err == nil}
	if err != nil {
		w.Problem = problemOf(err)
	}
	if !slices.Contains(x.f.profile.Wraps, w) {
		x.f.profile.Wraps = append(x.f.profile.Wraps, w)
	}
}

// explorations try the algorithms of each usage.
var explorations = map[keyspec.Usage]func(x *explorer, t *keyType, k *hsm.Key, key handle) error{
	keyspec.EncryptDecrypt:         (*explorer).encryption,
	keyspec.SignVerify:             (*explorer).signatures,
	keyspec.GenerateVerifyMAC:      (*explorer).macs,
	keyspec.KeyAgreement:           (*explorer).agreement,
	keyspec.EncapsulateDecapsulate: (*explorer).encapsulation,
}

// learn adds a return code to those that mean bad data.
func learn(codes *[]returnCode, err error) {
	if call, ok := errors.AsType[*callError](err); ok && !slices.Contains(*codes, call.code) {
		*codes = append(*codes, call.code)
	}
}

// macs tries HMAC with the explored key and, where the token takes a key whose
// value is known, compares with the standard library.
func (x *explorer) macs(t *keyType, k *hsm.Key, key handle) (err error) {
	row, _ := keyspec.Lookup(k.Spec)
	a, _ := keyspec.LookupAlgorithm(row.Algorithms[k.Usage][0])
	way := AlgorithmProfile{Spec: k.Spec, Algorithm: a.Algorithm, Private: InToken}
	if _, err := x.hmac(key, a.Hash, canary[:]); err != nil {
		return err
	}
	value := bytes.Repeat([]byte{0x5a}, int(t.template.valueLen))
	known := t.template
	known.valueLen = 0
	known.more = []valueAttr{{pkcs11.CKA_VALUE, value}}
	if object, err := x.engine.module.lib.create(x.handle, known); err == nil {
		got, err := x.hmac(object, a.Hash, canary[:])
		x.destroyAfter(object, &err)
		if err != nil {
			return err
		}
		h := hmac.New(a.Hash.New, value)
		h.Write(canary[:])
		if !hmac.Equal(got, h.Sum(nil)) {
			return fmt.Errorf("%w: %s is not what the standard says", hsm.ErrUnsupported, a.Algorithm)
		}
	}
	x.f.ways[wayID{k.Spec, a.Algorithm}] = way
	return nil
}

// agreement tries ECDH, and both ways to write a peer's point.
func (x *explorer) agreement(t *keyType, k *hsm.Key, key handle) error {
	way := wayID{k.Spec, keyspec.ECDH}
	x.f.ways[way] = AlgorithmProfile{Spec: k.Spec, Algorithm: keyspec.ECDH, Private: InToken}
	err := x.proveAgreement(t, key, k)
	if err != nil && !broken(err) {
		x.f.derivesDER = !x.f.derivesDER
		if again := x.proveAgreement(t, key, k); again != nil {
			x.f.derivesDER = !x.f.derivesDER
			delete(x.f.ways, way)
			return err
		}
	}
	public, err := publicOf(k)
	if err != nil {
		return err
	}
	off := bytes.Clone(public.Point)
	off[len(off)-1] ^= 1
	width := der.FieldBytes(k.Spec)
	secret, err := x.engine.module.lib.derive(x.handle, key, der.ECPointForToken(off, x.f.derivesDER), readableSecret(width))
	if err != nil {
		learn(&x.f.badPeer, err)
		return nil
	}
	x.destroyAfter(secret, &err)
	return err // the point is checked before the token is asked, too
}

// encapsulation tries ML-KEM.
func (x *explorer) encapsulation(t *keyType, k *hsm.Key, key handle) error {
	if err := x.proveDecapsulation(t, key, k); err != nil {
		return err
	}
	x.f.ways[wayID{k.Spec, keyspec.MLKEM}] = AlgorithmProfile{Spec: k.Spec, Algorithm: keyspec.MLKEM, Private: InToken, Public: InToken}
	return nil
}
