package integration_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestDevWhereTheUserOfPostgresCannotEnter starts a gateway of root in a directory
// that is root's alone: the cluster lies elsewhere, and goes on to belong to the
// directory. When its token is gone, the gateway says what to remove.
func TestDevWhereTheUserOfPostgresCannotEnter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only a gateway of root runs Postgres as another user")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := launch{dir: filepath.Join(dir, "dev")}
	i := l.start(t)
	cluster := i.clusterHome()
	if !strings.HasPrefix(cluster, "/var/lib/kmsgate/") {
		t.Fatalf("the cluster lies in %s, want it in /var/lib/kmsgate", cluster)
	}
	wantLine := func(i *instance) {
		t.Helper()
		if line := lineWith(i.stderr.String(), cluster); !strings.Contains(line, "lies in") || !strings.Contains(line, l.dir) {
			t.Errorf("no line says that the cluster of %s lies in %s:\n%s", l.dir, cluster, i.stderr)
		}
	}
	wantLine(i)
	first, keys := i.seal(t, own), i.keys[own]
	i.mustStop(t)

	i = l.start(t)
	wantLine(i)
	i.wantOpens(t, own, first)
	i.mustStop(t)

	// The token goes: everything in the database is worth nothing.
	token := filepath.Join(l.dir, "softhsm")
	if err := os.Rename(token, token+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it makes no other token, which would only hide that
		r := run(t, i.binary, "dev", "-dir", l.dir, "-listen", "127.0.0.1:0")
		r.wantFailure(t, "dev without its token", 1, token, "remove "+l.dir+" and "+cluster+" to begin anew")
	}
	if err := os.CopyFS(token, os.DirFS(filepath.Join(gateway(t).dir, "softhsm"))); err != nil {
		t.Fatal(err)
	}
	r := run(t, i.binary, "dev", "-dir", l.dir, "-listen", "127.0.0.1:0")
	r.wantFailure(t, "dev with another's token", 1, token, "remove "+l.dir+" and "+cluster+" to begin anew")
	if left := processesIn(filepath.Join(cluster, "data")); len(left) > 0 {
		t.Errorf("processes %v of Postgres are left, want none", left)
	}
	if err := os.RemoveAll(token); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(token+".away", token); err != nil {
		t.Fatal(err)
	}
	i = l.start(t)
	i.wantOpens(t, own, first)
	i.mustStop(t)

	for _, remove := range []string{l.dir, cluster} {
		if err := os.RemoveAll(remove); err != nil {
			t.Fatal(err)
		}
	}
	i = l.start(t)
	if i.keys[own] == keys {
		t.Error("the credentials are the same after all was removed, want new ones")
	}
	i.mustStop(t)
}

// lineWith is the first line that has some text in it.
func lineWith(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return line
		}
	}
	return ""
}

// TestDevInADeepDirectory: the path of a Unix socket has 107 bytes at most.
func TestDevInADeepDirectory(t *testing.T) {
	t.Parallel()
	l := launch{dir: filepath.Join(newPlace(t), strings.Repeat("deep-/", 40), "ünd & 'odd'")}
	i := l.start(t)
	source := lineWith(i.stdout.String(), "dev.env")
	shell := finish(t, exec.Command("sh", "-euc", source+`printf %s "$AWS_ACCESS_KEY_ID"`))
	if shell.stdout != i.keys[own].accessKey {
		t.Errorf("a shell that was told %q has the access key %q, want %q\n%s", source, shell.stdout, i.keys[own].accessKey, shell.stderr)
	}
	first := i.seal(t, own)
	r := run(t, i.binary, "audit", "tail", "-config", i.config(), "-n", "1")
	r.wantSuccess(t, "audit tail")
	i.mustStop(t)
	i = l.start(t)
	i.wantOpens(t, own, first)
	i.mustStop(t)
}

// TestDevOfAnOrdinaryUser starts a gateway as a user who is not root.
func TestDevOfAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("all tests run as an ordinary user already")
	}
	who, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	l := launch{dir: newPlace(t), user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(l.dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(binary(t)), 0o755); err != nil { //nolint:gosec // for another user to run
		t.Fatal(err)
	}
	i := l.start(t)
	for _, pid := range processesIn(i.data()) {
		if info, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(uid) {
			t.Errorf("process %d of Postgres is not the user's own (%v)", pid, err)
		}
	}
	first := i.seal(t, own)
	i.kill()
	i = l.start(t)
	i.wantOpens(t, own, first)
	i.mustStop(t)
}

// TestDevInterruptedWhileItStarts interrupts a gateway early, again and again, on
// one directory: nothing is left running, and nothing half-made.
func TestDevInterruptedWhileItStarts(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t)}
	for _, there := range []string{"postgres/lock", "postgres/data/postmaster.pid", "softhsm/tokens/*", "kmsgate.yaml"} {
		i := l.begin(t)
		eventually(t, there, func() bool {
			found, err := filepath.Glob(filepath.Join(l.dir, there))
			return err == nil && len(found) > 0
		})
		i.interrupt(t) // whatever it says
		if left := processesIn(i.data()); len(left) > 0 {
			t.Errorf("interrupted when %s was there: processes %v of Postgres are left, want none", there, left)
		}
	}
	i := l.start(t)
	i.wantOpens(t, own, i.seal(t, own))
	i.mustStop(t)
}

// TestDevSaysWhatItCannotWrite wants dev to end when it cannot write the
// credentials, and not to serve without them.
func TestDevSaysWhatItCannotWrite(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t)}
	if err := os.MkdirAll(filepath.Join(l.dir, "dev.env", "in the way"), 0o755); err != nil { //nolint:gosec // nothing is in it
		t.Fatal(err)
	}
	i := l.begin(t)
	if code := i.wait(t); code != 1 || !strings.Contains(i.stderr.String(), "write credentials") {
		t.Errorf("exit code %d, want 1 and the reason:\n%s", code, i.stderr)
	}
	if left := processesIn(i.data()); len(left) > 0 {
		t.Errorf("processes %v of Postgres are left, want none", left)
	}
}

// commandsOf are the program's commands, with what is required of them.
var commandsOf = [][]string{
	{"dev"},
	{"serve"},
	{"migrate"},
	{"init"},
	{"account"},
	{"account", "create"},
	{"account", "list"},
	{"account", "root-key"},
	{"iam"},
	{"iam", "revoke-sessions"},
	{"oidc"},
	{"oidc", "set-keys"},
	{"oidc", "show"},
	{"audit"},
	{"audit", "tail"},
	{"hsm"},
	{"hsm", "login"},
	{"version"},
}

func TestUsage(t *testing.T) {
	t.Parallel()
	path := binary(t)
	for _, ask := range []string{"help", "-h", "-help", "--help"} {
		r := run(t, path, ask)
		r.wantSuccess(t, "kmsgate "+ask)
		for _, command := range commandsOf {
			if !strings.Contains(r.stdout, "\t"+command[0]+" ") {
				t.Errorf("kmsgate %s does not tell of %s:\n%s", ask, command[0], r.stdout)
			}
		}
	}
	for _, command := range commandsOf {
		what := strings.Join(command, " ")
		for _, ask := range []string{"-h", "-help", "--help"} {
			r := run(t, path, append(command, ask)...)
			r.wantSuccess(t, what+" "+ask)
			if want := "Usage: kmsgate " + what; !strings.HasPrefix(r.stdout, want) || r.stderr != "" {
				t.Errorf("%s %s prints %q and %q as an error, want %q alone", what, ask, r.stdout, r.stderr, want)
			}
		}
		run(t, path, append(command, "-nonsense")...).wantFailure(t, what+" -nonsense", 2, "Usage: kmsgate "+what)
		run(t, path, append(command, "nonsense")...).wantFailure(t, what+" nonsense", 2, `"nonsense"`, "Usage: kmsgate "+what)
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	path := binary(t)
	for _, tc := range []struct {
		command string
		want    string
	}{
		{"nonsense", `there is no command "nonsense"`},
		{"account", "Usage: kmsgate account COMMAND"},
		{"audit nonsense", `there is no command "nonsense"`},
		{"serve", "-config is missing"},
		{"migrate", "-config is missing"},
		{"account list", "-config is missing"},
		{"audit tail", "-config is missing"},
		{"hsm login", "-config is missing"},
		{"init -config /nonexistent", `-account is ""`},
		{"account create -config /nonexistent -account 12345", `-account is "12345"`},
		{"account root-key -config /nonexistent", `-account is ""`},
		{"iam revoke-sessions -config /nonexistent -role r", `-role is "r"`},
		{"iam revoke-sessions -config /nonexistent -role arn:aws:iam::111122223333:role/r -before x", `-before is "x"`},
		{"iam revoke-sessions -config /nonexistent -role arn:aws:iam::111122223333:role/r -before 2999-01-01T00:00:00Z", "no session of the role would be good"},
		{"oidc show -config /nonexistent", `-account is ""`},
		{"oidc set-keys -config /nonexistent -provider p", `-provider is "p"`},
		{"oidc set-keys -config /nonexistent -provider arn:aws:iam::111122223333:oidc-provider/p", "either -jwks or -clear"},
		{"audit tail -config /nonexistent -n -1", "-n is -1"},
		{"audit tail -config /nonexistent -n 10001", "-n is 10001"},
		{"audit tail -config /nonexistent -n x", `invalid value "x"`},
		{"dev -dir /nonexistent/x -accounts 1234", `-accounts: "1234" is not 12 digits`},
		{"dev -dir /nonexistent/x -accounts 111122223333,", `-accounts: "" is not 12 digits`},
		{"dev -dir /nonexistent/x -accounts 111122223333,111122223333", "-accounts: 111122223333 is there twice"},
		{"dev -dir /nonexistent/x -listen 0.0.0.0:4599", "-listen"},
		{"dev -dir /nonexistent/x -listen 4599", "-listen"},
		{"dev -dir /nonexistent/x -regions EU", `-regions: "EU" is not a region`},
		{"dev -dir /nonexistent/x -regions us-east-1,", `-regions: "" is not a region`},
		{"dev -dir /nonexistent/x -regions us-east-1,us-east-1", "-regions: us-east-1 is there twice"},
	} {
		r := run(t, path, strings.Fields(tc.command)...)
		r.wantFailure(t, tc.command, 2, tc.want)
		if r.stdout != "" {
			t.Errorf("%s prints %q, want it as an error", tc.command, r.stdout)
		}
	}
	run(t, path, "serve", "-config", "/nonexistent/file").wantFailure(t, "serve without its file", 1, "/nonexistent/file", "no such file")
	if _, err := os.Stat("/nonexistent"); err == nil {
		t.Error("something was made under /nonexistent")
	}
}
