package pkcs11

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// pinInDanger are the token flags under which an unproven PIN is not tried.
const pinInDanger = pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY | pkcs11.CKF_USER_PIN_LOCKED

// PINFile reads the PIN from a file at every login, so that an operator can
// change it without a restart. One line end is taken off.
func PINFile(path string) func() ([]byte, error) {
	return func() ([]byte, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read PIN: %w", err)
		}
		pin := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
		if len(pin) == 0 {
			return nil, fmt.Errorf("read PIN: %s is empty", path)
		}
		return pin, nil
	}
}

// provenPIN remembers, as a MAC under a key of this process, the PIN that the
// token has accepted from this engine.
type provenPIN struct {
	key [32]byte
	mac []byte // nil until a login succeeded
}

func newProvenPIN() (p provenPIN, err error) {
	_, err = rand.Read(p.key[:])
	return p, err
}

func (p *provenPIN) sum(pin []byte) []byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write(pin)
	return h.Sum(nil)
}

func (p *provenPIN) holds(pin []byte) bool { return p.mac != nil && hmac.Equal(p.mac, p.sum(pin)) }

// login logs the user in on a session. A PIN that has not worked in this
// process yet is not tried while the token warns or a mark stands; a refused
// one leaves a mark, and is [hsm.ErrPIN].
func (e *Engine) login(ctx context.Context, session handle, info pkcs11.TokenInfo) error {
	pin, err := e.cfg.PIN()
	if err != nil {
		return fmt.Errorf("token PIN: %w", err)
	}
	defer clear(pin)
	if err = e.tryInTurn(ctx, session, pin, info); err == nil {
		e.proven.mac = e.proven.sum(pin)
	}
	return err
}

// tryInTurn tries a PIN: one that has worked here at once, any other only where
// that is safe, and while nobody else tries one on the same token.
func (e *Engine) tryInTurn(ctx context.Context, session handle, pin []byte, info pkcs11.TokenInfo) error {
	if e.proven.holds(pin) {
		return e.tryPIN(ctx, session, pin, info)
	}
	try := func(ctx context.Context) error {
		if err := e.mayTry(ctx, info); err != nil {
			return err
		}
		return e.tryPIN(ctx, session, pin, info)
	}
	if e.cfg.Marks == nil {
		return try(ctx)
	}
	return e.cfg.Marks.Exclusively(ctx, "login to token "+info.SerialNumber, try)
}

// mayTry refuses where one more wrong PIN could lock the token. It fails
// closed: if the marks cannot be read, nothing is tried.
func (e *Engine) mayTry(ctx context.Context, info pkcs11.TokenInfo) error {
	if info.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0 && info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0 {
		return fmt.Errorf("%w: token %s has no user PIN yet; its security officer has to set one", hsm.ErrUnavailable, info.SerialNumber)
	}
	if info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		return fmt.Errorf("%w: the user PIN of token %s is locked; its security officer has to set a new one, then: kmsgate hsm login", hsm.ErrPIN, info.SerialNumber)
	}
	if info.Flags&pinInDanger != 0 {
		return fmt.Errorf("%w: token %s reports failed logins (flags 0x%X); not tried: kmsgate hsm login",
			hsm.ErrPIN, info.SerialNumber, info.Flags&pinInDanger)
	}
	if e.cfg.Marks == nil {
		return nil
	}
	marked, err := e.cfg.Marks.LoginRefused(ctx, info.SerialNumber)
	if err != nil {
		return fmt.Errorf("read login marks: %w", err)
	}
	if marked {
		return fmt.Errorf("%w: an earlier login to token %s was refused; not tried: kmsgate hsm login", hsm.ErrPIN, info.SerialNumber)
	}
	return nil
}

// tryPIN calls C_Login once.
func (e *Engine) tryPIN(ctx context.Context, session handle, pin []byte, info pkcs11.TokenInfo) error {
	start := e.cfg.Clock()
	err := e.codes.explain(e.module.lib.login(session, pin))
	c := e.loginClass(err, pin)
	e.cfg.Observe("login", classes[c].name, e.cfg.Clock().Sub(start))
	if call, ok := errors.AsType[*callError](err); ok && call.code == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
		return fmt.Errorf("%w: somebody else in this process is logged in", hsm.ErrUnavailable)
	}
	if c != classPIN {
		return err
	}
	refused := fmt.Errorf("%w by token %s: %w", hsm.ErrPIN, info.SerialNumber, err)
	if e.cfg.Marks == nil {
		return refused
	}
	if err := e.cfg.Marks.MarkLoginRefused(context.WithoutCancel(ctx), info.SerialNumber); err != nil {
		return fmt.Errorf("%w; and the mark could not be set: %w", refused, err)
	}
	return refused
}

// loginClass is the class of what C_Login said. What a vendor says in words that
// nobody knows may be that the PIN is wrong: a PIN that has not worked here yet
// is not tried again then.
func (e *Engine) loginClass(err error, pin []byte) class {
	if call, ok := errors.AsType[*callError](err); ok && call.code >= firstVendorCode && !e.proven.holds(pin) {
		if _, known := call.row(); !known {
			return classPIN
		}
	}
	return classOf(err, false)
}

// LoginOnce tries the PIN once, whatever marks and flags say, because an
// operator ordered it, and returns the token's serial number. It initialises
// and finalises the module, so no engine may use it in this process. The
// marks are the caller's to clear. [hsm.ErrPIN] if the PIN is refused.
func LoginOnce(ctx context.Context, cfg Config) (serial string, err error) {
	if err := cfg.normalize(); err != nil {
		return "", err
	}
	e := &Engine{cfg: cfg, module: NewModule(cfg.Module, cfg.InitArguments)}
	err = e.module.alone(func() (err error) {
		serial, err = e.loginOnce(ctx)
		return err
	})
	return serial, err
}

func (e *Engine) loginOnce(ctx context.Context) (serial string, err error) {
	if err := e.learnCodes(); err != nil {
		return "", err
	}
	info, err := e.findToken()
	if err != nil {
		return "", err
	}
	session, err := e.module.openSession(e.slot)
	if err != nil {
		return info.SerialNumber, answer(err)
	}
	pin, err := e.cfg.PIN()
	if err != nil {
		return info.SerialNumber, fmt.Errorf("token PIN: %w", err)
	}
	defer clear(pin)
	return info.SerialNumber, answer(e.tryPIN(ctx, session, pin, info))
}
