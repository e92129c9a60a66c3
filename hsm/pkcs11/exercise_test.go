package pkcs11

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/mldsa"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/hsmtest"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm/pqtoken"
)

// exerciseT is *testing.T as the suite wants it. It remembers which parts ran, and
// what the token lacks.
type exerciseT struct {
	*testing.T
	name    string
	outcome *exerciseOutcome
}

type exerciseOutcome struct {
	mu      sync.Mutex
	parts   []string
	lacking map[string]bool // parts
}

func (t exerciseT) Run(name string, f func(hsmtest.T)) bool {
	t.outcome.parts = append(t.outcome.parts, name)
	return t.T.Run(name, func(inner *testing.T) { f(exerciseT{inner, name, t.outcome}) })
}

// Lacking notes what the token lacks.
func (t exerciseT) Lacking(format string, args ...any) {
	t.outcome.mu.Lock()
	defer t.outcome.mu.Unlock()
	t.outcome.lacking[t.name] = true
	t.Logf("lacking: "+format, args...)
}

// Stores whose keys may be destroyed.
const (
	exerciseStore = exercisePrefix + "a"
	exerciseOther = exercisePrefix + "b"
)

// exerciseHandles is few, since the suite uses three times as many keys at once.
const exerciseHandles = 8

// exercise runs the whole suite on a token, wants nothing to be left of it, and
// returns the names of the parts for which the token lacks something. All others
// have passed.
func exercise(t *testing.T, cfg Config, change func(*hsmtest.Fixture)) (lacking []string) {
	t.Helper()
	cfg.MaxHandles, cfg.OwnerSessions = exerciseHandles, 2
	e, err := Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	var rows []hsm.ServiceKey
	add := func(ctx context.Context, store string, generation int32) error {
		made, err := e.CreateServiceKeys(ctx, serviceKeyRows(store, generation))
		rows = append(rows, made...)
		return err
	}
	must(t, add(t.Context(), exerciseStore, 1))
	must(t, add(t.Context(), exerciseOther, 1))
	fixture := hsmtest.Fixture{
		Token: e, Store: exerciseStore, OtherStore: exerciseOther, Handles: exerciseHandles, Rewrap: e.Rewrap,
		AddGeneration: func(ctx context.Context) error { return add(ctx, exerciseStore, 2) },
		Close:         func() {},
	}
	if raced { // RSA keys take long, and those of one size race as well as those of three
		fixture.Specs = slices.DeleteFunc(allSpecs(), func(s keyspec.Spec) bool { return sameFamily[s] != "" })
	}
	if change != nil {
		change(&fixture)
	}
	outcome := &exerciseOutcome{lacking: map[string]bool{}}
	hsmtest.Exercise(t.Context(), exerciseT{t, "", outcome}, func() hsmtest.Fixture { return fixture })
	must(t, e.DestroyServiceKeys(t.Context(), rows))
	s := ownSession(t, e)
	left, err := e.module.findAll(s.handle, []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true)})
	must(t, err)
	if len(left) > 0 {
		t.Errorf("%d objects are left of the exercise", len(left))
	}
	if stats := e.Stats(); stats.Epoch != 1 || stats.Poisoned != 0 {
		t.Errorf("after the exercise: %+v", stats)
	}
	if diff := cmp.Diff(partsFor(fixture.Specs), outcome.parts); diff != "" {
		t.Errorf("parts of the suite (-want +got):\n%s", diff)
	}
	for _, part := range outcome.parts {
		if outcome.lacking[part] {
			lacking = append(lacking, part)
		}
	}
	return lacking
}

// partsFor are all parts of the suite, for some key specs or, if specs is nil, for
// all that there are.
func partsFor(specs []keyspec.Spec) []string {
	var tried, slow []keyspec.Spec
	for _, row := range keyspec.Specs {
		if row.Spec != keyspec.SM2 && (specs == nil || slices.Contains(specs, row.Spec)) { // AWS has SM2 in China only
			if keyspec.IsSlowToMake(row.Spec) {
				slow = append(slow, row.Spec)
			} else {
				tried = append(tried, row.Spec)
			}
		}
	}
	return slices.Concat([]string{
		"Check", "RoundTrip", "OtherAdditionalData", "FlippedCiphertext", "MalformedCiphertext", "FreshIVs", "SwappedKey",
		"UnsupportedKey", "Random", "Seal", "FlippedSeal", "EndedContext", "ManyKeysAtOnce",
	}, lackingOf(tried...), lackingOf(slow...), []string{"Import", "ManyKindsAtOnce", "Rewrap", "Discard"})
}

func allSpecs() (specs []keyspec.Spec) {
	for _, row := range keyspec.Specs {
		specs = append(specs, row.Spec)
	}
	return specs
}

// lackingOf are the parts of the suite that concern a spec and of which a token has
// nothing if it makes no keys of it.
func lackingOf(specs ...keyspec.Spec) (parts []string) {
	for _, spec := range specs {
		row, _ := keyspec.Lookup(spec)
		for _, usage := range row.Usages() {
			algorithms := row.Algorithms[usage]
			if spec == keyspec.SymmetricDefault {
				algorithms = nil // the first parts are about them
			}
			for _, a := range algorithms {
				parts = append(parts, fmt.Sprintf("%s %s", spec, a))
			}
			parts = append(parts, fmt.Sprintf("%s %s EditedRows", spec, usage), fmt.Sprintf("%s %s WrongUse", spec, usage),
				fmt.Sprintf("%s %s Transport", spec, usage))
			if !row.SlowToMake {
				parts = append(parts, fmt.Sprintf("%s %s Destroy", spec, usage))
			}
		}
		if slices.Contains(pairSpecs, spec) {
			parts = append(parts, fmt.Sprintf("%s DataKeyPair", spec))
		}
	}
	return parts
}

var postQuantumOnes = []keyspec.Spec{
	keyspec.MLDSA44, keyspec.MLDSA65, keyspec.MLDSA87, keyspec.MLKEM512, keyspec.MLKEM768, keyspec.MLKEM1024,
}

func wantLacking(t *testing.T, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parts that the token lacks (-want +got):\n%s", diff)
	}
}

// wantSummary wants the README of hsm to have the last line of an exercise of all
// key specs, which kmsgate hsm probe -exercise prints.
func wantSummary(t *testing.T, lacking []string) {
	t.Helper()
	if raced { // not all specs
		return
	}
	text, err := os.ReadFile("../README.md")
	must(t, err)
	line := fmt.Sprintf("\n    %d passed, 0 failed, %d lacking\n", len(partsFor(nil))-len(lacking), len(lacking))
	if !strings.Contains(string(text), line) {
		t.Errorf("../README.md does not have %q", strings.TrimSpace(line))
	}
}

func TestExercise(t *testing.T) {
	lacking := exercise(t, configFor(newToken(t)), nil)
	wantSummary(t, lacking)
	wantLacking(t, lacking, append([]string{"ECC_NIST_EDWARDS25519 ED25519_PH_SHA_512", "ECC_NIST_EDWARDS25519 SIGN_VERIFY Transport"}, lackingOf(postQuantumOnes...)...))
}

// TestExerciseOfResidentKeys has all keys live in the token.
func TestExerciseOfResidentKeys(t *testing.T) {
	cfg := configFor(newToken(t))
	cfg.Resident = []string{exerciseStore}
	lacking := exercise(t, cfg, func(f *hsmtest.Fixture) {
		f.Resident = true
		f.Specs = []keyspec.Spec{keyspec.SymmetricDefault, keyspec.HMAC256, keyspec.RSA2048, keyspec.ECCNISTP256, keyspec.ECCNISTEdwards25519}
	})
	wantLacking(t, lacking, []string{"ECC_NIST_EDWARDS25519 ED25519_PH_SHA_512"})
}

// TestExerciseOfPostQuantumKeys runs on a token that has them.
func TestExerciseOfPostQuantumKeys(t *testing.T) {
	for name, c := range map[string]pqtoken.Config{"resident": {}, "wrapped": {Wraps: true, ExternalMu: true}} {
		t.Run(name, func(t *testing.T) {
			cfg := configFor(newToken(t))
			token, err := pqtoken.New(t.TempDir(), c)
			must(t, err)
			t.Cleanup(func() { must(t, token.Close()) })
			cfg.Module = token.Module
			lacking := exercise(t, cfg, func(f *hsmtest.Fixture) {
				f.Specs, f.VerifyOutside = postQuantumOnes, verifyMLDSA
			})
			var want []string
			if !c.Wraps { // nor does it sign message representatives
				want = []string{
					"ML_DSA_44 ML_DSA_SHAKE_256", "ML_DSA_44 SIGN_VERIFY Transport",
					"ML_DSA_65 ML_DSA_SHAKE_256", "ML_DSA_65 SIGN_VERIFY Transport",
					"ML_DSA_87 ML_DSA_SHAKE_256", "ML_DSA_87 SIGN_VERIFY Transport",
					"ML_KEM_512 ENCAPSULATE_DECAPSULATE Transport", "ML_KEM_768 ENCAPSULATE_DECAPSULATE Transport",
					"ML_KEM_1024 ENCAPSULATE_DECAPSULATE Transport",
				}
			}
			wantLacking(t, lacking, want)
		})
	}
}

// verifyMLDSA verifies outside what the suite cannot.
func verifyMLDSA(spki []byte, as keyspec.MessageType, message, signature []byte) error {
	public, err := der.ParsePublic(spki)
	if err != nil {
		return err
	}
	key, err := mldsa.NewPublicKey(mldsaSpecs[public.Spec], public.Raw)
	if err != nil {
		return err
	}
	if as == keyspec.ExternalMu {
		return nil // the library does not take mu
	}
	return mldsa.Verify(key, message, signature, nil)
}
