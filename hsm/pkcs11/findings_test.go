package pkcs11

import (
	"errors"
	"testing"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
)

// TestStrictMakesNoKeyThatItRefusesToUse takes a token that has no OAEP at all.
func TestStrictMakesNoKeyThatItRefusesToUse(t *testing.T) {
	for _, strict := range []bool{false, true} {
		f := newFindings(strict)
		f.keys[keyID{keyspec.RSA2048, keyspec.EncryptDecrypt}] = KeyProfile{Residency: string(hsm.Wrapped)}
		for _, a := range []keyspec.Algorithm{keyspec.RSAESOAEPSHA1, keyspec.RSAESOAEPSHA256} {
			f.ways[wayID{keyspec.RSA2048, a}] = AlgorithmProfile{Private: RawInToken, Public: InLibrary}
		}
		if err := f.makes(keyspec.RSA2048, keyspec.EncryptDecrypt); errors.Is(err, hsm.ErrUnsupported) != strict {
			t.Errorf("strict %t: makes = %v", strict, err)
		}
		f.ways[wayID{keyspec.RSA2048, keyspec.RSAESOAEPSHA1}] = AlgorithmProfile{Private: InToken}
		if err := f.makes(keyspec.RSA2048, keyspec.EncryptDecrypt); err != nil {
			t.Errorf("strict %t: makes, with one algorithm in the token = %v", strict, err)
		}
	}
}

// TestDomainKeysDecideByTheirOwnMechanism: one that was not explored may wrap what
// it can, because only the explored ones are known to fail.
func TestDomainKeysDecideByTheirOwnMechanism(t *testing.T) {
	e := openWithKeys(t, nil)
	for _, c := range []struct {
		mechanism uint
		want      bool
	}{{mechAESKeyWrap, false}, {mechLunaAESKWP, true}} {
		if got := e.findings.wraps(c.mechanism, keyspec.ECCNISTEdwards25519, keyspec.SignVerify); got != c.want {
			t.Errorf("wraps Ed25519 keys with %s = %t, want %t", mechanismName(c.mechanism), got, c.want)
		}
	}
}

// TestDomainKeysFindOutWhetherLengthsAreNeeded begins with the wrong belief.
func TestDomainKeysFindOutWhetherLengthsAreNeeded(t *testing.T) {
	e := openWithKeys(t, nil)
	s := ownSession(t, e)
	domain, err := s.scratchDomain(e.wrapMech)
	must(t, err)
	domain.needsLength = true // SoftHSM refuses CKA_VALUE_LEN
	must(t, s.testDomain(domain))
	if domain.needsLength {
		t.Error("the domain key still believes that SoftHSM needs CKA_VALUE_LEN")
	}
	check, err := s.proveDomain(domain, nil)
	must(t, err)
	check[len(check)-1] ^= 1
	if _, err := s.proveDomain(domain, check); !errors.Is(err, hsm.ErrWrongMaterial) || domain.needsLength {
		t.Errorf("proveDomain with another's canary = %v (length needed: %t), want %v", err, domain.needsLength, hsm.ErrWrongMaterial)
	}
	must(t, e.module.lib.destroy(s.handle, domain.handle))
}
