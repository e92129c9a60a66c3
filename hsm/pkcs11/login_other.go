package pkcs11

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"kmsgate/hsm"
)

// LoginBy lets another library log in to the token, by the rule that the engine
// follows: the PIN is not tried while the token warns or a mark of an earlier
// refusal stands, by one process at a time, and a refusal leaves a mark. login is
// called once at most, and is to try the PIN once; the PIN is cleared when it
// returns. The module is initialised and finalised before that, so no engine may
// use it in this process. The result is the token's serial number, if it was
// found; [hsm.ErrPIN] if the PIN was refused or must not be tried.
func LoginBy(ctx context.Context, cfg Config, login func(pin []byte) error) (serial string, err error) {
	if err := cfg.normalize(); err != nil {
		return "", err
	}
	e := &Engine{cfg: cfg, module: NewModule(cfg.Module, cfg.InitArguments)}
	info, err := e.lookUpToken()
	if err != nil {
		return "", answer(err)
	}
	pin, err := cfg.PIN()
	if err != nil {
		return info.SerialNumber, fmt.Errorf("token PIN: %w", err)
	}
	defer clear(pin)
	try := func(ctx context.Context) error {
		if err := e.mayTry(ctx, info); err != nil {
			return err
		}
		return e.judgeLogin(ctx, login(pin), info)
	}
	if cfg.Marks == nil {
		return info.SerialNumber, answer(try(ctx))
	}
	return info.SerialNumber, answer(cfg.Marks.Exclusively(ctx, "login to token "+info.SerialNumber, try))
}

// lookUpToken finds the one token that is meant, and lets go of the module again.
func (e *Engine) lookUpToken() (info pkcs11.TokenInfo, err error) {
	err = e.module.alone(func() (err error) {
		if err := e.learnCodes(); err != nil {
			return err
		}
		info, err = e.findToken()
		return err
	})
	return info, err
}

// judgeLogin leaves a mark if a login was refused for its PIN.
func (e *Engine) judgeLogin(ctx context.Context, err error, info pkcs11.TokenInfo) error {
	if e.loginClass(e.codes.explain(managed("C_Login", err)), nil) != classPIN {
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
