package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// NSSToken is a token of NSS softoken, the software token of Firefox and others:
// another kind of token than SoftHSM, for tests.
type NSSToken struct {
	Module        string // path of libsoftokn3.so
	InitArguments string // C_Initialize's reserved string, which says where the token is
	Label         string
	PINFile       string // mode 0600, the user PIN without a line end
}

// ErrNoNSS is returned where no NSS softoken is found.
var ErrNoNSS = errors.New("softhsm: libsoftokn3.so not found; install the package libnss3 (Debian, Ubuntu), nss-softokn (Fedora) or nss (Arch)")

// nssPaths are where distributions put the module.
var nssPaths = []string{
	"/usr/lib/x86_64-linux-gnu/libsoftokn3.so",      // Debian 12, Ubuntu 22.04 and newer
	"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",  // Debian, Ubuntu, older
	"/usr/lib/aarch64-linux-gnu/libsoftokn3.so",     // Debian, Ubuntu
	"/usr/lib/aarch64-linux-gnu/nss/libsoftokn3.so", // Debian, Ubuntu, older
	"/usr/lib64/libsoftokn3.so",                     // Fedora, RHEL
	"/usr/lib/libsoftokn3.so",                       // Arch
	"/opt/homebrew/lib/libsoftokn3.dylib",           // macOS
}

// ProvisionNSS makes an NSS token in dir, which must be empty. It initialises and
// finalises the module, so nothing else of the process may use it meanwhile.
func ProvisionNSS(dir, label string) (NSSToken, error) {
	if !labelPattern.MatchString(label) || strings.ContainsAny(dir, `'"\`) {
		return NSSToken{}, fmt.Errorf("softhsm: an NSS token in %q with the label %q cannot be named to NSS", dir, label)
	}
	t := NSSToken{Label: label, PINFile: filepath.Join(dir, label+".pin")}
	t.InitArguments = fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags=noModDB dbTokenDescription='%s'", dir, label)
	for _, p := range nssPaths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			t.Module = p
			break
		}
	}
	if t.Module == "" {
		return NSSToken{}, ErrNoNSS
	}
	pin, err := keepPIN(t.PINFile)
	if err != nil {
		return NSSToken{}, fmt.Errorf("softhsm: %w", err)
	}
	if err := t.initialise(pin); err != nil {
		return NSSToken{}, fmt.Errorf("softhsm: NSS token in %s: %w", dir, err)
	}
	return t, nil
}

// initialise sets the user PIN of the token, which NSS makes when it is first
// asked for it. Until then its security officer has an empty PIN.
func (t *NSSToken) initialise(pin string) (err error) {
	ctx := pkcs11.New(t.Module)
	if ctx == nil {
		return fmt.Errorf("load %s: not a PKCS#11 module", t.Module)
	}
	defer ctx.Destroy()
	arguments := append([]byte(t.InitArguments), 0)
	var pinner runtime.Pinner
	pinner.Pin(&arguments[0])
	defer pinner.Unpin()
	if err := ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&arguments[0]))); err != nil {
		return fmt.Errorf("C_Initialize: %w", err)
	}
	defer func() {
		if e := ctx.Finalize(); e != nil && err == nil {
			err = fmt.Errorf("C_Finalize: %w", e)
		}
	}()
	slot, err := t.find(ctx)
	if err != nil {
		return err
	}
	session, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("C_OpenSession: %w", err)
	}
	if err := ctx.Login(session, pkcs11.CKU_SO, ""); err != nil {
		return fmt.Errorf("C_Login: %w", err)
	}
	if err := ctx.InitPIN(session, pin); err != nil {
		return fmt.Errorf("C_InitPIN: %w", err)
	}
	return nil
}

// find finds the token among those of NSS, of which one has no keys.
func (t *NSSToken) find(ctx *pkcs11.Ctx) (slot uint, err error) {
	ids, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("C_GetSlotList: %w", err)
	}
	for _, id := range ids {
		info, err := ctx.GetTokenInfo(id)
		if err != nil {
			return 0, fmt.Errorf("C_GetTokenInfo: %w", err)
		}
		if info.Label == t.Label {
			return id, nil
		}
	}
	return 0, fmt.Errorf("no token has the label %s", t.Label)
}
