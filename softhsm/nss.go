package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/miekg/pkcs11"
)

type NSSToken struct {
	Module        string
	InitArguments string
	Label         string
	PINFile       string
}

func ProvisionNSS(dir string) (t NSSToken, err error) {
	t = NSSToken{Module: "/usr/lib/x86_64-linux-gnu/libsoftokn3.so", Label: "kmsgate-nss", PINFile: filepath.Join(dir, "pin")}
	t.InitArguments = fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='%s'", dir, t.Label)
	if err := os.WriteFile(t.PINFile, []byte("secret-pin"), 0o600); err != nil {
		return t, err
	}
	ctx := pkcs11.New(t.Module)
	if ctx == nil {
		return t, errors.New("cannot load")
	}
	defer ctx.Destroy()
	args := append([]byte(t.InitArguments), 0)
	if err := ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&args[0]))); err != nil {
		return t, err
	}
	defer ctx.Finalize()
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return t, err
	}
	for _, s := range slots {
		info, err := ctx.GetTokenInfo(s)
		fmt.Printf("%d %+v %v\n", s, info, err)
		if strings.TrimSpace(info.Label) != t.Label {
			continue
		}
		session, err := ctx.OpenSession(s, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return t, fmt.Errorf("open: %w", err)
		}
		if err := ctx.Login(session, pkcs11.CKU_SO, ""); err != nil {
			return t, fmt.Errorf("login: %w", err)
		}
		if err := ctx.InitPIN(session, "secret-pin"); err != nil {
			return t, fmt.Errorf("initpin: %w", err)
		}
		info, err = ctx.GetTokenInfo(s)
		fmt.Printf("%d %+v %v\n", s, info, err)
	}
	return t, nil
}
