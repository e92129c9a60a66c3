package integration_test

import (
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"
)

// sealed is something encrypted, to be looked for after a restart.
type sealed struct {
	key                   string // ARN
	plaintext, ciphertext []byte
}

// seal makes a key and encrypts something under it.
func (i *instance) seal(t testing.TB, account string) sealed {
	t.Helper()
	c := i.newClient(account)
	s := sealed{key: i.createKey(t, account), plaintext: []byte("attack at dawn")}
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &s.key, Plaintext: s.plaintext})
	if err != nil {
		t.Fatal(err)
	}
	s.ciphertext = out.CiphertextBlob
	return s
}

// wantOpens wants a gateway to open what was sealed.
func (i *instance) wantOpens(t testing.TB, account string, s sealed) {
	t.Helper()
	out, err := i.newClient(account).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: s.ciphertext})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Plaintext, s.plaintext) || *out.KeyId != s.key {
		t.Errorf("decrypted to %q under %s, want %q under %s", out.Plaintext, *out.KeyId, s.plaintext, s.key)
	}
}

// TestDevComesBack starts a gateway on one directory again and again: after
// Ctrl-C, after kill -9 of it, and after kill -9 of it and its Postgres.
func TestDevComesBack(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t), arguments: []string{"-accounts", own + "," + other}}
	i := l.start(t)
	i.wantDevFiles(t)
	i.wantDevTalk(t)
	i.wantNoSecretsSeen(t)
	first, keys := i.seal(t, own), i.keys

	second := run(t, i.binary, "dev", "-dir", l.dir, "-listen", "127.0.0.1:0")
	second.wantFailure(t, "a second dev on the directory", 1, l.dir, "is in use by process", strconv.Itoa(i.cmd.Process.Pid))
	i.wantOpens(t, own, first) // and the first is not disturbed

	again := func(what string) {
		t.Helper()
		i = l.start(t)
		if diff := cmp.Diff(keys, i.keys, cmp.AllowUnexported(credentials{})); diff != "" {
			t.Errorf("credentials after %s (-want +got):\n%s", what, diff)
		}
		i.wantOpens(t, own, first)
		i.wantOpens(t, other, i.seal(t, other))
	}
	i.mustStop(t)
	again("Ctrl-C")

	server := postmaster(t, i.data())
	i.kill()
	if left := processesIn(i.data()); !slices.Contains(left, server) {
		t.Errorf("processes %v of Postgres after kill -9 of kmsgate, want %d among them", left, server)
	}
	again("kill -9")
	if now := postmaster(t, i.data()); now != server {
		t.Errorf("Postgres is process %d, want the one that was left, %d", now, server)
	}
	if want := "Took over the Postgres server"; !strings.Contains(i.stderr.String(), want) {
		t.Errorf("%q is not in\n%s", want, i.stderr)
	}

	i.kill()
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again("kill -9 of Postgres too")
	i.mustStop(t)
}

// wantDevFiles wants environment files that a shell can read and that nobody else
// may, like everything that holds a secret.
func (i *instance) wantDevFiles(t testing.TB) {
	t.Helper()
	for name, account := range map[string]string{"dev.env": own, "dev-" + other + ".env": other} {
		text, err := os.ReadFile(filepath.Join(i.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"AWS_ENDPOINT_URL_KMS": i.endpoint, "AWS_ENDPOINT_URL_IAM": i.endpoint, "AWS_ENDPOINT_URL_STS": i.endpoint,
			"AWS_ACCESS_KEY_ID": i.keys[account].accessKey, "AWS_SECRET_ACCESS_KEY": i.keys[account].secret,
			"AWS_REGION": region, "AWS_DEFAULT_REGION": region,
		}
		if diff := cmp.Diff(want, exported(string(text))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		who, err := i.newClient(account).sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil {
			t.Fatal(err)
		}
		if *who.Account != account || *who.Arn != rootOf(account) {
			t.Errorf("%s is of %s, account %s; want the root of %s", name, *who.Arn, *who.Account, account)
		}
	}
	i.wantPrivate(t)
}

// wantPrivate wants every file that others may read to hold no secret.
func (i *instance) wantPrivate(t testing.TB) {
	t.Helper()
	secrets, private := i.secretsOf(t), 0
	err := filepath.WalkDir(i.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(i.clusterHome(), "data") {
			return fs.SkipDir // Postgres sees to it
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		holds := slices.ContainsFunc(secrets, func(s string) bool { return bytes.Contains(text, []byte(s)) })
		if holds {
			private++
		}
		if holds && info.Mode().Perm() != 0o600 {
			t.Errorf("%s holds a secret and has mode %v, want 0600", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if private < 4 {
		t.Errorf("%d files hold a secret, want at least the PINs and the environments", private)
	}
	if info, err := os.Stat(filepath.Join(i.dir, "softhsm")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the token's directory: %v, %v; want mode 0700", info.Mode(), err)
	}
}

// wantDevTalk wants what dev prints: a warning, and the next commands.
func (i *instance) wantDevTalk(t testing.TB) {
	t.Helper()
	if want := "for development only, not for production"; !strings.Contains(i.stderr.String(), want) || !strings.Contains(i.stdout.String(), "not for production") {
		t.Errorf("%q is not in what was printed:\n%s%s", want, i.stderr, i.stdout)
	}
	for _, want := range []string{
		". " + filepath.Join(i.dir, "dev.env"), "aws kms create-key --endpoint-url " + i.endpoint,
		"aws sts get-caller-identity --endpoint-url " + i.endpoint, "kmsgate audit tail -config " + i.config(),
	} {
		if !strings.Contains(i.stdout.String(), want) {
			t.Errorf("%q is not in what was printed:\n%s", want, i.stdout)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status := i.get(t, i.endpoint+path); status != http.StatusOK {
			t.Errorf("%s: status %d, want 200", path, status)
		}
	}
	if status := i.get(t, i.admin+"/metrics"); status != http.StatusOK {
		t.Errorf("/metrics: status %d, want 200", status)
	}
}

// get is the status of a page.
func (i *instance) get(t testing.TB, url string) int {
	t.Helper()
	response, err := wire.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	a, err := read(response)
	if err != nil {
		t.Fatal(err)
	}
	return a.status
}

// wantNoSecretsSeen wants no secret in a command line or in what was printed.
func (i *instance) wantNoSecretsSeen(t testing.TB) {
	t.Helper()
	seen := map[string]string{"standard output": i.stdout.String(), "standard error": i.stderr.String()}
	for _, pid := range append(processesIn(i.data()), i.cmd.Process.Pid) {
		seen["the command line of process "+strconv.Itoa(pid)] = commandLine(t, pid)
	}
	if len(seen) < 4 {
		t.Errorf("looked at %d places, want the processes of Postgres among them", len(seen))
	}
	for place, text := range seen {
		for _, secret := range i.secretsOf(t) {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a secret: %s", place, text)
			}
		}
	}
}

// TestDevStopsAfterWhatItAccepted interrupts a gateway with requests in flight.
func TestDevStopsAfterWhatItAccepted(t *testing.T) {
	t.Parallel()
	i := launch{dir: newPlace(t)}.start(t)
	key := i.createKey(t, own)
	load := newLoad(i, key)
	load.start(8)
	load.await(t, 200)
	i.mustStop(t)
	load.wait()
	i.wantAnswered(t, load)
}

// load is clients that encrypt without pause until the gateway is gone.
type load struct {
	clients sync.WaitGroup
	mu      sync.Mutex
	answers map[string]int // statuses by request id
	begin   func()
}

func newLoad(i *instance, key string) *load {
	l := &load{answers: map[string]int{}}
	l.begin = func() {
		c := i.newClient(own)
		for {
			_, err := c.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
			id := c.last.requestID()
			if err != nil && !answered(err) {
				return
			}
			l.mu.Lock()
			l.answers[id] = c.last.status
			l.mu.Unlock()
		}
	}
	return l
}

func (l *load) start(n int) {
	for range n {
		l.clients.Go(l.begin)
	}
}

func (l *load) wait() { l.clients.Wait() }

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answers)
}

// await waits for answers.
func (l *load) await(t testing.TB, n int) {
	t.Helper()
	eventually(t, strconv.Itoa(n)+" answers", func() bool { return l.count() >= n })
}

// wantAnswered starts the gateway again to look into its log: whatever request was
// worked on by the one that stopped had its answer, a success.
func (i *instance) wantAnswered(t testing.TB, l *load) {
	t.Helper()
	again := launch{dir: i.dir, arguments: i.arguments}.start(t)
	defer again.mustStop(t)
	again.wantAnswersOf(t, l)
}

func (i *instance) wantAnswersOf(t testing.TB, l *load) {
	t.Helper()
	recorded := map[string]bool{}
	for _, e := range i.audit(t) {
		if e.EventName != "Encrypt" {
			continue
		}
		recorded[e.RequestID] = true
		if status, ok := l.answers[e.RequestID]; !ok || status != http.StatusOK {
			t.Errorf("request %s is on record (error %q) and its answer was %d, want 200", e.RequestID, e.ErrorCode, status)
		}
	}
	for id := range l.answers {
		if !recorded[id] {
			t.Errorf("request %s was answered and is not on record", id)
		}
	}
}

// TestDevListenAndRegion wants -listen and -regions to be heeded, and a start with
// another region to keep the keys of the first.
func TestDevListenAndRegion(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	l := launch{dir: newPlace(t), arguments: []string{"-listen", address, "-regions", "eu-central-7"}}
	i := l.start(t)
	if want := "http://" + address; i.endpoint != want {
		t.Errorf("endpoint %s, want %s", i.endpoint, want)
	}
	create := func(in string) answer {
		t.Helper()
		body := []byte("{}")
		r := i.sign(t, own, "CreateKey", body)
		i.signAs(t, r, i.keys[own], body, "kms", in, time.Now())
		return send(t, r)
	}
	a := create("eu-central-7")
	if got, want := a.object(t)["KeyMetadata"], "arn:aws:kms:eu-central-7:"+own; got == nil || !strings.HasPrefix(got.(m)["Arn"].(string), want) {
		t.Errorf("CreateKey: %d %s, want an ARN that begins with %s", a.status, a.body, want)
	}
	if a := create(region); a.status != http.StatusBadRequest {
		t.Errorf("CreateKey in %s: %d %s, want 400", region, a.status, a.body)
	}
	taken := run(t, i.binary, "dev", "-dir", newPlace(t), "-listen", address)
	taken.wantFailure(t, "a second dev on the address", 1, address, "address already in use")
	i.mustStop(t)

	l.arguments = nil
	keys := i.keys
	i = l.start(t)
	if diff := cmp.Diff(keys, i.keys, cmp.AllowUnexported(credentials{})); diff != "" {
		t.Errorf("credentials after a start with another region (-want +got):\n%s", diff)
	}
	for _, in := range []string{region, "eu-central-7"} {
		if a := create(in); a.status != http.StatusOK {
			t.Errorf("CreateKey in %s: %d %s, want 200", in, a.status, a.body)
		}
	}
	i.mustStop(t)
}
