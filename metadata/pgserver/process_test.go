package pgserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"kmsgate/metadata/pgserver"
)

const (
	// childVariable makes the test binary start a server in the directory that it
	// holds (a temporary one if "temporary"), say so, and wait to be killed.
	childVariable = "PGSERVER_TEST_CHILD"

	// nobody is a user id without rights, the same everywhere.
	nobody = 65534
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		os.Exit(runChild(dir))
	}
	os.Exit(m.Run())
}

// runChild starts a server and waits until its input ends.
func runChild(dir string) int {
	cfg := pgserver.Config{Dir: dir}
	if dir == "temporary" {
		cfg = pgserver.Config{Temporary: true}
	}
	s, err := pgserver.Start(context.Background(), cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.Dir())
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
	return 0
}

// child is another process that has started a server.
type child struct {
	cmd        *exec.Cmd
	data       string
	postmaster int
}

// startChild starts a server in dir, or a temporary one, in a process of its own.
func startChild(t *testing.T, dir string) child {
	t.Helper()
	if dir == "" {
		dir = "temporary"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	cmd.Stderr = os.Stderr
	_, err := cmd.StdinPipe() // stays open until the process is gone
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	c := child{cmd: cmd, data: strings.TrimSpace(line)}
	content, err := os.ReadFile(filepath.Join(c.data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	if c.postmaster, err = strconv.Atoi(first); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.serverRuns() { // the test has failed before it stopped it
			_ = syscall.Kill(c.postmaster, syscall.SIGQUIT)
		}
	})
	return c
}

// serverRuns reports whether the child's server is still there, and no zombie.
func (c child) serverRuns() bool {
	dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", c.postmaster))
	return err == nil && dir == c.data
}

// kill ends the child with SIGKILL, so that it can clean up nothing.
func (c child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // says that it was killed
}

// reachableDir returns a directory for a cluster that any user can enter.
func reachableDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestClusterOfRootLiesWherePostgresCanEnter covers what only root can do; for
// other users there is nothing of it to test.
func TestClusterOfRootLiesWherePostgresCanEnter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return
	}
	private := t.TempDir() // with a parent of mode 0700
	if err := os.Chmod(filepath.Dir(private), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(private, "cluster")
	first := start(t, pgserver.Config{Dir: dir})
	home := filepath.Dir(first.Dir())
	t.Cleanup(func() { _ = os.RemoveAll(home) }) // what a failed test leaves harms nobody
	if filepath.Dir(home) != "/var/lib/kmsgate" || !strings.Contains(first.Note(), home) {
		t.Errorf("the cluster lies in %s and Note() = %q, want a place under /var/lib/kmsgate and a note of it", home, first.Note())
	}
	query(t, first, "create table kept as select 1; select '1'")
	stop(t, first)

	// The same directory by another name leads to the same cluster.
	moved := filepath.Join(private, "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	again := start(t, pgserver.Config{Dir: moved})
	if got := query(t, again, "select count(*) from kept"); got != "1" {
		t.Errorf("rows after the directory was moved: %s, want 1", got)
	}
	stop(t, again)

	// A new directory at the old place gets a new cluster.
	other := start(t, pgserver.Config{Dir: dir})
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(other.Dir())) })
	if got := query(t, other, "select count(*) from pg_tables where tablename = 'kept'"); got != "0" {
		t.Errorf("a new directory found tables of the old: %s, want 0", got)
	}
	stop(t, other)
}

// TestUnprivilegedUser runs those tests in which the user matters as one without
// rights when this process is root; when it is not, all have run so already.
func TestUnprivilegedUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return
	}
	dir := reachableDir(t)
	binary := filepath.Join(dir, "pgserver.test")
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.v", "-test.timeout=2m", "-test.run=Private|TakesOver|Temporary|Socket|Stale")
	cmd.Dir = tmp
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + tmp, "TMPDIR=" + tmp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as user id %d: %v\n%s", nobody, err, out)
	}
}
