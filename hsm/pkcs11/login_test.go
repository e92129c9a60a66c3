package pkcs11

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// marks are the login marks of one instance, in memory.
type marks struct {
	turn   sync.Mutex
	mu     sync.Mutex
	set    map[string]bool
	broken bool
}

func (m *marks) LoginRefused(_ context.Context, serial string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return false, errors.New("database away")
	}
	return m.set[serial], nil
}

func (m *marks) Exclusively(ctx context.Context, _ string, fn func(context.Context) error) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	return fn(ctx)
}

func (m *marks) MarkLoginRefused(_ context.Context, serial string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set == nil {
		m.set = map[string]bool{}
	}
	m.set[serial] = true
	return nil
}

func pin(s string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(s), nil } }

// mustNotOpen opens an engine that must be refused for want.
func mustNotOpen(t *testing.T, cfg Config, want error) {
	t.Helper()
	e, err := Open(t.Context(), cfg)
	if err == nil {
		e.Close()
	}
	if !errors.Is(err, want) {
		t.Fatalf("Open = %v, want %v", err, want)
	}
	if secret, _ := cfg.PIN(); err != nil && strings.Contains(err.Error(), string(secret)) {
		t.Errorf("Open's error contains the PIN")
	}
}

func TestWrongPINIsTriedOnceNotOnceARestart(t *testing.T) {
	for name, m := range map[string]*marks{"by mark": {}, "by the token's flags": nil} {
		t.Run(name, func(t *testing.T) {
			tok := newToken(t)
			cfg := configFor(tok)
			right := cfg.PIN
			shim := newShim(t, &cfg)
			if m != nil {
				cfg.Marks = m
			}
			cfg.PIN = pin("0000-not-the-pin")
			for range 3 {
				mustNotOpen(t, cfg, hsm.ErrPIN)
			}
			if n := shim.Calls(softhsm.Login); n != 1 {
				t.Errorf("C_Login was called %d times with a wrong PIN, want once", n)
			}
			cfg.PIN = right // nor is another PIN, before an operator says so
			mustNotOpen(t, cfg, hsm.ErrPIN)
			if n := shim.Calls(softhsm.Login); n != 1 {
				t.Errorf("C_Login was called %d times, want once", n)
			}
			serial, err := LoginOnce(t.Context(), cfg)
			if err != nil || serial != tok.Serial {
				t.Fatalf("LoginOnce = %q, %v, want %q", serial, err, tok.Serial)
			}
			if m != nil {
				m.set[serial] = false // as kmsgate hsm login does
			}
			open(t, cfg)
		})
	}
}

func TestMarkAloneStopsALogin(t *testing.T) {
	tok := newToken(t)
	cfg := configFor(tok)
	shim := newShim(t, &cfg)
	cfg.Marks = &marks{set: map[string]bool{tok.Serial: true}}
	mustNotOpen(t, cfg, hsm.ErrPIN)
	cfg.Marks = &marks{broken: true}
	mustNotOpen(t, cfg, hsm.ErrUnavailable)
	if n := shim.Calls(softhsm.Login); n != 0 {
		t.Errorf("C_Login was called %d times, want never", n)
	}
}

func TestTokenFlagsAloneStopALogin(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	for _, flag := range []uint{pkcs11.CKF_USER_PIN_COUNT_LOW, pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_USER_PIN_LOCKED} {
		shim.AddTokenFlags(flag)
		mustNotOpen(t, cfg, hsm.ErrPIN)
		if n := shim.Calls(softhsm.Login); n != 0 {
			t.Errorf("flag 0x%X: C_Login was called %d times, want never", flag, n)
		}
	}
}

func TestLoginOnceTriesOnce(t *testing.T) {
	cfg := configFor(newToken(t))
	shim := newShim(t, &cfg)
	m := &marks{}
	cfg.Marks = m
	cfg.PIN = pin("0000-not-the-pin")
	serial, err := LoginOnce(t.Context(), cfg)
	if !errors.Is(err, hsm.ErrPIN) || !m.set[serial] {
		t.Errorf("LoginOnce with a wrong PIN = %q, %v, marked %v; want %v and a mark", serial, err, m.set, hsm.ErrPIN)
	}
	if n := shim.Calls(softhsm.Login); n != 1 {
		t.Errorf("C_Login was called %d times, want once", n)
	}
}

func TestProvenPINIsUsedAtReconnectDespiteFlags(t *testing.T) {
	e, shim := openWithShim(t, nil)
	k := generate(t, e, "k")
	shim.AddTokenFlags(pkcs11.CKF_USER_PIN_COUNT_LOW) // somebody else mistyped
	shim.Die()
	encryptAfterOutage(t, e, k, 2)
	if n := shim.Calls(softhsm.Login); n != 2 {
		t.Errorf("C_Login was called %d times, want twice", n)
	}
}

// encryptAfterOutage notices an outage by a call, and waits for its end.
func encryptAfterOutage(t *testing.T, e *Engine, k *hsm.Key, epoch uint64) {
	t.Helper()
	_, _ = e.Encrypt(t.Context(), client, k, []byte("x"), nil) // meets the outage
	eventually(t, "a new epoch", func() bool { return e.Stats().Epoch >= epoch && e.Stats().Serving })
	encryptWorks(t, e, k)
}

func TestPINRefusedAtReconnectStopsForGood(t *testing.T) {
	m := &marks{}
	e, shim := openWithShim(t, func(c *Config) { c.Marks = m })
	k := generate(t, e, "k")
	shim.Fail(softhsm.Login, pkcs11.CKR_PIN_INCORRECT, 1<<40)
	shim.Die()
	_, _ = e.Encrypt(t.Context(), client, k, []byte("x"), nil) // meets the outage
	eventually(t, "the engine stops", func() bool { return errors.Is(e.Check(t.Context()), hsm.ErrPIN) })
	if n := shim.Calls(softhsm.Login); n != 2 {
		t.Errorf("C_Login was called %d times, want twice: at start and at the reconnect", n)
	}
	if !m.set[e.serial] {
		t.Error("no mark was left")
	}
	if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Encrypt = %v, want %v", err, hsm.ErrUnavailable)
	}
}

func TestChangedPINIsAsGoodAsNewAtReconnect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pin")
	m := &marks{}
	e, shim := openWithShim(t, func(c *Config) {
		content, err := c.PIN()
		if err == nil {
			err = os.WriteFile(file, append(content, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.PIN, c.Marks = PINFile(file), m
	})
	k := generate(t, e, "k")
	if err := os.WriteFile(file, []byte("another pin"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.set = map[string]bool{e.serial: true}
	m.mu.Unlock()
	shim.Die()
	_, _ = e.Encrypt(t.Context(), client, k, []byte("x"), nil) // meets the outage
	eventually(t, "the engine stops", func() bool { return errors.Is(e.Check(t.Context()), hsm.ErrPIN) })
	if n := shim.Calls(softhsm.Login); n != 1 {
		t.Errorf("C_Login was called %d times, want once: the new PIN is not proven", n)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	tok := newToken(t)
	good := configFor(tok)
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no module":       {func(c *Config) { c.Module = "" }, "Module"},
		"missing module":  {func(c *Config) { c.Module = "/nonexistent.so" }, "/nonexistent.so"},
		"not a module":    {func(c *Config) { c.Module = "libm.so.6" }, "C_GetFunctionList"},
		"no token":        {func(c *Config) { c.Label = "" }, "Label"},
		"other label":     {func(c *Config) { c.Label = "nope" }, tok.Serial},
		"other serial":    {func(c *Config) { c.Serial = "nope" }, tok.Label},
		"no PIN":          {func(c *Config) { c.PIN = nil }, "PIN"},
		"no PIN file":     {func(c *Config) { c.PIN = PINFile("/nonexistent") }, "/nonexistent"},
		"negative limit":  {func(c *Config) { c.MaxHandles = -1 }, "negative"},
		"unknown IV mode": {func(c *Config) { c.IV = 9 }, "IV mode"},
	} {
		cfg := good
		c.change(&cfg)
		e, err := Open(t.Context(), cfg)
		if err == nil {
			e.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Open = %v, want an error with %q", name, err, c.want)
		}
	}
	bySerial := good
	bySerial.Label, bySerial.Serial = "", tok.Serial
	open(t, bySerial)
	if e, err := Open(t.Context(), good); err == nil {
		e.Close()
		t.Error("a second engine on one module opened, want an error")
	}
}
