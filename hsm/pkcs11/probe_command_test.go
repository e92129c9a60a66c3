package pkcs11

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"kmsgate/hsm"
)

func TestProbeOfSoftHSM(t *testing.T) {
	e := openWithKeys(t, nil)
	const sessions = 100
	p, err := e.Probe(t.Context(), sessions)
	must(t, err)
	if p.Library.Cryptoki != "2.40" || p.Token.Serial == "" || p.GCM.EmptyIV != "constant" || p.Sessions == nil || p.Sessions.Opened != sessions ||
		p.Find == nil || p.Find.Objects != 3 {
		t.Errorf("profile: %+v %+v %+v %+v %+v", p.Library, p.Token, p.GCM, p.Sessions, p.Find)
	}
	works := func(trials []Trial) (does, doesNot []string) {
		for _, trial := range trials {
			if trial.Works {
				does = append(does, trial.What)
			} else {
				doesNot = append(doesNot, trial.What)
			}
		}
		return does, doesNot
	}
	if _, broken := works(p.Enforced); len(broken) > 0 {
		t.Errorf("promises that SoftHSM keeps are said not to be kept: %q", broken)
	}
	_, not := works(p.Imports)
	want := []string{
		"AES key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_KWP",
		"EC private key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_KWP",
		"AES key under RSA by C_UnwrapKey with CKM_RSA_PKCS_OAEP, SHA-256",
		"AES key under AES under RSA by C_UnwrapKey with CKM_RSA_AES_KEY_WRAP, SHA-1",
		"AES key under AES under RSA by C_UnwrapKey with CKM_RSA_AES_KEY_WRAP, SHA-256",
	}
	if !slices.Equal(not, want) {
		t.Errorf("imports that do not work: %q, want %q\n%+v", not, want, p.Imports)
	}
	if len(p.Mechanisms) < 60 || !slices.ContainsFunc(p.Mechanisms, func(m MechanismProfile) bool {
		return m.Mechanism == "CKM_AES_GCM" && slices.Contains(m.Flags, "encrypt")
	}) {
		t.Errorf("mechanisms: %+v", p.Mechanisms)
	}
	text, err := json.Marshal(p)
	must(t, err)
	var back Profile
	must(t, json.Unmarshal(text, &back))
	if again, err := json.Marshal(back); err != nil || string(again) != string(text) {
		t.Errorf("JSON does not read back: %v", err)
	}
	if s := e.Stats(); s.Poisoned != 0 || s.Epoch != 1 {
		t.Errorf("after a probe: %+v", s)
	}
	// Nothing is left behind.
	s := ownSession(t, e)
	objects, err := e.module.findAll(s.handle, nil)
	must(t, err)
	if len(objects) != 4 {
		t.Errorf("%d objects are left, want the three service keys and the copy of the binding key", len(objects))
	}
}

func TestReportSaysWhatStrictRefuses(t *testing.T) {
	e := openWithKeys(t, nil)
	p := e.Profile()
	for strict, want := range map[bool]bool{false: false, true: true} {
		var b strings.Builder
		must(t, p.Write(&b, strict))
		if got := strings.Contains(b.String(), "STRICT REFUSES"); got != want {
			t.Errorf("strict %t: the report says what strict refuses: %t, want %t\n%s", strict, got, want, &b)
		}
		for _, line := range []string{
			"no such keys", "in the token", "in the database, wrapped", "CKM_AES_KEY_WRAP", "take up its memory; back the token up for them:\n    ECC_NIST_EDWARDS25519\n",
			"No such keys; CreateKey refuses their specs:\n    ML_DSA_44, ML_DSA_65", "Lacking:\n    ED25519_PH_SHA_512 with ECC_NIST_EDWARDS25519\n",
		} {
			if !strings.Contains(b.String(), line) {
				t.Errorf("the report does not have %q:\n%s", line, &b)
			}
		}
	}
}

func TestStrictRefusesWhatIsDoneOutside(t *testing.T) {
	e := openWithKeys(t, func(c *Config) { c.Strict = true })
	for _, p := range e.Profile().Algorithms {
		if p.Private != RawInToken || sameFamily[p.Spec] != "" {
			continue
		}
		k := makeKey(t, e, p.Spec, usageOf(p.Algorithm))
		if _, err := e.EncryptAsymmetric(t.Context(), client, k, p.Algorithm, []byte("x")); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("EncryptAsymmetric with %s = %v", p.Algorithm, err)
		}
		if _, err := e.DecryptAsymmetric(t.Context(), client, k, p.Algorithm, make([]byte, 256)); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("DecryptAsymmetric with %s = %v", p.Algorithm, err)
		}
		return
	}
	t.Error("SoftHSM does everything in the token; the test needs another algorithm")
}
