package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"kmsgate/softhsm"
)

// A kept is what was encrypted under a key and must decrypt for ever.
type kept struct {
	key    string
	blob   []byte
	secret string
}

// keep makes keys and encrypts under each.
func keep(t testing.TB, c *client, keys int) []kept {
	t.Helper()
	all := make([]kept, keys)
	for n := range all {
		made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		k := kept{key: *made.KeyMetadata.Arn, secret: fmt.Sprintf("secret %d", n)}
		out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &k.key, Plaintext: []byte(k.secret)})
		if err != nil {
			t.Fatal(err)
		}
		k.blob = out.CiphertextBlob
		all[n] = k
	}
	return all
}

// wantKept wants everything to decrypt.
func wantKept(t testing.TB, c *client, all []kept) {
	t.Helper()
	for _, k := range all {
		out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: k.blob})
		if err != nil || string(out.Plaintext) != k.secret {
			t.Fatalf("Decrypt under %s: %v", k.key, err)
		}
	}
}

// outdated is how many rows name another generation than the newest, and that one.
func (s *site) outdated(t testing.TB) (rows, newest int) {
	t.Helper()
	newest = s.one(t, `SELECT max(generation) FROM service_keys WHERE kind = 'domain' AND state = 'active'`)
	return s.one(t, fmt.Sprintf(`SELECT (SELECT count(*) FROM materials WHERE residency IN ('wrapped', 'resident') AND generation <> %d)
		+ (SELECT count(*) FROM import_parameters WHERE generation <> %d)`, newest, newest)), newest
}

// wantMoved wants all rows to be under a generation.
func (s *site) wantMoved(t testing.TB, generation int) {
	t.Helper()
	if rows, newest := s.outdated(t); rows != 0 || newest != generation {
		t.Errorf("%d rows are not under the newest generation, which is %d; want none, and %d", rows, newest, generation)
	}
}

// recorded counts the records of an event in the audit log.
func (s *site) recorded(t testing.TB, event string) (n int) {
	t.Helper()
	r := s.kmsgate(t, "audit", "tail", "-n", "0")
	r.wantSuccess(t, "audit tail")
	return strings.Count(r.stdout, `"eventName":"`+event+`"`)
}

// TestRotateDomainKeyWhileServing rotates the domain key of two instances that
// serve, twice at once, and nobody notices.
func TestRotateDomainKeyWhileServing(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	keys := map[string]credentials{own: s.prepare(t)}
	first, second := s.serve(t, keys), s.serve(t, keys)
	c := first.newClient(own)
	all := keep(t, c, 120)
	resident, wrapped := s.pairs(t, c.Client)
	imported, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	if err != nil {
		t.Fatal(err)
	}
	parameters := c.parameters(t, *imported.KeyMetadata.KeyId, types.AlgorithmSpecRsaesOaepSha256, types.WrappingKeySpecRsa2048)

	stop := s.loaded(t, all, first, second)
	var runs sync.WaitGroup
	for range 2 {
		runs.Go(func() {
			r := s.kmsgate(t, "hsm", "rotate-domain-key", "-workers", "2")
			if r.code != 0 {
				t.Errorf("hsm rotate-domain-key: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
			}
		})
	}
	runs.Wait()
	made := stop()
	_, newest := s.outdated(t)
	s.wantMoved(t, newest)
	if newest < 2 || len(made) == 0 {
		t.Errorf("generation %d after a rotation in which %d keys were made", newest, len(made))
	}
	for _, i := range []*instance{first, second} {
		c := i.newClient(own)
		wantKept(t, c, append(slices.Clone(all), made...))
		for id, algorithm := range map[string]types.SigningAlgorithmSpec{resident: types.SigningAlgorithmSpecEd25519Sha512, wrapped: types.SigningAlgorithmSpecEcdsaSha256} {
			if _, err := c.Sign(t.Context(), &kms.SignInput{KeyId: &id, Message: []byte("x"), SigningAlgorithm: algorithm}); err != nil {
				t.Errorf("Sign with %s: %v", algorithm, err)
			}
		}
		keep(t, c, 1)
	}
	s.wantMoved(t, newest)
	material := bytes.Repeat([]byte{9}, 32)
	if _, err := c.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
		KeyId: imported.KeyMetadata.KeyId, ImportToken: parameters.ImportToken, ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		EncryptedKeyMaterial: wrapMaterial(t, types.AlgorithmSpecRsaesOaepSha256, parameters.PublicKey, hide(material)),
	}); err != nil {
		t.Errorf("ImportKeyMaterial with parameters of before: %v", err)
	}
	for event, least := range map[string]int{"CreateServiceKeys": newest - 1, "RotateDomainKey": newest - 1, "RewrapKeys": 2} {
		if n := s.recorded(t, event); n < least {
			t.Errorf("%d records of %s, want %d or more", n, event, least)
		}
	}
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor after a rotation")
	r := s.kmsgate(t, "hsm", "inspect")
	r.wantSuccess(t, "hsm inspect after a rotation")
	wantLine(t, r, "domain key, generation 1")
	wantLine(t, r, "binding key, generation 2")
}

// loaded has clients use keys and make some at instances, until the function that is
// returned is called; that returns the keys that were made. Nothing may fail.
func (s *site) loaded(t testing.TB, all []kept, instances ...*instance) (stop func() []kept) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var clients sync.WaitGroup
	var mu sync.Mutex
	var made []kept
	var answers atomic.Int64
	for n, i := range instances {
		c := i.newClient(own)
		clients.Go(func() {
			for round := n; ctx.Err() == nil; round++ {
				fresh := keep(t, c, 1)
				mu.Lock()
				made = append(made, fresh...)
				mu.Unlock()
				for j := range 20 {
					wantKept(t, c, all[(round*20+j)%len(all):][:1])
					answers.Add(1)
				}
			}
		})
	}
	return func() []kept {
		cancel()
		clients.Wait()
		t.Logf("%d answers to Decrypt, %d keys made meanwhile", answers.Load(), len(made))
		return made
	}
}

// start starts a command and returns its process.
func (s *site) start(t testing.TB, command ...string) *exec.Cmd {
	t.Helper()
	arguments := append(append([]string{}, command[:2]...), "-config", s.config())
	cmd := exec.Command(binary(t), append(arguments, command[2:]...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// killAtLock runs a command that comes to wait for a lock which sql takes, and kills
// it there; before is when the lock is taken.
func (s *site) killAtLock(t testing.TB, sql string, before func() bool, command ...string) {
	t.Helper()
	cmd := s.start(t, command...)
	eventually(t, "the command has come so far", before)
	lock, err := connect(t, s.database).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	watch := connect(t, s.database)
	eventually(t, "the command waits for the lock", func() bool {
		var waiting int
		row := watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`)
		return row.Scan(&waiting) == nil && waiting > 0
	})
	s.mustDie(t, cmd, true)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mustDie waits for a command that is killed, here or by the token's library.
func (s *site) mustDie(t testing.TB, cmd *exec.Cmd, here bool) {
	t.Helper()
	if here {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // the state says how it ended
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the command ended with %v, want that it was killed", cmd.ProcessState)
	}
}

// killAtCall runs a command that dies in a call of a function of the token: that which
// comes so many calls after those of its start.
func (s *site) killAtCall(t testing.TB, shim *softhsm.Shim, f softhsm.Function, calls uint64, command ...string) {
	t.Helper()
	shim.Inject(f, softhsm.Fault{Signal: syscall.SIGKILL, Every: calls})
	defer shim.Clear(f)
	s.mustDie(t, s.start(t, command...), false)
}

func atOnce() bool { return true }

// TestRotateDomainKeyKilled kills the command at every step; run again, it goes on.
func TestRotateDomainKeyKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	keys := map[string]credentials{own: s.prepare(t)}
	i := s.serve(t, keys)
	c := i.newClient(own)
	all := keep(t, c, 200)
	shim := s.shimmed(t)
	// How often the start alone calls the token.
	s.kmsgate(t, "init", "-account", own).wantSuccess(t, "init again")
	generated, wrapped := shim.Calls(softhsm.GenerateKey), shim.Calls(softhsm.WrapKey)
	rotate := []string{"hsm", "rotate-domain-key", "-workers", "1"}
	atGenerate := func(n uint64) func(*testing.T) {
		return func(t *testing.T) { s.killAtCall(t, shim, softhsm.GenerateKey, generated+n, rotate...) }
	}
	atWrap := func(n uint64) func(*testing.T) {
		return func(t *testing.T) { s.killAtCall(t, shim, softhsm.WrapKey, wrapped+n, rotate...) }
	}
	// The check value of a domain key takes one key and one wrapping.
	for n, step := range []struct {
		name string
		kill func(*testing.T)
		left func(outdated, newest int) bool // what it has left, of 200 rows
	}{
		{"announced", atGenerate(1), func(outdated, newest int) bool { return outdated == 0 && newest == 1 }},
		{"domain key made", atGenerate(2), func(outdated, newest int) bool { return outdated == 0 && newest == 2 }},
		{"both made", func(t *testing.T) {
			s.killAtLock(t, `SELECT FROM service_keys WHERE state = 'active' AND kind = 'domain' FOR UPDATE`, atOnce, rotate...)
		}, func(outdated, newest int) bool { return outdated == 0 && newest == 3 }},
		{"first batch", atWrap(40), func(outdated, newest int) bool { return outdated == 200 && newest == 5 }},
		{"between batches", atWrap(150), func(outdated, newest int) bool { return outdated > 0 && outdated < 200 && newest == 6 }},
		{"batch not stored", func(t *testing.T) {
			s.killAtLock(t, `SELECT FROM materials ORDER BY key_id DESC LIMIT 1 FOR UPDATE`, atOnce, rotate...)
		}, func(outdated, newest int) bool { return outdated > 0 && outdated < 200 && newest == 7 }},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.kill(t)
			if outdated, newest := s.outdated(t); !step.left(outdated, newest) {
				t.Errorf("it left %d rows of older generations than %d", outdated, newest)
			}
			wantKept(t, c, all)
			s.kmsgate(t, rotate...).wantSuccess(t, "hsm rotate-domain-key again")
			s.wantMoved(t, n+2)
			wantKept(t, c, all)
		})
	}
	if n := s.one(t, `SELECT count(*) FROM service_keys WHERE kind = 'domain'`); n != 7 || s.recorded(t, "RotateDomainKey") != 6 {
		t.Errorf("%d generations of domain keys, %d records of rotations, want 7 and 6", n, s.recorded(t, "RotateDomainKey"))
	}
	wantRewrapsRecorded(t, i.audit(t), all)
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor after that")
}

// wantRewrapsRecorded wants a record for every key and rotation that moved rows.
func wantRewrapsRecorded(t testing.TB, events []event, all []kept) {
	t.Helper()
	moves := map[string]int{}
	for _, e := range events {
		if e.EventName != "RewrapKeys" {
			continue
		}
		ids, _ := e.RequestParameters["keyIds"].([]any)
		for _, id := range ids {
			moves[id.(string)]++
		}
	}
	for _, k := range all {
		if n := moves[idOf(k.key)]; n != 6 {
			t.Fatalf("%d records of %s being moved, want 6", n, k.key)
		}
	}
}

// TestRotateDomainKeyLeavesForgedRows: a row that does not open stays where it is, and
// is told; no further generation is made until somebody has seen to it.
func TestRotateDomainKeyLeavesForgedRows(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	keys := map[string]credentials{own: s.prepare(t)}
	c := s.serve(t, keys).newClient(own)
	all := keep(t, c, 5)
	forged := idOf(all[2].key)
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, forged)
	for range 2 {
		r := s.kmsgate(t, "hsm", "rotate-domain-key")
		r.wantFailure(t, "hsm rotate-domain-key with a forged row", 1, "1 rows do not open", "Key "+forged+" of account "+own, "binding does not verify")
	}
	if outdated, newest := s.outdated(t); outdated != 1 || newest != 2 {
		t.Errorf("%d rows are left of older generations than %d, want one and 2", outdated, newest)
	}
	r := s.kmsgate(t, "doctor")
	wantLine(t, r, "warning", "1 row is not under the newest generation")
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, forged)
	s.kmsgate(t, "hsm", "rotate-domain-key").wantSuccess(t, "hsm rotate-domain-key of the mended row")
	s.wantMoved(t, 2)
	wantKept(t, c, all)
	for _, arguments := range [][]string{{"-store", "other"}, {"-workers", "0"}} {
		if r := s.kmsgate(t, append([]string{"hsm", "rotate-domain-key"}, arguments...)...); r.code == 0 {
			t.Errorf("hsm rotate-domain-key %v succeeds:\n%s", arguments, r.stdout)
		}
	}
	if !json.Valid([]byte(lineWith(s.kmsgate(t, "audit", "tail", "-n", "0").stdout, "RewrapKeys"))) {
		t.Error("the record of a batch is no JSON")
	}
}
