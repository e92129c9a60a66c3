package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/softhsm"
)

// TestServeRefusesTokens starts serve on modules and tokens that it cannot serve on,
// and wants to be told what to do.
func TestServeRefusesTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	s.prepare(t)
	source, library := s.path("empty.c"), s.path("empty.so")
	if err := os.WriteFile(source, []byte("int nothing;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("cc", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	elsewhere, blank := s.moreTokens(t)
	for _, tc := range []struct {
		name  string
		set   []string // what was, what is
		words []string
	}{
		{"a module that is no library", []string{s.token.Module, s.token.ConfPath}, []string{s.token.ConfPath, "the path of the vendor's PKCS#11 library"}},
		{"a library that is no module", []string{s.token.Module, library}, []string{library, "no C_GetFunctionList", "must be the vendor's PKCS#11 library"}},
		{"two tokens of a label", []string{"label: kmsgate", "label: twin"}, []string{`2 tokens match label "twin"`, "name the one that is meant by its serial"}},
		{"a token without a PIN", []string{"label: kmsgate", `serial: "` + blank + `"`}, []string{blank, "has no user PIN", "its security officer"}},
		{"a token that is not there", []string{"label: kmsgate", `serial: "4711"`}, []string{`serial "4711"`, s.token.Serial, "write label or serial as the token has them"}},
		{"another token", []string{"label: kmsgate", "label: elsewhere", s.token.PINFile, elsewhere.PINFile}, []string{"the token has no", "is this the token that kmsgate init has used"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer s.restore(t, s.text)
			for n := 0; n < len(tc.set); n += 2 {
				s.set(t, tc.set[n], tc.set[n+1])
			}
			r := s.kmsgate(t, "serve")
			r.wantFailure(t, "serve", 1, append(tc.words, "token main")...)
			s.wantNoSecret(t, r)
		})
	}
	s.serve(t, nil) // and nothing of it has left a trace
}

// moreTokens makes tokens beside the site's: one with a PIN, two with one label, and
// one, whose serial number is the second result, without a user PIN.
func (s *site) moreTokens(t testing.TB) (elsewhere softhsm.Token, blank string) {
	t.Helper()
	provisioning.Lock()
	defer provisioning.Unlock()
	elsewhere, err := softhsm.Provision(filepath.Dir(s.token.ConfPath), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	module := pkcs11.New(elsewhere.Module)
	defer module.Destroy()
	if err := module.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer module.Finalize() //nolint:errcheck // the tokens are made
	for _, label := range []string{"twin", "twin", "blank"} {
		slots, err := module.GetSlotList(true)
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range slots {
			if info, err := module.GetTokenInfo(slot); err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
				continue
			}
			if err := module.InitToken(slot, "0123456789", label); err != nil {
				t.Fatal(err)
			}
			info, err := module.GetTokenInfo(slot)
			if err != nil {
				t.Fatal(err)
			}
			blank = info.SerialNumber
		}
	}
	return elsewhere, blank
}

// TestServeRefusesAnotherFirmware updates a token's firmware: nothing starts on it
// until an operator has accepted it.
func TestServeRefusesAnotherFirmware(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	key := s.prepare(t)
	shim := s.shimmed(t)
	s.serve(t, nil).stop() // the same by another library's path
	shim.Update(1, pkcs11.CKM_DES3_CBC)
	changed := []string{"token main", s.token.Serial, `firmware: "`, `" is now "`, "mechanisms gone: CKM_DES3_CBC", "kmsgate hsm probe -config FILE -token main", "-accept"}
	s.kmsgate(t, "serve").wantFailure(t, "serve on another firmware", 1, changed...)
	s.kmsgate(t, "init", "-account", other).wantFailure(t, "init on another firmware", 1, changed...)
	s.kmsgate(t, "hsm", "rotate-domain-key").wantFailure(t, "hsm rotate-domain-key on another firmware", 1, changed...)
	s.kmsgate(t, "hsm", "probe").wantSuccess(t, "hsm probe, which accepts nothing,")
	s.kmsgate(t, "serve").wantFailure(t, "serve after a probe", 1, changed...)
	r := run(t, binary(t), "hsm", "probe", "-module", shim.Module, "-serial", s.token.Serial, "-pin-file", s.token.PINFile, "-accept")
	if r.code == 0 || !strings.Contains(r.stderr, "-accept goes with -config") {
		t.Errorf("hsm probe -accept without a configuration: exit code %d, %q", r.code, r.stderr)
	}
	s.kmsgate(t, "hsm", "probe", "-token", "main", "-accept").wantSuccess(t, "hsm probe -accept")
	i := s.serve(t, nil)
	s.wantEncrypts(t, i, key)
	var mechanisms []float64
	for _, e := range i.audit(t) {
		if e.EventName == "AcceptToken" && e.RequestParameters["serialNumber"] == s.token.Serial {
			listed, _ := e.RequestParameters["mechanisms"].(float64)
			mechanisms = append(mechanisms, listed)
		}
	}
	if len(mechanisms) != 2 || mechanisms[1] != mechanisms[0]-1 {
		t.Errorf("mechanisms of the token when it was accepted, by the audit log: %v, want two numbers and one mechanism less", mechanisms)
	}
}
