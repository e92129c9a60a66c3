package metadata_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/metadatatest"
)

// useOf is the record of a use of key number n at a second of the day.
func useOf(t testing.TB, operation string, n, second int) (record []byte, uses []audit.Use) {
	t.Helper()
	keyARN := arn.KeyARNOf(region, account, fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
	e := audit.Event{
		Time: noon.Add(time.Duration(second) * time.Second), Source: "kms.amazonaws.com", Name: operation,
		EventID: uuid.NewString(), RequestID: fmt.Sprintf("request-%d", second), Type: audit.APICall,
		AdditionalEventData: audit.Members{audit.String(audit.KeyMaterialID, fmt.Sprintf("%064d", n))},
		Resources:           []audit.Resource{audit.KeyResource(account, keyARN)}, RecipientAccount: account,
	}
	uses, err := e.Uses()
	if err != nil {
		t.Fatal(err)
	}
	return e.AppendJSON(nil), uses
}

func mustUse(t testing.TB, w *metadata.Writer, operation string, n, second int) {
	t.Helper()
	event, uses := useOf(t, operation, n, second)
	if err := w.Record(t.Context(), event, uses); err != nil {
		t.Fatalf("Record: %v", err)
	}
}

type counted struct {
	Encryptions, Decryptions int64
	Last                     string // operation and request
}

// countedUses reads the tables of uses, by the last digits of the key.
func countedUses(t testing.TB, w *metadata.Writer) map[string]counted {
	t.Helper()
	rows, err := w.Pool.Query(t.Context(), `
		SELECT right(key_id, 2), coalesce(encryptions, 0), coalesce(decryptions, 0), operation || ' ' || request_id
		FROM material_uses FULL JOIN key_last_uses USING (region, key_id)`)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]counted)
	var id string
	var c counted
	if _, err := pgx.ForEachRow(rows, []any{&id, &c.Encryptions, &c.Decryptions, &c.Last}, func() error {
		all[id] = c
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func fold(t testing.TB, w *metadata.Writer) {
	t.Helper()
	if err := w.Fold(t.Context()); err != nil {
		t.Fatalf("Fold: %v", err)
	}
}

func TestUsesAreCountedPerMaterialAndKey(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	mustUse(t, w, "Encrypt", 1, 5)
	mustUse(t, w, "GenerateDataKey", 1, 3)
	mustUse(t, w, "Decrypt", 2, 4)
	mustUse(t, w, "Verify", 3, 1)
	mustRecord(t, w, recordOf("DescribeKey"))
	fold(t, w)
	fold(t, w)
	want := map[string]counted{
		"01": {2, 0, "Encrypt request-5"}, "02": {0, 1, "Decrypt request-4"}, "03": {0, 0, "Verify request-1"},
	}
	if diff := cmp.Diff(want, countedUses(t, w)); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
	mustUse(t, w, "Decrypt", 1, 2)
	mustUse(t, w, "Decrypt", 2, 9)
	fold(t, w)
	want["01"], want["02"] = counted{2, 1, "Encrypt request-5"}, counted{0, 2, "Decrypt request-9"}
	if diff := cmp.Diff(want, countedUses(t, w)); diff != "" {
		t.Errorf("uses after more (-want +got):\n%s", diff)
	}
}

func TestUsesAreWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{Instance: "one"})
	mustUse(t, w, "Encrypt", 1, 1)
	closeWriter(t, w)
	next := openWriter(t, db.URL, metadata.WriterOptions{Instance: "two"})
	sweep(t, next)
	want := map[string]counted{"01": {1, 0, "Encrypt request-1"}}
	if diff := cmp.Diff(want, countedUses(t, next)); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
}

func TestDeadRunsUsesAreCountedOnce(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	dead := openWriter(t, db.URL, metadata.WriterOptions{})
	const folded, left = 40, 400
	for i := range folded {
		mustUse(t, dead, "Encrypt", 1, i)
	}
	fold(t, dead)
	for i := range left { // one batch each: more than one round takes
		mustUse(t, dead, "Decrypt", 1, folded+i)
	}
	event, _ := useOf(t, "Encrypt", 2, 1)
	insertOutbox(t, dead, event)
	dead.Kill()
	var wg sync.WaitGroup
	var heirs []*metadata.Writer
	for i := range 3 {
		heirs = append(heirs, openWriter(t, db.URL, metadata.WriterOptions{Instance: fmt.Sprint("heir ", i)}))
	}
	for _, w := range heirs {
		wg.Go(func() {
			for range 3 {
				sweep(t, w)
			}
		})
	}
	wg.Wait()
	for _, w := range heirs {
		sweep(t, w)
		fold(t, w)
	}
	want := map[string]counted{
		"01": {folded, left, fmt.Sprintf("Decrypt request-%d", folded+left-1)}, "02": {1, 0, "Encrypt request-1"},
	}
	if diff := cmp.Diff(want, countedUses(t, heirs[0])); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
}

// A stream that goes on elsewhere leaves its uses to whoever takes it up.
func TestUsesOfALeftStreamAreCountedOnce(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	mustUse(t, w, "Encrypt", 1, 1)
	fold(t, w)
	mustUse(t, w, "Encrypt", 1, 2)
	execSQL(t, db.URL, `UPDATE audit_streams SET seq = seq + 1`)
	mustUse(t, w, "Encrypt", 1, 3)
	fold(t, w)
	sweep(t, w)
	sweep(t, w)
	fold(t, w)
	want := map[string]counted{"01": {3, 0, "Encrypt request-3"}}
	if diff := cmp.Diff(want, countedUses(t, w)); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
}

func TestPlantedUsesAreCountedAllTheSame(t *testing.T) {
	t.Parallel()
	w := openWriter(t, metadatatest.NewDatabase(t).URL, metadata.WriterOptions{})
	event, uses := useOf(t, "Encrypt", 1, 1)
	uses[0].RequestID, uses[0].EventID = "re\x00que\xffst", "no id"
	if err := w.Record(t.Context(), event, uses); err != nil {
		t.Fatal(err)
	}
	fold(t, w)
	want := map[string]counted{"01": {1, 0, "Encrypt re\ufffdque\ufffdst"}}
	if diff := cmp.Diff(want, countedUses(t, w)); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
}

func TestDamagedBatchesDoNotHoldUpWhoTakesThemUp(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	dead := openWriter(t, db.URL, metadata.WriterOptions{})
	for i := range 6 {
		mustUse(t, dead, "Encrypt", 1, i)
	}
	dead.Kill()
	execSQL(t, db.URL, `UPDATE audit_batches SET records = 'x' WHERE number = 3`)
	execSQL(t, db.URL, `DELETE FROM audit_batches WHERE number >= 6`)
	heir := openWriter(t, db.URL, metadata.WriterOptions{Instance: "heir"})
	sweep(t, heir)
	want := map[string]counted{"01": {3, 0, "Encrypt request-3"}}
	if diff := cmp.Diff(want, countedUses(t, heir)); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
	streams, err := heir.Log().Streams(t.Context())
	if err != nil || !streams[0].Ended {
		t.Errorf("the damaged stream is not ended: %+v, %v", streams, err)
	}
}
