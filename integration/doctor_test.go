package integration_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
)

// TestDoctor examines an installation that is well, and one fault after the
// other. One key lives in the token, since SoftHSM cannot wrap Ed25519.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	s.kmsgate(t, "doctor").wantFailure(t, "doctor without a schema", 1, "1 things are wrong")
	root := s.prepare(t)
	i := s.serve(t, nil)
	client := s.secure(i, root)
	resident, wrapped := s.pairs(t, client)

	r := s.kmsgate(t, "doctor")
	r.wantSuccess(t, "doctor of a healthy installation")
	wantLine(t, r, "fine", "token main", "in service")
	wantLine(t, r, "fine", "key store default-us-east-1", "3 service keys are in the token and prove themselves")
	wantLine(t, r, "fine", "token main", "1 keys of KMS live in it")
	wantLine(t, r, "2 of 2 key materials were opened. 0 problems, 0 warnings.")
	s.wantNoSecret(t, r)

	t.Run("edited row", func(t *testing.T) { s.wantEditedRowFound(t, wrapped) })
	t.Run("missing object", func(t *testing.T) { s.wantMissingFound(t, client, resident) })
	t.Run("foreign object", s.wantForeignFound)
	t.Run("files", s.wantFilesFound)
	t.Run("refused PIN", s.wantMarkFound)
	t.Run("lost service key", s.wantLostServiceKeyFound)
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
	r := s.kmsgate(t, "doctor", "-all")
	r.wantFailure(t, "doctor of an edited row", 1, "1 things are wrong")
	wantLine(t, r, "problem", key, "binding does not verify")
	s.exec(t, `UPDATE materials SET blob = set_byte(blob, 3, get_byte(blob, 3) # 1) WHERE key_id = $1`, key)
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of the row as it was")
}

// wantMissingFound hides a key's object under another CKA_ID and brings it back.
func (s *site) wantMissingFound(t *testing.T, client *kms.Client, key string) {
	var id []byte
	if err := connect(t, s.database).QueryRow(t.Context(), `SELECT blob FROM materials WHERE key_id = $1`, key).Scan(&id); err != nil {
		t.Fatal(err)
	}
	backup := s.hideObject(t, id)
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a missing object", 1, "1 things are wrong")
	wantLine(t, r, "problem", key, hex.EncodeToString(id), "is not in the token")
	s.wantState(t, client, key, types.KeyStateEnabled) // nothing was repaired

	r = s.kmsgate(t, "doctor", "-repair")
	r.wantFailure(t, "doctor -repair of a missing object", 1, "1 things are wrong")
	wantLine(t, r, "repaired", key, "made Unavailable")
	s.wantState(t, client, key, types.KeyStateUnavailable)
	_, err := client.Sign(t.Context(), &kms.SignInput{
		KeyId: &key, Message: []byte("x"), SigningAlgorithm: types.SigningAlgorithmSpecEd25519Sha512,
	})
	if state, ok := errors.AsType[*types.KMSInvalidStateException](err); !ok {
		t.Errorf("Sign with the key = %v, want %T", err, state)
	}

	backup()
	r = s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of an object that is back", 1)
	wantLine(t, r, "problem", key, "it is Unavailable, and the token has its material")
	r = s.kmsgate(t, "doctor", "-repair", "-json")
	r.wantSuccess(t, "doctor -repair of an object that is back")
	var report struct {
		Findings []struct{ Severity, About, Found, Do string }
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatal(err)
	}
	repaired := 0
	for _, f := range report.Findings {
		if f.Severity == "repaired" && strings.Contains(f.About, key) {
			repaired++
		}
	}
	if repaired != 1 {
		t.Errorf("%d findings say that the key was repaired, want 1:\n%s", repaired, r.stdout)
	}
	s.wantState(t, client, key, types.KeyStateEnabled)
}

// hideObject takes an object's file out of the token and returns how to bring it
// back.
func (s *site) hideObject(t testing.TB, id []byte) (back func()) {
	t.Helper()
	before := s.objectFiles(t)
	var gone string
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
			gone = path
		}
	}
	if gone == "" {
		t.Fatal("no file of the token is gone with its object")
	}
	return func() {
		if err := os.WriteFile(gone, before[gone], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// objectFiles are the files in which SoftHSM keeps its objects.
func (s *site) objectFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(s.path("softhsm")), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".object") {
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
	for _, flags := range [][]string{nil, {"-repair"}} {
		r := s.kmsgate(t, append([]string{"doctor"}, flags...)...)
		r.wantSuccess(t, "doctor of an object that no row names") // a warning, and still there the second time
		wantLine(t, r, "warning", "kms/of-nobody", hex.EncodeToString([]byte("nobody's")))
		wantLine(t, r, "0 problems, 1 warnings.")
	}
}

func (s *site) wantFilesFound(t *testing.T) {
	if err := os.Chmod(s.token.PINFile, 0o644); err != nil {
		t.Fatal(err)
	}
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a PIN file that everybody reads", 1, "things are wrong")
	wantLine(t, r, "problem", "PIN file of token main", "0644", "others than its owner can read it")
	if err := os.Chmod(s.token.PINFile, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) wantMarkFound(t *testing.T) {
	s.exec(t, `INSERT INTO login_marks (token_serial, instance, refused_at) VALUES ('123', 'other', now())`)
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a refused PIN", 1, "1 things are wrong")
	wantLine(t, r, "problem", "token 123", "refused the PIN of instance other")
	s.exec(t, `DELETE FROM login_marks`)
}

func (s *site) wantLostServiceKeyFound(t *testing.T) {
	var id []byte
	if err := connect(t, s.database).QueryRow(t.Context(), `SELECT cka_id FROM service_keys WHERE kind = 'binding'`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	back := s.hideObject(t, id)
	r := s.kmsgate(t, "doctor")
	r.wantFailure(t, "doctor of a lost service key", 1, "1 things are wrong")
	wantLine(t, r, "problem", "token main", "binding key, generation 1", hex.EncodeToString(id))
	back()
	s.kmsgate(t, "doctor").wantSuccess(t, "doctor of a service key that is back")
}
