package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/smithy-go"
)

// A launch is how a test starts kmsgate dev where startDev does not do: as another
// user, or on a directory that is not there yet.
type launch struct {
	dir       string
	arguments []string            // beyond -dir and -listen
	user      *syscall.Credential // nil: the test's own
}

// command makes the command of a launch. Its process leads a group of its own, as
// a shell's job does.
func (l launch) command(binary string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{"dev", "-dir", l.dir, "-listen", "127.0.0.1:0"}, l.arguments...)...)
	cmd.Dir = "/usr" // where paths are not near
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: l.user}
	if l.user != nil {
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}
	}
	return cmd
}

// begin starts a gateway and does not wait until it serves. What is left of it at
// the end of the test is removed.
func (l launch) begin(t testing.TB) *instance {
	t.Helper()
	i := &instance{
		binary: binary(t), dir: l.dir, arguments: l.arguments, stdout: newOutput(), stderr: newOutput(), exited: make(chan struct{}),
	}
	i.cmd = l.command(i.binary)
	i.cmd.Stdout, i.cmd.Stderr = i.stdout, i.stderr
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(i.exited)
		_ = i.cmd.Wait() // the exit code stays in ProcessState
	}()
	t.Cleanup(func() { i.sweep() })
	return i
}

// start starts a gateway and waits until it serves.
func (l launch) start(t testing.TB) *instance {
	t.Helper()
	i := l.begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	err := i.awaitReady(ctx)
	if err == nil {
		err = i.readEnvironments()
	}
	if err != nil {
		t.Fatalf("kmsgate dev: %v\n%s%s", err, i.stdout, i.stderr)
	}
	return i
}

// sweep ends whatever is left of a gateway and removes a cluster that lies
// outside its directory.
func (i *instance) sweep() {
	i.kill()
	home := i.clusterHome()
	for _, pid := range processesIn(filepath.Join(home, "data")) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	if strings.HasPrefix(home, "/var/lib/kmsgate/") {
		_ = os.RemoveAll(home) // left to the system's cleaning
	}
}

// interrupt does what Ctrl-C in a terminal does, and returns the exit code.
func (i *instance) interrupt(t testing.TB) int {
	t.Helper()
	if err := syscall.Kill(-i.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	return i.wait(t)
}

// wait waits for the end of the process and returns its exit code.
func (i *instance) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-i.exited:
	case <-time.After(startTimeout):
		t.Fatalf("the process has not ended:\n%s%s", i.stdout, i.stderr)
	}
	return i.cmd.ProcessState.ExitCode()
}

// mustStop interrupts a gateway and wants it to end well, and its Postgres too.
func (i *instance) mustStop(t testing.TB) {
	t.Helper()
	if code := i.interrupt(t); code != 0 {
		t.Errorf("exit code %d after Ctrl-C, want 0\n%s", code, i.stderr)
	}
	if left := processesIn(i.data()); len(left) > 0 {
		t.Errorf("processes %v of Postgres are left after Ctrl-C, want none", left)
	}
}

// clusterHome is where the gateway's Postgres cluster lies.
func (i *instance) clusterHome() string {
	inside := filepath.Join(i.dir, "postgres")
	if location, err := os.ReadFile(filepath.Join(inside, "location")); err == nil {
		return strings.TrimSpace(string(location))
	}
	return inside
}

// data is the data directory of the gateway's Postgres.
func (i *instance) data() string { return filepath.Join(i.clusterHome(), "data") }

// processesIn are the processes that work in a directory: those of Postgres work
// in their data directory.
func processesIn(dir string) []int {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return nil
	}
	var found []int
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			found = append(found, pid)
		}
	}
	return found
}

// postmaster is the main process of the Postgres on a data directory.
func postmaster(t testing.TB, data string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(startTimeout)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A ran is a command that has ended.
type ran struct {
	code           int
	stdout, stderr string
}

// run runs the program under test to its end.
func run(t testing.TB, binary string, arguments ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return finish(t, exec.CommandContext(ctx, binary, arguments...))
}

// finish runs a command to its end.
func finish(t testing.TB, cmd *exec.Cmd) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// wantSuccess wants a command to have ended well.
func (r ran) wantSuccess(t testing.TB, what string) {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("%s: exit code %d, want 0\n%s%s", what, r.code, r.stdout, r.stderr)
	}
}

// wantFailure wants an exit code and words in what was printed as the error.
func (r ran) wantFailure(t testing.TB, what string, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: exit code %d, want %d\n%s%s", what, r.code, code, r.stdout, r.stderr)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			t.Errorf("%s: %q is not in the error:\n%s", what, word, r.stderr)
		}
	}
}

// newPlace makes a directory that everybody can enter and that is removed at the
// end, and returns a path in it where nothing is yet.
func newPlace(t testing.TB) string {
	t.Helper()
	dir, err := newDirectory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "dev")
}

// secretsOf are texts that must be seen nowhere: the PINs and the secret access
// keys of a gateway.
func (i *instance) secretsOf(t testing.TB) []string {
	t.Helper()
	var secrets []string
	for _, name := range []string{"kmsgate.pin", "kmsgate.so-pin"} {
		pin, err := os.ReadFile(filepath.Join(i.dir, "softhsm", name))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, string(pin))
	}
	for account, key := range i.keys {
		if key.secret == "" {
			t.Errorf("account %s has no secret", account)
		}
		secrets = append(secrets, key.secret)
	}
	return secrets
}

// commandLine is a process's command line, its arguments separated by blanks.
func commandLine(t testing.TB, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\x00", " ")
}

// answered tells whether an error of the SDK is an answer of the gateway.
func answered(err error) bool {
	_, ok := errors.AsType[smithy.APIError](err)
	return ok
}

// freeAddress is an address on loopback that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // it was only asked for its address
	return listener.Addr().String()
}
