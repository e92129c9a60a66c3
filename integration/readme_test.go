package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// documents are the texts whose links and commands are looked at.
func documents(t testing.TB) map[string]string {
	t.Helper()
	texts := map[string]string{}
	walk(t.(*testing.T), func(name string, content []byte) {
		if filepath.Ext(name) == ".md" {
			texts[name] = string(content)
		}
	})
	return texts
}

// link finds the target of a link that is not an address: [text](target).
var link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)

func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	t.Parallel()
	texts := documents(t)
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deployments/README.md"} {
		if texts[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	for name, text := range texts {
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			target := found[1]
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join("..", filepath.Dir(name), target)); err != nil {
				t.Errorf("%s links to %s: %v", name, target, err)
			}
		}
	}
}

// A block is a fenced part of a document.
type block struct {
	language string
	line     int // of its fence
	text     string
}

func blocksOf(t testing.TB, name, text string) []block {
	t.Helper()
	var blocks []block
	open := false
	for n, line := range strings.Split(text, "\n") {
		language, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			blocks = append(blocks, block{language: language, line: n + 1})
			open = true
		case fence:
			open = false
		case open:
			blocks[len(blocks)-1].text += line + "\n"
		case strings.Contains(line, "```"):
			t.Errorf("%s:%d: a fence that does not begin its line", name, n+1)
		}
	}
	if open {
		t.Errorf("%s: a fence is not closed", name)
	}
	return blocks
}

// A step is a block of the README as the test knows it.
type step struct {
	begins string // what the block begins with
	check  func(t testing.TB, output string)
}

// serveStep begins the one block that goes on running.
const serveStep = "make run"

// readmeSteps are the blocks of the README, in order.
var readmeSteps = []step{
	{serveStep, nil},
	{". .kmsgate/dev.env", wantNothing},
	{"aws sts get-caller-identity", func(t testing.TB, output string) {
		wantJSON(t, output, m{"Account": own, "Arn": rootOf(own), "UserId": own})
	}},
	{"KEY=$(aws kms create-key", func(t testing.TB, output string) {
		var described struct {
			KeyMetadata struct{ Description, KeyState string }
		}
		if err := json.Unmarshal([]byte(output), &described); err != nil {
			t.Fatalf("describe-key printed %s: %v", output, err)
		}
		if got := described.KeyMetadata; got.Description != "my first key" || got.KeyState != "Enabled" {
			t.Errorf("describe-key printed %s, want the first key, enabled", output)
		}
	}},
	{"printf 'attack at dawn'", func(t testing.TB, output string) {
		if output != "attack at dawn" {
			t.Errorf("decrypted to %q, want %q", output, "attack at dawn")
		}
	}},
	{"aws kms generate-data-key", func(t testing.TB, output string) {
		var key struct{ Plaintext, CiphertextBlob []byte }
		if err := json.Unmarshal([]byte(output), &key); err != nil {
			t.Fatalf("generate-data-key printed %s: %v", output, err)
		}
		if len(key.Plaintext) != 32 || len(key.CiphertextBlob) <= 32 {
			t.Errorf("a data key of %d bytes and %d encrypted, want 32 and more", len(key.Plaintext), len(key.CiphertextBlob))
		}
	}},
	{"./bin/kmsgate audit tail", func(t testing.TB, output string) {
		events, err := parseEvents([]byte(output))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range events {
			names = append(names, e.EventName)
		}
		if want := []string{"Encrypt", "Decrypt", "GenerateDataKey"}; !slices.Equal(names, want) {
			t.Errorf("audit tail printed %v, want %v:\n%s", names, want, output)
		}
	}},
	{"aws iam create-user", func(t testing.TB, output string) {
		if want := "arn:aws:iam::" + own + ":user/alice\nrefused\n"; output != want {
			t.Errorf("create-user and encrypt printed %q, want %q", output, want)
		}
	}},
	{"REQUEST=$(", func(t testing.TB, output string) {
		wantWords(t, output, " was refused.", "user arn:aws:iam::"+own+":user/alice", "kms:Encrypt, by Encrypt", "What would allow it:")
	}},
	{"aws iam put-user-policy", func(t testing.TB, output string) {
		wantWords(t, output, "SYMMETRIC_DEFAULT\n", "user arn:aws:iam::"+own+":user/alice\n  always: Encrypt\n", "of the policy encrypts of")
	}},
	{"rm plain.txt", wantNothing},
}

func wantNothing(t testing.TB, output string) {
	t.Helper()
	if output != "" {
		t.Errorf("it printed %q, want nothing", output)
	}
}

func wantWords(t testing.TB, output string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(output, w) {
			t.Errorf("%q is not in what it printed:\n%s", w, output)
		}
	}
}

// wantJSON wants a text to be exactly an object of strings.
func wantJSON(t testing.TB, text string, want m) {
	t.Helper()
	var got m
	if err := json.Unmarshal([]byte(text), &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("printed %s (%v), want %v", text, err, want)
	}
}

// TestReadme does what the README tells a newcomer to do, in a copy of the tree.
func TestReadme(t *testing.T) {
	t.Parallel()
	needAWS(t)
	blocks := slices.DeleteFunc(blocksOf(t, "README.md", documents(t)["README.md"]), func(b block) bool { return b.language != "sh" })
	if len(blocks) != len(readmeSteps) {
		t.Fatalf("README.md has %d blocks of sh, and the test knows %d: add the others to readmeSteps", len(blocks), len(readmeSteps))
	}
	for n, b := range blocks {
		if !strings.HasPrefix(b.text, readmeSteps[n].begins) {
			t.Fatalf("README.md:%d: the block begins with %.40q, and the test knows one with %q", b.line, b.text, readmeSteps[n].begins)
		}
	}
	if strings.TrimSpace(blocks[0].text) != serveStep {
		t.Fatalf("README.md:%d: %q is more than %q", blocks[0].line, blocks[0].text, serveStep)
	}
	tree, address := copyOfTree(t), freeAddress(t)
	server := makeRun(t, tree, address)
	server.awaitServing(t, address)
	for n, output := range shellSession(t, tree, blocks[1:], address) {
		readmeSteps[n+1].check(t, output)
	}
	if left, err := filepath.Glob(filepath.Join(tree, "*.txt")); err != nil || len(left) > 0 {
		t.Errorf("%v are left (%v), want nothing", left, err)
	}
	data := (&instance{dir: filepath.Join(tree, ".kmsgate")}).data()
	if len(processesIn(data)) == 0 {
		t.Errorf("no Postgres is running on %s", data)
	}
	server.ctrlC(t)
	if left := processesIn(data); len(left) > 0 {
		t.Errorf("processes %v of Postgres are left after Ctrl-C, want none", left)
	}
}

// copyOfTree copies the files that a clone would have, and those that are about to
// be added.
func copyOfTree(t testing.TB) string {
	t.Helper()
	tree := newPlace(t)
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	list.Dir = ".."
	names, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if err := copyFile(filepath.Join("..", name), filepath.Join(tree, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err) // one that is not there has been removed and not committed
		}
	}
	if err := os.Chmod(tree, 0o711); err != nil { //nolint:gosec // Postgres runs as another user
		t.Fatal(err)
	}
	return tree
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // as in a clone
		return err
	}
	return os.WriteFile(to, text, info.Mode().Perm())
}

// A job is a command in the background of a shell.
type job struct {
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
}

// makeRun starts make run on an address. A server that make was told to use for a
// part of its own would not be the one of a newcomer's shell: its variables go.
func makeRun(t testing.TB, tree, address string) *job {
	t.Helper()
	j := &job{cmd: exec.Command("make", "run", "ARGS=-listen "+address), output: newOutput(), exited: make(chan struct{})}
	j.cmd.Dir = tree
	j.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS") })
	j.cmd.Stdout, j.cmd.Stderr = j.output, j.output
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(j.exited)
		_ = j.cmd.Wait() // the exit code stays in ProcessState
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-j.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		<-j.exited
		(&instance{cmd: j.cmd, dir: filepath.Join(tree, ".kmsgate"), exited: j.exited}).sweep()
	})
	return j
}

// makeTimeout bounds make run until it serves: it compiles everything.
const makeTimeout = 10 * time.Minute

// awaitServing waits until make run serves on an address.
func (j *job) awaitServing(t testing.TB, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), makeTimeout)
	defer cancel()
	for {
		text, added := j.output.state()
		if strings.Contains(text, "Metrics and pprof: ") {
			break
		}
		select {
		case <-added:
		case <-j.exited:
			t.Fatalf("make run has ended: %v\n%s", j.cmd.ProcessState, j.output)
		case <-ctx.Done():
			t.Fatalf("make run does not serve:\n%s", j.output)
		}
	}
	response, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	if a, err := read(response); err != nil || a.status != http.StatusOK {
		t.Fatalf("/readyz: %d %s, %v; want 200", a.status, a.body, err)
	}
}

// ctrlC ends the job as Ctrl-C in its terminal does.
func (j *job) ctrlC(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(-j.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-j.exited:
	case <-time.After(startTimeout):
		t.Fatalf("make run has not ended after Ctrl-C:\n%s", j.output)
	}
	status, ok := j.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !(status.ExitStatus() == 0 || status.ExitStatus() == 130 || status.Signal() == syscall.SIGINT) {
		t.Errorf("make run ended with %v, want 0, 130 or the signal\n%s", j.cmd.ProcessState, j.output)
	}
	if err := syscall.Kill(-j.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("processes of make run are left (%v), want none", err)
	}
}

// betweenBlocks is printed between the outputs of blocks.
const betweenBlocks = "\x1e"

// shellSession runs blocks in one shell, and returns what each has printed.
func shellSession(t testing.TB, dir string, blocks []block, address string) []string {
	t.Helper()
	script := "set -euo pipefail\n"
	for _, b := range blocks {
		script += fmt.Sprintf("# README.md:%d\n%sprintf %q\n", b.line, b.text, `\036`)
	}
	script = strings.ReplaceAll(script, "127.0.0.1:4599", address)
	cmd := exec.Command("bash", "-x", "-c", script)
	cmd.Dir, cmd.Env = dir, awsEnvironment()
	r := finish(t, cmd)
	r.wantSuccess(t, "the commands of the README")
	outputs := strings.Split(strings.TrimSuffix(r.stdout, betweenBlocks), betweenBlocks)
	if len(outputs) != len(blocks) {
		t.Fatalf("%d outputs of %d blocks:\n%s", len(outputs), len(blocks), r.stdout)
	}
	return outputs
}

// TestDocumentsHaveCommandsThatRun looks at the blocks of the other documents.
func TestDocumentsHaveCommandsThatRun(t *testing.T) {
	t.Parallel()
	for name, text := range documents(t) {
		for _, b := range blocksOf(t, name, text) {
			if b.language == "" {
				t.Errorf("%s:%d: the block does not say what it is", name, b.line)
			}
			if b.language != "sh" || name == "README.md" {
				continue
			}
			for line := range strings.Lines(b.text) {
				wantRunnable(t, fmt.Sprintf("%s:%d", name, b.line), line)
			}
		}
	}
}

// wantRunnable wants a line of a document to be a command that can run: targets of
// make that there are, commands of kmsgate with flags that it has.
func wantRunnable(t testing.TB, at, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	switch {
	case len(words) == 0:
	case words[0] == "make":
		cmd := exec.Command("make", append([]string{"-n"}, words[1:]...)...)
		cmd.Dir = ".."
		finish(t, cmd).wantSuccess(t, at+": "+line)
	case words[0] == "go" && len(words) > 1 && words[1] == "test":
		cmd := exec.Command("go", append([]string{"list"}, words[2:]...)...)
		cmd.Dir = ".."
		finish(t, cmd).wantSuccess(t, at+": "+line)
	case filepath.Base(words[0]) == "kmsgate":
		end := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") })
		if end < 0 {
			end = len(words)
		}
		help := run(t, binary(t), append(slices.Clone(words[1:end]), "-h")...)
		help.wantSuccess(t, at+": "+line)
		for _, word := range words[end:] {
			if name, ok := strings.CutPrefix(word, "-"); ok && !strings.Contains(help.stdout, "\n  -"+name) {
				t.Errorf("%s: %s: there is no flag %s:\n%s", at, line, word, help.stdout)
			}
		}
	default:
		t.Errorf("%s: the test does not know how to run %q", at, line)
	}
}

// needAWS wants the AWS CLI. Where tests must not be left out, it must be there.
func needAWS(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("aws"); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("'aws' is not in PATH: deployments/setup test installs it")
	}
	_, _ = io.WriteString(os.Stderr, "\n*** 'aws' is not in PATH: "+t.Name()+" is left out (deployments/setup test installs it)\n\n")
	t.Skip("'aws' is not in PATH")
}

// awsEnvironment is an environment for the AWS CLI with nothing of the user's own.
func awsEnvironment() []string {
	environment := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	return append(environment, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1")
}
