package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// TestLoginByKeepsTheRule has another library log in, well and badly.
func TestLoginByKeepsTheRule(t *testing.T) {
	tok := newToken(t)
	cfg := configFor(tok)
	shim := newShim(t, &cfg)
	m := &marks{}
	cfg.Marks = m
	refused := fmt.Errorf("log in: %w", pkcs11.Error(pkcs11.CKR_PIN_INCORRECT))
	for _, tc := range []struct {
		name   string
		says   error // of the library
		marked bool  // before
		flags  uint  // of the token
		want   error
		tried  int
		marks  bool // after
	}{
		{name: "the PIN works", tried: 1},
		{name: "the device fails", says: fmt.Errorf("log in: %w", pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)), want: hsm.ErrUnavailable, tried: 1},
		{name: "the library fails by itself", says: errors.New("no such token"), want: hsm.ErrUnavailable, tried: 1},
		{name: "the PIN is refused", says: refused, want: hsm.ErrPIN, tried: 1, marks: true},
		{name: "a mark stands", says: refused, marked: true, want: hsm.ErrPIN, marks: true},
		{name: "the token warns", says: refused, flags: pkcs11.CKF_USER_PIN_FINAL_TRY, want: hsm.ErrPIN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m.set = map[string]bool{tok.Serial: tc.marked}
			shim.AddTokenFlags(tc.flags)
			tried := 0
			var pin []byte
			serial, err := LoginBy(t.Context(), cfg, func(p []byte) error {
				tried, pin = tried+1, p
				return tc.says
			})
			if !errors.Is(err, tc.want) || serial != tok.Serial || tried != tc.tried || m.set[tok.Serial] != tc.marks {
				t.Errorf("LoginBy = %q, %v after %d tries, marked %t; want %q, %v, %d, %t",
					serial, err, tried, m.set[tok.Serial], tok.Serial, tc.want, tc.tried, tc.marks)
			}
			if !bytes.Equal(pin, make([]byte, len(pin))) {
				t.Error("the PIN was not cleared")
			}
		})
	}
	m.broken = true
	shim.AddTokenFlags(0)
	if _, err := LoginBy(t.Context(), cfg, func([]byte) error { t.Error("the PIN was tried"); return nil }); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("LoginBy without the marks = %v, want ErrUnavailable", err)
	}
	if n := shim.Calls(softhsm.Login); n != 0 {
		t.Errorf("the engine has called C_Login %d times, want never", n)
	}
	if i, f := shim.Calls(softhsm.Initialize), shim.Calls(softhsm.Finalize); i != f {
		t.Errorf("the module was initialised %d times and finalised %d times", i, f)
	}
}

func TestLoginByNeedsTheToken(t *testing.T) {
	cfg := configFor(newToken(t))
	cfg.Label = "other"
	if _, err := LoginBy(t.Context(), cfg, func([]byte) error { t.Error("the PIN was tried"); return nil }); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("LoginBy = %v, want ErrUnavailable", err)
	}
}
