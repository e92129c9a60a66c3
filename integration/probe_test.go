package integration_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
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
	before := len(s.objectFiles(t))
	r = s.kmsgate(t, "hsm", "probe", "-exercise")
	r.wantSuccess(t, "hsm probe -exercise")
	wantLine(t, r, "pass", "RoundTrip")
	if !regexp.MustCompile(`\n\d{2} passed, 0 failed, \d+ lacking\n$`).MatchString(r.stdout) {
		t.Errorf("the exercise ends with %q", r.stdout[max(0, len(r.stdout)-200):])
	}
	if after := len(s.objectFiles(t)); after != before {
		t.Errorf("%d objects are in the token after the exercise, and %d before", after, before)
	}

	for flags, want := range map[string]string{
		"-config x -module y":                    "leave the flags for them out",
		"":                                       "-config or -module is missing",
		"-module " + s.token.Module:              "give -label or -serial",
		"-config x -exercise -json":              "do not go together",
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
