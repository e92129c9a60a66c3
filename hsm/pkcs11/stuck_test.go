package pkcs11

import (
	"errors"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// TestHangsCostNoMoreThanWhatMayBeStuck: whoever comes while the token hangs, a
// thread each is lost to the calls that may be stuck, and to no others.
func TestHangsCostNoMoreThanWhatMayBeStuck(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.MaxSessions, c.MaxQueue = 8, 64 })
	k := generate(t, e, "k")
	encryptWorks(t, e, k)
	shim.Hang(softhsm.Encrypt, true)
	most := int(e.maxStuck) + 8 // where all sessions were given out before too many were stuck
	goroutines, threads := runtime.NumGoroutine(), pprof.Lookup("threadcreate").Count()
	for range 5 {
		var callers sync.WaitGroup
		for range 400 {
			callers.Go(func() {
				_, err := e.Encrypt(within(t, 50*time.Millisecond), client, k, []byte("x"), nil)
				if !errors.Is(err, hsm.ErrDeadline) && !errors.Is(err, hsm.ErrBusy) && !errors.Is(err, hsm.ErrUnavailable) {
					t.Errorf("Encrypt while the token hangs = %v", err)
				}
			})
		}
		callers.Wait()
		const beside = 8 // the runtime's own
		eventually(t, "only what hangs is left", func() bool {
			return runtime.NumGoroutine()-goroutines <= most+beside && pprof.Lookup("threadcreate").Count()-threads <= most+beside
		})
	}
	if s := e.Stats(); int(s.Stuck) > most || s.Stuck <= e.maxStuck {
		t.Errorf("%d calls are stuck, want more than %d and at most %d", s.Stuck, e.maxStuck, most)
	}
	shim.Hang(softhsm.Encrypt, false)
	eventually(t, "all calls return", func() bool { return e.Stats().Stuck == 0 })
	encryptWorks(t, e, k)
}
