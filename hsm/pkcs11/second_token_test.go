package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// newNSSToken makes a token of another kind than SoftHSM: NSS softoken.
func newNSSToken(t *testing.T) Config {
	t.Helper()
	tok, err := softhsm.ProvisionNSS(t.TempDir(), "second")
	if err != nil {
		t.Fatalf("%v; deployments/setup test installs it", err)
	}
	return Config{Module: tok.Module, InitArguments: tok.InitArguments, Label: tok.Label, PIN: PINFile(tok.PINFile)}
}

// notOnNSS are the key specs that NSS does not have.
var notOnNSS = append([]keyspec.Spec{keyspec.ECCSECGP256K1, keyspec.ECCNISTEdwards25519}, postQuantumOnes...)

func TestExerciseOfASecondKindOfToken(t *testing.T) {
	lacking := exercise(t, newNSSToken(t), func(f *hsmtest.Fixture) {
		if raced { // the engine is the same on every token, and so are its races
			f.Specs = append([]keyspec.Spec{keyspec.SymmetricDefault, keyspec.HMAC256, keyspec.ECCNISTP256}, notOnNSS...)
		}
	})
	wantSummary(t, lacking)
	var stay []string
	for _, spec := range []keyspec.Spec{keyspec.ECCNISTP256, keyspec.ECCNISTP384, keyspec.ECCNISTP521} {
		if !raced || spec == keyspec.ECCNISTP256 {
			stay = append(stay, fmt.Sprintf("%s SIGN_VERIFY Transport", spec), fmt.Sprintf("%s KEY_AGREEMENT Transport", spec))
		}
	}
	wantLacking(t, lacking, append(stay, lackingOf(notOnNSS...)...))
}

func TestProbeOfASecondKindOfToken(t *testing.T) {
	e := open(t, newNSSToken(t))
	p, err := e.Probe(t.Context(), 10)
	must(t, err)
	if p.Token.Label != "second" || p.Token.Model != "NSS 3" || p.GCM.EmptyIV != "refused" || len(p.Mechanisms) < 100 {
		t.Errorf("profile: %+v %+v %+v, %d mechanisms", p.Library, p.Token, p.GCM, len(p.Mechanisms))
	}
	wantTrials(t, "imports", p.Imports, map[string]string{
		"Ed25519 private key by C_CreateObject":                                              "C_CreateObject: CKR_ATTRIBUTE_VALUE_INVALID",
		"AES key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_PAD":        "C_UnwrapKey: CKR_WRAPPED_KEY_INVALID",
		"EC private key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_PAD": "C_UnwrapKey: CKR_WRAPPED_KEY_INVALID",
		"EC private key wrapped outside (RFC 5649) by C_UnwrapKey with CKM_AES_KEY_WRAP_KWP": "C_UnwrapKey: CKR_TEMPLATE_INCOMPLETE",
		"AES key under AES under RSA by C_UnwrapKey with CKM_RSA_AES_KEY_WRAP, SHA-1":        "C_UnwrapKey: CKR_MECHANISM_INVALID",
		"AES key under AES under RSA by C_UnwrapKey with CKM_RSA_AES_KEY_WRAP, SHA-256":      "C_UnwrapKey: CKR_MECHANISM_INVALID",
	})
	wantTrials(t, "promises", p.Enforced, map[string]string{
		"CKA_EXTRACTABLE: a key that is not cannot be wrapped":    keysGetOut,
		"CKA_EXTRACTABLE: a copy cannot have it either":           keysGetOut,
		"CKA_ALLOWED_MECHANISMS: another mechanism is refused":    keysDoMore,
		"CKA_WRAP_WITH_TRUSTED: only a trusted key wraps it":      keysGetOut,
		"CKA_COPYABLE: no copy is made without it":                keysAreChanged,
		"CKA_UNWRAP_TEMPLATE: what it demands cannot be left out": keysGetOut,
	})
	var report strings.Builder
	must(t, p.Write(&report, false))
	if want := "DANGER, the token does not keep its promises:\n    " + keysGetOut; !strings.Contains(report.String(), want) {
		t.Errorf("the report does not say %q:\n%s", want, &report)
	}
	var none []keyspec.Spec
	for _, k := range p.Keys {
		want := "wrapped"
		switch {
		case slices.Contains(notOnNSS, k.Spec):
			want, none = Nowhere, append(none, k.Spec)
		case keyTypes[k.Spec][k.Usage].template.keyType == keyTypes[keyspec.ECCNISTP256][keyspec.SignVerify].template.keyType:
			want = "resident" // NSS wraps EC keys, and does not take them back
		}
		if k.Residency != want {
			t.Errorf("%s keys for %s are %s (%s), want %s", k.Spec, k.Usage, k.Residency, k.Problem, want)
		}
	}
	if diff := cmp.Diff(notOnNSS, none); diff != "" {
		t.Errorf("specs that NSS lacks (-want +got):\n%s", diff)
	}
}

// TestTokenWithoutACodeForBadSignatures: NSS returns what an earlier failure has
// left behind. One such answer is asked for again, two mean that the signature is
// not valid, and none of them costs the token's service. The key is one that
// nobody but the token knows.
func TestTokenWithoutACodeForBadSignatures(t *testing.T) {
	e, shim := openWithShim(t, nil)
	k := makeKey(t, e, keyspec.ECCSECGP256K1, keyspec.SignVerify)
	message := []byte("message")
	signature, err := e.Sign(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Raw, message)
	must(t, err)
	verify := func() error {
		return e.Verify(t.Context(), client, k, keyspec.ECDSASHA256, keyspec.Raw, message, signature)
	}
	must(t, verify())
	for name, code := range map[string]uint{"CKR_DEVICE_ERROR": pkcs11.CKR_DEVICE_ERROR, "CKR_ARGUMENTS_BAD": pkcs11.CKR_ARGUMENTS_BAD} {
		for times, want := range map[uint64]error{1: nil, 2: hsm.ErrInvalidSignature} {
			shim.Fail(softhsm.VerifyInit, code, times)
			if err := verify(); !errors.Is(err, want) {
				t.Errorf("Verify where the token says %s, %d times = %v, want %v", name, times, err, want)
			}
			must(t, verify())
		}
	}
	// A token that is in trouble is not taken at its word.
	shim.Fail(softhsm.VerifyInit, pkcs11.CKR_DEVICE_ERROR, 2)
	shim.Fail(softhsm.GenerateRandom, pkcs11.CKR_DEVICE_ERROR, 1)
	if err := verify(); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Verify by a token in trouble = %v, want %v", err, hsm.ErrUnavailable)
	}
	encryptWorks(t, e, generate(t, e, "afterwards"))
	must(t, verify())
}

// wantTrials wants exactly some trials to fail, for their reasons.
func wantTrials(t *testing.T, what string, trials []Trial, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, trial := range trials {
		if !trial.Works {
			got[trial.What] = trial.Problem
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s that fail (-want +got):\n%s", what, diff)
	}
}
