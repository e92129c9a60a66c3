package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"kmsgate/softhsm"
)

// An inspected is what hsm inspect -json says.
type inspected struct {
	Tokens []struct {
		Name, Label, Serial, Model string
		Objects                    []inspectedObject
		UnreadByCrypto11           []struct {
			Class, KeyType, Problem string
			Count                   int
		}
		Problems []string
	}
}

type inspectedObject struct {
	Class, KeyType, Label, CkaID, Reader, Is string
	Attributes                               map[string]bool
	Problems                                 []string
}

// TestInspect looks into a token with keys of all kinds.
func TestInspect(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.prepare(t)
	r := s.kmsgate(t, "hsm", "inspect")
	r.wantSuccess(t, "hsm inspect after init")
	wantLine(t, r, "SECRET_KEY", "AES", "kmsgate/default-us-east-1/domain/1", "NEVER_EXTRACTABLE", "WRAP UNWRAP", "domain key, generation 1, of key store default-us-east-1")
	wantLine(t, r, "SECRET_KEY", "GENERIC_SECRET", "SIGN VERIFY", "binding key, generation 1")
	wantLine(t, r, "SECRET_KEY", "AES", "ENCRYPT DECRYPT", "sealing key, generation 1")
	wantLine(t, r, "All that is ours is there")

	made := s.kmsgate(t, "hsm", "tls-key", "-name", "127.0.0.1", "-self-signed", s.path("own.pem"))
	made.wantSuccess(t, "hsm tls-key")
	s.makeObjects(t)
	r = s.kmsgate(t, "hsm", "inspect", "-json")
	r.wantSuccess(t, "hsm inspect of other keys")
	found := parseInspected(t, r)
	token := found.Tokens[0]
	if token.Name != "main" || token.Label != "kmsgate" || token.Serial != s.token.Serial || token.Model == "" || len(token.Problems) > 0 {
		t.Errorf("the token is %+v", token)
	}
	if diff := cmp.Diff(map[string]int{
		"SECRET_KEY AES crypto11": 2, "SECRET_KEY GENERIC_SECRET crypto11": 1, "PRIVATE_KEY EC crypto11": 2, "PUBLIC_KEY EC miekg/pkcs11": 2,
		"PRIVATE_KEY EC_EDWARDS miekg/pkcs11": 1, "PUBLIC_KEY EC_EDWARDS miekg/pkcs11": 1, "DATA  miekg/pkcs11": 1,
	}, found.kinds()); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	unread := map[string]string{}
	for _, u := range token.UnreadByCrypto11 {
		unread[u.Class+" "+u.KeyType] = u.Problem
	}
	if problem := unread["PRIVATE_KEY EC_EDWARDS"]; !strings.Contains(problem, "unsupported key type: 40") {
		t.Errorf("of the Ed25519 key crypto11 says %q, want that it does not support it", problem)
	}
	key := found.object(t, "PRIVATE_KEY", "kmsgate/tls")
	if key.CkaID != keyID(t, made) || !strings.Contains(key.Is, "not in use") {
		t.Errorf("the TLS key is %+v, want CKA_ID %s, not in use", key, keyID(t, made))
	}
	want := map[string]bool{
		"TOKEN": true, "PRIVATE": true, "SENSITIVE": true, "ALWAYS_SENSITIVE": true, "EXTRACTABLE": false, "NEVER_EXTRACTABLE": true,
		"SIGN": true, "DECRYPT": false, "UNWRAP": false, "DERIVE": false,
	}
	for name, want := range want {
		if got, there := key.Attributes[name]; !there || got != want {
			t.Errorf("%s of the TLS key is %t (there: %t), want %t", name, got, there, want)
		}
	}
	if foreign := found.object(t, "PRIVATE_KEY", "ed25519"); foreign.Is != "" || len(foreign.Problems) > 0 {
		t.Errorf("somebody else's key is %+v, want it not to be ours", foreign)
	}
	if evil := found.object(t, "DATA", "\x1b[31mred\n"); evil.Is != "" {
		t.Errorf("somebody else's object is %+v, want it not to be ours", evil)
	}
	s.plain(t)
	s.useKey(t, made, s.path("own.pem"))
	r = s.kmsgate(t, "hsm", "inspect", "-token", "main")
	r.wantSuccess(t, "hsm inspect with the TLS key in use")
	wantLine(t, r, "PRIVATE_KEY", "EC", "kmsgate/tls", keyID(t, made), "SIGN", "key of the API's certificate")
	wantLine(t, r, "crypto11 cannot read 1 of class PRIVATE_KEY, type EC_EDWARDS")
	wantLine(t, r, "DATA", `"\x1b[31mred\n"`)
	if strings.Contains(r.stdout, "\x1b") {
		t.Errorf("a label is printed as it is: %q", r.stdout)
	}
	s.wantNoSecret(t, r)
	s.kmsgate(t, "hsm", "inspect", "-token", "other").wantFailure(t, "hsm inspect of no token", 1, "no token of that name")
	t.Run("what is wrong", s.wantWrongFound)
}

// TestInspectResidentKeys has a gateway whose keys are to live in the token.
func TestInspectResidentKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.set(t, "residency: wrapped", "residency: resident")
	key := s.prepare(t)
	i := s.serve(t, nil)
	s.wantEncrypts(t, i, key)
	c := s.secure(i, key)
	for _, spec := range []types.KeySpec{types.KeySpecEccNistP256, types.KeySpecRsa2048} {
		if _, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify}); err != nil {
			t.Fatal(err)
		}
	}
	r := s.kmsgate(t, "hsm", "inspect", "-json") // while the gateway serves
	r.wantSuccess(t, "hsm inspect of resident keys")
	got := map[string]int{}
	for _, o := range parseInspected(t, r).Tokens[0].Objects {
		if o.Is == "KMS key" {
			got[o.Class+" "+o.KeyType]++
		}
	}
	if diff := cmp.Diff(map[string]int{"SECRET_KEY AES": 1, "PRIVATE_KEY EC": 1, "PRIVATE_KEY RSA": 1}, got); diff != "" {
		t.Errorf("KMS keys in the token (-want +got):\n%s\n%s", diff, r.stdout)
	}
}

// wantLine wants a line of what was printed to have these words in their order.
func wantLine(t testing.TB, r ran, words ...string) {
	t.Helper()
	for n, word := range words {
		words[n] = regexp.QuoteMeta(word)
	}
	if !regexp.MustCompile(strings.Join(words, ".*")).MatchString(r.stdout) {
		t.Errorf("no line with %q in\n%s", words, r.stdout)
	}
}

func parseInspected(t testing.TB, r ran) (found inspected) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	if err := decoder.Decode(&found); err != nil || len(found.Tokens) == 0 {
		t.Fatalf("hsm inspect -json: %v, %d tokens, want some:\n%s", err, len(found.Tokens), r.stdout)
	}
	return found
}

// kinds counts the objects by class, type and who has read them.
func (f inspected) kinds() map[string]int {
	kinds := map[string]int{}
	for _, o := range f.Tokens[0].Objects {
		kinds[fmt.Sprintf("%s %s %s", o.Class, o.KeyType, o.Reader)]++
	}
	return kinds
}

func (f inspected) object(t testing.TB, class, label string) inspectedObject {
	t.Helper()
	for _, o := range f.Tokens[0].Objects {
		if o.Class == class && o.Label == label {
			return o
		}
	}
	t.Fatalf("no %s with the label %q in %+v", class, label, f.Tokens[0].Objects)
	return inspectedObject{}
}

// inToken does something in the site's token as somebody else who has the PIN.
func (s *site) inToken(t testing.TB, do func(c *pkcs11.Ctx, session pkcs11.SessionHandle) error) {
	t.Helper()
	provisioning.Lock()
	defer provisioning.Unlock()
	pin, err := os.ReadFile(s.token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := softhsm.Use(s.token.ConfPath); err != nil {
		t.Fatal(err)
	}
	c := pkcs11.New(s.token.Module)
	if c == nil {
		t.Fatalf("%s cannot be opened", s.token.Module)
	}
	defer c.Destroy()
	if err := c.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer c.Finalize() //nolint:errcheck // the process ends
	slots, err := c.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	session, err := c.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(session, pkcs11.CKU_USER, string(pin)); err != nil {
		t.Fatal(err)
	}
	if err := do(c, session); err != nil {
		t.Fatal(err)
	}
}

func attribute(kind uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(kind, value) }

// makeObjects makes what is not ours: pairs on curves that crypto11 does not know, and
// an object whose label is to confuse terminals.
func (s *site) makeObjects(t testing.TB) {
	t.Helper()
	const edwardsPairGen = 0x1055 // CKM_EC_EDWARDS_KEY_PAIR_GEN, PKCS#11 v3.0
	s.inToken(t, func(c *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		for label, curve := range map[string]struct {
			mechanism  uint
			parameters []byte // OID
		}{
			"ed25519":   {edwardsPairGen, []byte{0x06, 0x03, 0x2b, 0x65, 0x70}},
			"secp256k1": {pkcs11.CKM_EC_KEY_PAIR_GEN, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}},
		} {
			public := []*pkcs11.Attribute{
				attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_EC_PARAMS, curve.parameters),
				attribute(pkcs11.CKA_LABEL, label), attribute(pkcs11.CKA_ID, label),
			}
			private := []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_LABEL, label), attribute(pkcs11.CKA_ID, label)}
			if _, _, err := c.GenerateKeyPair(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(curve.mechanism, nil)}, public, private); err != nil {
				return fmt.Errorf("make a pair on %s: %w", label, err)
			}
		}
		_, err := c.CreateObject(session, []*pkcs11.Attribute{
			attribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_DATA)), attribute(pkcs11.CKA_TOKEN, true),
			attribute(pkcs11.CKA_LABEL, "\x1b[31mred\n"), attribute(pkcs11.CKA_VALUE, []byte{1}),
		})
		return err
	})
}

// wantWrongFound makes keys that are not as the database has them, and wants to be
// told.
func (s *site) wantWrongFound(t *testing.T) {
	id := bytes.Repeat([]byte{0xaa}, 16)
	s.inToken(t, func(c *pkcs11.Ctx, session pkcs11.SessionHandle) error {
		_, err := c.GenerateKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_PRIVATE, true), attribute(pkcs11.CKA_SENSITIVE, true),
			attribute(pkcs11.CKA_EXTRACTABLE, true), attribute(pkcs11.CKA_VALUE_LEN, 32), attribute(pkcs11.CKA_ID, id),
			attribute(pkcs11.CKA_LABEL, "kmsgate/default-us-east-1/domain/2"), attribute(pkcs11.CKA_WRAP, true), attribute(pkcs11.CKA_UNWRAP, true),
			attribute(pkcs11.CKA_DECRYPT, true),
		})
		return err
	})
	insert := func(kind string, id []byte) {
		t.Helper()
		_, err := connect(t, s.database).Exec(t.Context(), `
			INSERT INTO service_keys (store, kind, generation, cka_id, check_value, state, tokens, created_at)
			VALUES ('default-us-east-1', $1, 2, $2, 'check', 'retired', ARRAY['x'], now())`, kind, id)
		if err != nil {
			t.Fatal(err)
		}
	}
	insert("domain", id)
	insert("sealing", bytes.Repeat([]byte{0xbb}, 16))
	s.restore(t, regexp.MustCompile(`key_id: "[0-9a-f]{32}"`).ReplaceAllString(s.text, `key_id: "`+strings.Repeat("cc", 16)+`"`))
	r := s.kmsgate(t, "hsm", "inspect")
	r.wantFailure(t, "hsm inspect of what is wrong", 1, "things are not as they must be")
	wrong := "WRONG: domain key, generation 2, of key store default-us-east-1 (CKA_ID " + strings.Repeat("aa", 16) + "): "
	for _, problem := range []string{"EXTRACTABLE is true, want false", "NEVER_EXTRACTABLE is false, want true", "DECRYPT is true, want false", "MODIFIABLE is true, want false"} {
		wantLine(t, r, wrong+problem)
	}
	wantLine(t, r, "WRONG: the token does not have the sealing key, generation 2, of key store default-us-east-1 (CKA_ID "+strings.Repeat("bb", 16))
	wantLine(t, r, "WRONG: the token does not have the private key of the API's certificate (CKA_ID "+strings.Repeat("cc", 16))
	wantLine(t, r, "kmsgate/tls", "not in use by this configuration")
	r = s.kmsgate(t, "hsm", "inspect", "-json")
	if r.code != 1 {
		t.Errorf("exit code %d with -json, want 1", r.code)
	}
	found := parseInspected(t, r)
	if o := found.object(t, "SECRET_KEY", "kmsgate/default-us-east-1/domain/2"); len(o.Problems) < 4 || !o.Attributes["EXTRACTABLE"] {
		t.Errorf("the extractable domain key is %+v, want its problems", o)
	}
	if problems := found.Tokens[0].Problems; len(problems) != 2 {
		t.Errorf("problems of the token: %q, want two", problems)
	}
}
