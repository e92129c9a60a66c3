package softhsm_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/softhsm"
)

// SoftHSM is one per process: these tests do not run in parallel.

func TestProvisionIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	first := provision(t, dir, "dev")
	pin := read(t, first.PINFile)
	second := provision(t, dir, "dev")
	if first != second {
		t.Errorf("second Provision = %+v, want %+v", second, first)
	}
	if !bytes.Equal(read(t, first.PINFile), pin) {
		t.Error("second Provision changed the PIN")
	}
	if err := login(first, string(pin)); err != nil {
		t.Errorf("log in with the PIN: %v", err)
	}
	for _, name := range []string{"dev.pin", "dev.so-pin"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v, want 0600", name, info.Mode(), err)
		}
	}
}

func TestProvisionKeepsSeveralTokensInOneDirectory(t *testing.T) {
	dir := t.TempDir()
	a, b := provision(t, dir, "one"), provision(t, dir, "two")
	if a.Serial == b.Serial || a.Serial == "" {
		t.Errorf("serials %q and %q, want two different ones", a.Serial, b.Serial)
	}
	if got := provision(t, dir, "one"); got != a {
		t.Errorf("Provision(one) = %+v after two was made, want %+v", got, a)
	}
}

func TestProvisionRefusesATokenWhosePINIsLost(t *testing.T) {
	dir := t.TempDir()
	tok := provision(t, dir, "dev")
	if err := os.Remove(tok.PINFile); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.Provision(dir, "dev"); err == nil {
		t.Error("Provision made a new PIN for an existing token, want an error")
	}
}

func TestProvisionRefusesLabelsThatAreNoFileNames(t *testing.T) {
	for _, label := range []string{"", "../x", "a b", "UPPER", "a/b", "0123456789012345678901234567890123"} {
		if _, err := softhsm.Provision(t.TempDir(), label); err == nil {
			t.Errorf("Provision(%q) = nil, want an error", label)
		}
	}
}

func TestProvisionFinishesATokenWithoutUserPIN(t *testing.T) {
	dir := t.TempDir()
	provision(t, dir, "first") // leaves the configuration
	soPIN := []byte("0123456789")
	for _, name := range []string{"half.pin", "half.so-pin"} {
		if err := os.WriteFile(filepath.Join(dir, name), soPIN, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	initTokenOnly(t, "half", string(soPIN))
	tok := provision(t, dir, "half")
	if err := login(tok, string(soPIN)); err != nil {
		t.Errorf("log in to the finished token: %v", err)
	}
}

func provision(t *testing.T, dir, label string) softhsm.Token {
	t.Helper()
	tok, err := softhsm.Provision(dir, label)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// module runs f on the initialised module.
func module(f func(ctx *pkcs11.Ctx, slots []uint) error) error {
	path, err := softhsm.Find()
	if err != nil {
		return err
	}
	ctx := pkcs11.New(path)
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		return err
	}
	defer ctx.Finalize()
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return err
	}
	return f(ctx, slots)
}

func login(tok softhsm.Token, pin string) error {
	return module(func(ctx *pkcs11.Ctx, slots []uint) error {
		for _, s := range slots {
			if info, err := ctx.GetTokenInfo(s); err != nil || info.SerialNumber != tok.Serial {
				continue
			}
			session, err := ctx.OpenSession(s, pkcs11.CKF_SERIAL_SESSION)
			if err != nil {
				return err
			}
			return ctx.Login(session, pkcs11.CKU_USER, pin)
		}
		return os.ErrNotExist
	})
}

func initTokenOnly(t *testing.T, label, soPIN string) {
	t.Helper()
	err := module(func(ctx *pkcs11.Ctx, slots []uint) error {
		for _, s := range slots {
			if info, err := ctx.GetTokenInfo(s); err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
				return ctx.InitToken(s, soPIN, label)
			}
		}
		return os.ErrNotExist
	})
	if err != nil {
		t.Fatal(err)
	}
}
