package metadata_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/metadatatest"
)

// morning is a clock that stands before all records.
func morning() time.Time { return noon.Add(-time.Hour) }

// twoStreams is a log of two instances whose records alternate in time.
func twoStreams(t *testing.T, records int) (*metadata.Writer, *metadata.Writer) {
	t.Helper()
	db := metadatatest.NewDatabase(t)
	one := openWriter(t, db.URL, metadata.WriterOptions{Instance: "one", Clock: morning})
	two := openWriter(t, db.URL, metadata.WriterOptions{Instance: "two", Clock: morning})
	for i := range records {
		e := audit.Event{Time: noon.Add(time.Duration(i) * time.Second), Name: fmt.Sprintf("Operation%03d", i), EventID: uuid.NewString()}
		mustRecord(t, []*metadata.Writer{one, two}[i%2], e.AppendJSON(nil))
	}
	return one, two
}

// operations are the names of the operations in some records, in their order,
// without those of the streams themselves.
func operations(records []metadata.StoredRecord) (all []string) {
	for _, r := range records {
		_, name, _ := strings.Cut(string(r.Event), `"eventName":"`)
		name, _, _ = strings.Cut(name, `"`)
		if strings.HasPrefix(name, "Operation") {
			all = append(all, name)
		}
	}
	return all
}

func operationNames(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("Operation%03d", i))
	}
	return all
}

func TestRecordsOfAllStreamsComeInTheOrderOfTime(t *testing.T) {
	t.Parallel()
	const n = 90
	one, _ := twoStreams(t, n)
	for _, limit := range []int{1, 7, 1000} {
		var all []metadata.StoredRecord
		var cursor metadata.AuditCursor
		for {
			records, next, err := one.Log().Records(t.Context(), cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := one.Log().Records(t.Context(), cursor, limit)
			if err != nil || len(again) != len(records) {
				t.Fatalf("reading again from the same cursor: %d records, %v, want %d", len(again), err, len(records))
			}
			all, cursor = append(all, records...), next
			if len(records) < limit {
				break
			}
		}
		if got, want := operations(all), operationNames(0, n); !slices.Equal(got, want) || len(all) != n+2 {
			t.Errorf("limit %d: %d records, %v, want %v", limit, len(all), got, want)
		}
	}
}

func TestFollowerSeesWhatComesAfterTheEnd(t *testing.T) {
	t.Parallel()
	one, two := twoStreams(t, 9)
	log := one.Log()
	end, err := log.End(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last, after, err := log.Last(t.Context(), 4)
	if err != nil || !slices.Equal(operations(last), operationNames(5, 9)) {
		t.Errorf("Last(4) = %v, %v, want %v", operations(last), err, operationNames(5, 9))
	}
	if all, _, err := log.Last(t.Context(), 100); err != nil || len(all) != 11 {
		t.Errorf("Last(100) = %d records, %v, want 11", len(all), err)
	}
	for _, cursor := range []metadata.AuditCursor{end, after} {
		if records, _, err := log.Records(t.Context(), cursor, 10); err != nil || len(records) != 0 {
			t.Errorf("Records at the end = %d, %v, want none", len(records), err)
		}
	}
	mustRecord(t, two, recordOf("Operation100"))
	third := openWriter(t, two.Pool.Config().ConnString(), metadata.WriterOptions{Instance: "three", Clock: morning})
	mustRecord(t, third, recordOf("Operation101"))
	for _, cursor := range []metadata.AuditCursor{end, after} {
		records, next, err := log.Records(t.Context(), cursor, 10)
		if err != nil || len(operations(records)) != 2 {
			t.Errorf("Records after the end = %v, %v, want the two that came", operations(records), err)
		}
		if records, _, err := log.Records(t.Context(), next, 10); err != nil || len(records) != 0 {
			t.Errorf("Records at the new end = %d, %v, want none", len(records), err)
		}
	}
}

func TestReadingNeedsALimit(t *testing.T) {
	t.Parallel()
	one, _ := twoStreams(t, 1)
	if _, _, err := one.Log().Records(t.Context(), metadata.AuditCursor{}, 0); err == nil {
		t.Error("Records without a limit succeeds")
	}
	for _, n := range []int{0, 10_001} {
		if _, _, err := one.Log().Last(t.Context(), n); err == nil {
			t.Errorf("Last(%d) succeeds", n)
		}
	}
}

func TestVerifyFindsWhatWasDoneToTheTables(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sql  string
		want audit.Problem
	}{
		"batch deleted":      {`DELETE FROM audit_batches WHERE stream = $1 AND number = 3`, audit.BatchMissing},
		"first deleted":      {`DELETE FROM audit_batches WHERE stream = $1 AND number = 1`, audit.BatchMissing},
		"last deleted":       {`DELETE FROM audit_batches WHERE stream = $1 AND number = 5`, audit.HeadWrong},
		"all deleted":        {`DELETE FROM audit_batches WHERE stream = $1`, audit.HeadWrong},
		"records replaced":   {`UPDATE audit_batches SET records = b.records FROM audit_batches AS b WHERE b.number = 4 AND b.stream = $1 AND audit_batches.stream = $1 AND audit_batches.number = 3`, audit.HashWrong},
		"hash replaced":      {`UPDATE audit_batches SET hash = hash_before WHERE stream = $1 AND number = 3`, audit.HashWrong},
		"head set back":      {`WITH d AS (DELETE FROM audit_batches WHERE stream = $1 AND number = 5) UPDATE audit_streams SET number = 4, seq = 4 WHERE id = $1`, audit.HeadWrong},
		"filed under a lost": {`UPDATE audit_streams SET number = 6, seq = 6 WHERE id = $1`, audit.HeadWrong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := metadatatest.NewDatabase(t)
			w := openWriter(t, db.URL, metadata.WriterOptions{})
			for range 4 {
				mustRecord(t, w, recordOf("Encrypt"))
			}
			execSQL(t, db.URL, c.sql, uuid.UUID(w.Stream()))
			report, err := w.Log().Verify(t.Context(), w.Stream())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(report.Faults, func(f audit.Fault) bool { return f.Problem == c.want }) {
				t.Errorf("faults = %+v, want %s", report.Faults, c.want)
			}
			var cursor metadata.AuditCursor // what is left is read, whatever is missing
			if _, cursor, err = w.Log().Records(t.Context(), cursor, 100); err != nil {
				t.Fatal(err)
			}
			if more, _, err := w.Log().Records(t.Context(), cursor, 100); err != nil || len(more) > 0 {
				t.Errorf("Records at the end = %d, %v", len(more), err)
			}
		})
	}
}

func TestVerifyOfAnUnknownStream(t *testing.T) {
	t.Parallel()
	one, _ := twoStreams(t, 1)
	if _, err := one.Log().Verify(t.Context(), audit.StreamID{1}); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Verify: %v, want ErrNotFound", err)
	}
}

func TestStoreReadsItsOwnLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := f.Record(t.Context(), f.View(), metadata.Record{Event: recordOf("Operation001")}); err != nil {
		t.Fatal(err)
	}
	records, _, err := f.AuditLog().Last(t.Context(), 10)
	if err != nil || !slices.Equal(operations(records), []string{"Operation001"}) {
		t.Errorf("Last = %v, %v", operations(records), err)
	}
}

func TestOpenAuditLogChecksItsConfig(t *testing.T) {
	t.Parallel()
	if _, err := metadata.OpenAuditLog(t.Context(), metadata.Config{Instance: "x"}); err == nil {
		t.Error("OpenAuditLog without a URL succeeds")
	}
	if _, err := metadata.OpenAuditLog(t.Context(), metadata.Config{URL: "host=/nowhere", Instance: "x"}); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("OpenAuditLog without a server: %v, want ErrUnavailable", err)
	}
}

func TestReadingWithoutADatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	log := openLog(t, metadatatest.NewDatabase(t).URL)
	log.Close()
	ctx := t.Context()
	var cursor metadata.AuditCursor
	for name, read := range map[string]func() error{
		"Streams": func() error { _, err := log.Streams(ctx); return err },
		"Records": func() error { _, _, err := log.Records(ctx, cursor, 1); return err },
		"Last":    func() error { _, _, err := log.Last(ctx, 1); return err },
		"End":     func() error { _, err := log.End(ctx); return err },
		"Outbox":  func() error { _, err := log.Outbox(ctx, 1); return err },
		"Verify":  func() error { _, err := log.Verify(ctx, audit.StreamID{}); return err },
	} {
		if err := read(); err == nil {
			t.Errorf("%s on a closed log succeeds", name)
		}
	}
}
