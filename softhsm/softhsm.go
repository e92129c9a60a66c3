// Package softhsm provisions SoftHSM tokens for development and tests: it finds
// the module, writes its configuration and makes a token with random PINs. It
// is not for production: SoftHSM keeps keys in files.
//
// SoftHSM is one per process: it reads SOFTHSM2_CONF at C_Initialize, and
// everybody in the process who loaded the module shares sessions and login.
// [Provision] initialises and finalises the module, so nothing else of the
// process may use it meanwhile.
//
// A second kind of token for tests is NSS softoken, see [ProvisionNSS].
package softhsm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/miekg/pkcs11"
)

// Token is a provisioned SoftHSM token.
type Token struct {
	Module   string // path of libsofthsm2.so
	ConfPath string // softhsm2.conf, see [Use]
	Label    string
	Serial   string
	PINFile  string // mode 0600, the user PIN without a line end
}

// ErrNotInstalled is returned where no SoftHSM module is found.
var ErrNotInstalled = errors.New("softhsm: libsofthsm2.so not found; install the package softhsm2 (Debian, Ubuntu) or softhsm (Fedora, Arch)")

// modulePaths are where distributions put the module.
var modulePaths = []string{
	"/usr/lib/softhsm/libsofthsm2.so",                       // Debian, Ubuntu, Arch
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",      // Debian, Ubuntu
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",     // Debian, Ubuntu
	"/usr/lib/arm-linux-gnueabihf/softhsm/libsofthsm2.so",   // Debian, Ubuntu
	"/usr/lib/powerpc64le-linux-gnu/softhsm/libsofthsm2.so", // Debian, Ubuntu
	"/usr/lib/s390x-linux-gnu/softhsm/libsofthsm2.so",       // Debian, Ubuntu
	"/usr/lib/riscv64-linux-gnu/softhsm/libsofthsm2.so",     // Debian, Ubuntu
	"/usr/lib64/pkcs11/libsofthsm2.so",                      // Fedora, RHEL
	"/usr/lib64/softhsm/libsofthsm.so",                      // Fedora, older
	"/usr/lib64/libsofthsm2.so",                             // openSUSE
	"/usr/lib/pkcs11/libsofthsm2.so",                        // Arch, Alpine
	"/usr/local/lib/softhsm/libsofthsm2.so",                 // built from source
}

// Find returns the path of the installed SoftHSM module, or [ErrNotInstalled].
func Find() (string, error) {
	for _, p := range modulePaths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", ErrNotInstalled
}

// Use points SoftHSM at a configuration for this process and its children. It
// takes effect at the next C_Initialize, and must not run while another
// goroutine is inside the module.
func Use(confPath string) error {
	return os.Setenv("SOFTHSM2_CONF", confPath)
}

// labelPattern keeps labels usable as file names; PKCS#11 allows 32 bytes.
var labelPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Provision makes sure that dir holds a SoftHSM configuration and a token of
// this label, calls [Use], and returns the token. It is idempotent: a token
// that exists is never initialised again, and one that was cut off half-made
// is finished. Several tokens can live in one directory. Processes that
// provision the same directory at once wait for each other.
func Provision(dir, label string) (Token, error) {
	if !labelPattern.MatchString(label) {
		return Token{}, fmt.Errorf("softhsm: token label %q is not 1 to 32 of a-z, 0-9 and -", label)
	}
	module, err := Find()
	if err != nil {
		return Token{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Token{}, fmt.Errorf("softhsm: %w", err)
	}
	unlock, err := prepare(dir)
	if err != nil {
		return Token{}, fmt.Errorf("softhsm: prepare %s: %w", dir, err)
	}
	defer unlock()

	t := Token{Module: module, ConfPath: filepath.Join(dir, "softhsm2.conf"), Label: label, PINFile: filepath.Join(dir, label+".pin")}
	if err := Use(t.ConfPath); err != nil {
		return Token{}, fmt.Errorf("softhsm: %w", err)
	}
	if t.Serial, err = ensureToken(t, filepath.Join(dir, label+".so-pin")); err != nil {
		return Token{}, fmt.Errorf("softhsm: token %s in %s: %w", label, dir, err)
	}
	return t, nil
}

// prepare makes the directory and its configuration and locks it.
func prepare(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(dir, "tokens"), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// The lock goes with the descriptor; a failing Close has nothing to lose.
	unlock = func() { _ = lock.Close() }
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		unlock()
		return nil, err
	}
	conf := "directories.tokendir = " + filepath.Join(dir, "tokens") + "\n" +
		"objectstore.backend = file\n" +
		"log.level = ERROR\n" +
		"slots.removable = false\n"
	if err := writeDurably(filepath.Join(dir, "softhsm2.conf"), []byte(conf)); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// ensureToken finds or makes the token and returns its serial number.
func ensureToken(t Token, soPINFile string) (serial string, err error) {
	ctx := pkcs11.New(t.Module)
	if ctx == nil {
		return "", fmt.Errorf("load %s: not a PKCS#11 module", t.Module)
	}
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		return "", fmt.Errorf("C_Initialize: %w", err)
	}
	defer func() {
		if e := ctx.Finalize(); e != nil && err == nil {
			err = fmt.Errorf("C_Finalize: %w", e)
		}
	}()

	slots, err := survey(ctx, t.Label)
	if err != nil {
		return "", err
	}
	if len(slots.found) > 1 {
		return "", fmt.Errorf("%d tokens have this label", len(slots.found))
	}
	if len(slots.found) == 1 && slots.found[0].ready {
		if _, err := os.Stat(t.PINFile); err != nil {
			return "", fmt.Errorf("the token exists but its PIN file does not: %w", err)
		}
		return slots.found[0].serial, nil
	}
	return initialise(ctx, t, soPINFile, slots)
}

// tokenSlot is a slot whose token bears the label.
type tokenSlot struct {
	id     uint
	serial string
	ready  bool // its user PIN is set
}

type slotSurvey struct {
	found   []tokenSlot
	free    uint // a slot whose token is not initialised
	hasFree bool
}

func survey(ctx *pkcs11.Ctx, label string) (s slotSurvey, err error) {
	ids, err := ctx.GetSlotList(true)
	if err != nil {
		return s, fmt.Errorf("C_GetSlotList: %w", err)
	}
	for _, id := range ids {
		info, err := ctx.GetTokenInfo(id)
		if err != nil {
			return s, fmt.Errorf("C_GetTokenInfo: %w", err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			s.free, s.hasFree = id, true
			continue
		}
		if info.Label == label {
			s.found = append(s.found, tokenSlot{id, info.SerialNumber, info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED != 0})
		}
	}
	return s, nil
}

// initialise makes the token where there is none, and sets the user PIN. The
// PINs are on disk before the token is, so that no crash leaves a token whose
// PIN is lost.
func initialise(ctx *pkcs11.Ctx, t Token, soPINFile string, slots slotSurvey) (string, error) {
	soPIN, err := keepPIN(soPINFile)
	if err != nil {
		return "", err
	}
	pin, err := keepPIN(t.PINFile)
	if err != nil {
		return "", err
	}
	slot := slots.free
	if len(slots.found) == 1 {
		slot = slots.found[0].id
	} else {
		if !slots.hasFree {
			return "", errors.New("no free slot")
		}
		if err := ctx.InitToken(slot, soPIN, t.Label); err != nil {
			return "", fmt.Errorf("C_InitToken: %w", err)
		}
	}
	session, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return "", fmt.Errorf("C_OpenSession: %w", err)
	}
	if err := ctx.Login(session, pkcs11.CKU_SO, soPIN); err != nil {
		return "", fmt.Errorf("C_Login: %w", err)
	}
	if err := ctx.InitPIN(session, pin); err != nil {
		return "", fmt.Errorf("C_InitPIN: %w", err)
	}
	if err := ctx.CloseSession(session); err != nil {
		return "", fmt.Errorf("C_CloseSession: %w", err)
	}
	info, err := ctx.GetTokenInfo(slot)
	if err != nil {
		return "", fmt.Errorf("C_GetTokenInfo: %w", err)
	}
	return info.SerialNumber, nil
}

// keepPIN returns the PIN in the file, which it makes with a random one if it
// is not there.
func keepPIN(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	pin := hex.EncodeToString(random[:])
	return pin, writeDurably(path, []byte(pin))
}

// writeDurably replaces a file so that a crash leaves the old or the new one.
func writeDurably(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	// Gone after the rename; else what is left of a failed write.
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
