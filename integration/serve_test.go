package integration_test

import (
	"crypto/tls"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"

	"kmsgate/softhsm"
)

// TestServe goes the way of production from an empty database and token on.
func TestServe(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	for range 2 {
		r := s.kmsgate(t, "migrate")
		r.wantSuccess(t, "migrate")
		if !strings.Contains(r.stdout, "The schema is at version ") {
			t.Errorf("migrate prints %q, want the version", r.stdout)
		}
	}
	r := s.kmsgate(t, "init", "-account", own)
	r.wantSuccess(t, "init")
	key, objects := printedKey(t, r), s.serviceKeys(t)
	if !strings.Contains(r.stdout, own) || len(objects) != 3 {
		t.Errorf("init prints %q and makes %d service keys, want account %s and 3", r.stdout, len(objects), own)
	}
	r = s.kmsgate(t, "init", "-account", own)
	r.wantSuccess(t, "a second init")
	if strings.Contains(r.stdout, "export") || strings.Contains(r.stdout, key.secret) {
		t.Errorf("a second init prints %q, want no access key", r.stdout)
	}
	if diff := cmp.Diff(objects, s.serviceKeys(t)); diff != "" {
		t.Errorf("service keys after a second init (-want +got):\n%s", diff)
	}

	i := s.serve(t, nil)
	s.wantServesTLSOnly(t, i)
	c := s.secure(i, key)
	created, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: created.KeyMetadata.KeyId, Plaintext: []byte("attack at dawn")})
	if err != nil {
		t.Fatal(err)
	}
	keys := s.wantAccounts(t, i, key)
	if code := i.interrupt(t); code != 0 {
		t.Errorf("exit code %d after Ctrl-C, want 0\n%s", code, i.stderr)
	}

	i = s.serve(t, nil)
	for _, key := range keys { // also those of the same account that came later
		opened, err := s.secure(i, key).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: encrypted.CiphertextBlob})
		if err != nil || string(opened.Plaintext) != "attack at dawn" {
			t.Errorf("Decrypt after a restart, with %s: %v", key.accessKey, err)
		}
	}
	if code := i.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, i.stderr)
	}
}

// serviceKeys are the service keys as the database has them.
func (s *site) serviceKeys(t testing.TB) []string {
	t.Helper()
	conn := connect(t, s.database)
	rows, err := conn.Query(t.Context(), `
		SELECT concat_ws(' ', store, kind, generation, state, encode(cka_id, 'hex'), encode(check_value, 'hex')) FROM service_keys ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return keys
}

// wantServesTLSOnly wants TLS 1.2 or newer and nothing else.
func (s *site) wantServesTLSOnly(t testing.TB, i *instance) {
	t.Helper()
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(i.endpoint, "https://"), &tls.Config{
			RootCAs: s.roots, MinVersion: version, MaxVersion: version, //nolint:gosec // the old ones are to be refused
		})
		if err == nil {
			err = conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v, want it to work: %v", tls.VersionName(version), err, want)
		}
	}
	response, err := wire.Get(strings.Replace(i.endpoint, "https", "http", 1) + "/healthz")
	if err != nil {
		return // refused, and how is not ours to say
	}
	if a, err := read(response); err == nil && a.status == http.StatusOK {
		t.Error("/healthz was served without TLS")
	}
}

// wantAccounts makes accounts and access keys while the gateway serves and follows
// them in the audit log. The result are all access keys of the first account.
func (s *site) wantAccounts(t testing.TB, i *instance, first credentials) []credentials {
	t.Helper()
	follow := exec.Command(i.binary, "audit", "tail", "-config", s.config(), "-f", "-n", "1")
	followed := newOutput()
	follow.Stdout, follow.Stderr = followed, followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = follow.Process.Kill() }) // it has ended
	eventually(t, "the first line of audit tail -f", func() bool { return strings.Contains(followed.String(), "\n") })

	r := s.kmsgate(t, "account", "create", "-account", other)
	r.wantSuccess(t, "account create")
	created := printedKey(t, r)
	if _, err := s.secure(i, created).CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Errorf("CreateKey of the new account: %v", err)
	}
	s.kmsgate(t, "account", "create", "-account", other).wantFailure(t, "account create again", 1, other+" exists already", "root-key")
	r = s.kmsgate(t, "account", "root-key", "-account", own)
	r.wantSuccess(t, "account root-key")
	more := printedKey(t, r)
	s.kmsgate(t, "account", "root-key", "-account", third).wantFailure(t, "root-key of nobody", 1, `no account "`+third+`"`, "account list")
	r = s.kmsgate(t, "account", "list")
	r.wantSuccess(t, "account list")
	if want := regexp.MustCompile(`^` + own + ` \S+Z\n` + other + ` \S+Z\n$`); !want.MatchString(r.stdout) {
		t.Errorf("account list prints %q, want %s", r.stdout, want)
	}

	eventually(t, "ListAccounts in audit tail -f", func() bool { return strings.Contains(followed.String(), `"ListAccounts"`) })
	if err := follow.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("audit tail -f after Ctrl-C: %v\n%s", err, followed)
	}
	events, err := parseEvents([]byte(followed.String()))
	if err != nil {
		t.Fatal(err)
	}
	wantAdmin(t, "audit tail -f", events, "CreateAccount", other, created.accessKey)
	wantAdmin(t, "audit tail -f", events, "CreateRootAccessKey", own, more.accessKey)
	all := i.audit(t)
	wantAdmin(t, "audit tail", all, "CreateAccount", own, first.accessKey)
	for _, e := range all {
		for _, key := range []credentials{first, created, more} {
			if strings.Contains(e.text, key.secret) {
				t.Errorf("the audit log holds a secret: %s", e.text)
			}
		}
	}
	return []credentials{first, more}
}

// wantAdmin wants an event of an operator with its account and access key.
func wantAdmin(t testing.TB, where string, events []event, name, account, accessKey string) {
	t.Helper()
	for _, e := range events {
		if e.EventName == name && e.RecipientAccountID == account && e.RequestParameters["accessKeyId"] == accessKey {
			return
		}
	}
	t.Errorf("%s shows no %s of account %s with access key %s", where, name, account, accessKey)
}

// TestServeRefusals starts serve where it must not, and wants to be told what to do.
func TestServeRefusals(t *testing.T) {
	t.Parallel()
	server := startPostgres(t, nil)
	s := newSite(t, newDatabase(t, server, "ready"))
	s.kmsgate(t, "serve").wantFailure(t, "no schema", 1, "no schema", "run kmsgate migrate")
	s.kmsgate(t, "migrate").wantSuccess(t, "migrate")
	s.kmsgate(t, "serve").wantFailure(t, "not initialised", 1, "no domain key", "run: kmsgate init -config FILE -account ACCOUNT")
	s.prepare(t)
	taken := freeAddress(t)
	listener, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nothing was written

	for _, tc := range []struct {
		name, was, is string
		words         []string
	}{
		{"unknown key", "throttling: false", "throtling: false", []string{s.config(), s.lineOf("throttling: false"), `unknown key "throtling"`}},
		{"unknown key inside", "label: kmsgate", "lable: kmsgate", []string{s.lineOf("label: kmsgate"), `unknown key "lable"`}},
		{"key twice", "log: info", "log: info\nlog: warn", []string{s.config(), "log", "already defined"}},
		{"wrong type", "max_in_flight: 512", "max_in_flight: many", []string{s.lineOf("max_in_flight: 512"), "many"}},
		{"wrong duration", "request_timeout: 10s", "request_timeout: soon", []string{s.lineOf("request_timeout: 10s"), "soon"}},
		{"not YAML", "log: info", "log: [", []string{s.config(), "line"}},
		{"two documents", "log: info", "log: info\n---\nlog: info", []string{"more than one document"}},
		{"wrong log level", "log: info", "log: loud", []string{"log: must be debug, info, warn or error", "debug, info, warn or error"}},
		{"negative", "max_in_flight: 512", "max_in_flight: -1", []string{"max_in_flight", "negative"}},
		{"no TLS off loopback", "listen: 127.0.0.1:0\n\n# Address of metrics", "listen: 0.0.0.0:0\n\n# Address of metrics", nil},
		{"TLS without key", "  key: " + s.path("tls.key"), "", []string{"line ", "tls: needs both certificate and key"}},
		{"no certificate", s.path("tls.pem"), "/nonexistent.pem", []string{"tls", "/nonexistent.pem"}},
		{"metrics off loopback", "admin_listen: 127.0.0.1:0", "admin_listen: 0.0.0.0:0", []string{"admin_listen: 0.0.0.0:0", "loopback only"}},
		{"unknown token", "token: main", "token: mian", []string{"regions[0].token", `no token has the name "mian"`}},
		{"no region", "  - name: us-east-1", "  - name: \"\"", []string{"line ", "regions[0].name: must be"}},
		{"address in use", "listen: 127.0.0.1:0\n\n# Address of metrics", "listen: " + taken + "\n\n# Address of metrics", []string{taken, "address already in use"}},
		{"label of no token", "label: kmsgate", "label: other", []string{"token main", `"other"`, "kmsgate"}},
		{"label and serial", "label: kmsgate", "label: kmsgate\n        serial: \"1234\"", []string{"line ", "modules[0].tokens[0]: needs either label or serial"}},
		{"no module", s.token.Module, "/nonexistent.so", []string{"/nonexistent.so"}},
		{"no PIN file", s.token.PINFile, "/nonexistent.pin", []string{"token main", "/nonexistent.pin", "no such file"}},
		{"no Postgres there", s.database, "postgres:///kmsgate?host=/nonexistent", []string{"/nonexistent", "connect"}},
		{"no Postgres at the port", s.database, "postgres://kmsgate@" + freeAddress(t) + "/kmsgate?sslmode=disable", []string{"connection refused"}},
		{"no such database", s.database, server.URL("nonexistent"), []string{`database "nonexistent" does not exist`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			was := s.text
			defer s.restore(t, was)
			s.set(t, tc.was, tc.is)
			if tc.name == "no TLS off loopback" {
				s.plain(t)
				tc.words = []string{"listen: 0.0.0.0:0", "not loopback", "set tls.certificate and tls.key"}
			}
			r := s.kmsgate(t, "serve")
			r.wantFailure(t, "serve", 1, tc.words...)
			s.wantNoSecret(t, r)
		})
	}
	t.Run("schema", func(t *testing.T) { s.wantOtherSchemaRefused(t) })
	t.Run("durability", func(t *testing.T) { s.wantUnsafeRefused(t) })
	s.serve(t, nil) // and nothing of it has left a trace
}

// lineOf is how an error names the line with some text.
func (s *site) lineOf(text string) string {
	before, _, _ := strings.Cut(s.text, text)
	return "line " + strconv.Itoa(1+strings.Count(before, "\n"))
}

func (s *site) restore(t testing.TB, text string) {
	t.Helper()
	s.text = text
	if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantNoSecret wants no PIN in what was printed.
func (s *site) wantNoSecret(t testing.TB, r ran) {
	t.Helper()
	pin, err := os.ReadFile(s.path("softhsm/kmsgate.pin"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.stdout+r.stderr, string(pin)) {
		t.Errorf("the PIN was printed: %s%s", r.stdout, r.stderr)
	}
}

func (s *site) wantOtherSchemaRefused(t *testing.T) {
	conn := connect(t, s.database)
	exec := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO schema_compatibility VALUES (99, 98)`)
	s.kmsgate(t, "serve").wantFailure(t, "a newer schema", 1, "schema 99", "too old")
	s.kmsgate(t, "migrate").wantFailure(t, "migrate on a newer schema", 1, "schema 99", "newer binary")
	exec(`UPDATE schema_compatibility SET oldest_serving = 1 WHERE version = 99`)
	s.serve(t, nil).stop() // a newer one that lets this binary serve
	exec(`DELETE FROM schema_compatibility WHERE version = 99`)
}

func (s *site) wantUnsafeRefused(t *testing.T) {
	conn := connect(t, s.database)
	set := func(statement string) {
		t.Helper()
		for _, statement := range []string{statement, `SELECT pg_reload_conf()`} {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, setting := range []string{"fsync", "full_page_writes"} {
		set(`ALTER SYSTEM SET ` + setting + ` = off`)
		eventually(t, setting+" is off", func() bool {
			var now string
			return conn.QueryRow(t.Context(), `SHOW `+setting).Scan(&now) == nil && now == "off"
		})
		s.kmsgate(t, "serve").wantFailure(t, setting+" off", 1, setting+"=off", "set both to on")
		was := s.text
		s.set(t, "allow_unsafe_durability: false", "allow_unsafe_durability: true")
		s.serve(t, nil).stop()
		s.restore(t, was)
		set(`ALTER SYSTEM RESET ` + setting)
		eventually(t, setting+" is on", func() bool {
			var now string
			return conn.QueryRow(t.Context(), `SHOW `+setting).Scan(&now) == nil && now == "on"
		})
	}
}

// TestServeTriesAPINOnce gives serve a wrong PIN: it is tried once, not once a
// restart, until an operator says so.
func TestServeTriesAPINOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	s.prepare(t)
	shim, err := softhsm.NewShim(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer shim.Close() //nolint:errcheck // nobody uses it any more
	s.set(t, s.token.Module, shim.Module)
	right, err := os.ReadFile(s.token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	wrong := []byte("not-the-pin")
	write := func(pin []byte) {
		t.Helper()
		if err := os.WriteFile(s.token.PINFile, pin, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tried := func(what string, want uint64) {
		t.Helper()
		if got := shim.Calls(softhsm.Login); got != want {
			t.Errorf("%s: C_Login was called %d times in all, want %d", what, got, want)
		}
	}
	write(wrong)
	r := s.kmsgate(t, "serve")
	r.wantFailure(t, "a wrong PIN", 1, "token main", "PIN refused", s.token.Serial, "kmsgate hsm login")
	if strings.Contains(r.stderr, string(wrong)) {
		t.Errorf("the PIN was printed: %s", r.stderr)
	}
	tried("a wrong PIN", 1)
	for range 2 {
		s.kmsgate(t, "serve").wantFailure(t, "a wrong PIN again", 1, "token main", "not tried", "kmsgate hsm login")
	}
	for _, command := range [][]string{{"init", "-account", own}, {"account", "create", "-account", other}} {
		s.kmsgate(t, command...).wantFailure(t, "a wrong PIN again", 1, "not tried")
	}
	tried("restarts with a wrong PIN", 1)

	write(right)
	s.kmsgate(t, "serve").wantFailure(t, "the right PIN before an operator has said so", 1, "not tried")
	tried("the right PIN before an operator has said so", 1)
	s.kmsgate(t, "account", "list").wantSuccess(t, "account list, which needs no token,")

	s.kmsgate(t, "hsm", "login", "-token", "other").wantFailure(t, "hsm login to no token", 1, "no token of that name")
	write(wrong)
	s.kmsgate(t, "hsm", "login").wantFailure(t, "hsm login with a wrong PIN", 1, "token main", "PIN refused")
	tried("hsm login with a wrong PIN", 2)
	write(right)
	r = s.kmsgate(t, "hsm", "login")
	r.wantSuccess(t, "hsm login")
	if !strings.Contains(r.stdout, s.token.Serial) {
		t.Errorf("hsm login prints %q, want the serial number", r.stdout)
	}
	tried("hsm login", 3)
	i := s.serve(t, nil)
	tried("serve after hsm login", 4)
	var logins []any
	for _, e := range i.audit(t) {
		if e.EventName == "Login" {
			logins = append(logins, e.RequestParameters["successful"])
		}
	}
	if diff := cmp.Diff([]any{false, true}, logins); diff != "" {
		t.Errorf("logins on record (-want +got):\n%s", diff)
	}
}

// TestServeRefusesATokenThatFailsItsSelfTest lets a token answer wrongly.
func TestServeRefusesATokenThatFailsItsSelfTest(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.prepare(t)
	conn := connect(t, s.database)
	for _, kind := range []string{"domain", "binding", "sealing"} {
		change := `UPDATE service_keys SET check_value = set_byte(check_value, length(check_value) - 1, 255 - get_byte(check_value, length(check_value) - 1)) WHERE kind = $1`
		flip := func() {
			t.Helper()
			if _, err := conn.Exec(t.Context(), change, kind); err != nil {
				t.Fatal(err)
			}
		}
		flip()
		s.kmsgate(t, "serve").wantFailure(t, "another "+kind+" key", 1, "token main", kind+" key")
		flip()
	}
	// Without its objects the token is another one.
	tokens := s.path("softhsm/tokens")
	err := filepath.WalkDir(tokens, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".object") || d.Name() == "token.object" {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.kmsgate(t, "serve").wantFailure(t, "no service keys", 1, "token main", "the token has no")
	before := s.serviceKeys(t)
	s.kmsgate(t, "init", "-account", own).wantFailure(t, "init where the service keys are lost", 1, "the token has no")
	if diff := cmp.Diff(before, s.serviceKeys(t)); diff != "" {
		t.Errorf("service keys (-want +got):\n%s", diff)
	}
}
