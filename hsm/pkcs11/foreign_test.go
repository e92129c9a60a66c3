package pkcs11

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// foreign is somebody else in the process who uses the module too.
func foreign(t *testing.T, e *Engine) *pkcs11.Ctx {
	t.Helper()
	ctx := pkcs11.New(e.cfg.Module)
	if ctx == nil {
		t.Fatalf("cannot load %s", e.cfg.Module)
	}
	t.Cleanup(ctx.Destroy)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEngineRecoversFromWhatOthersDoBehindItsBack(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, *pkcs11.Ctx, *Engine){
		"close all sessions": func(t *testing.T, c *pkcs11.Ctx, e *Engine) { must(t, c.CloseAllSessions(e.slot)) },
		"log out":            func(t *testing.T, c *pkcs11.Ctx, e *Engine) { must(t, c.Logout(pkcs11.SessionHandle(e.anchor))) },
		"finalize":           func(t *testing.T, c *pkcs11.Ctx, _ *Engine) { must(t, c.Finalize()) },
		"finalize and initialize": func(t *testing.T, c *pkcs11.Ctx, _ *Engine) {
			must(t, c.Finalize())
			must(t, c.Initialize())
		},
		"close the anchor session": func(t *testing.T, c *pkcs11.Ctx, e *Engine) {
			must(t, c.CloseSession(pkcs11.SessionHandle(e.anchor)))
		},
		"destroy the cached object": func(t *testing.T, c *pkcs11.Ctx, e *Engine) {
			s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			must(t, err)
			for _, o := range e.handles.owners {
				for _, en := range o.share.entries {
					must(t, c.DestroyObject(s, pkcs11.ObjectHandle(en.handle)))
				}
			}
			must(t, c.CloseSession(s))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := openWithKeys(t, nil)
			c := foreign(t, e)
			a, b := generate(t, e, "a"), generate(t, e, "b")
			old, err := e.Encrypt(t.Context(), client, a, []byte("before"), nil)
			must(t, err)
			harm(t, c, e)
			encryptWorks(t, e, a)
			encryptWorks(t, e, b)
			got, err := e.Decrypt(t.Context(), client, a, old, nil)
			if err != nil || string(got) != "before" {
				t.Errorf("Decrypt of an earlier ciphertext = %q, %v", got, err)
			}
			generate(t, e, "c")
			if err := e.Check(t.Context()); err != nil {
				t.Errorf("Check = %v", err)
			}
		})
	}
}

func TestDestroyedServiceKeyIsNoticed(t *testing.T) {
	e := openWithKeys(t, nil)
	domain, _ := e.service.Load().find(testStore, hsm.DomainKey, 1)
	k := generate(t, e, "k")
	c := foreign(t, e)
	s, err := c.OpenSession(e.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	must(t, c.DestroyObject(s, pkcs11.ObjectHandle(domain.handle)))
	must(t, c.CloseSession(s))
	if err := e.Check(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Check = %v, want %v", err, hsm.ErrUnavailable)
	}
	if _, err := e.Encrypt(t.Context(), client, k, []byte("x"), nil); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Encrypt = %v, want %v", err, hsm.ErrUnavailable)
	}
}
