package integration_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/softhsm"
)

// TestProbe looks at a SoftHSM as at a new HSM: without a configuration, with
// one, and with the conformance suite.
func TestProbe(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	alone := func(flags ...string) ran {
		return s.probeAlone(t, append([]string{"-module", s.token.Module, "-label", s.token.Label, "-pin-file", s.token.PINFile}, flags...)...)
	}
	r := alone()
	r.wantSuccess(t, "hsm probe without a configuration")
	wantInReadme(t, "../hsm/README.md", r.stdout)
	s.wantNoSecret(t, r)
	if strings.Contains(r.stdout, "STRICT") {
		t.Errorf("without -strict the report says what strict refuses:\n%s", r.stdout)
	}
	wantLine(t, alone("-strict"), "RSAES_OAEP_SHA_256", "STRICT REFUSES")

	s.prepare(t)
	r = s.kmsgate(t, "hsm", "probe", "-json")
	r.wantSuccess(t, "hsm probe -json with a configuration")
	var profile struct {
		Token struct{ Serial string }
		Keys  []struct{ Spec, Usage, Residency string }
	}
	if err := json.Unmarshal([]byte(r.stdout), &profile); err != nil {
		t.Fatal(err)
	}
	if profile.Token.Serial != s.token.Serial || len(profile.Keys) != 25 {
		t.Errorf("serial %s and %d keys, want %s and 25", profile.Token.Serial, len(profile.Keys), s.token.Serial)
	}
	t.Run("exercise", s.wantExercise)
	t.Run("exercise that is interrupted", s.wantInterrupted)
	t.Run("a token that cannot serve", s.wantDescribed)

	for flags, want := range map[string]string{
		"-config x -module y":                    "leave the flags for them out",
		"":                                       "-config or -module is missing",
		"-module " + s.token.Module:              "give -label or -serial",
		"-config x -exercise -json":              "do not go together",
		"-config x -specs RSA_2048":              "-specs goes with -exercise",
		"-config x -exercise -specs RSA_1024":    `no key spec "RSA_1024"`,
		"-config " + s.config() + " -token none": "no token of that name",
	} {
		r := run(t, binary(t), append([]string{"hsm", "probe"}, strings.Fields(flags)...)...)
		if r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("hsm probe %s: exit code %d, %q, want %q", flags, r.code, r.stderr, want)
		}
	}
	if err := os.WriteFile(s.path("wrong"), []byte("0000"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.probeAlone(t, "-module", s.token.Module, "-serial", s.token.Serial, "-pin-file", s.path("wrong")).
		wantFailure(t, "hsm probe with a wrong PIN", 1, "PIN")
}

// wantExercise runs the conformance suite, which leaves nothing behind.
func (s *site) wantExercise(t *testing.T) {
	before := len(s.objectFiles(t))
	r := finish(t, exec.CommandContext(t.Context(), binary(t), "hsm", "probe", "-config", s.config(), "-exercise", "-specs", quickSpecs))
	r.wantSuccess(t, "hsm probe -exercise")
	wantLine(t, r, "pass", "RoundTrip")
	wantLine(t, r, "pass", "ECC_SECG_P256K1 ECDSA_SHA_256")
	wantInReadme(t, "../hsm/README.md", notPassed(t, r))
	if after := len(s.objectFiles(t)); after != before {
		t.Errorf("%d objects are in the token after the exercise, and %d before", after, before)
	}
	s.wantNoSecret(t, r)
}

// quickSpecs are all key specs but those of large RSA keys, which take long in
// software and lack nothing.
const quickSpecs = "SYMMETRIC_DEFAULT,RSA_2048,ECC_NIST_P256,ECC_NIST_P384,ECC_NIST_P521,ECC_SECG_P256K1,ECC_NIST_EDWARDS25519," +
	"HMAC_224,HMAC_256,HMAC_384,HMAC_512,ML_DSA_44,ML_DSA_65,ML_DSA_87,ML_KEM_512,ML_KEM_768,ML_KEM_1024"

// notPassed is what an exercise prints of parts that have not passed.
func notPassed(t testing.TB, r ran) string {
	t.Helper()
	_, parts, ok := strings.Cut(r.stdout, "\nEXERCISE of key stores exercise-")
	if !ok {
		t.Fatalf("there is no exercise in\n%s", r.stdout)
	}
	var lines []string
	for line := range strings.Lines(parts) {
		if regexp.MustCompile(`^(FAIL|lacking)`).MatchString(line) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(lines, "\n")
}

// wantInterrupted presses Ctrl-C while the suite runs: it clears up after itself.
func (s *site) wantInterrupted(t *testing.T) {
	before := len(s.objectFiles(t))
	stdout, stderr := newOutput(), newOutput()
	cmd := exec.CommandContext(t.Context(), binary(t), "hsm", "probe", "-config", s.config(), "-exercise")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the suite makes keys that live in the token", func() bool {
		return strings.Contains(stdout.String(), "ECC_NIST_EDWARDS25519 ED25519_SHA_512")
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stdout.String(), "ended before") {
		t.Errorf("the exercise was interrupted: exit code %d\n%s%s", code, stdout, stderr)
	}
	if after := len(s.objectFiles(t)); after != before || strings.Contains(stderr.String(), "LEFT") {
		t.Errorf("%d objects are in the token after an exercise that was interrupted, and %d before\n%s", after, before, stderr)
	}
}

// wantDescribed looks at a token that has no AES-GCM.
func (s *site) wantDescribed(t *testing.T) {
	shim, err := softhsm.NewShim(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer shim.Close() //nolint:errcheck // nobody uses it any more
	shim.Fail(softhsm.EncryptInit, pkcs11.CKR_MECHANISM_INVALID, 1<<32)
	r := s.probeAlone(t, "-module", shim.Module, "-label", s.token.Label, "-pin-file", s.token.PINFile)
	r.wantFailure(t, "hsm probe of a token without AES-GCM", 1, "the token cannot serve", "AES-GCM", "CKR_MECHANISM_INVALID")
	wantLine(t, r, "Token", s.token.Label, s.token.Serial)
	wantLine(t, r, "CKM_RSA_PKCS_OAEP", "encrypt decrypt")
}

// TestProbeOfASecondKindOfToken looks at NSS, as a customer does at an HSM that
// nobody here has seen.
func TestProbeOfASecondKindOfToken(t *testing.T) {
	t.Parallel()
	provisioning.Lock()
	token, err := softhsm.ProvisionNSS(t.TempDir(), "second")
	provisioning.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	r := finish(t, exec.CommandContext(t.Context(), binary(t), "hsm", "probe", "-module", token.Module, "-init-arguments", token.InitArguments,
		"-label", token.Label, "-pin-file", token.PINFile, "-exercise", "-specs", quickSpecs))
	r.wantSuccess(t, "hsm probe -exercise of NSS")
	wantLine(t, r, "DANGER, the token does not keep its promises")
	wantLine(t, r, "CKA_EXTRACTABLE: a key that is not cannot be wrapped", "NO", "DANGER: who has the PIN can take keys out of this token")
	wantLine(t, r, "pass", "ECC_NIST_P256 ECDSA_SHA_256")
	wantInReadme(t, "../hsm/README.md", notPassed(t, r))
}

// probeAlone runs hsm probe on SoftHSM without a configuration.
func (s *site) probeAlone(t testing.TB, flags ...string) ran {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), append([]string{"hsm", "probe"}, flags...)...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+s.token.ConfPath)
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	_ = cmd.Run() // the exit code says it
	return ran{stdout: out.String(), stderr: problems.String(), code: cmd.ProcessState.ExitCode()}
}

// volatile is what differs from token to token and from run to run.
var volatile = []struct {
	text *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?m)^Library +\S+:`), "Library MODULE:"},
	{regexp.MustCompile(`serial [0-9a-f]+`), "serial SERIAL"},
	{regexp.MustCompile(`(?m)^Search .*$`), "Search"},
	{regexp.MustCompile(` +`), " "},
	{regexp.MustCompile(`(?m) $`), ""},
}

func settled(text string) string {
	for _, v := range volatile {
		text = v.text.ReplaceAllString(text, v.with)
	}
	return text
}

// wantInReadme wants a document to have the output, up to the mechanisms, which
// are many, and but for what is volatile.
func wantInReadme(t testing.TB, path, output string) {
	t.Helper()
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	output, _, _ = strings.Cut(output, "\nMECHANISM LISTED")
	text := settled(strings.ReplaceAll(string(document), "\n    ", "\n"))
	if want := strings.TrimSpace(settled(output)); !strings.Contains(text, want) {
		t.Errorf("%s does not have what hsm probe prints now:\n%s", path, output)
	}
}
