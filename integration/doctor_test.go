package integration_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"golang.org/x/sync/errgroup"
)

// A diagnosis is what doctor -json says.
type diagnosis struct {
	Findings           []struct{ Severity, About, Found, Do string }
	Problems, Warnings int
	KeyMaterials       int
	KeyMaterialsOpened int
}

// count counts the findings of a severity that are about something.
func (d *diagnosis) count(severity, about string) (n int) {
	for _, f := range d.Findings {
		if f.Severity == severity && strings.Contains(f.About, about) {
			n++
		}
	}
	return n
}

func parseDiagnosis(t testing.TB, r ran) (d diagnosis) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil {
		t.Fatalf("doctor -json: %v\n%s", err, r.stdout)
	}
	return d
}

// TestDoctor examines an installation that is well, and one fault of its keys after
// the other. One key lives in the token, since SoftHSM cannot wrap Ed25519.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor without a schema", 1, "1 thing is wrong")
	wantLine(t, r, "problem", "database", "run kmsgate migrate")
	root := s.prepare(t)
	client := s.secure(s.serve(t, nil), root)
	resident, wrapped := s.pairs(t, client)

	r = s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a healthy installation")
	wantLine(t, r, "fine", "PIN file of token main")
	wantLine(t, r, "fine", "database", "keeps what it has acknowledged")
	wantLine(t, r, "fine", "clock")
	wantLine(t, r, "fine", "audit log", "has left anything behind")
	wantLine(t, r, "fine", "token main", "in service")
	wantLine(t, r, "fine", "key store default-us-east-1", "3 service keys are in the token and prove themselves")
	wantLine(t, r, "fine", "token main", "1 KMS key lives in it")
	wantLine(t, r, "2 of 2 key materials were opened. 0 problems, 0 warnings.")
	s.wantNoSecret(t, r)
	if r.stderr != "" {
		t.Errorf("it talks to nobody: %s", r.stderr)
	}
	s.wantRecorded(t, "ExamineInstallation", 1)

	t.Run("edited row", func(t *testing.T) { s.wantEditedRowFound(t, wrapped) })
	t.Run("moved row", func(t *testing.T) { s.wantMovedRowFound(t, resident) })
	t.Run("missing object", func(t *testing.T) { s.wantMissingFound(t, client, resident) })
	t.Run("missing object of a disabled key", func(t *testing.T) { s.wantDisabledLeft(t, client, resident) })
	t.Run("two objects", func(t *testing.T) { s.wantTwoFound(t, resident) })
	t.Run("foreign object", s.wantForeignFound)
	t.Run("many keys", func(t *testing.T) { s.wantSampled(t, client) })
}

// wantRecorded wants the audit log to have so many records of an event of doctor's.
func (s *site) wantRecorded(t testing.TB, event string, want int) {
	t.Helper()
	r := s.kmsgate(t, "audit", "tail", "-n", "0")
	r.wantSuccess(t, "audit tail")
	got := 0
	for line := range strings.Lines(r.stdout) {
		if strings.Contains(line, `"eventName":"`+event+`"`) && strings.Contains(line, "kmsgate doctor") {
			got++
		}
	}
	if got != want {
		t.Errorf("the audit log has %d records of %s by doctor, want %d", got, event, want)
	}
}

// pairs makes a key that lives in the token and one that is wrapped.
func (s *site) pairs(t testing.TB, client *kms.Client) (resident, wrapped string) {
	t.Helper()
	for spec, id := range map[types.KeySpec]*string{types.KeySpecEccNistEdwards25519: &resident, types.KeySpecEccNistP256: &wrapped} {
		made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify})
		if err != nil {
			t.Fatal(err)
		}
		*id = *made.KeyMetadata.KeyId
	}
	return resident, wrapped
}

func (s *site) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := connect(t, s.database).Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func (s *site) wantEditedRowFound(t *testing.T, key string) {
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, key)
	r := s.kmsgate(t, "doctor", "-all", "-repair")
	r.wantFailure(t, "doctor of an edited row", 1, "1 thing is wrong")
	wantLine(t, r, "problem", key, "binding does not verify")
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, key)
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of the row as it was")
}

// wantMovedRowFound points a key's row at another CKA_ID: the row is not what the HSM
// has bound, so it is no word on the key's object, and the key is not made
// Unavailable by it.
func (s *site) wantMovedRowFound(t *testing.T, key string) {
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, key)
	r := s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor of a row that names another object", 1, "1 thing is wrong")
	wantLine(t, r, "problem", key, "binding does not verify")
	wantLine(t, r, "warning", "token main", "kms/"+key, "no row of the database names it")
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, key)
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of the row as it was")
	s.wantRecorded(t, "SetKeyState", 0)
}

// ckaID is the CKA_ID of a resident key.
func (s *site) ckaID(t testing.TB, key string) (id []byte) {
	t.Helper()
	if err := connect(t, s.database).QueryRow(t.Context(), `SELECT blob FROM materials WHERE key_id = $1`, key).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// wantMissingFound takes a key's object out of the token and brings it back.
func (s *site) wantMissingFound(t *testing.T, client *kms.Client, key string) {
	id := s.ckaID(t, key)
	back := s.hideObject(t, id)
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a missing object", 1, "1 thing is wrong")
	wantLine(t, r, "problem", key, "it is Enabled", hex.EncodeToString(id), "is not in the token")
	s.wantState(t, client, key, types.KeyStateEnabled) // nothing was repaired

	r = s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor -repair of a missing object", 1, "1 thing is wrong")
	wantLine(t, r, "repaired", key, "made Unavailable")
	s.wantState(t, client, key, types.KeyStateUnavailable)
	_, err := client.Sign(t.Context(), &kms.SignInput{
		KeyId: &key, Message: []byte("x"), SigningAlgorithm: types.SigningAlgorithmSpecEd25519Sha512,
	})
	if state, ok := errors.AsType[*types.KMSInvalidStateException](err); !ok {
		t.Errorf("Sign with the key = %v, want %T", err, state)
	}
	r = s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor -repair of an object that is still missing", 1, "1 thing is wrong")
	wantLine(t, r, "problem", key, "it is Unavailable", "is not in the token")

	back()
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of an object that is back", 1)
	wantLine(t, r, "problem", key, "it is Unavailable, and the token has its material")
	r = s.kmsgate(t, "doctor", "-repair", "-json")
	r.wantSuccess(t, "doctor -repair of an object that is back")
	d := parseDiagnosis(t, r)
	if n := d.count("repaired", key); n != 1 || d.Problems+d.Warnings != 0 || d.KeyMaterials != 2 || d.KeyMaterialsOpened != 2 {
		t.Errorf("%d findings say that the key was repaired, want 1:\n%s", n, r.stdout)
	}
	s.wantState(t, client, key, types.KeyStateEnabled)
	s.wantRecorded(t, "SetKeyState", 2)
}

// wantDisabledLeft has nothing repaired of a key that is not in use.
func (s *site) wantDisabledLeft(t *testing.T, client *kms.Client, key string) {
	if _, err := client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
	back := s.hideObject(t, s.ckaID(t, key))
	r := s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor -repair of a disabled key's missing object", 1, "1 thing is wrong")
	wantLine(t, r, "problem", key, "it is Disabled", "is not in the token")
	back()
	s.kmsgate(t, "doctor", "-repair").wantSuccess(t, "doctor -repair of a disabled key")
	s.wantState(t, client, key, types.KeyStateDisabled)
	if _, err := client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key}); err != nil {
		t.Fatal(err)
	}
}

// wantTwoFound puts a second object of the same CKA_ID beside a key's own.
func (s *site) wantTwoFound(t *testing.T, key string) {
	id := s.ckaID(t, key)
	var twin pkcs11.ObjectHandle
	p256 := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} // OID
	s.inToken(t, func(c *pkcs11.Ctx, session pkcs11.SessionHandle) (err error) {
		_, twin, err = c.GenerateKeyPair(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
			[]*pkcs11.Attribute{attribute(pkcs11.CKA_EC_PARAMS, p256)},
			[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_ID, id), attribute(pkcs11.CKA_LABEL, "kms/twin")})
		return err
	})
	if twin == 0 {
		t.Fatal("there is no second object")
	}
	r := s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor of two objects with one CKA_ID", 1, "2 things are wrong")
	wantLine(t, r, "problem", "token main", "several objects have the CKA_ID "+hex.EncodeToString(id))
	wantLine(t, r, "problem", key, "several objects have the CKA_ID")
	s.destroy(t, "kms/twin")
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of the one object")
}

// destroy destroys what has a label in the token.
func (s *site) destroy(t testing.TB, label string) {
	t.Helper()
	s.inToken(t, func(c *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		if err := c.FindObjectsInit(session, []*pkcs11.Attribute{attribute(pkcs11.CKA_LABEL, label)}); err != nil {
			return err
		}
		found, _, err := c.FindObjects(session, 10)
		if err := errors.Join(err, c.FindObjectsFinal(session)); err != nil {
			return err
		}
		if len(found) != 1 {
			t.Fatalf("%d objects have the label %s, want one", len(found), label)
		}
		return c.DestroyObject(session, found[0])
	})
}

// hideObject takes an object's files out of the token and returns how to bring them
// back.
func (s *site) hideObject(t testing.TB, id []byte) (back func()) {
	t.Helper()
	before := s.objectFiles(t)
	var gone []string
	s.inToken(t, func(c *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		if err := c.FindObjectsInit(session, []*pkcs11.Attribute{attribute(pkcs11.CKA_ID, id)}); err != nil {
			return err
		}
		found, _, err := c.FindObjects(session, 10)
		if err := errors.Join(err, c.FindObjectsFinal(session)); err != nil {
			return err
		}
		if len(found) != 1 {
			t.Fatalf("%d objects have the CKA_ID %x, want one", len(found), id)
		}
		return c.DestroyObject(session, found[0])
	})
	for path := range before {
		if _, err := os.Stat(path); err != nil {
			gone = append(gone, path)
		}
	}
	if len(gone) == 0 {
		t.Fatal("no file of the token is gone with its object")
	}
	return func() {
		for _, path := range gone {
			if err := os.WriteFile(path, before[path], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// objectFiles are the files in which SoftHSM keeps its objects, and their locks.
func (s *site) objectFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(s.path("softhsm")), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".object") && !strings.HasSuffix(path, ".lock") {
			return err
		}
		full := s.path(filepath.Join("softhsm", path))
		content, err := os.ReadFile(full)
		files[full] = content
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (s *site) wantState(t testing.TB, client *kms.Client, key string, want types.KeyState) {
	t.Helper()
	eventually(t, "the key is "+string(want), func() bool {
		described, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		return err == nil && described.KeyMetadata.KeyState == want
	})
}

// wantForeignFound puts an object beside ours that looks like a key of KMS.
func (s *site) wantForeignFound(t *testing.T) {
	s.inToken(t, func(c *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		_, err := c.GenerateKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_VALUE_LEN, 32), attribute(pkcs11.CKA_ID, []byte("nobody's")),
			attribute(pkcs11.CKA_LABEL, "kms/of-nobody"),
		})
		return err
	})
	for _, flags := range [][]string{nil, {"-repair"}, nil} {
		r := s.kmsgate(t, append([]string{"doctor"}, flags...)...)
		r.wantSuccess(t, "doctor of an object that no row names") // a warning, and still there the next time
		wantLine(t, r, "warning", "kms/of-nobody", hex.EncodeToString([]byte("nobody's")))
		wantLine(t, r, "0 problems, 1 warning.")
	}
	s.destroy(t, "kms/of-nobody")
}

// manyKeys is more than a page and a sample of the doctor's.
const manyKeys = 505

// wantSampled has so many keys that only a sample is opened, or all by order.
func (s *site) wantSampled(t *testing.T, client *kms.Client) {
	var making errgroup.Group
	making.SetLimit(8)
	var last atomic.Pointer[string]
	for range manyKeys {
		making.Go(func() error {
			made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
			if err == nil {
				last.Store(made.KeyMetadata.KeyId)
			}
			return err
		})
	}
	if err := making.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags  []string
		opened int
	}{{[]string{"-json"}, 100}, {[]string{"-json", "-all"}, manyKeys + 2}} {
		r := s.kmsgate(t, append([]string{"doctor"}, c.flags...)...)
		r.wantSuccess(t, "doctor of many keys")
		if d := parseDiagnosis(t, r); d.KeyMaterials != manyKeys+2 || d.KeyMaterialsOpened != c.opened || d.Warnings != 0 {
			t.Errorf("doctor %v opened %d of %d key materials, want %d of %d:\n%s", c.flags, d.KeyMaterialsOpened, d.KeyMaterials, c.opened, manyKeys+2, r.stdout)
		}
	}
	s.exec(t, `UPDATE materials SET binding = '\x00' WHERE key_id = $1`, *last.Load())
	r := s.kmsgate(t, "doctor", "-all")
	r.wantFailure(t, "doctor -all of an edited row among many", 1, "1 thing is wrong")
	wantLine(t, r, "problem", *last.Load(), "binding does not verify")
}
