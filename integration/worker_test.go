package integration_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// passing are the codes of errors that clients try again after.
var passing = []string{"KMSInternalException", "DependencyTimeoutException", "ThrottlingException", "KeyUnavailableException"}

// workersOf are the processes that a gateway has started for its libraries.
func workersOf(t testing.TB, gateway int) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(gateway), "task", "*", "children"))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if err != nil {
			continue // that thread has ended
		}
		for field := range strings.FieldsSeq(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestLibraryInAProcessOfItsOwn serves with the library outside, and goes on when that
// is killed under load.
func TestLibraryInAProcessOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	s.set(t, "isolation: none", "isolation: process")
	key := s.prepare(t)
	i := s.serve(t, map[string]credentials{own: key})
	workers := workersOf(t, i.cmd.Process.Pid)
	if len(workers) != 1 || !strings.HasPrefix(commandLine(t, workers[0]), i.binary+" hsm worker") {
		t.Fatalf("serve has the processes %v", workers)
	}
	if maps, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(i.cmd.Process.Pid), "maps")); err != nil || bytes.Contains(maps, []byte("softhsm")) {
		t.Errorf("the library is loaded in the gateway (%v)", err)
	}
	c := s.secure(i, key)
	created, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: created.KeyMetadata.KeyId, Plaintext: []byte("kept")})
	if err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var good atomic.Int64
	var callers sync.WaitGroup
	for n := range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				once(t, c, created.KeyMetadata.KeyId, strconv.Itoa(n), &good)
			}
		})
	}
	more := func(what string) {
		from := good.Load()
		eventually(t, what, func() bool { return good.Load() > from+20 })
	}
	more("calls succeed")
	for range 2 {
		must(t, "kill the library's process", syscall.Kill(workersOf(t, i.cmd.Process.Pid)[0], syscall.SIGKILL))
		more("calls succeed after the library's process was killed")
	}
	stop()
	callers.Wait()
	eventually(t, "the gateway is ready", func() bool { return i.get(t, i.endpoint+"/readyz") == http.StatusOK })
	if line := lineWith(string(get(t, i.admin+"/metrics").body), "kmsgate_worker_restarts_total{module="); !strings.HasSuffix(line, "} 2\n") {
		t.Errorf("the metrics say %q, want two restarts", line)
	}
	opened, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: kept.CiphertextBlob})
	if err != nil || string(opened.Plaintext) != "kept" {
		t.Errorf("Decrypt of what was encrypted before: %v", err)
	}
	last := workersOf(t, i.cmd.Process.Pid)
	if code := i.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, i.stderr)
	}
	if err := syscall.Kill(last[0], 0); err == nil {
		t.Errorf("the library's process %d is left", last[0])
	}
}

// once encrypts and decrypts by the SDK, and wants the right answer or an error that
// passes.
func once(t *testing.T, c *kms.Client, key *string, plaintext string, good *atomic.Int64) {
	encrypted, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: key, Plaintext: []byte(plaintext)})
	var opened *kms.DecryptOutput
	if err == nil {
		opened, err = c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: encrypted.CiphertextBlob})
	}
	switch {
	case err != nil:
		if !slices.ContainsFunc(passing, func(code string) bool { return strings.Contains(err.Error(), code) }) {
			t.Errorf("error under load: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	case string(opened.Plaintext) != plaintext:
		t.Errorf("decrypted %q, want %q", opened.Plaintext, plaintext)
	default:
		good.Add(1)
	}
}
