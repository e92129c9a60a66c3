package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Accounts of the shared gateway. The third has no keys but those of the tests
// of lists.
const (
	own   = "111122223333"
	other = "444455556666"
	third = "777788889999"

	region = "us-east-1"
)

// startTimeout bounds the start of a gateway, and the stop of one.
const startTimeout = 60 * time.Second

// buildOnce builds the program once for the whole run, in a folder that
// TestMain removes.
var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kmsgate-integration-")
	if err != nil {
		return "", err
	}
	leftovers.add(dir)
	path := filepath.Join(dir, "kmsgate")
	cmd := exec.Command("go", "build", "-o", path, "kmsgate/cmd/kmsgate")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// binary is the path of the program under test.
func binary(t testing.TB) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// output keeps what a process prints, and tells who waits for a line.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	added chan struct{} // closed and made anew at every write
}

func newOutput() *output { return &output{added: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	close(o.added)
	o.added = make(chan struct{})
	return len(p), nil
}

func (o *output) String() string {
	text, _ := o.state()
	return text
}

func (o *output) state() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.added
}

// credentials are an account root's access key, as its environment file has it.
type credentials struct {
	accessKey, secret string
}

// An instance is one running process of kmsgate dev.
type instance struct {
	binary    string
	dir       string
	arguments []string // beyond -dir and -listen, as at the start
	endpoint  string   // of the API, with its scheme
	admin     string   // of metrics and pprof, with its scheme
	keys      map[string]credentials

	cmd    *exec.Cmd
	stdout *output
	stderr *output
	exited chan struct{} // closed when the process has ended
}

// startDev starts kmsgate dev on a directory with further flags, and waits until
// it serves. -listen is 127.0.0.1:0 unless it is among them. The caller stops it.
func startDev(ctx context.Context, binary, dir string, arguments ...string) (*instance, error) {
	i := &instance{
		binary: binary, dir: dir, arguments: arguments, stdout: newOutput(), stderr: newOutput(), exited: make(chan struct{}),
	}
	i.cmd = exec.Command(binary, append([]string{"dev", "-dir", dir, "-listen", "127.0.0.1:0"}, arguments...)...)
	i.cmd.Stdout, i.cmd.Stderr = i.stdout, i.stderr
	i.cmd.Dir = dir
	if err := i.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(i.exited)
		_ = i.cmd.Wait() // the exit code stays in ProcessState
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := i.awaitReady(ctx); err != nil {
		i.kill()
		return nil, fmt.Errorf("kmsgate dev: %w\n%s%s", err, i.stdout, i.stderr)
	}
	return i, i.readEnvironments()
}

// awaitReady waits for the last line that dev prints when it serves.
func (i *instance) awaitReady(ctx context.Context) error {
	for {
		text, added := i.stdout.state()
		if _, rest, ok := strings.Cut(text, "Metrics and pprof: "); ok && strings.Contains(rest, "\n") {
			line, _, _ := strings.Cut(rest, "\n")
			i.admin = strings.TrimSuffix(line, "/metrics")
			return nil
		}
		select {
		case <-added:
		case <-i.exited:
			return fmt.Errorf("it ended: %v", i.cmd.ProcessState)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readEnvironments reads the credentials that dev has written, as a shell would.
func (i *instance) readEnvironments() error {
	files, err := filepath.Glob(filepath.Join(i.dir, "dev*.env"))
	if err != nil {
		return err
	}
	i.keys = map[string]credentials{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		_, rest, ok := strings.Cut(string(text), "# account ")
		if !ok || len(rest) < 12 {
			return fmt.Errorf("%s names no account", file)
		}
		variables := exported(string(text))
		i.endpoint = variables["AWS_ENDPOINT_URL_KMS"]
		i.keys[rest[:12]] = credentials{variables["AWS_ACCESS_KEY_ID"], hideText(variables["AWS_SECRET_ACCESS_KEY"])}
	}
	if i.endpoint == "" {
		return errors.New("no environment file with an endpoint")
	}
	return nil
}

// exported are the variables that an environment file exports.
func exported(text string) map[string]string {
	variables := map[string]string{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "export "); ok {
			name, value, _ := strings.Cut(strings.TrimSpace(rest), "=")
			variables[name] = value
		}
	}
	return variables
}

// environment is what a shell has that has read an account's environment file.
func (i *instance) environment(account string) []string {
	key := i.keys[account]
	return append(os.Environ(),
		"AWS_ENDPOINT_URL_KMS="+i.endpoint, "AWS_ENDPOINT_URL_IAM="+i.endpoint, "AWS_ENDPOINT_URL_STS="+i.endpoint,
		"AWS_ACCESS_KEY_ID="+key.accessKey, "AWS_SECRET_ACCESS_KEY="+key.secret, "AWS_REGION="+region, "AWS_DEFAULT_REGION="+region)
}

// config is the configuration file for other commands.
func (i *instance) config() string { return filepath.Join(i.dir, "kmsgate.yaml") }

// stop asks the process to end and returns its exit code; -1 if it had to be killed.
func (i *instance) stop() int {
	_ = i.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-i.exited:
	case <-time.After(startTimeout):
		i.kill()
	}
	return i.cmd.ProcessState.ExitCode()
}

// kill ends the process at once, as kill -9 does. Its Postgres goes on.
func (i *instance) kill() {
	_ = i.cmd.Process.Kill() // it may have ended
	<-i.exited
}

// newDirectory makes a directory for a gateway that an unprivileged Postgres can
// enter, so that its cluster lies inside.
func newDirectory() (string, error) {
	dir, err := os.MkdirTemp("", "kmsgate-dev-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711) //nolint:gosec // Postgres runs as another user
}

// newGateway starts a gateway of the test's own; it is stopped at the end.
func newGateway(t *testing.T, arguments ...string) *instance {
	t.Helper()
	dir, err := newDirectory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // left to the system's cleaning
	i, err := startDev(t.Context(), binary(t), dir, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.stop() })
	return i
}

// shared is the gateway that most tests use. TestMain stops it.
var shared = sync.OnceValues(func() (*instance, error) {
	path, err := buildOnce()
	if err != nil {
		return nil, err
	}
	dir, err := newDirectory()
	if err != nil {
		return nil, err
	}
	leftovers.add(dir)
	i, err := startDev(context.Background(), path, dir, "-accounts", strings.Join([]string{own, other, third}, ","))
	if err == nil {
		leftovers.started(i)
	}
	return i, err
})

// gateway is the shared gateway. It is never stopped or harmed by a test.
func gateway(t testing.TB) *instance {
	t.Helper()
	i, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// An event is an audit record and its exact text.
type event struct {
	EventVersion string `json:"eventVersion"`
	UserIdentity struct {
		Type, PrincipalID, ARN, AccountID, AccessKeyID string
	} `json:"userIdentity"`
	EventTime           string         `json:"eventTime"`
	EventSource         string         `json:"eventSource"`
	EventName           string         `json:"eventName"`
	AWSRegion           string         `json:"awsRegion"`
	SourceIPAddress     string         `json:"sourceIPAddress"`
	UserAgent           string         `json:"userAgent"`
	ErrorCode           string         `json:"errorCode"`
	ErrorMessage        string         `json:"errorMessage"`
	RequestParameters   map[string]any `json:"requestParameters"`
	ResponseElements    map[string]any `json:"responseElements"`
	AdditionalEventData map[string]any `json:"additionalEventData"`
	ServiceEventDetails map[string]any `json:"serviceEventDetails"`
	RequestID           string         `json:"requestID"`
	EventID             string         `json:"eventID"`
	ReadOnly            bool           `json:"readOnly"`
	Resources           []struct {
		AccountID, Type, ARN string
	} `json:"resources"`
	EventType          string `json:"eventType"`
	ManagementEvent    bool   `json:"managementEvent"`
	RecipientAccountID string `json:"recipientAccountId"`
	SharedEventID      string `json:"sharedEventID"`
	EventCategory      string `json:"eventCategory"`

	text string // as in the log
}

// auditText is the whole audit log as kmsgate audit tail prints it.
func (i *instance) auditText(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, i.binary, "audit", "tail", "-config", i.config(), "-n", "0")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("audit tail: %w: %s", err, exit.Stderr)
	}
	return out, err
}

// audit is the whole audit log, in its order.
func (i *instance) audit(t testing.TB) []event {
	t.Helper()
	text, err := i.auditText(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	events, err := parseEvents(text)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func parseEvents(text []byte) ([]event, error) {
	var events []event
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := event{text: lines.Text()}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit record %s: %w", lines.Text(), err)
		}
		events = append(events, e)
	}
	return events, lines.Err()
}

// eventsOf are the records of one request.
func eventsOf(events []event, requestID string) []event {
	var found []event
	for _, e := range events {
		if e.RequestID == requestID {
			found = append(found, e)
		}
	}
	return found
}
