package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/metadatatest"
)

// openWriter starts a writer that is killed when the test ends, unless it was
// closed before.
func openWriter(t testing.TB, url string, o metadata.WriterOptions) *metadata.Writer {
	t.Helper()
	if o.Instance == "" {
		o.Instance = "node-1"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w, err := metadata.OpenWriter(ctx, url, o)
	if err != nil {
		t.Fatalf("OpenWriter: %v", err)
	}
	t.Cleanup(w.Kill)
	return w
}

func closeWriter(t testing.TB, w *metadata.Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// recordOf is a record that can be told from all others.
func recordOf(name string) []byte {
	e := audit.Event{Time: noon, Name: name, EventID: uuid.NewString(), Type: audit.APICall}
	return e.AppendJSON(nil)
}

func mustRecord(t testing.TB, w *metadata.Writer, event []byte, seen ...metadata.Seen) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Record(ctx, event, nil, seen...); err != nil {
		t.Fatalf("Record: %v", err)
	}
}

// execSQL runs SQL beside the writers.
func execSQL(t testing.TB, url, sql string, args ...any) int64 {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	tag, err := conn.Exec(ctx, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return tag.RowsAffected()
}

func openLog(t testing.TB, url string) *metadata.AuditLog {
	t.Helper()
	log, err := metadata.OpenAuditLog(t.Context(), metadata.Config{URL: url, Instance: "reader", AllowUnsafeDurability: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

// logged reads the whole log and returns how often each record is in it, and how
// many streams there are. All streams must verify.
func logged(t testing.TB, url string) (map[string]int, []metadata.AuditStream) {
	t.Helper()
	log := openLog(t, url)
	times := make(map[string]int)
	seqs := make(map[audit.StreamID]int64)
	var cursor metadata.AuditCursor
	for {
		records, next, err := log.Records(t.Context(), cursor, 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			times[string(r.Event)]++
			if seqs[r.Stream]++; r.Seq != seqs[r.Stream] {
				t.Errorf("stream %v: record %d comes as number %d", r.Stream, r.Seq, seqs[r.Stream])
			}
		}
		if len(records) < 500 {
			break
		}
		cursor = next
	}
	streams, err := log.Streams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		report, err := log.Verify(t.Context(), s.Head.Stream)
		if err != nil || len(report.Faults) > 0 || report.Ended != s.Ended && report.Ended {
			t.Errorf("Verify(%v) = %+v, %v", s.Head.Stream, report, err)
		}
	}
	return times, streams
}

func TestRecordIsInTheLogWhenItReturns(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	event := recordOf("Encrypt")
	mustRecord(t, w, event)
	w.Kill()
	times, streams := logged(t, db.URL)
	if times[string(event)] != 1 || len(times) != 2 {
		t.Errorf("the log has %d records, ours %d times; want StreamStarted and ours", len(times), times[string(event)])
	}
	if len(streams) != 1 || streams[0].Head.Seq != 2 || streams[0].Ended || streams[0].Instance != "node-1" {
		t.Errorf("streams = %+v, want one of two records, not ended", streams)
	}
}

func TestManyCallersShareBatches(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	var batches, records atomic.Int64
	w := openWriter(t, db.URL, metadata.WriterOptions{Observe: func(s metadata.BatchStats) {
		batches.Add(1)
		records.Add(int64(s.Records))
		if s.StoredBytes == 0 || s.Lag < 0 || s.Commit < 0 {
			t.Errorf("batch stats %+v", s)
		}
	}})
	const callers, each = 32, 20
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				mustRecord(t, w, recordOf("Encrypt"))
			}
		})
	}
	wg.Wait()
	closeWriter(t, w)
	times, _ := logged(t, db.URL)
	if want := callers*each + 2; len(times) != want || int(records.Load()) != want {
		t.Errorf("%d records in the log, %d observed, want %d", len(times), records.Load(), want)
	}
	if batches.Load() > callers*each/4 {
		t.Errorf("%d batches for %d records of %d callers", batches.Load(), records.Load(), callers)
	}
}

func TestClosedStreamIsEndedAndNamedByTheNext(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	first := openWriter(t, db.URL, metadata.WriterOptions{})
	mustRecord(t, first, recordOf("Encrypt"))
	closeWriter(t, first)
	if err := first.Record(t.Context(), recordOf("Encrypt"), nil); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Record after Close: %v, want ErrUnavailable", err)
	}
	openWriter(t, db.URL, metadata.WriterOptions{Instance: "node-2"})
	openWriter(t, db.URL, metadata.WriterOptions{})

	times, streams := logged(t, db.URL)
	if len(streams) != 3 || !streams[0].Ended || streams[0].Head.Seq != 3 {
		t.Fatalf("streams = %+v, want the first of three ended after 3 records", streams)
	}
	if streams[1].Previous != (audit.StreamID{}) || streams[2].Previous != streams[0].Head.Stream {
		t.Errorf("previous streams = %v and %v, want none and %v", streams[1].Previous, streams[2].Previous, streams[0].Head.Stream)
	}
	report, err := openLog(t, db.URL).Verify(t.Context(), streams[0].Head.Stream)
	if err != nil || !report.Ended {
		t.Errorf("Verify = %+v, %v, want ended", report, err)
	}
	want := fmt.Sprintf(`"previous":{"stream":"%v","number":%d,"seq":3,"hash":"%v"}`,
		streams[0].Head.Stream, streams[0].Head.Number, streams[0].Head.Hash)
	found := 0
	for r := range times {
		if strings.Contains(r, want) {
			found++
		}
	}
	if found != 1 {
		t.Errorf("%d records tell of %s, want the StreamStarted of the third", found, want)
	}
}

func TestCloseGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	release := lockStream(t, db.URL, w.Stream())
	answers := make(chan error, 2)
	send := func() { answers <- w.Record(t.Context(), recordOf("Encrypt"), nil) }
	go send()
	waitForLock(t, db.URL)
	go send()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v, want the context's error", err)
	}
	for range 2 {
		if err := <-answers; !errors.Is(err, metadata.ErrUnavailable) {
			t.Errorf("Record that close did not wait for: %v, want ErrUnavailable", err)
		}
	}
	release()
	next := openWriter(t, db.URL, metadata.WriterOptions{})
	eventually(t, "the stream is taken up", func() bool {
		sweep(t, next)
		streams, err := next.Log().Streams(t.Context())
		return err == nil && streams[0].Ended
	})
	logged(t, db.URL)
}

func TestRecordThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	w := openWriter(t, metadatatest.NewDatabase(t).URL, metadata.WriterOptions{})
	if err := w.Record(t.Context(), make([]byte, audit.MaxRecordBytes+1), nil); err == nil {
		t.Error("Record of more than audit.MaxRecordBytes succeeds")
	}
	if _, err := w.InsertOutbox(t.Context(), make([]byte, audit.MaxRecordBytes+1)); err == nil {
		t.Error("InsertOutbox of more than audit.MaxRecordBytes succeeds")
	}
	for range 6 { // several batches' worth
		mustRecord(t, w, make([]byte, audit.MaxRecordBytes))
	}
}

func TestCallerIsAnsweredAtItsDeadlineAndItsRecordDropped(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	release := lockStream(t, db.URL, w.Stream())
	held := make(chan error, 1)
	go func() { held <- w.Record(t.Context(), recordOf("InFlight"), nil) }()
	waitForLock(t, db.URL)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	dropped := recordOf("Dropped")
	if err := w.Record(ctx, dropped, nil); !errors.Is(err, metadata.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Record: %v, want ErrUnavailable and the context's error", err)
	}
	if err := w.Record(ctx, dropped, nil); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Record with a context that has ended: %v, want ErrUnavailable", err)
	}
	release()
	if err := <-held; err != nil {
		t.Errorf("Record in flight: %v", err)
	}
	mustRecord(t, w, recordOf("After"))
	if times, _ := logged(t, db.URL); times[string(dropped)] != 0 || len(times) != 3 {
		t.Errorf("%d records in the log, the dropped one %d times", len(times), times[string(dropped)])
	}
}

func TestFullQueueRefusesAtOnce(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]metadata.WriterOptions{
		"records": {QueueRecords: 3},
		"bytes":   {QueueBytes: 3*len(recordOf("Encrypt")) + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := metadatatest.NewDatabase(t)
			w := openWriter(t, db.URL, o)
			release := lockStream(t, db.URL, w.Stream())
			answers := make(chan error, 4)
			send := func() { // until there is a place
				err := w.Record(t.Context(), recordOf("Encrypt"), nil)
				for errors.Is(err, metadata.ErrUnavailable) {
					err = w.Record(t.Context(), recordOf("Encrypt"), nil)
				}
				answers <- err
			}
			go send()
			waitForLock(t, db.URL)
			for range 3 {
				go send()
			}
			eventually(t, "the queue is full", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				defer cancel()
				err := w.Record(ctx, recordOf("Encrypt"), nil)
				return errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded)
			})
			release()
			for range 4 {
				if err := <-answers; err != nil {
					t.Errorf("Record that had a place: %v", err)
				}
			}
			mustRecord(t, w, recordOf("Encrypt"))
		})
	}
}

// lockStream keeps the head of a stream from moving until it is released.
func lockStream(t testing.TB, url string, stream audit.StreamID) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM audit_streams WHERE id = $1 FOR UPDATE", uuid.UUID(stream)); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		ctx := context.WithoutCancel(t.Context())
		_ = tx.Rollback(ctx)
		_ = conn.Close(ctx)
	})
	t.Cleanup(release)
	return release
}

// waitForLock waits until an append stands at a lock.
func waitForLock(t testing.TB, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for range 5000 {
		var n int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%audit_batches%'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no append stands at a lock")
}
