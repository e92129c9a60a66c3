package integration_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"kmsgate/metadata/pgserver"
	"kmsgate/softhsm"
)

// backUp makes a backup of the site's database with pg_dump.
func (s *site) backUp(t testing.TB, name string) (file string) {
	t.Helper()
	file = s.path(name)
	finish(t, exec.Command("pg_dump", "-Fc", "-f", file, "-d", s.database)).wantSuccess(t, "pg_dump")
	return file
}

// restoreInto restores a backup into a new database of a server, and returns its URL.
func restoreInto(t testing.TB, server *pgserver.Server, file, name string) string {
	t.Helper()
	url := newDatabase(t, server, name)
	finish(t, exec.Command("pg_restore", "--no-owner", "-d", url, file)).wantSuccess(t, "pg_restore")
	return url
}

// deleteNow deletes a key whose window is over at once.
func (s *site) deleteNow(t testing.TB, c *client, key string) {
	t.Helper()
	if _, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	s.exec(t, `UPDATE keys SET deletion_at = created_at WHERE state = 'PendingDeletion'`)
	eventually(t, "the key is deleted", func() bool { return s.count(t, idOf(key), "DeleteKey") == 1 })
}

// destroyGeneration are the arguments of the command.
func destroyGeneration(generation int, backup string, more ...string) []string {
	return append([]string{"hsm", "destroy-domain-key", "-generation", fmt.Sprint(generation), "-backup", backup}, more...)
}

// TestDeletedKeysStayDeleted is the whole story: a key is deleted, an old backup still
// has it, the domain key is rotated and the old generation destroyed, and then the old
// backup has it no more.
func TestDeletedKeysStayDeleted(t *testing.T) {
	t.Parallel()
	server := startPostgres(t, nil)
	s := newSite(t, newDatabase(t, server, "kmsgate"))
	s.plain(t)
	keys := map[string]credentials{own: s.prepare(t)}
	i := s.serve(t, keys)
	c := i.newClient(own)
	all := keep(t, c, 20)
	gone, rest := all[0], all[1:]
	old := restoreInto(t, server, s.backUp(t, "old.dump"), "old")
	s.deleteNow(t, c, gone.key)

	s.wantRefusedBefore(t, old)
	s.kmsgate(t, "hsm", "rotate-domain-key").wantSuccess(t, "hsm rotate-domain-key")
	s.wantRefused(t, "an old backup", 1, old, "the backup does not know the binding key, generation 2")
	fresh := restoreInto(t, server, s.backUp(t, "new.dump"), "new")
	s.wantBadBackupsRefused(t, server, fresh)

	r := s.kmsgate(t, destroyGeneration(1, fresh)...)
	r.wantFailure(t, "without -yes", 1, "nothing was destroyed: run it again with -yes")
	for _, want := range []string{"19 rows open", "EVERY OLDER BACKUP OF THE DATABASE BECOMES UNREADABLE", "domain key, generation 1"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("without -yes %q is not in what is printed:\n%s", want, r.stdout)
		}
	}
	s.openInBackup(t, old, keys, gone)
	other := s.serve(t, keys)
	for range 2 { // the second time it is done already
		s.kmsgate(t, destroyGeneration(1, fresh, "-yes")...).wantSuccess(t, "hsm destroy-domain-key")
	}
	for _, i := range []*instance{i, other} {
		wantKept(t, i.newClient(own), rest)
		keep(t, i.newClient(own), 1)
	}
	for event, want := range map[string]int{"BeginDestroyingDomainKey": 1, "DestroyDomainKey": 1} {
		if n := s.recorded(t, event); n != want {
			t.Errorf("%d records of %s, want %d", n, event, want)
		}
	}
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor after the destruction")
	s.kmsgate(t, "hsm", "inspect").wantSuccess(t, "hsm inspect after the destruction")
	s.wantLost(t, old)
	s.wantForgedRowUseless(t, i, gone, old)
	wantKept(t, s.on(t, fresh).serve(t, keys).newClient(own), rest)
}

// wantRefused wants a destruction of generation 1 to be refused, with nothing destroyed.
func (s *site) wantRefused(t *testing.T, what string, generation int, backup string, words ...string) {
	t.Helper()
	r := s.kmsgate(t, destroyGeneration(generation, backup, "-yes")...)
	r.wantFailure(t, "hsm destroy-domain-key with "+what, 1, words...)
	if n := s.one(t, `SELECT count(*) FROM service_keys WHERE state IN ('destroying', 'destroyed')`); n != 0 {
		t.Errorf("with %s %d service keys are destroyed, want none", what, n)
	}
}

// wantRefusedBefore wants refusals while all rows are under the first generation.
func (s *site) wantRefusedBefore(t *testing.T, backup string) {
	t.Helper()
	s.wantRefused(t, "the newest generation", 1, backup, "generation 1 is the newest")
	s.wantRefused(t, "a generation that is not there", 7, backup, "has no generation 7 of its domain key; the newest is 1")
	// 1, if 64 bits become 32.
	s.kmsgate(t, destroyGeneration(1<<32+1, backup, "-yes")...).wantFailure(t, "a generation that is no such number", 2, "there is none so high")
	for _, missing := range [][]string{{"-generation", "1"}, {"-backup", backup}} {
		s.kmsgate(t, append([]string{"hsm", "destroy-domain-key", "-yes"}, missing...)...).wantFailure(t, "an argument that is missing", 2, "is missing")
	}
}

// wantBadBackupsRefused wants every backup to be refused that does not prove that
// nothing is lost, and the destruction while a row needs the generation.
func (s *site) wantBadBackupsRefused(t *testing.T, server *pgserver.Server, fresh string) {
	t.Helper()
	s.wantRefused(t, "the live database", 1, s.database, "is the one in use")
	s.wantRefused(t, "no schema", 1, newDatabase(t, server, "nothing"), "no schema")
	another := newSite(t, newDatabase(t, server, "another"))
	another.prepare(t)
	another.kmsgate(t, "hsm", "rotate-domain-key").wantSuccess(t, "hsm rotate-domain-key of another installation")
	s.wantRefused(t, "another installation's backup", 1, another.database, "it is of another installation")
	b := s.on(t, fresh)
	for _, bad := range []struct{ what, spoil, mend, want string }{
		{
			"a row of an older generation", `UPDATE materials SET generation = 1 WHERE id = (SELECT id FROM materials WHERE residency = 'wrapped' ORDER BY id LIMIT 1)`,
			`UPDATE materials SET generation = 2 WHERE generation = 1 AND residency = 'wrapped'`, "1 row names generation 1 or an older one",
		},
		{
			"a blob that was changed", `UPDATE materials SET blob = set_byte(blob, 5, get_byte(blob, 5) # 4) WHERE id = (SELECT id FROM materials WHERE residency = 'wrapped' ORDER BY id LIMIT 1)`,
			`UPDATE materials SET blob = set_byte(blob, 5, get_byte(blob, 5) # 4) WHERE id = (SELECT id FROM materials WHERE residency = 'wrapped' ORDER BY id LIMIT 1)`, "1 row does not open in the backup",
		},
		{
			"no keys", `UPDATE materials SET residency = 'absent' WHERE residency = 'wrapped'`,
			`UPDATE materials SET residency = 'wrapped' WHERE blob IS NOT NULL`, "it is not whole",
		},
		{
			"another schema", `INSERT INTO schema_compatibility (version, oldest_serving) VALUES (99, 1)`,
			`DELETE FROM schema_compatibility WHERE version = 99`, "the backup has schema 99",
		},
	} {
		b.exec(t, bad.spoil)
		s.wantRefused(t, bad.what, 1, fresh, bad.want)
		b.exec(t, bad.mend)
	}
	const flip = `UPDATE materials SET blob = set_byte(blob, 5, get_byte(blob, 5) # 4) WHERE id = (SELECT id FROM materials WHERE residency = 'wrapped' ORDER BY id LIMIT 1)`
	s.exec(t, flip)
	s.wantRefused(t, "a row in use that does not open", 1, fresh, "1 row does not open in the database")
	s.exec(t, flip)
	s.exec(t, `UPDATE materials SET generation = 1 WHERE id = (SELECT id FROM materials WHERE residency = 'wrapped' ORDER BY id LIMIT 1)`)
	s.wantRefused(t, "a row that needs it", 1, fresh, "1 row of the database names the generation 1 or an older one")
	s.exec(t, `UPDATE materials SET generation = 2 WHERE generation = 1 AND residency = 'wrapped'`)
}

// on is the site with another database.
func (s *site) on(t testing.TB, database string) *site {
	t.Helper()
	other := *s
	other.dir = t.TempDir()
	other.database = database
	other.text = strings.Replace(s.text, s.database, database, 1)
	other.set(t, "log: info", "log: info")
	return &other
}

// openInBackup opens the deleted key in an old backup, as long as that can be done.
func (s *site) openInBackup(t *testing.T, old string, keys map[string]credentials, gone kept) {
	t.Helper()
	i := s.on(t, old).serve(t, keys)
	wantKept(t, i.newClient(own), []kept{gone})
	i.kill()
}

// wantLost wants an old backup to be of no use.
func (s *site) wantLost(t *testing.T, old string) {
	t.Helper()
	r := run(t, binary(t), "serve", "-config", s.on(t, old).config())
	r.wantFailure(t, "serve on an old backup", 1, "the token has no", "generation 1, of store")
}

// wantForgedRowUseless brings the deleted key's rows from the old backup into the live
// database, as somebody could who may write there.
func (s *site) wantForgedRowUseless(t *testing.T, i *instance, gone kept, old string) {
	t.Helper()
	var blob, check, binding []byte
	row := connect(t, old).QueryRow(t.Context(), `SELECT blob, check_value, binding FROM materials WHERE key_id = $1`, idOf(gone.key))
	if err := row.Scan(&blob, &check, &binding); err != nil {
		t.Fatal(err)
	}
	const bring = `UPDATE materials SET residency = 'wrapped', generation = 1, blob = $2, check_value = $3, binding = $4 WHERE key_id = $1`
	conn := connect(t, s.database)
	if _, err := conn.Exec(t.Context(), bring, idOf(gone.key), blob, check, binding); err == nil || !strings.Contains(err.Error(), "KG001") {
		t.Errorf("a row under the destroyed generation: %v, want KG001", err)
	}
	s.exec(t, `ALTER TABLE materials DISABLE TRIGGER materials_generation`)
	s.exec(t, bring, idOf(gone.key), blob, check, binding)
	s.exec(t, `UPDATE keys SET state = 'Enabled', deletion_at = NULL WHERE id = $1`, idOf(gone.key))
	s.exec(t, `INSERT INTO policies (account, region, key_id, name, document)
		SELECT k.account, k.region, k.id, 'default', (SELECT document FROM policies WHERE account = k.account LIMIT 1) FROM keys k WHERE k.id = $1`, idOf(gone.key))
	s.exec(t, `UPDATE accounts SET version = version + 1`)
	eventually(t, "the forged row is read", func() bool {
		_, err := i.newClient(own).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: gone.blob})
		if err == nil {
			t.Fatal("the deleted key decrypts")
		}
		_, internal := errors.AsType[*types.KMSInternalException](err)
		_, later := errors.AsType[*types.DependencyTimeoutException](err)
		return internal || later
	})
}

// TestDestroyDomainKeyKilled kills the command at every step; run again, it ends.
func TestDestroyDomainKeyKilled(t *testing.T) {
	t.Parallel()
	server := startPostgres(t, nil)
	s := newSite(t, newDatabase(t, server, "kmsgate"))
	s.plain(t)
	keys := map[string]credentials{own: s.prepare(t)}
	i := s.serve(t, keys)
	c := i.newClient(own)
	all := keep(t, c, 10)
	shim := s.shimmed(t)
	conn := connect(t, s.database)
	state := func(generation int) string {
		var domain, binding string
		row := conn.QueryRow(t.Context(), `SELECT d.state, b.state FROM service_keys d JOIN service_keys b USING (store, generation)
			WHERE d.kind = 'domain' AND b.kind = 'binding' AND generation = $1`, generation)
		if err := row.Scan(&domain, &binding); err != nil || domain != binding {
			t.Fatalf("generation %d: %s and %s, %v", generation, domain, binding, err)
		}
		return domain
	}
	const rows = `SELECT FROM service_keys WHERE generation = %d FOR UPDATE`
	for n, step := range []struct {
		name string
		kill func(t *testing.T, generation int, arguments []string, destroyed uint64)
		left string
	}{
		{"not begun", func(t *testing.T, generation int, arguments []string, _ uint64) {
			s.killAtLock(t, fmt.Sprintf(rows, generation), atOnce, arguments...)
		}, "retired"},
		{"begun", func(t *testing.T, _ int, arguments []string, destroyed uint64) {
			s.killAtCall(t, shim, softhsm.DestroyObject, destroyed+1, arguments...)
		}, "destroying"},
		{"one destroyed", func(t *testing.T, _ int, arguments []string, destroyed uint64) {
			s.killAtCall(t, shim, softhsm.DestroyObject, destroyed+2, arguments...)
		}, "destroying"},
		{"both destroyed", func(t *testing.T, generation int, arguments []string, _ uint64) {
			begun := func() bool { return state(generation) == "destroying" }
			s.killAtLock(t, fmt.Sprintf(rows, generation), begun, arguments...)
		}, "destroying"},
	} {
		t.Run(step.name, func(t *testing.T) {
			generation := n + 1
			s.kmsgate(t, "hsm", "rotate-domain-key").wantSuccess(t, "hsm rotate-domain-key")
			backup := restoreInto(t, server, s.backUp(t, step.name), fmt.Sprintf("backup%d", n))
			before := shim.Calls(softhsm.DestroyObject)
			s.kmsgate(t, destroyGeneration(generation, backup)...).wantFailure(t, "without -yes", 1, "nothing was destroyed")
			arguments := destroyGeneration(generation, backup, "-yes")
			step.kill(t, generation, arguments, shim.Calls(softhsm.DestroyObject)-before)
			if got := state(generation); got != step.left {
				t.Errorf("it left generation %d %s, want %s", generation, got, step.left)
			}
			wantKept(t, c, all)
			s.kmsgate(t, "doctor").wantSuccess(t, "doctor after the kill")
			s.kmsgate(t, arguments...).wantSuccess(t, "hsm destroy-domain-key again")
			if got := state(generation); got != "destroyed" {
				t.Errorf("generation %d is %s, want destroyed", generation, got)
			}
			wantKept(t, c, all)
		})
	}
	r := s.kmsgate(t, "hsm", "inspect")
	r.wantSuccess(t, "hsm inspect after that")
	if strings.Contains(r.stdout, "/domain/4") || !strings.Contains(r.stdout, "/domain/5") {
		t.Errorf("the token has other domain keys than that of generation 5:\n%s", r.stdout)
	}
	if n := s.recorded(t, "DestroyDomainKey"); n != 4 {
		t.Errorf("%d records of destructions, want 4", n)
	}
}
