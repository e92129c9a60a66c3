package softhsm

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"unsafe"
)

//go:embed shim/shim.c
var shimSource []byte

// Function is a place in CK_FUNCTION_LIST (PKCS#11 v2.40, section 3.6).
type Function int

// Functions that tests make fail, hang or count.
const (
	Initialize      Function = 0
	Finalize        Function = 1
	GetTokenInfo    Function = 6
	OpenSession     Function = 12
	GetSessionInfo  Function = 15
	Login           Function = 18
	DestroyObject   Function = 22
	EncryptInit     Function = 29
	Encrypt         Function = 30
	DecryptInit     Function = 33
	Decrypt         Function = 34
	Sign            Function = 43
	VerifyInit      Function = 48
	GenerateKey     Function = 58
	GenerateKeyPair Function = 59
	WrapKey         Function = 60
	UnwrapKey       Function = 61
	GenerateRandom  Function = 64

	functionCount = 68
)

// shimControl is the file that a shim obeys; shim.c has the same.
type shimControl struct {
	calls, code, times, hang [functionCount]uint64
	dead, tokenFlags, ivMode uint64
}

// Shim is a PKCS#11 module in front of SoftHSM that fails on demand, for tests
// of what uses a module. It is a file of its own, so that several can be
// loaded, but SoftHSM behind them is one. All methods may be called while the
// module is in use.
type Shim struct {
	Module  string // path
	control *shimControl
	mapping []byte
}

// NewShim compiles a shim into dir with the C compiler that cgo needs too.
func NewShim(dir string) (*Shim, error) {
	behind, err := Find()
	if err != nil {
		return nil, err
	}
	source, controlPath := filepath.Join(dir, "shim.c"), filepath.Join(dir, "control")
	s := &Shim{Module: filepath.Join(dir, "shim.so")}
	if err := os.WriteFile(source, shimSource, 0o600); err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	compile := exec.Command("cc", "-shared", "-fPIC", "-O1", "-w", "-D_GNU_SOURCE",
		fmt.Sprintf("-DREAL=%q", behind), fmt.Sprintf("-DCONTROL=%q", controlPath), "-o", s.Module, source, "-ldl")
	if output, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("softhsm: compile shim: %w: %s", err, output)
	}
	if err := s.mapControl(controlPath); err != nil {
		return nil, fmt.Errorf("softhsm: shim control: %w", err)
	}
	return s, nil
}

func (s *Shim) mapControl(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(shimControl{}))
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	s.mapping, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	s.control = (*shimControl)(unsafe.Pointer(unsafe.SliceData(s.mapping)))
	return nil
}

// Calls is how often a function was called.
func (s *Shim) Calls(f Function) uint64 { return atomic.LoadUint64(&s.control.calls[f]) }

// Fail makes the next calls of a function return a code instead.
func (s *Shim) Fail(f Function, code uint, times uint64) {
	atomic.StoreUint64(&s.control.code[f], uint64(code))
	atomic.StoreUint64(&s.control.times[f], times)
}

// Hang makes calls of a function hang until it is called with false.
func (s *Shim) Hang(f Function, on bool) {
	var v uint64
	if on {
		v = 1
	}
	atomic.StoreUint64(&s.control.hang[f], v)
}

// Die makes every call fail with CKR_DEVICE_ERROR until C_Finalize is called,
// as a client library does that has lost its HSM.
func (s *Shim) Die() { atomic.StoreUint64(&s.control.dead, 1) }

// AddTokenFlags adds these flags to what C_GetTokenInfo returns, instead of
// those of the last call.
func (s *Shim) AddTokenFlags(flags uint) { atomic.StoreUint64(&s.control.tokenFlags, uint64(flags)) }

// Who makes the IV of AES-GCM encryptions, for [Shim.MakeIVs].
const (
	CallerMakesIV  = 0 // as SoftHSM does
	TokenWritesIV  = 1 // over 12 zeros, as AWS CloudHSM does
	TokenAppendsIV = 2 // 16 bytes behind the tag, as Thales Luna does in FIPS mode
)

// MakeIVs says who makes the IVs.
func (s *Shim) MakeIVs(mode uint) { atomic.StoreUint64(&s.control.ivMode, uint64(mode)) }

// Close gives the control file back. The module must not be in use any more.
func (s *Shim) Close() error { return syscall.Munmap(s.mapping) }
