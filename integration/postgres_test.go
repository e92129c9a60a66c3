package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"kmsgate/metadata"
	"kmsgate/metadata/pgserver"
)

// TestPostgresAway takes Postgres away from a gateway that serves, in several ways,
// and gives it back. Meanwhile it answers with an error that clients try again on,
// in time, and afterwards it works again by itself.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	dir := newPlace(t)
	config := pgserver.Config{Dir: dir, Durable: true}
	server := restartable(t, config)
	s := newSite(t, server().URL("kmsgate"))
	if err := metadata.CreateDatabase(t.Context(), server().URL("postgres"), "kmsgate", ""); err != nil {
		t.Fatal(err)
	}
	s.plain(t)
	s.set(t, "request_timeout: 10s", "request_timeout: 2s")
	i := s.serveFirst(t)
	data := server().Dir()
	away := &outage{instance: i, key: i.createKey(t, own)}
	away.answers = map[string]string{}
	away.wantWorks(t)

	for _, kind := range []struct {
		name       string
		away, back func()
	}{
		{"shut down", func() { mustNot(t, server().Stop()) }, func() { server = restartable(t, config) }},
		{"killed", func() {
			for _, pid := range processesIn(data) {
				_ = syscall.Kill(pid, syscall.SIGKILL) // some go with the first
			}
			eventually(t, "the end of Postgres", func() bool { return len(processesIn(data)) == 0 })
			mustNot(t, server().Stop())
		}, func() { server = restartable(t, config) }},
		{"stopped", func() { stopAll(t, data) }, func() { goOn(data) }},
	} {
		// Requests go on all the time.
		ended := make(chan struct{})
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() { away.insist(t, ended) })
		}
		away.awaitAnswers(t, 50)
		kind.away()
		away.wantFails(t, kind.name)
		kind.back()
		eventually(t, "the gateway works again after Postgres was "+kind.name, func() bool {
			return i.call(t, own, "DescribeKey", m{"KeyId": away.key}).status == http.StatusOK
		})
		eventually(t, "the gateway is ready again after Postgres was "+kind.name, func() bool {
			return i.get(t, i.endpoint+"/readyz") == http.StatusOK
		})
		close(ended)
		clients.Wait()
		away.wantWorks(t)
	}
	// A change whose commit got no answer has its record in the outbox until the
	// gateway finds it there.
	i.awaitTakenUp(t)
	if code := i.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, i.stderr)
	}
	log := readLog(t, s.database)
	log.wantWhole(t)
	log.wantOnce(t, []*book{{answers: away.answers}})
	log.wantUsesCounted(t)
}

// restartable starts a Postgres that the test stops or kills itself.
func restartable(t testing.TB, config pgserver.Config) func() *pgserver.Server {
	t.Helper()
	server, err := pgserver.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // it may have been stopped or killed
	return func() *pgserver.Server { return server }
}

func mustNot(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stopAll stops every process of a Postgres. One that is not stopped yet may have made
// another meanwhile, so it ends with a look that finds all of them stopped.
func stopAll(t testing.TB, data string) {
	t.Helper()
	eventually(t, "all of Postgres stopped", func() bool {
		stopped := true
		for _, pid := range processesIn(data) {
			if processState(pid) == 'T' {
				continue
			}
			stopped = false
			_ = syscall.Kill(pid, syscall.SIGSTOP) // one that has ended needs none
		}
		return stopped
	})
}

// processState is the letter that Linux has for what a process does; 0 if it has ended.
func processState(pid int) byte {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if at := bytes.LastIndexByte(stat, ')') + 2; at > 1 && at < len(stat) { // behind the name
		return stat[at]
	}
	return 0
}

// goOn lets every process of a Postgres that was stopped go on.
func goOn(data string) {
	for _, pid := range processesIn(data) {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
}

// serveFirst prepares the site and serves, with the key of its first account.
func (s *site) serveFirst(t testing.TB) *instance {
	t.Helper()
	return s.serve(t, map[string]credentials{own: s.prepare(t)})
}

// An outage is what clients see while Postgres comes and goes.
type outage struct {
	*instance
	key string

	mu      sync.Mutex
	answers map[string]string // the operation by request id, of successes
}

// request sends one request and keeps the id of a success.
func (o *outage) request(t testing.TB, operation string, in m) answer {
	t.Helper()
	a := o.call(t, own, operation, in)
	if a.status == http.StatusOK {
		o.mu.Lock()
		o.answers[a.requestID()] = operation
		o.mu.Unlock()
	}
	return a
}

func (o *outage) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.answers)
}

func (o *outage) awaitAnswers(t testing.TB, n int) {
	t.Helper()
	before := o.count()
	eventually(t, "answers", func() bool { return o.count() >= before+n })
}

// operations are one that reads, one that only needs its record, two that change.
func (o *outage) operations() map[string]m {
	return map[string]m{
		"DescribeKey": {"KeyId": o.key}, "Encrypt": {"KeyId": o.key, "Plaintext": "eA=="},
		"CreateKey": {}, "UpdateKeyDescription": {"KeyId": o.key, "Description": "x"}, "ListKeys": {"Limit": 1},
	}
}

// insist sends requests until the outage has ended. Each is answered: with a
// success, or with an error that is tried again.
func (o *outage) insist(t *testing.T, ended <-chan struct{}) {
	for {
		for operation, in := range o.operations() {
			select {
			case <-ended:
				return
			default:
			}
			if a := o.request(t, operation, in); a.status != http.StatusOK {
				a.wantRetryable(t, operation)
			}
		}
	}
}

// wantRetryable wants an error that every SDK tries again on.
func (a answer) wantRetryable(t *testing.T, operation string) {
	var body m
	if a.status == http.StatusInternalServerError {
		body = a.object(t)
	}
	if body["__type"] != "KMSInternalException" {
		t.Errorf("%s while Postgres is away: %d %s, want 500 KMSInternalException", operation, a.status, a.body)
	}
}

// wantFails wants every operation to fail, and the gateway to be alive and not ready.
func (o *outage) wantFails(t *testing.T, what string) {
	t.Helper()
	for operation, in := range o.operations() {
		a := o.request(t, operation, in)
		if a.status == http.StatusOK {
			t.Errorf("%s was answered while Postgres was %s: %s", operation, what, a.body)
			continue
		}
		a.wantRetryable(t, operation)
	}
	if status := o.get(t, o.endpoint+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz while Postgres is %s: %d, want 503", what, status)
	}
	if status := o.get(t, o.endpoint+"/healthz"); status != http.StatusOK {
		t.Errorf("/healthz while Postgres is %s: %d, want 200", what, status)
	}
}

// wantWorks wants every operation to work.
func (o *outage) wantWorks(t *testing.T) {
	t.Helper()
	for operation, in := range o.operations() {
		if a := o.request(t, operation, in); a.status != http.StatusOK {
			t.Errorf("%s: %d %s, want 200", operation, a.status, a.body)
		}
	}
}

// TestServeWithoutPostgresEnds wants a start without Postgres to end with the
// reason, and commands too.
func TestServeWithoutPostgresEnds(t *testing.T) {
	t.Parallel()
	sample, err := os.ReadFile("../deployments/kmsgate.yaml")
	mustNot(t, err)
	s := &site{dir: t.TempDir(), text: string(sample)}
	s.set(t, "postgres://kmsgate@127.0.0.1:5432/kmsgate?sslmode=disable", "postgres:///kmsgate?host="+filepath.Join(s.dir, "nothing"))
	for _, command := range [][]string{{"serve"}, {"migrate"}, {"init", "-account", own}, {"account", "list"}, {"audit", "tail"}, {"hsm", "login"}} {
		s.kmsgate(t, command...).wantFailure(t, command[0]+" without Postgres", 1, filepath.Join(s.dir, "nothing"))
	}
}
