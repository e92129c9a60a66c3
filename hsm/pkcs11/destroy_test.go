package pkcs11

import (
	"context"
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

func TestDestroyLeavesNothingOfAKeyInSessions(t *testing.T) {
	e := openWithKeys(t, nil)
	before := sessionObjects(t, e)
	doomed, kept := generate(t, e, "doomed"), generate(t, e, "kept")
	encryptWorks(t, e, doomed)
	encryptWorks(t, e, kept)
	if n := sessionObjects(t, e) - before; n != 2 {
		t.Fatalf("%d objects are cached, want 2", n)
	}
	must(t, e.Destroy(t.Context(), client, doomed))
	if n, handles := sessionObjects(t, e)-before, e.Stats().Handles; n != 1 || handles != 1 {
		t.Errorf("%d objects and %d handles are cached, want those of the other key", n, handles)
	}
	encryptWorks(t, e, kept)
}

// TestDestroyGoesByTheNameToo has a row that is bound, and whose CKA_ID is by chance
// another key's.
func TestDestroyGoesByTheNameToo(t *testing.T) {
	e, _ := openResident(t, nil)
	k := makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC)
	namesake := cloneKey(k)
	namesake.KeyID = "another"
	must(t, ownSession(t, e).bind(&namesake))
	if err := e.Destroy(t.Context(), client, &namesake); !errors.Is(err, hsm.ErrWrongMaterial) {
		t.Errorf("Destroy of a key with the CKA_ID of another = %v, want %v", err, hsm.ErrWrongMaterial)
	}
	uses[keyspec.GenerateVerifyMAC](t, e, k, keyspec.HMACSHA256)
	if err := e.Destroy(t.Context(), client, &hsm.Key{Store: testStore, Spec: "NO_SUCH_SPEC"}); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("Destroy of a key of no spec = %v, want %v", err, hsm.ErrUnsupported)
	}
}

// TestDestroyIsNotDoneWhereTheTokenFails wants no success to be told of a key that is
// there still.
func TestDestroyIsNotDoneWhereTheTokenFails(t *testing.T) {
	e, shim := openResident(t, nil)
	k := makeKey(t, e, keyspec.HMAC256, keyspec.GenerateVerifyMAC)
	shim.Fail(softhsm.DestroyObject, pkcs11.CKR_FUNCTION_FAILED, 5)
	if err := e.Destroy(t.Context(), client, k); err == nil {
		t.Error("Destroy where C_DestroyObject fails = nil")
	}
	shim.Fail(softhsm.DestroyObject, pkcs11.CKR_OK, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Destroy(ctx, client, k); err == nil {
		t.Error("Destroy for a caller who has gone = nil")
	}
	// So many failures have the token reconnected, now or a moment later.
	eventually(t, "the key is destroyed, and the token has nothing", func() bool {
		left := 0
		return e.Destroy(t.Context(), client, k) == nil && e.Residents(t.Context(), client, func(Resident) error {
			left++
			return nil
		}) == nil && left == 0
	})
}

// TestDestroyIsNotDoneWhileAnUnwrappedKeyStays: the token does not destroy the object of
// a wrapped key. It goes with its session, and the next time there is nothing.
func TestDestroyIsNotDoneWhileAnUnwrappedKeyStays(t *testing.T) {
	for name, code := range map[string]uint{"the device fails": pkcs11.CKR_FUNCTION_FAILED, "the token is busy": 0x80000041} {
		t.Run(name, func(t *testing.T) {
			e, shim := openWithShim(t, func(c *Config) { c.ReturnCodes = map[uint]string{0x80000041: "busy"} })
			before := sessionObjects(t, e)
			k := generate(t, e, "doomed")
			encryptWorks(t, e, k)
			shim.Fail(softhsm.DestroyObject, code, 1)
			if err := e.Destroy(t.Context(), client, k); err == nil {
				t.Error("Destroy where C_DestroyObject fails = nil")
			}
			eventually(t, "nothing of the key is left", func() bool {
				return e.Destroy(t.Context(), client, k) == nil && sessionObjects(t, e) == before
			})
		})
	}
}
