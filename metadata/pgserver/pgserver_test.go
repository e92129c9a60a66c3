package pgserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/metadata/pgserver"
)

func TestStartServesOnAPrivateSocket(t *testing.T) {
	t.Parallel()
	// Longer than a socket's path may be, with characters that need quoting.
	dir := filepath.Join(reachableDir(t), strings.Repeat("long ", 30)+`"quoted", *`)
	s := start(t, pgserver.Config{Dir: dir, Settings: map[string]string{"max_connections": "17"}})

	for name, want := range map[string]string{
		"max_connections": "17", "listen_addresses": "", "fsync": "off", "synchronous_commit": "off",
		"full_page_writes": "off", "server_encoding": "UTF8", "data_directory": s.Dir(),
	} {
		if got := query(t, s, "show "+name); got != want {
			t.Errorf("show %s = %q, want %q", name, got, want)
		}
	}
	fi, err := os.Stat(socketDir(t, s))
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("socket directory: %v, %v, want mode 0700", fi.Mode(), err)
	}
	if s.Note() != "" {
		t.Errorf("Note() = %q, want nothing to say", s.Note())
	}
	pid := postmasterPID(t, s)
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("process group of the server = %d, %v, want its own, %d", group, err, pid)
	}
	stop(t, s)
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Stop the server's process %d: %v, want it gone", pid, err)
	}
	if _, err := os.Stat(socketDir(t, s)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Stop the socket directory: %v, want it gone", err)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("second Stop = %v, want what the first returned", err)
	}
}

func TestDurableClusterSurvivesStopAndCrash(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{Dir: reachableDir(t), Durable: true}
	s := start(t, cfg)
	if got := query(t, s, "show fsync"); got != "on" {
		t.Errorf("show fsync = %q, want on", got)
	}
	query(t, s, "create table kept as select 'before the stop' as v; select v from kept")
	stop(t, s)

	s = start(t, cfg)
	query(t, s, "update kept set v = 'before the crash' returning v")
	pid := postmasterPID(t, s)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stop(t, s)

	s = start(t, cfg)
	if got, want := query(t, s, "select v from kept"), "before the crash"; got != want {
		t.Errorf("after a crash of the server: %q, want %q", got, want)
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{Dir: reachableDir(t)}
	s := start(t, cfg)
	_, err := pgserver.Start(t.Context(), cfg)
	if want := "in use by process " + strconv.Itoa(os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("second Start = %v, want an error saying %q", err, want)
	}
	if got := query(t, s, "select 'unharmed'"); got != "unharmed" {
		t.Errorf("the first server answers %q", got)
	}
	stop(t, s)
	start(t, cfg)
}

func TestStartTakesOverWhatAKilledProcessLeft(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{Dir: reachableDir(t)}
	child := startChild(t, cfg.Dir)
	if _, err := pgserver.Start(t.Context(), cfg); err == nil {
		t.Fatal("Start while another process uses the directory succeeded, want it refused")
	}
	child.kill(t)

	s := start(t, cfg)
	if got := postmasterPID(t, s); got != child.postmaster {
		t.Errorf("process of the server = %d, want that of the one left behind, %d", got, child.postmaster)
	}
	if want := fmt.Sprintf("(process %d)", child.postmaster); !strings.Contains(s.Note(), want) {
		t.Errorf("Note() = %q, want it to name %s", s.Note(), want)
	}
	if got := query(t, s, "select 'alive'"); got != "alive" {
		t.Errorf("the server taken over answers %q", got)
	}
	stop(t, s)
	if child.serverRuns() {
		t.Errorf("process %d is still there after Stop", child.postmaster)
	}
}

func TestStartReplacesAServerWithOtherSettings(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{Dir: reachableDir(t), Settings: map[string]string{"max_connections": "21"}}
	child := startChild(t, cfg.Dir)
	child.kill(t)

	s := start(t, cfg)
	if got := query(t, s, "show max_connections"); got != "21" {
		t.Errorf("show max_connections = %q, want 21", got)
	}
	if child.serverRuns() {
		t.Errorf("the server that was left behind, process %d, still runs", child.postmaster)
	}
}

func TestTemporaryClusterGoesWithItsProcess(t *testing.T) {
	t.Setenv("TMPDIR", reachableDir(t)) // away from those of other processes
	s := start(t, pgserver.Config{Temporary: true})
	home := filepath.Dir(s.Dir())
	stop(t, s)
	if _, err := os.Stat(home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Stop %s: %v, want it gone", home, err)
	}

	child := startChild(t, "")
	child.kill(t)
	for child.serverRuns() { // the test's deadline bounds it
		time.Sleep(10 * time.Millisecond)
	}
	start(t, pgserver.Config{Temporary: true})
	if _, err := os.Stat(filepath.Dir(child.data)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the next start %s: %v, want it gone", child.data, err)
	}
}

func TestHalfMadeClusterIsNeverUsed(t *testing.T) {
	t.Parallel()
	dir := reachableDir(t)
	unfinished := filepath.Join(dir, "data.new-123")
	if err := os.MkdirAll(filepath.Join(unfinished, "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pgserver.Start(cancelled, pgserver.Config{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a cancelled context = %v, want %v", err, context.Canceled)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"lock"}) {
		t.Errorf("left by the cancelled start: %q, want only the lock", got)
	}
	start(t, pgserver.Config{Dir: dir})
	if got, want := names(t, dir), []string{"data", "lock", "postgres.log"}; !slices.Equal(got, want) {
		t.Errorf("files after a start: %q, want %q", got, want)
	}
}

func TestStalePIDOfAnotherProgramIsSeenThrough(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{Dir: reachableDir(t)}
	s := start(t, cfg)
	pidFile := filepath.Join(s.Dir(), "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "\n")
	sockets := socketDir(t, s)
	stop(t, s)

	other := exec.CommandContext(t.Context(), "sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: ownerOf(t, s.Dir())}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Wait() }) // killed when the test's context ends
	if err := os.MkdirAll(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	owner := ownerOf(t, s.Dir())
	for _, path := range []string{pidFile, sockets, filepath.Join(sockets, ".s.PGSQL.5432.lock")} {
		if path != sockets {
			if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n%s", other.Process.Pid, rest), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(pidFile, int(other.SysProcAttr.Credential.Uid), -1); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg)
	if got := query(t, s, "select 'up'"); got != "up" {
		t.Errorf("the server answers %q", got)
	}
}

func TestOpenSocketDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{Dir: reachableDir(t)}
	s := start(t, cfg)
	stop(t, s)
	taken := socketDir(t, s)
	if err := os.Mkdir(taken, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := pgserver.Start(t.Context(), cfg)
	if removeErr := os.Remove(taken); removeErr != nil {
		t.Errorf("the directory of others: %v, want it left alone", removeErr)
	}
	if err == nil || !strings.Contains(err.Error(), taken) {
		t.Errorf("Start with a socket directory open to others = %v, want an error naming %s", err, taken)
	}
}

func TestStartErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	otherVersion := reachableDir(t)
	data := filepath.Join(otherVersion, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(data, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name string
		cfg  pgserver.Config
		want string
	}{
		{"no directory", pgserver.Config{}, "Dir is empty"},
		{"two directories", pgserver.Config{Dir: otherVersion, Temporary: true}, "Dir must be empty"},
		{"other version", pgserver.Config{Dir: otherVersion}, "postgresql-7"},
		{
			"wrong setting",
			pgserver.Config{Dir: reachableDir(t), Settings: map[string]string{"no_such_setting": "1"}},
			`unrecognized configuration parameter "no_such_setting"`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := pgserver.Start(t.Context(), tc.cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Start = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// start starts a server that the end of the test stops.
func start(t *testing.T, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func stop(t *testing.T, s *pgserver.Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatalf("Stop = %v", err)
	}
}

// query runs statements and returns the one text value of the last.
func query(t *testing.T, s *pgserver.Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return string(results[len(results)-1].Rows[0][0])
}

// postmasterPID returns the process id of a running server.
func postmasterPID(t *testing.T, s *pgserver.Server) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.Dir(), "postmaster.pid"))
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

// socketDir returns the directory that the URL of s names.
func socketDir(t *testing.T, s *pgserver.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("host")
}

// names returns the names in a directory, sorted.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := make([]string, 0, len(entries))
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

// ownerOf returns the user that a file belongs to, as a process runs.
func ownerOf(t *testing.T, path string) *syscall.Credential {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("%T, want *syscall.Stat_t", fi.Sys())
	}
	return &syscall.Credential{Uid: st.Uid, Gid: st.Gid, NoSetGroups: os.Geteuid() != 0}
}
