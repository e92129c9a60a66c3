package worker

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// load encrypts and decrypts until it is stopped, and wants every answer right and
// every error one that is to be tried again.
type load struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	good int // since they were last asked for
}

func newLoad(t *testing.T, token hsm.Token, k *hsm.Key, callers int) *load {
	l := &load{}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	for n := range callers {
		l.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.once(t, token, k, []byte(strconv.Itoa(n)+"/"+strconv.Itoa(i)))
			}
		})
	}
	return l
}

func (l *load) once(t *testing.T, token hsm.Token, k *hsm.Key, plaintext []byte) {
	c, err := token.Encrypt(t.Context(), client, k, plaintext, nil)
	var back []byte
	if err == nil {
		back, err = token.Decrypt(t.Context(), client, k, c, nil)
	}
	switch {
	case errors.Is(err, hsm.ErrUnavailable), errors.Is(err, hsm.ErrDeadline), errors.Is(err, hsm.ErrBusy):
		time.Sleep(time.Millisecond)
	case err != nil:
		t.Errorf("error under load: %v", err)
	case !bytes.Equal(back, plaintext):
		t.Errorf("decrypted %q, want %q", back, plaintext)
	default:
		l.mu.Lock()
		l.good++
		l.mu.Unlock()
	}
}

// more waits until some calls more have succeeded.
func (l *load) more(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	l.good = 0
	l.mu.Unlock()
	eventually(t, "calls succeed", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.good > 100
	})
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

func TestCrashOfTheLibraryCostsTheWorkerAlone(t *testing.T) {
	cfg := newConfig(t)
	shim := withShim(t, &cfg)
	token := openWithKeys(t, cfg)
	k := generateKey(t, token, "crash")
	l := newLoad(t, token, k, 8)
	l.more(t)
	before := token.Stats()
	for n, f := range []softhsm.Function{softhsm.Encrypt, softhsm.DecryptInit} {
		shim.Inject(f, softhsm.Fault{Signal: syscall.SIGSEGV, Times: 1})
		eventually(t, "the worker is replaced", func() bool { return token.worker.Restarts() == uint64(n+1) })
		l.more(t)
	}
	l.end()
	if s := token.Stats(); !s.Serving || s.Epoch != before.Epoch+2 || s.Serial != before.Serial {
		t.Errorf("after two crashes: %+v; before: %+v", s, before)
	}
}

// TestCallThatACrashCutOffIsMadeOnceMore wants nothing of the crash to be seen by
// whoever was there and can wait, and no key to be made twice.
func TestCallThatACrashCutOffIsMadeOnceMore(t *testing.T) {
	cfg := newConfig(t)
	shim := withShim(t, &cfg)
	token := openWithKeys(t, cfg)
	k := generateKey(t, token, "again")
	shim.Inject(softhsm.Encrypt, softhsm.Fault{Signal: syscall.SIGSEGV, Times: 1})
	if _, err := token.Encrypt(t.Context(), client, k, []byte("once more"), nil); err != nil {
		t.Errorf("Encrypt over a crash = %v", err)
	}
	shim.Inject(softhsm.GenerateKey, softhsm.Fault{Signal: syscall.SIGSEGV, Times: 1})
	if _, err := token.Generate(t.Context(), client, *k); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Generate over a crash = %v, want ErrUnavailable", err)
	}
}

func TestLibraryThatHangsIsReplaced(t *testing.T) {
	cfg := newConfig(t)
	cfg.CallTimeout = 300 * time.Millisecond
	shim := withShim(t, &cfg)
	token := openWithKeys(t, cfg)
	k := generateKey(t, token, "hang")
	l := newLoad(t, token, k, 8)
	l.more(t)
	shim.Hang(softhsm.Encrypt, true)
	eventually(t, "the worker is replaced", func() bool { return token.worker.Restarts() > 0 })
	shim.Hang(softhsm.Encrypt, false)
	l.more(t)
	l.end()
}

// TestStoppedWorkerIsReplaced has the process answer nothing at all.
func TestStoppedWorkerIsReplaced(t *testing.T) {
	token := openWithKeys(t, newConfig(t))
	k := generateKey(t, token, "stopped")
	pid := token.worker.pid()
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	eventually(t, "the worker stops", func() bool { return stateOf(pid) == "T" })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := token.Encrypt(ctx, client, k, []byte("nobody answers"), nil); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Encrypt by a stopped worker = %v, want ErrDeadline", err)
	}
	eventually(t, "the worker is replaced", func() bool { return token.worker.Restarts() == 1 && token.Stats().Serving })
	if _, err := token.Encrypt(t.Context(), client, k, nil, nil); err != nil {
		t.Errorf("Encrypt by the next worker = %v", err)
	}
}

// marks are login marks in memory.
type marks struct {
	mu      sync.Mutex
	refused map[string]bool
}

func (m *marks) LoginRefused(_ context.Context, serial string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused[serial], nil
}

func (m *marks) Exclusively(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}

func (m *marks) MarkLoginRefused(_ context.Context, serial string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused[serial] = true
	return nil
}

func TestWrongPINIsTriedOnceWhateverWorkersComeAndGo(t *testing.T) {
	for name, m := range map[string]*marks{"marks": {refused: map[string]bool{}}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			cfg := newConfig(t)
			shim := withShim(t, &cfg)
			pin, right := filepath.Join(t.TempDir(), "pin"), cfg.PIN
			content, err := right()
			must(t, err)
			must(t, os.WriteFile(pin, content, 0o600))
			cfg.PIN = func() ([]byte, error) { return os.ReadFile(pin) }
			if m != nil {
				cfg.Marks = m
			}
			token := openWithKeys(t, cfg)
			must(t, os.WriteFile(pin, []byte("0000-not-the-pin"), 0o600))
			logins := shim.Calls(softhsm.Login)
			for n := range 3 {
				must(t, syscall.Kill(token.worker.pid(), syscall.SIGKILL))
				eventually(t, "the worker is replaced", func() bool { return token.worker.Restarts() == uint64(n+1) })
				eventually(t, "the token is given up", func() bool { return token.hopeful() != nil })
			}
			if n := shim.Calls(softhsm.Login) - logins; n != 1 {
				t.Errorf("the wrong PIN was tried %d times, want once", n)
			}
			if err := token.Check(t.Context()); !errors.Is(err, hsm.ErrPIN) || !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("Check = %v, want ErrPIN", err)
			}
			if s := token.Stats(); s.Serving || s.AwaySince.IsZero() {
				t.Errorf("without a PIN: %+v", s)
			}
			if m != nil && len(m.refused) != 1 {
				t.Errorf("marks: %v", m.refused)
			}
		})
	}
}

func TestPINIsNowhereInTheWorkersArguments(t *testing.T) {
	cfg := newConfig(t)
	pin, err := cfg.PIN()
	must(t, err)
	token := openWithKeys(t, cfg)
	for _, file := range []string{"cmdline", "environ"} {
		content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(token.worker.pid()), file))
		must(t, err)
		if len(content) == 0 || bytes.Contains(content, pin) {
			t.Errorf("%s of the worker has %d bytes, with the PIN: %t", file, len(content), bytes.Contains(content, pin))
		}
	}
}

// TestTokensOfOneWorker has one token closed and a crash, and wants the other to serve.
func TestTokensOfOneWorker(t *testing.T) {
	dir := t.TempDir()
	first, err := softhsm.Provision(dir, "first")
	must(t, err)
	second, err := softhsm.Provision(dir, "second")
	must(t, err)
	w := New(workerArgs, nil)
	a := openIn(t, w, newConfigOf(first))
	b := openIn(t, w, newConfigOf(second))
	if a.Stats().Serial == b.Stats().Serial || w.pid() == 0 {
		t.Errorf("the tokens are %s and %s", a.Stats().Serial, b.Stats().Serial)
	}
	must(t, a.Check(t.Context()))
	must(t, b.Check(t.Context()))
	must(t, a.Close())
	if err := a.Check(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("Check after Close = %v", err)
	}
	must(t, b.Check(t.Context()))
	must(t, syscall.Kill(w.pid(), syscall.SIGKILL))
	must(t, b.Check(t.Context()))
	if n := w.Restarts(); n != 1 {
		t.Errorf("%d restarts", n)
	}
}

// stateOf is the state of a process by proc(5): T if it is stopped, Z if it has ended
// and nobody has waited for it, and empty if there is none.
func stateOf(pid int) string {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(status), ") ")
	return after[:1]
}

func isGone(pid int) bool { return stateOf(pid) == "" || stateOf(pid) == "Z" }

func TestCloseEndsTheWorkerThoughACallHangs(t *testing.T) {
	cfg := newConfig(t)
	cfg.CallTimeout, cfg.QuiesceTimeout = 200*time.Millisecond, 300*time.Millisecond
	shim := withShim(t, &cfg)
	token := openWithKeys(t, cfg)
	k := generateKey(t, token, "close")
	pid := token.worker.pid()
	shim.Hang(softhsm.Encrypt, true)
	if _, err := token.Encrypt(t.Context(), client, k, nil, nil); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Encrypt that hangs = %v, want ErrDeadline", err)
	}
	must(t, token.Close())
	if !isGone(pid) {
		t.Errorf("the worker still runs after Close")
	}
}
