package integration_test

import (
	"bytes"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// importSteps are the steps of an import after the token has opened the material.
// Each is held up by a lock, while the statement of that text waits.
var importSteps = []struct {
	name, lock, waits string
	done              bool // what is killed there is done all the same
}{
	{"before anything", `SELECT FROM keys FOR UPDATE`, "%UPDATE keys SET version%", false},
	{"before the parameters are used up", `SELECT FROM import_parameters FOR UPDATE`, "%DELETE FROM import_parameters%", false},
	{"before the material is written", `LOCK TABLE materials IN SHARE MODE`, "%INSERT INTO materials%", false},
	{"before the record is", `LOCK TABLE audit_outbox IN SHARE MODE`, "%INSERT INTO audit_outbox%", false},
	{"before the last statement", `SELECT FROM accounts FOR NO KEY UPDATE`, "%UPDATE accounts SET version%", false},
	{"while it is committed", `SELECT pg_advisory_xact_lock(42)`, "commit", true},
}

// whenCommitted holds commits up that have to do with materials.
const whenCommitted = `
CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON materials DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION hold_up()`

// An importing is an import that a gateway is killed over.
type importing struct {
	account, key string
	before       int // materials that the key has already
	in           kms.ImportKeyMaterialInput
}

// TestCrashedImports kills the gateway at each step of the import of a key's first
// material and of one that is to wait for a rotation. Each is done as a whole or not at
// all: then the same parameters are good for another try.
func TestCrashedImports(t *testing.T) {
	t.Parallel()
	l := launch{dir: newPlace(t), arguments: []string{"-accounts", own + "," + other}}
	i := l.start(t)
	conn := connect(t, i.databaseURL(t))
	if _, err := conn.Exec(t.Context(), whenCommitted); err != nil {
		t.Fatal(err)
	}
	for _, step := range importSteps {
		first, second := i.newImporting(t, own), i.newImporting(t, other)
		i.bring(t, second, 1)
		second.before, second.in = 1, i.wrapped(t, second, 2)
		second.in.ImportType = types.ImportTypeNewKeyMaterial
		first.in = i.wrapped(t, first, 1)
		i.killImports(t, conn, step.lock, step.waits, first, second)
		i = l.start(t)
		i.wantImported(t, step.name, step.done, first, second)
	}
	i.awaitTakenUp(t)
	i.mustStop(t)
	openLog(t, i).wantWhole(t)
}

// newImporting makes a key that waits for its material.
func (i *instance) newImporting(t *testing.T, account string) *importing {
	t.Helper()
	made, err := i.newClient(account).CreateKey(t.Context(), &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	if err != nil {
		t.Fatal(err)
	}
	return &importing{account: account, key: *made.KeyMetadata.Arn}
}

// wrapped is an import of 32 bytes of n.
func (i *instance) wrapped(t *testing.T, x *importing, n byte) kms.ImportKeyMaterialInput {
	t.Helper()
	p := i.newClient(x.account).parameters(t, x.key, types.AlgorithmSpecRsaesOaepSha256, types.WrappingKeySpecRsa2048)
	material := hide(bytes.Repeat([]byte{n}, 32))
	return kms.ImportKeyMaterialInput{
		KeyId: &x.key, ImportToken: hide(p.ImportToken), ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		EncryptedKeyMaterial: hide(wrapMaterial(t, types.AlgorithmSpecRsaesOaepSha256, p.PublicKey, material)),
	}
}

// bring imports 32 bytes of n.
func (i *instance) bring(t *testing.T, x *importing, n byte) {
	t.Helper()
	in := i.wrapped(t, x, n)
	if _, err := i.newClient(x.account).ImportKeyMaterial(t.Context(), &in); err != nil {
		t.Fatal(err)
	}
}

// killImports kills the gateway when all imports wait for a lock, lets go of the lock,
// and waits until Postgres has ended what they had begun.
func (i *instance) killImports(t *testing.T, conn *pgx.Conn, lock, waits string, all ...*importing) {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // it is rolled back below, if all is well
	if _, err := tx.Exec(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	var calls errgroup.Group
	for _, x := range all {
		calls.Go(func() error {
			_, err := i.newClient(x.account).ImportKeyMaterial(t.Context(), &x.in)
			return err
		})
	}
	watch := connect(t, i.databaseURL(t))
	defer watch.Close(t.Context()) //nolint:errcheck // it has only read
	count := func(where string, args ...any) (n int) {
		t.Helper()
		if err := watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE `+where, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, waits+" waits", func() bool { return count(`wait_event_type = 'Lock' AND query ILIKE $1`, waits) == len(all) })
	i.kill()
	if err := calls.Wait(); err == nil || answered(err) {
		t.Errorf("a gateway that was killed answered: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of what the gateway had begun", func() bool {
		return count(`backend_type = 'client backend' AND datname = current_database() AND pid <> ALL ($1)`, []uint32{conn.PgConn().PID(), watch.PgConn().PID()}) == 0
	})
}

// wantImported wants imports to be done or not to be, with their records, and the
// parameters to be used up just then. Tried again they are done, once.
func (i *instance) wantImported(t *testing.T, step string, done bool, all ...*importing) {
	t.Helper()
	more := map[bool]int{true: 1}[done]
	records := i.importRecords(t)
	for _, x := range all {
		if got := records[x.key]; got != x.before+more {
			t.Errorf("killed %s, %d imports are on record, want %d", step, got, x.before+more)
		}
		x.wantDone(t, i.newClient(x.account), step, done)
	}
	records = i.importRecords(t)
	for _, x := range all {
		if got := records[x.key]; got != x.before+1 {
			t.Errorf("killed %s and tried again, %d imports are on record, want %d", step, got, x.before+1)
		}
	}
}

func (x *importing) wantDone(t *testing.T, c *client, step string, done bool) {
	t.Helper()
	if got := len(c.listed(t, x.key)); (got == x.before+1) != done || got < x.before {
		t.Errorf("killed %s, the key has %d materials, and had %d", step, got, x.before)
	}
	switch _, err := c.ImportKeyMaterial(t.Context(), &x.in); {
	case done:
		wantError(t, err, "InvalidImportTokenException", "The request was rejected because the provided import token is invalid or is associated with a different KMS key.")
	case err != nil:
		t.Errorf("killed %s, the import is tried again: %v", step, err)
	}
	got := c.listed(t, x.key)
	if len(got) != x.before+1 || got[0].KeyMaterialState != types.KeyMaterialStateCurrent ||
		x.before == 1 && got[1].KeyMaterialState != types.KeyMaterialStatePendingRotation {
		t.Errorf("killed %s and tried again, the key has the materials %+v", step, got)
	}
	if err := usable(t.Context(), c, x.key); err != nil {
		t.Errorf("killed %s and tried again, the key is not usable: %v", step, err)
	}
}

// importRecords are how many imports are on record that were done, by key.
func (i *instance) importRecords(t *testing.T) map[any]int {
	t.Helper()
	n := map[any]int{}
	for _, e := range i.audit(t) {
		if e.EventName == "ImportKeyMaterial" && e.ErrorCode == "" {
			n[e.ResponseElements["keyId"]]++
		}
	}
	return n
}
