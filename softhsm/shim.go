package softhsm

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

//go:embed shim/shim.c
var shimSource []byte

// shimFault and shimControl are what a shim obeys; shim.c has the same.
type shimFault struct {
	times, every, seen, slot, session, code, after, delay, signal, length, corrupt uint64
}

type shimControl struct {
	size                                uint64
	calls, hang                         [functionCount]uint64
	faults                              [functionCount]shimFault
	dead, tokenFlags, ivMode            uint64
	latency, limit, most                uint64
	drops, logouts, removed, renumbered uint64
	sessions                            uint64
	firmware, hidden                    uint64
}

// Shim is a PKCS#11 module in front of another that fails on demand, counts
// the calls and can be as slow as a token behind a network, for tests of what
// uses a module. It is a file of its own, so that several can be loaded, but
// the module behind them is one. Other processes that load the file obey the
// same orders, and are counted together. All methods may be called while the
// module is in use; an order holds from the next call of the module on.
type Shim struct {
	Module  string // path
	control *shimControl
	mapping []byte
}

// NewShim makes a shim in dir, which stands in front of SoftHSM.
func NewShim(dir string) (*Shim, error) {
	behind, err := Find()
	if err != nil {
		return nil, err
	}
	return NewShimFor(dir, behind)
}

// NewShimFor compiles a shim into dir, with the C compiler that cgo needs too,
// that stands in front of the module at the path behind.
func NewShimFor(dir, behind string) (*Shim, error) {
	if info, err := os.Stat(behind); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("softhsm: no PKCS#11 module to stand in front of at %q", behind)
	}
	source := filepath.Join(dir, "shim.c")
	s := &Shim{Module: filepath.Join(dir, "shim.so")}
	if err := os.WriteFile(source, shimSource, 0o600); err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	compile := exec.Command("cc", "-std=gnu11", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-D_GNU_SOURCE", "-pthread",
		fmt.Sprintf("-DREAL=%q", behind), fmt.Sprintf("-DCONTROL=%q", controlPath(dir)), "-o", s.Module, source, "-ldl")
	if output, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("softhsm: compile shim: %w: %s", err, output)
	}
	if err := s.mapControl(controlPath(dir), os.O_CREATE|os.O_TRUNC); err != nil {
		return nil, fmt.Errorf("softhsm: shim control: %w", err)
	}
	atomic.StoreUint64(&s.control.size, uint64(len(s.mapping)))
	return s, nil
}

// OpenShim attaches to the shim that somebody has made in dir.
func OpenShim(dir string) (*Shim, error) {
	s := &Shim{Module: filepath.Join(dir, "shim.so")}
	if err := s.mapControl(controlPath(dir), 0); err != nil {
		return nil, fmt.Errorf("softhsm: no shim in %s: %w", dir, err)
	}
	return s, nil
}

func controlPath(dir string) string { return filepath.Join(dir, "control") }

var errOtherControl = errors.New("the control file is that of another version")

func (s *Shim) mapControl(path string, create int) error {
	f, err := os.OpenFile(path, create|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(shimControl{}))
	if create != 0 {
		err = f.Truncate(int64(size))
	} else if info, e := f.Stat(); e != nil || info.Size() != int64(size) {
		err = errors.Join(errOtherControl, e)
	}
	if err != nil {
		return err
	}
	s.mapping, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	s.control = (*shimControl)(unsafe.Pointer(unsafe.SliceData(s.mapping)))
	return nil
}

// Close gives the control file back. The module may still be in use; it obeys
// its last orders.
func (s *Shim) Close() error { return syscall.Munmap(s.mapping) }

// Calls is how often a function was called.
func (s *Shim) Calls(f Function) uint64 { return atomic.LoadUint64(&s.control.calls[f]) }

// Sessions is how many sessions are open.
func (s *Shim) Sessions() int { return int(atomic.LoadUint64(&s.control.sessions)) }

// Most is how many calls were in the module at once at most, in one process.
func (s *Shim) Most() int { return int(atomic.LoadUint64(&s.control.most)) }

// Slow makes every call take so much longer, and lets only so many calls of a
// process in at once, zero for any number: the others wait. It makes of
// SoftHSM what a token behind a network is.
func (s *Shim) Slow(latency time.Duration, limit int) {
	atomic.StoreUint64(&s.control.latency, uint64(latency/time.Microsecond))
	atomic.StoreUint64(&s.control.limit, uint64(limit))
}

// Who makes the IV of AES-GCM encryptions, for [Shim.MakeIVs].
const (
	CallerMakesIV  = 0 // as SoftHSM does
	TokenWritesIV  = 1 // over 12 zeros, as AWS CloudHSM does
	TokenAppendsIV = 2 // 16 bytes behind the tag, as Thales Luna does in FIPS mode
)

// MakeIVs says who makes the IVs.
func (s *Shim) MakeIVs(mode uint) { atomic.StoreUint64(&s.control.ivMode, uint64(mode)) }
