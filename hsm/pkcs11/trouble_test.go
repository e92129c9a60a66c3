package pkcs11

import (
	"errors"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// TestTroubleAtTheStartIsNoFinding: what is found stays for the life of the
// process, so that a token that is away for a moment must not be taken for one
// that cannot do something.
func TestTroubleAtTheStartIsNoFinding(t *testing.T) {
	for name, c := range map[string]struct {
		function softhsm.Function
		code     uint
		times    uint64
		opens    bool
	}{
		"a general error once":   {softhsm.GenerateKeyPair, 0x5, 1, true},
		"the device is removed":  {softhsm.GenerateKeyPair, 0x32, 1, false},
		"no memory to wrap":      {softhsm.WrapKey, 0x31, 1, false},
		"a device error to wrap": {softhsm.WrapKey, 0x30, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configFor(newToken(t))
			shim := newShim(t, &cfg)
			shim.Fail(c.function, c.code, c.times)
			e, err := Open(t.Context(), cfg)
			if !c.opens {
				if err == nil {
					must(t, e.Close())
					t.Error("Open succeeds, want it to fail: nothing was found out")
				}
				return
			}
			must(t, err)
			defer func() { must(t, e.Close()) }()
			want := map[keyspec.Spec]bool{}
			for _, k := range e.Profile().Keys {
				want[k.Spec] = want[k.Spec] || k.Residency == string(hsm.Wrapped)
			}
			for _, spec := range []keyspec.Spec{keyspec.SymmetricDefault, keyspec.RSA2048, keyspec.ECCNISTP256, keyspec.HMAC256} {
				if !want[spec] {
					t.Errorf("%s keys are not made, or not wrapped: %+v", spec, e.Profile().Keys)
				}
			}
		})
	}
}

// TestTroubleIsNotBlamedOnData: a peer whose point is on the curve, and a key that
// has not changed, are not at fault.
func TestTroubleIsNotBlamedOnData(t *testing.T) {
	const deriveKey softhsm.Function = 62
	e, shim := openWithShim(t, nil)
	k := makeKey(t, e, keyspec.ECCNISTP256, keyspec.KeyAgreement)
	_, peer := agreeWith(t, e, k)
	for _, code := range []uint{0x5, 0x20, 0x130} {
		shim.Fail(deriveKey, code, 1)
		if _, err := e.DeriveSecret(t.Context(), client, k, peer); errors.Is(err, hsm.ErrInvalidPublicKey) {
			t.Errorf("DeriveSecret when the token says 0x%X = %v", code, err)
		}
		encryptWorks(t, e, makeKey(t, e, keyspec.SymmetricDefault, keyspec.EncryptDecrypt))
	}
	rsaKey := makeKey(t, e, keyspec.RSA2048, keyspec.EncryptDecrypt)
	shim.Fail(softhsm.Decrypt, 0x5, 1)
	if _, err := e.PublicKey(t.Context(), client, rsaKey); err != nil {
		t.Errorf("PublicKey after one general error of C_Decrypt = %v", err)
	}
}

// TestPairsThatAreReadHoldTogether: a token whose private keys come out in another
// form than the standard's is not to give pairs to callers.
func TestPairsThatAreReadHoldTogether(t *testing.T) {
	e := openWithKeys(t, nil)
	s := ownSession(t, e)
	for _, spec := range []keyspec.Spec{keyspec.ECCNISTP256, keyspec.ECCNISTP521, keyspec.ECCNISTEdwards25519} {
		kind := keyTypes[spec][keyspec.SignVerify]
		read := func() *der.Private {
			p, err := s.makeReadablePair(&kind, spec)
			must(t, err)
			return p
		}
		one, other := read(), read()
		must(t, holdsTogether(one))
		one.D, one.Seed = other.D, other.Seed
		if err := holdsTogether(one); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%s with the private key of another pair = %v, want %v", spec, err, hsm.ErrUnsupported)
		}
	}
}
