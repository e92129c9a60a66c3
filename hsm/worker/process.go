package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Inherited is the file descriptor of the connection in the worker process: the
// first after the standard ones.
const Inherited = 3

// self is this binary, whatever is at its path by now: both ends must be the same.
const self = "/proc/self/exe"

// process is a worker that runs.
type process struct {
	peer   *peer
	cmd    *exec.Cmd
	begun  time.Time
	exited chan struct{} // closed when the process has ended
	status error         // how, set before
	read   chan struct{} // closed when nothing more is read, and all that it asked for is done

	opening sync.WaitGroup // of tokens, begun by whoever waits for the process
}

// launch starts a worker, in a process group of its own, so that a terminal's
// interrupt leaves it to the gateway when it ends. The kernel kills it when the
// gateway's process ends: the thread that has started it lives as long as it does.
func launch(args []string, own server) (*process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	defer theirs.Close()
	p := &process{cmd: exec.Command(self, args...), exited: make(chan struct{}), read: make(chan struct{})}
	p.cmd.Args[0] = os.Args[0]
	p.cmd.Stderr = os.Stderr
	p.cmd.ExtraFiles = []*os.File{theirs}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.status = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("worker: %w", err), ours.Close())
	}
	p.begun = time.Now()
	p.peer = newPeer(ours, own)
	go func() {
		defer close(p.read)
		p.peer.read()
	}()
	return p, nil
}

// socketPair makes a connection: one end for this process, and a file for another.
func socketPair() (net.Conn, *os.File, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "gateway")
	defer ours.Close() // the connection has a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// kill ends the process and all that it has started, at once.
func (p *process) kill(why error) {
	p.peer.fail(why)
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended already
}

// finish lets the process end by itself, for some time.
func (p *process) finish(patience time.Duration) {
	p.peer.fail(errClosed)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.kill(errClosed)
	}
	p.wait()
}

// wait waits until nothing is left of the process.
func (p *process) wait() {
	<-p.exited
	<-p.read
	p.opening.Wait()
}
