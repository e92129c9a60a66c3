package pkcs11

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// TestStartSaysWhatToDo: what cannot work is refused at the start, with the reason
// and what to do, and nothing is left behind: the same process opens the right
// token afterwards.
func TestStartSaysWhatToDo(t *testing.T) {
	tok := newToken(t)
	dir := t.TempDir()
	text, empty := filepath.Join(dir, "text.so"), filepath.Join(dir, "empty.so")
	must(t, os.WriteFile(text, []byte("not a library\n"), 0o600))
	source := filepath.Join(dir, "empty.c")
	must(t, os.WriteFile(source, []byte("int nothing;\n"), 0o600))
	if output, err := exec.Command("cc", "-shared", "-fPIC", "-o", empty, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	blank := initToken(t, tok, "half") // no user PIN
	initToken(t, tok, "twin")
	initToken(t, tok, "twin")
	rows := madeServiceKeys(t, configFor(tok))
	elsewhere := serviceKeyRows(testStore, 1)
	for i := range elsewhere {
		elsewhere[i].CheckValue = rows[i].CheckValue
	}
	swapped := slices.Clone(rows)
	swapped[0].CheckValue = append(slices.Clone(rows[0].CheckValue[:len(rows[0].CheckValue)-1]), rows[0].CheckValue[len(rows[0].CheckValue)-1]^1)
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"no such file":         {func(c *Config) { c.Module = filepath.Join(dir, "no.so") }, []string{"no.so", "No such file", "the path of the vendor's PKCS#11 library"}},
		"a text file":          {func(c *Config) { c.Module = text }, []string{text, "the path of the vendor's PKCS#11 library"}},
		"no PKCS#11 library":   {func(c *Config) { c.Module = empty }, []string{empty, "no C_GetFunctionList", "must be the vendor's PKCS#11 library"}},
		"no such label":        {func(c *Config) { c.Label = "nobody" }, []string{`0 tokens match label "nobody"`, tok.Serial, "not initialised: those in slots", "connect the token, or initialise it"}},
		"no such serial":       {func(c *Config) { c.Label, c.Serial = "", "4711" }, []string{`serial "4711"`, tok.Serial, "write label or serial as the token has them"}},
		"two of one label":     {func(c *Config) { c.Label = "twin" }, []string{`2 tokens match label "twin"`, "name the one that is meant by its serial"}},
		"no user PIN":          {func(c *Config) { c.Label, c.Serial = "", blank }, []string{blank, "has no user PIN", "its security officer"}},
		"another token's keys": {func(c *Config) { c.ServiceKeys = elsewhere }, []string{"the token has no domain key, generation 1, of store default", "is this the token that kmsgate init has used"}},
		"another domain key":   {func(c *Config) { c.ServiceKeys = swapped }, []string{"domain key, generation 1, of store default", "is not the one that the database knows", "restore the database"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configFor(tok)
			c.change(&cfg)
			e, err := Open(t.Context(), cfg)
			if err == nil {
				t.Fatalf("Open = nil, want an error (%v)", e.Close())
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Open = %v, want %q in it", err, want)
				}
			}
		})
	}
	cfg := configFor(tok)
	cfg.ServiceKeys = rows
	must(t, open(t, cfg).Check(t.Context()))
}

// TestLockedPINIsForTheSecurityOfficer: the token says that the PIN is locked, by
// its flags and by what C_Login returns.
func TestLockedPINIsForTheSecurityOfficer(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	shim.Fail(softhsm.Login, pkcs11.CKR_PIN_LOCKED, 1)
	mustNotOpen(t, cfg, hsm.ErrPIN)
	shim.AddTokenFlags(pkcs11.CKF_USER_PIN_LOCKED)
	mustNotOpen(t, cfg, hsm.ErrPIN)
	if _, err := Open(t.Context(), cfg); !strings.Contains(err.Error(), "is locked; its security officer has to set a new one, then: kmsgate hsm login") {
		t.Errorf("Open = %v, want what to do", err)
	}
	if n := shim.Calls(softhsm.Login); n != 1 {
		t.Errorf("C_Login was called %d times, want once", n)
	}
}

// madeServiceKeys makes service keys in a token and closes it.
func madeServiceKeys(t *testing.T, cfg Config) []hsm.ServiceKey {
	t.Helper()
	e, err := Open(t.Context(), cfg)
	must(t, err)
	rows, err := e.CreateServiceKeys(t.Context(), serviceKeyRows(testStore, 1))
	must(t, err)
	must(t, e.Close())
	return rows
}

// initToken makes a token without a user PIN beside another, and returns its serial number.
func initToken(t *testing.T, beside softhsm.Token, label string) (serial string) {
	t.Helper()
	m := NewModule(beside.Module, "")
	must(t, m.alone(func() error {
		slots, err := m.ctx.GetSlotList(true)
		must(t, err)
		for _, id := range slots {
			if info, err := m.tokenInfo(id); err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
				must(t, m.ctx.InitToken(id, "0123456789", label))
				info, err = m.tokenInfo(id)
				serial = info.SerialNumber
				return err
			}
		}
		return os.ErrNotExist
	}))
	return serial
}
