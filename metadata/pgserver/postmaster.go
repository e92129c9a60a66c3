package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// pollInterval is how often a process that starts or stops is looked at.
	pollInterval = 20 * time.Millisecond

	// stopPolls bounds a fast shutdown (about a minute); after it the server is
	// stopped without a checkpoint.
	stopPolls = 3000

	// heldPolls bounds the wait for processes of a crashed server to go (about
	// ten seconds).
	heldPolls = 500

	// maxLogSize is the size in bytes beyond which a start sets the log aside.
	maxLogSize = 16 << 20
)

// errHeld is why a server does not start while processes of one that crashed are
// still there, or seem to be.
var errHeld = errors.New("the data directory is still held")

// heldMessages are how Postgres says errHeld in its log: of postmaster.pid, of the
// lock beside the socket, and of memory that is still attached.
var heldMessages = []string{`lock file "`, "pre-existing shared memory block"}

// postmaster is the main process of a running server.
type postmaster struct {
	process *os.Process
	gone    func() bool // reports whether it has ended
}

// run brings the server up with the settings: it takes over one that runs with
// exactly them, else stops what runs there and starts a new one.
func (s *Server) run(ctx context.Context, settings []string) error {
	args := []string{filepath.Join(s.bin, "postgres"), "-D", s.data()}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	if left := s.leftBehind(); left != nil {
		if s.startedWith(args) && s.ready(ctx, left) == nil {
			s.process = left
			s.notes = append(s.notes, fmt.Sprintf("Took over the Postgres server that an earlier run left behind (process %d).", left.process.Pid))
			return nil
		}
		if err := left.stop(); err != nil {
			return fmt.Errorf("stop the server that was left behind: %w", err)
		}
	}
	for range heldPolls {
		err := s.launch(ctx, args)
		if !errors.Is(err, errHeld) {
			return err
		}
		if err := errors.Join(s.removeStaleLocks(), pause(ctx)); err != nil {
			return err
		}
	}
	return s.launch(ctx, args)
}

// pause waits for the poll interval or the end of ctx, whose error it returns.
func pause(ctx context.Context) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leftBehind returns the postmaster that runs on the data directory already, nil
// if none does.
func (s *Server) leftBehind() *postmaster {
	pid := s.recordedPID()
	if pid == 0 {
		return nil
	}
	process, err := os.FindProcess(pid)
	if err != nil || !s.isPostmaster(pid) {
		return nil
	}
	return &postmaster{process: process, gone: func() bool { return !s.isPostmaster(pid) }}
}

// recordedPID returns the process id that the server wrote to postmaster.pid, 0
// where there is none.
func (s *Server) recordedPID() int {
	content, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// isPostmaster reports whether a process is alive and works in the data
// directory, as every process of its server does. A zombie does not. Where the
// system cannot tell (no /proc), a process with the recorded id is taken for it.
func (s *Server) isPostmaster(pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		return s.recordedPID() == pid
	}
	return s.worksInData(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
}

// worksInData reports whether a cwd link of /proc leads to the data directory.
func (s *Server) worksInData(cwd string) bool {
	dir, err := os.Readlink(cwd)
	return err == nil && dir == s.data()
}

// startedWith reports whether the running server was started by exactly this
// command, which it has written to postmaster.opts.
func (s *Server) startedWith(args []string) bool {
	content, err := os.ReadFile(filepath.Join(s.data(), "postmaster.opts"))
	if err != nil {
		return false
	}
	want := args[0]
	for _, arg := range args[1:] {
		want += ` "` + arg + `"`
	}
	return strings.TrimSuffix(string(content), "\n") == want
}

// launch starts the server and waits until it serves; on failure none runs.
func (s *Server) launch(ctx context.Context, args []string) error {
	log, err := s.openLog()
	if err != nil {
		return err
	}
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd := s.owner.command(exec.Command(args[0], args[1:]...), s.data())
	cmd.Stdout, cmd.Stderr = log, log
	if s.temporary {
		dieWithParent(cmd.SysProcAttr)
	}
	p, err := startProcess(cmd)
	if err = errors.Join(err, log.Close()); err != nil {
		return err
	}
	if err := s.ready(ctx, p); err != nil {
		return errors.Join(err, p.stop(), s.explain(begin))
	}
	s.process = p
	return nil
}

// openLog opens the server's log for appending.
func (s *Server) openLog() (*os.File, error) {
	if fi, err := os.Stat(s.logFile()); err == nil && fi.Size() > maxLogSize {
		if err := os.Rename(s.logFile(), s.logFile()+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(s.logFile(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
}

// startProcess starts a command and waits for its end on a thread of its own: the
// signal that a child gets at its parent's death comes when that thread ends.
func startProcess(cmd *exec.Cmd) (*postmaster, error) {
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // until the goroutine ends, and the thread with it
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended stands in the log
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return &postmaster{process: cmd.Process, gone: func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	}}, nil
}

// errEnded says that the server ended before it served.
var errEnded = errors.New("the server ended while it was starting")

// ready waits until the server serves, ends, or ctx ends.
func (s *Server) ready(ctx context.Context, p *postmaster) error {
	for {
		err := hello(ctx, s.socketDir)
		if err == nil {
			return nil
		}
		if p.gone() {
			return errEnded
		}
		if ctxErr := pause(ctx); ctxErr != nil {
			return errors.Join(ctxErr, err)
		}
	}
}

// explain returns what the server has written to its log since begin.
func (s *Server) explain(begin int64) error {
	log, err := os.Open(s.logFile())
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.NewSectionReader(log, begin, maxLogSize))
	if err = errors.Join(err, log.Close()); err != nil {
		return err
	}
	for _, message := range heldMessages {
		if strings.Contains(string(text), message) {
			return fmt.Errorf("%w: %s", errHeld, lastLines(text))
		}
	}
	return fmt.Errorf("%s: %s", s.logFile(), lastLines(text))
}

// removeStaleLocks removes a postmaster.pid and a socket's lock whose process id
// belongs to some other program by now, or to a process that has ended and that
// nobody has waited for: Postgres cannot tell either from a server that runs.
// They stay while any process works in the data directory, or where that cannot
// be known. Our own locks keep every other start away.
func (s *Server) removeStaleLocks() error {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil || len(links) == 0 {
		return err
	}
	for _, cwd := range links {
		if s.worksInData(cwd) {
			return nil
		}
	}
	var errs []error
	for _, lock := range []string{filepath.Join(s.data(), "postmaster.pid"), socketPath(s.socketDir) + ".lock"} {
		if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stop ends the server and returns when it is gone. PostgreSQL 15 manual, 19.5:
// SIGINT is the fast shutdown, SIGQUIT the immediate one.
func (p *postmaster) stop() error {
	if p.signal(syscall.SIGINT) {
		return nil
	}
	if p.signal(syscall.SIGQUIT) {
		return errors.New("postgres did not shut down in time and was stopped without a checkpoint")
	}
	return fmt.Errorf("postgres (process %d) does not stop", p.process.Pid)
}

// signal sends a signal and reports whether the process ended of it.
func (p *postmaster) signal(sig syscall.Signal) bool {
	for range stopPolls {
		if p.gone() {
			return true
		}
		if sig != 0 {
			_ = p.process.Signal(sig) // fails only if it is gone, which is looked at next
			sig = 0
		}
		time.Sleep(pollInterval)
	}
	return p.gone()
}
