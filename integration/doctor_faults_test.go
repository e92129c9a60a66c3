package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// TestDoctorOfTheInstallation examines what is around the keys: files, certificates,
// the database, what dead runs have left, PINs and service keys.
func TestDoctorOfTheInstallation(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.prepare(t)
	s.selfSign(t, time.Now().AddDate(1, 0, 0))
	r := s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a healthy installation")
	wantLine(t, r, "fine", "TLS certificate", "it is valid until")
	wantLine(t, r, "0 problems, 0 warnings.")

	t.Run("configuration", s.wantConfigurationFound)
	t.Run("files", s.wantFilesFound)
	t.Run("certificate", s.wantCertificateFound)
	t.Run("key store", s.wantKeyStoreFound)
	t.Run("dead run", s.wantDeadRunFound)
	t.Run("service key lost", s.wantLostServiceKeysFound)
	t.Run("service key replaced", s.wantReplacedServiceKeyFound)
	t.Run("service key cut off", s.wantCutOffServiceKeyFound)
	t.Run("TLS key in the token", s.wantTLSKeyFound)
	t.Run("token gone", s.wantTokenGoneFound)
	t.Run("refused PIN", s.wantRefusedPINFound) // last: it stops what needs the token
}

func (s *site) wantConfigurationFound(t *testing.T) {
	was := s.text
	defer s.restore(t, was)
	s.kmsgate(t, "doctor", "-token", "other").wantFailure(t, "doctor of no token", 1, "no token of that name")
	s.set(t, "throttling: false", "throttle: false")
	r := s.kmsgate(t, "doctor", "-json")
	r.wantFailure(t, "doctor with a wrong configuration", 1, "1 thing is wrong")
	if d := parseDiagnosis(t, r); d.count("problem", "configuration") != 1 || !strings.Contains(d.Findings[0].Found, "throttle") {
		t.Errorf("doctor -json does not say what is wrong:\n%s", r.stdout)
	}
	s.restore(t, was)
	s.set(t, s.database, "postgres://kmsgate@127.0.0.1:1/kmsgate")
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor without a database", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "database", "unavailable")
	wantLine(t, r, "-> start Postgres")
}

func (s *site) wantFilesFound(t *testing.T) {
	defer s.restore(t, s.text)
	s.write(t, "secret", []byte(hideText(webhookSecret)))
	s.write(t, "ca.pem", nil)
	s.set(t, "#events:\n", "events:\n  url: https://127.0.0.1:1/\n  secret_file: "+s.path("secret")+"\n  ca_file: "+s.path("ca.pem")+"\n#events:\n")
	for _, c := range []struct {
		path     string
		mode     os.FileMode
		severity string
		words    []string
	}{
		{s.token.PINFile, 0o644, "problem", []string{"PIN file of token main", "0644", "others than its owner can read it"}},
		{s.token.PINFile, 0o640, "warning", []string{"PIN file of token main", "0640", "its group can read it"}},
		{s.token.PINFile, 0o620, "problem", []string{"PIN file of token main", "0620", "can change it"}},
		{s.path("tls.key"), 0o604, "problem", []string{"TLS key", "0604", "others than its owner can read it"}},
		{s.path("tls.pem"), 0o666, "problem", []string{"TLS certificate", "0666", "can change it"}},
		{s.path("secret"), 0o644, "problem", []string{"secret of the webhook", "0644", "others than its owner can read it"}},
		{s.path("secret"), 0o640, "warning", []string{"secret of the webhook", "0640", "its group can read it"}},
		{s.path("ca.pem"), 0o622, "problem", []string{"authorities of the webhook", "0622", "can change it"}},
		{s.config(), 0o602, "problem", []string{"configuration", "0602", "can change it"}},
	} {
		if err := os.Chmod(c.path, c.mode); err != nil {
			t.Fatal(err)
		}
		r := s.kmsgate(t, "doctor")
		if c.severity == "problem" {
			r.wantFailure(t, "doctor of a file with mode "+c.mode.String(), 1, "1 thing is wrong")
		} else {
			r.wantSuccess(t, "doctor of a file with mode "+c.mode.String())
		}
		wantLine(t, r, append([]string{c.severity}, c.words...)...)
		if err := os.Chmod(c.path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	defer s.restore(t, s.text)
	s.set(t, "postgres://kmsgate@", "postgres://kmsgate:secret@") // this server does not ask for it
	if err := os.Chmod(s.config(), 0o644); err != nil {
		t.Fatal(err)
	}
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a password that everybody reads", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "configuration", "0644", "others than its owner can read it")
	if err := os.Chmod(s.config(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// selfSign makes a key and a certificate that signs itself.
func (s *site) selfSign(t testing.TB, end time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kmsgate"}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: end,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "tls.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	s.write(t, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func (s *site) write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(s.path(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) wantCertificateFound(t *testing.T) {
	s.selfSign(t, time.Now().Add(-time.Hour))
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a certificate that has expired", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "TLS certificate", "has expired at")

	s.selfSign(t, time.Now().AddDate(0, 0, 7))
	r = s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a certificate that expires soon")
	wantLine(t, r, "warning", "TLS certificate", "it expires at")

	old, err := os.ReadFile(s.path("tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.selfSign(t, time.Now().AddDate(1, 0, 0))
	own, err := os.ReadFile(s.path("tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "tls.key", old)
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of another key's certificate", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "TLS key", "does not match")
	s.write(t, "tls.key", own)

	if err := os.Remove(s.path("tls.pem")); err != nil {
		t.Fatal(err)
	}
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a certificate that is gone", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "TLS certificate", "no such file")
	s.selfSign(t, time.Now().AddDate(1, 0, 0))
}

func (s *site) wantKeyStoreFound(t *testing.T) {
	s.exec(t, `INSERT INTO regions (name, created_at) VALUES ('eu-west-9', now())`)
	s.exec(t, `INSERT INTO key_stores (id, region, type, state, created_at) VALUES ('left-out', 'eu-west-9', 'DEFAULT', 'CONNECTED', now())`)
	r := s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a key store that the configuration leaves out")
	wantLine(t, r, "warning", "key store left-out", "eu-west-9")
	s.exec(t, `DELETE FROM key_stores WHERE id = 'left-out'`)
	s.exec(t, `DELETE FROM regions WHERE name = 'eu-west-9'`)
}

// wantDeadRunFound kills a gateway whose stream then has the record of a change that
// has no place in the chain.
func (s *site) wantDeadRunFound(t *testing.T) {
	s.serve(t, nil).kill()
	eventually(t, "Postgres has noticed", func() bool { return s.one(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'`) == 0 })
	s.exec(t, `INSERT INTO audit_outbox (id, stream, record) SELECT gen_random_uuid(), id, '{}' FROM audit_streams WHERE NOT ended`)
	r := s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of what a dead run has left")
	wantLine(t, r, "warning", "audit log", "the run of instance", "1 record of a change waits", "has ended without finishing")
	if n := s.one(t, `SELECT count(*) FROM audit_outbox`); n != 0 {
		t.Errorf("%d records are still in the outbox", n)
	}
	wantLine(t, s.kmsgate(t, "doctor"), "fine", "audit log", "no run that has ended")

	s.exec(t, `INSERT INTO audit_outbox (id, stream, record) VALUES (gen_random_uuid(), gen_random_uuid(), '{}')`)
	r = s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a record of a run that nobody knows")
	wantLine(t, r, "warning", "audit log", "unknown instance")

	// A stream that cannot be ended.
	s.exec(t, `UPDATE audit_streams SET ended = false WHERE id = (SELECT id FROM audit_streams ORDER BY started_at LIMIT 1)`)
	s.exec(t, `CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$`)
	s.exec(t, `CREATE TRIGGER no BEFORE UPDATE ON audit_streams FOR EACH ROW
		WHEN (new.ended AND NOT old.ended AND old.started_at < now() - interval '1 microsecond' AND old.previous IS NULL) EXECUTE FUNCTION no()`)
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a stream that cannot be taken up", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "audit log", "could not be taken up")
	s.exec(t, `DROP TRIGGER no ON audit_streams`)
}

// one is a number from the database.
func (s *site) one(t testing.TB, sql string) (n int) {
	t.Helper()
	if err := connect(t, s.database).QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// serviceKey is the CKA_ID of a service key.
func (s *site) serviceKey(t testing.TB, kind string) (id []byte) {
	t.Helper()
	if err := connect(t, s.database).QueryRow(t.Context(), `SELECT cka_id FROM service_keys WHERE kind = $1`, kind).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// wantLostServiceKeysFound has each of two lost keys reported.
func (s *site) wantLostServiceKeysFound(t *testing.T) {
	binding, sealing := s.serviceKey(t, "binding"), s.serviceKey(t, "sealing")
	bindingBack, sealingBack := s.hideObject(t, binding), s.hideObject(t, sealing)
	r := s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor of lost service keys", 1, "2 things are wrong")
	wantLine(t, r, "problem", "key store default-us-east-1", "binding key, generation 1", hex.EncodeToString(binding))
	wantLine(t, r, "problem", "key store default-us-east-1", "sealing key, generation 1", hex.EncodeToString(sealing))
	wantLine(t, r, "warning", "key store default-us-east-1", "KMS keys were not examined")
	bindingBack()
	sealingBack()
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of service keys that are back")
}

// wantReplacedServiceKeyFound puts other keys in the place of a service key: one that
// could be taken out of the token, and one that only is another.
func (s *site) wantReplacedServiceKeyFound(t *testing.T) {
	id := s.serviceKey(t, "binding")
	back := s.hideObject(t, id)
	for _, c := range []struct {
		extractable bool
		words       []string
	}{
		{true, []string{"problem", "token main", "binding key, generation 1", "EXTRACTABLE is true, want false"}},
		{false, []string{"problem", "key store default-us-east-1", "binding key, generation 1", "does not match its check value"}},
	} {
		s.inToken(t, func(k *pkcs11.Ctx, session pkcs11.SessionHandle) error {
			template := []*pkcs11.Attribute{
				attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_VALUE_LEN, 32), attribute(pkcs11.CKA_ID, id),
				attribute(pkcs11.CKA_LABEL, "kmsgate/default-us-east-1/binding/1"), attribute(pkcs11.CKA_PRIVATE, true),
				attribute(pkcs11.CKA_SENSITIVE, true), attribute(pkcs11.CKA_EXTRACTABLE, c.extractable),
				attribute(pkcs11.CKA_SIGN, true), attribute(pkcs11.CKA_VERIFY, true),
			}
			for _, not := range []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE, pkcs11.CKA_MODIFIABLE} {
				template = append(template, attribute(not, false))
			}
			_, err := k.GenerateKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)}, template)
			return err
		})
		r := s.kmsgate(t, "doctor")
		r.wantFailure(t, "doctor of a service key that was replaced", 1)
		wantLine(t, r, c.words...)
		s.destroy(t, "kmsgate/default-us-east-1/binding/1")
	}
	back()
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of the service key that was made")
}

func (s *site) wantCutOffServiceKeyFound(t *testing.T) {
	s.exec(t, `INSERT INTO service_keys (store, kind, generation, cka_id, state, created_at)
		VALUES ('default-us-east-1', 'domain', 2, decode('00112233445566778899aabbccddeeff', 'hex'), 'creating', now())`)
	r := s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a service key that was being made")
	wantLine(t, r, "warning", "key store default-us-east-1", "domain key, generation 2", "cut off")
	s.exec(t, `DELETE FROM service_keys WHERE state = 'creating'`)
	s.exec(t, `UPDATE service_keys SET state = 'retired' WHERE kind = 'sealing'`)
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a key store without a sealing key", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "key store default-us-east-1", "it has no sealing key")
	s.exec(t, `UPDATE service_keys SET state = 'active' WHERE kind = 'sealing'`)
}

// wantTLSKeyFound has the certificate's key in the token, then another one's.
func (s *site) wantTLSKeyFound(t *testing.T) {
	defer s.restore(t, s.text)
	made := s.kmsgate(t, "hsm", "tls-key", "-name", "127.0.0.1", "-self-signed", s.path("own.pem"), "-days", "300")
	made.wantSuccess(t, "hsm tls-key")
	s.plain(t)
	s.useKey(t, made, s.path("own.pem"))
	r := s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a TLS key in the token")
	wantLine(t, r, "fine", "TLS key", "it is in token main")
	s.restore(t, strings.Replace(s.text, s.path("own.pem"), s.path("tls.pem"), 1))
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of another key's certificate", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "TLS key", "is the certificate of another key")
}

func (s *site) wantTokenGoneFound(t *testing.T) {
	defer s.restore(t, s.text)
	s.set(t, "label: kmsgate", "label: nobody")
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a token that is not there", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "token main", "nobody")
	wantLine(t, r, "-> check that the HSM is reachable")
}

// wantRefusedPINFound gives the token a wrong PIN. It is tried once, and never again.
func (s *site) wantRefusedPINFound(t *testing.T) {
	pin, err := os.ReadFile(s.token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "wrong", []byte("not the PIN"))
	text := s.text
	s.set(t, s.token.PINFile, s.path("wrong"))
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor with a wrong PIN", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "token main", "PIN")
	wantLine(t, r, "-> correct the PIN file, then run: kmsgate hsm login")
	if strings.Contains(r.stdout+r.stderr, string(pin)) || strings.Contains(r.stdout+r.stderr, "not the PIN") {
		t.Errorf("a PIN was printed: %s%s", r.stdout, r.stderr)
	}
	s.restore(t, text)
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor while a mark stands", 1, "2 things are wrong")
	wantLine(t, r, "problem", "token with serial "+s.token.Serial, "it refused the PIN of instance")
	s.kmsgate(t, "hsm", "login").wantSuccess(t, "hsm login")
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor after hsm login")
}

// TestDoctorOfAnUnsafeDatabase has a server that can lose what it has acknowledged.
func TestDoctorOfAnUnsafeDatabase(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, map[string]string{"fsync": "off", "synchronous_commit": "off"}), "kmsgate"))
	s.plain(t)
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a server without fsync", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "database", "fsync=off", "set both to on")
	s.set(t, "allow_unsafe_durability: false", "allow_unsafe_durability: true")
	s.prepare(t)
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a server without fsync, by order", 1, "2 things are wrong")
	wantLine(t, r, "problem", "database", "fsync is off")
	wantLine(t, r, "problem", "database", "synchronous_commit is off")
	wantLine(t, r, "warning", "database", "allow_unsafe_durability")
}
