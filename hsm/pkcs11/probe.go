package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// defaultWrapMechanisms are tried in this order for new domain keys.
var defaultWrapMechanisms = []uint{mechLunaAESKWP, mechAESKeyWrapKWP, mechAESKeyWrapPad, mechAESKeyWrap}

// keyTypeAES is an AES-256 key that encrypts.
var keyTypeAES = template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayEncrypt, valueLen: 32}

// selfTest finds out what this token does, with session objects, before
// anybody else is inside the gate. The session is its own, because tokens leave
// objects of failed unwraps behind until their session is closed.
func (e *Engine) selfTest() (err error) {
	h, err := e.module.openSession(e.slot)
	if err != nil {
		return err
	}
	defer func() {
		if e := e.module.closeSession(h); err == nil {
			err = e
		}
	}()
	s := &session{engine: e, handle: h, epoch: e.epoch.Load()}
	if err := s.testGCM(); err != nil {
		return fmt.Errorf("self-test of AES-GCM: %w", err)
	}
	if err := s.chooseWrap(); err != nil {
		return err
	}
	e.findings.profile.GCM = GCMProfile{IV: e.cfg.IV.String(), IVBytes: e.cfg.IV.ivLength()}
	if err := s.explore(e.wrapMechanisms()); err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	e.findings.conclude(e)
	if way := e.findings.ways[wayID{keyspec.HMAC256, keyspec.HMACSHA256}]; way.Private != InToken {
		return fmt.Errorf("%w: no HMAC-SHA-256, which every store needs: %s", hsm.ErrUnsupported, way.Problem)
	}
	return nil
}

// chooseWrap finds the wrap mechanism for new domain keys.
func (s *session) chooseWrap() error {
	e := s.engine
	var problems []string
	for _, mechanism := range e.cfg.WrapMechanisms {
		var domain *serviceKey
		err := s.sure(func() (err error) {
			domain, err = s.testWrap(mechanism)
			return err
		})
		if err == nil {
			e.wrapMech, e.unwrapNeedsLength = mechanism, domain.needsLength
			return nil
		}
		if broken(err) {
			return err
		}
		e.findings.profile.Wraps = append(e.findings.profile.Wraps, WrapProfile{
			Mechanism: mechanismName(mechanism), Key: kindAES, Problem: problemOf(err),
		})
		problems = append(problems, mechanismName(mechanism)+": "+problemOf(err))
	}
	return fmt.Errorf("%w: no mechanism wraps and unwraps an AES key, which every store needs: %s", hsm.ErrUnsupported, strings.Join(problems, "; "))
}

// wrapMechanisms are that of new domain keys and those of the ones there are.
func (e *Engine) wrapMechanisms() []uint {
	mechanisms := []uint{e.wrapMech}
	for _, k := range e.cfg.ServiceKeys {
		if _, _, ok := parseDomainCheck(k.CheckValue); !ok || k.Kind != hsm.DomainKey {
			continue
		}
		if m := domainMechanism(k.CheckValue); !slices.Contains(mechanisms, m) {
			mechanisms = append(mechanisms, m)
		}
	}
	return mechanisms
}

// conclude puts the rest of what was found into the profile.
func (f *findings) conclude(e *Engine) {
	f.profile.ECPoint = "raw"
	if f.pointDER {
		f.profile.ECPoint = "octet string"
	}
	for _, c := range []struct {
		about string
		codes []returnCode
	}{
		{"ciphertext that does not authenticate", e.damaged},
		{"damaged blob", e.damagedBlob},
		{"signature that does not verify", f.badSignature},
		{"ciphertext that is not OAEP", f.badOAEP},
		{"point that is not on the curve", f.badPeer},
		{"wrapped material that is damaged", f.badWrapped},
	} {
		for _, code := range slices.Compact(slices.Sorted(slices.Values(c.codes))) {
			f.profile.Codes = append(f.profile.Codes, CodeProfile{For: c.about, Code: code.String()})
		}
	}
}

// testGCM proves that GCM keeps its promises here, that the IV is the one that
// was given, and learns what a bad tag looks like.
func (s *session) testGCM() (err error) {
	lib := s.engine.module.lib
	key, err := lib.generate(s.handle, mechAESKeyGen, keyTypeAES)
	if err != nil {
		return err
	}
	defer s.destroyAfter(key, &err)
	sealed, err := s.makeCanary(key, nil)
	if err != nil {
		return err
	}
	if err := s.checkCanary(key, sealed, nil); err != nil {
		return err
	}
	if s.engine.cfg.IV == IVGiven {
		if err := s.testIV(key); err != nil {
			return err
		}
	}
	return s.testDamaged(key, sealed)
}

// testDamaged learns what C_Decrypt says of ciphertexts that were tampered with.
func (s *session) testDamaged(key handle, sealed []byte) error {
	ivLen := s.engine.cfg.IV.ivLength()
	iv, data := sealed[:ivLen], sealed[ivLen:]
	badTag := bytes.Clone(data)
	badTag[len(badTag)-1] ^= 1
	for _, c := range []struct{ aad, data []byte }{{nil, badTag}, {[]byte("other"), data}, {nil, data[:tagBytes]}, {nil, data[1:]}} {
		_, err := s.engine.module.lib.gcmDecrypt(s.handle, key, iv, c.aad, c.data, make([]byte, len(sealed)))
		call, ok := errors.AsType[*callError](err)
		if !ok {
			return fmt.Errorf("%w: a damaged ciphertext is accepted", hsm.ErrUnsupported)
		}
		s.engine.damaged = append(s.engine.damaged, call.code)
	}
	return nil
}

// testIV encrypts twice with one IV and once with another: the token uses what
// it is given if, and only if, the first two are equal and the third is not.
func (s *session) testIV(key handle) error {
	ivs := [3][ivBytes]byte{{1}, {1}, {2}}
	var out [3][]byte
	for i := range ivs {
		out[i] = make([]byte, len(canary)+tagBytes)
		if _, err := s.engine.module.lib.gcmEncrypt(s.handle, key, ivs[i][:], nil, canary[:], out[i]); err != nil {
			return err
		}
	}
	if !bytes.Equal(out[0], out[1]) || bytes.Equal(out[0], out[2]) {
		return fmt.Errorf("%w: the token does not use the IV it is given", hsm.ErrUnsupported)
	}
	return nil
}

// testWrap sends an AES-256 key and, for mechanisms that promise to keep any
// length, a 28-byte secret through the mechanism and back. The scratch domain key
// that it returns is gone already.
func (s *session) testWrap(mechanism uint) (domain *serviceKey, err error) {
	domain, err = s.scratchDomain(mechanism)
	if err != nil {
		return nil, err
	}
	defer s.destroyAfter(domain.handle, &err)
	if err := s.testDomain(domain); err != nil || mechanism == mechAESKeyWrap {
		return domain, err
	}
	return domain, s.testWrapLength(domain)
}

// scratchDomain makes a session key that wraps as a domain key would.
func (s *session) scratchDomain(mechanism uint) (*serviceKey, error) {
	key, err := s.engine.module.lib.generate(s.handle, mechAESKeyGen, template{
		class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_AES, may: mayWrap, valueLen: 32,
	})
	return &serviceKey{row: hsm.ServiceKey{Kind: hsm.DomainKey}, handle: key, wrapMech: mechanism}, err
}

// testDomain sends an AES-256 key through a scratch domain key and back, and
// learns what a damaged blob looks like.
func (s *session) testDomain(domain *serviceKey) error {
	check, err := s.proveDomain(domain, nil)
	if err != nil {
		return err
	}
	if _, err := s.proveDomain(domain, check); err != nil {
		return err
	}
	return s.testDamagedBlob(domain, check)
}

// testDamagedBlob learns what C_UnwrapKey says of a damaged blob.
func (s *session) testDamagedBlob(domain *serviceKey, check []byte) error {
	blob, _, ok := parseDomainCheck(check)
	if !ok {
		return hsm.ErrWrongMaterial
	}
	blob[0] ^= 1
	t := keyTypeAES
	if !domain.needsLength {
		t.valueLen = 0
	}
	_, err := s.engine.module.lib.unwrap(s.handle, domain.wrapMech, domain.handle, blob, t)
	if err == nil {
		return fmt.Errorf("%w: a damaged blob is accepted", hsm.ErrUnsupported)
	}
	learn(&s.engine.damagedBlob, err)
	return nil
}

// testWrapLength refuses mechanisms that pad a secret for good.
func (s *session) testWrapLength(domain *serviceKey) (err error) {
	const secretBytes = 28
	lib := s.engine.module.lib
	t := template{class: pkcs11.CKO_SECRET_KEY, keyType: pkcs11.CKK_GENERIC_SECRET, may: maySign | mayBeExtracted, valueLen: secretBytes}
	secret, err := lib.generate(s.handle, mechGenericKeyGen, t)
	if err != nil {
		return err
	}
	defer s.destroyAfter(secret, &err)
	blob := make([]byte, maxBlobBytes)
	n, err := lib.wrap(s.handle, domain.wrapMech, domain.handle, secret, blob)
	if err != nil {
		return err
	}
	back, err := s.unwrap(domain, blob[:n], t)
	if err != nil {
		return err
	}
	defer s.destroyAfter(back, &err)
	v, err := s.engine.module.ctx.GetAttributeValue(pkcs11.SessionHandle(s.handle), pkcs11.ObjectHandle(back),
		[]*pkcs11.Attribute{attribute(pkcs11.CKA_VALUE_LEN, nil)})
	if err != nil {
		return managed("C_GetAttributeValue", err)
	}
	if len(v) != 1 || !bytes.Equal(v[0].Value, attribute(pkcs11.CKA_VALUE_LEN, secretBytes).Value) {
		return fmt.Errorf("%w: a secret of %d bytes comes back longer", hsm.ErrUnsupported, secretBytes)
	}
	return nil
}

// checkWork really asks the token, see [hsm.Token].
var checkWork = work{mechanism: "check", run: (*session).checkToken}

func (s *session) checkToken(handle, [3][]byte) ([]byte, error) {
	e := s.engine
	state, err := e.module.sessionState(s.handle)
	if err != nil {
		return nil, err
	}
	if state != pkcs11.CKS_RW_USER_FUNCTIONS {
		return nil, &callError{function: "C_GetSessionInfo", code: pkcs11.CKR_USER_NOT_LOGGED_IN}
	}
	info, err := e.module.tokenInfo(e.slot)
	if err != nil {
		return nil, err
	}
	if info.SerialNumber != e.serial {
		return nil, fmt.Errorf("%w: another token is in the slot", hsm.ErrUnavailable)
	}
	var random [8]byte
	if err := s.random(random[:]); err != nil {
		return nil, err
	}
	for _, k := range e.service.Load().keys {
		again := serviceKey{row: k.row, handle: k.handle, wrapMech: k.wrapMech, needsLength: k.needsLength}
		if _, err := kinds[k.row.Kind].prove(s, &again, k.row.CheckValue); err != nil {
			return nil, fmt.Errorf("%s: %w", describe(&k.row), err)
		}
	}
	return nil, nil
}

// Check asks the token: its session and login, its presence, its random
// generator, and every service key's check value. See [hsm.Token].
func (e *Engine) Check(ctx context.Context) error {
	_, err := e.do(ctx, hsm.Call{Class: hsm.Health}, nil, &checkWork)
	return err
}
