package metadata_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/metadatatest"
)

func insertOutbox(t testing.TB, w *metadata.Writer, event []byte) metadata.OutboxRow {
	t.Helper()
	row, err := w.InsertOutbox(t.Context(), event)
	if err != nil {
		t.Fatalf("InsertOutbox: %v", err)
	}
	return row
}

func sweep(t testing.TB, w *metadata.Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Sweep(ctx); err != nil {
		t.Fatalf("Sweep: %v", err)
	}
}

// outboxEmpty tells whether everything has moved into the chain.
func outboxEmpty(t testing.TB, w *metadata.Writer) bool {
	t.Helper()
	left, err := w.Log().Outbox(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	return len(left) == 0
}

func TestChangesMoveFromTheOutboxIntoTheChain(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	first, second := recordOf("CreateKey"), recordOf("CreateAlias")
	rows := []metadata.OutboxRow{insertOutbox(t, w, first), insertOutbox(t, w, second)}
	waiting, err := w.Log().Outbox(t.Context(), 10)
	if err != nil || len(waiting) != 2 || waiting[0].Seq != 0 || waiting[0].Stream != w.Stream() {
		t.Errorf("Outbox = %v, %v, want both records", waiting, err)
	}
	w.Committed(rows...)
	w.Committed(rows...) // once more changes nothing
	closeWriter(t, w)
	times, _ := logged(t, db.URL)
	if times[string(first)] != 1 || times[string(second)] != 1 || len(times) != 4 {
		t.Errorf("the changes are in the log %d and %d times", times[string(first)], times[string(second)])
	}
}

func TestOwnStrayOutboxRowIsFoundAtTheSecondLook(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	stray := recordOf("CreateKey")
	insertOutbox(t, w, stray) // and the process never hears that it was committed
	sweep(t, w)
	if outboxEmpty(t, w) {
		t.Error("a row that may be on its way was taken at the first look")
	}
	sweep(t, w)
	eventually(t, "the stray row is in the chain", func() bool { return outboxEmpty(t, w) })
	closeWriter(t, w)
	if times, _ := logged(t, db.URL); times[string(stray)] != 1 {
		t.Errorf("the stray record is in the log %d times", times[string(stray)])
	}
}

func TestDeadRunsOutboxIsTakenUpOnce(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	dead := openWriter(t, db.URL, metadata.WriterOptions{})
	const changes = 600 // more than one round takes
	for range changes {
		insertOutbox(t, dead, recordOf("CreateKey"))
	}
	one := openWriter(t, db.URL, metadata.WriterOptions{Instance: "one"})
	sweep(t, one)
	if left, err := one.Log().Outbox(t.Context(), changes+1); err != nil || len(left) != changes {
		t.Errorf("%d rows of a living run are left, %v, want all %d", len(left), err, changes)
	}
	dead.Kill()
	two := openWriter(t, db.URL, metadata.WriterOptions{Instance: "two"})
	var wg sync.WaitGroup
	for range 4 {
		for _, w := range []*metadata.Writer{one, two} {
			wg.Go(func() { mustRecord(t, w, recordOf("Encrypt")) })
		}
	}
	for _, w := range []*metadata.Writer{one, two} {
		wg.Go(func() {
			for !outboxEmpty(t, w) {
				sweep(t, w)
			}
		})
	}
	wg.Wait()
	sweep(t, one)
	closeWriter(t, one)
	closeWriter(t, two)
	times, streams := logged(t, db.URL)
	if want := changes + 8 + 3 + 2; len(times) != want {
		t.Errorf("%d records in the log, want %d", len(times), want)
	}
	for r, n := range times {
		if n != 1 {
			t.Errorf("record %s is in the log %d times", r, n)
		}
	}
	if !streams[0].Ended {
		t.Error("the dead stream is not ended")
	}
}

// Two writers that both hold a row without a lock between them: the row goes
// into one chain, and the other writer's batch does without it.
func TestOutboxRowInTwoQueuesIsChainedOnce(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	one := openWriter(t, db.URL, metadata.WriterOptions{Instance: "one"})
	two := openWriter(t, db.URL, metadata.WriterOptions{Instance: "two"})
	var wg sync.WaitGroup
	const rows = 30
	for range rows {
		row := insertOutbox(t, one, recordOf("CreateKey"))
		for _, w := range []*metadata.Writer{one, two} {
			wg.Go(func() { w.Committed(row) })
			wg.Go(func() { mustRecord(t, w, recordOf("Encrypt")) })
		}
	}
	wg.Wait()
	closeWriter(t, one)
	closeWriter(t, two)
	times, _ := logged(t, db.URL)
	if want := rows + 2*rows + 4; len(times) != want {
		t.Errorf("%d records in the log, want %d", len(times), want)
	}
	for r, n := range times {
		if n != 1 {
			t.Errorf("record %s is in the log %d times", r, n)
		}
	}
}

func TestFullQueueLeavesRowsInTheOutbox(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{QueueRecords: 1})
	var rows []metadata.OutboxRow
	for range 5 {
		rows = append(rows, insertOutbox(t, w, recordOf("CreateKey")))
	}
	w.Committed(rows...)
	eventually(t, "the sweeps have found the rows for which there was no room", func() bool {
		sweep(t, w)
		return outboxEmpty(t, w)
	})
	closeWriter(t, w)
	if times, _ := logged(t, db.URL); len(times) != 7 {
		t.Errorf("%d records in the log, want 7", len(times))
	}
}

func TestDecisionOnAMovedAccountIsStale(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	execSQL(t, db.URL, `INSERT INTO accounts (id, version, created_at) VALUES ($1, 7, now()), ($2, 3, now())`, account, stranger)
	w := openWriter(t, db.URL, metadata.WriterOptions{
		// The lease covers version 6, whatever the database says of it.
		Covered: func(_ string, version int64) bool { return version == 6 },
	})
	refused := 0
	for _, c := range []struct {
		seen []metadata.Seen
		want error
	}{
		{nil, nil},
		{[]metadata.Seen{metadata.Saw(account, 7)}, nil},
		{[]metadata.Seen{metadata.Saw(account, 7), metadata.Saw(stranger, 3)}, nil},
		{[]metadata.Seen{metadata.Saw(account, 6)}, nil},
		{[]metadata.Seen{metadata.Saw(account, 5)}, metadata.ErrStale},
		{[]metadata.Seen{metadata.Saw(account, 8)}, metadata.ErrStale},
		{[]metadata.Seen{metadata.Saw(account, 7), metadata.Saw(stranger, 2)}, metadata.ErrStale},
		{[]metadata.Seen{metadata.Saw("999999999999", 1)}, metadata.ErrStale},
	} {
		if err := w.Record(t.Context(), recordOf("Encrypt"), nil, c.seen...); err != c.want {
			t.Errorf("Record that saw %v: %v, want %v", c.seen, err, c.want)
		}
		if c.want != nil {
			refused++
		}
	}
	closeWriter(t, w)
	if times, _ := logged(t, db.URL); len(times) != 8-refused+2 {
		t.Errorf("%d records in the log, want %d", len(times), 8-refused+2)
	}
}

// Stale records in a batch are refused; the others of the same batch go in.
func TestStaleRecordDoesNotHoldUpItsBatch(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	execSQL(t, db.URL, `INSERT INTO accounts (id, version, created_at) VALUES ($1, 7, now())`, account)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	release := lockStream(t, db.URL, w.Stream())
	var wg sync.WaitGroup
	wg.Go(func() { mustRecord(t, w, recordOf("InFlight")) })
	waitForLock(t, db.URL)
	for i := range 40 { // gather into one batch
		wg.Go(func() {
			var want error
			if i%2 == 1 {
				want = metadata.ErrStale
			}
			if err := w.Record(t.Context(), recordOf("Encrypt"), nil, metadata.Saw(account, 7-int64(i%2))); err != want {
				t.Errorf("Record that saw version %d: %v, want %v", 7-i%2, err, want)
			}
		})
	}
	release()
	wg.Wait()
	closeWriter(t, w)
	if times, _ := logged(t, db.URL); len(times) != 20+3 {
		t.Errorf("%d records in the log, want 23", len(times))
	}
}

// The versions and the head are compared in one snapshot: a change counts from
// its commit, not before.
func TestChangeCountsFromItsCommit(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	execSQL(t, db.URL, `INSERT INTO accounts (id, version, created_at) VALUES ($1, 1, now())`, account)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	for version := int64(1); version <= 20; version++ {
		tx, err := w.Pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `UPDATE accounts SET version = version + 1 WHERE id = $1`, account); err != nil {
			t.Fatal(err)
		}
		if err := w.Record(t.Context(), recordOf("Before"), nil, metadata.Saw(account, version)); err != nil {
			t.Errorf("Record before the change commits: %v", err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Record(t.Context(), recordOf("After"), nil, metadata.Saw(account, version)); err != metadata.ErrStale {
			t.Errorf("Record after the change committed: %v, want ErrStale", err)
		}
		if err := w.Record(t.Context(), recordOf("After"), nil, metadata.Saw(account, version+1)); err != nil {
			t.Errorf("Record decided again: %v", err)
		}
	}
}

// Once the statement that stores a batch has begun, it stands at the head's lock
// with its snapshot; a head that moved meanwhile must be seen all the same.
func TestHeadThatMovesWhileABatchWaitsIsSeen(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	was := w.Stream()
	tx, err := w.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE audit_streams SET number = 9, seq = 9 WHERE id = $1`, was.String()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Record(t.Context(), recordOf("Encrypt"), nil) }()
	waitForLock(t, db.URL)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if w.Stream() == was {
		t.Error("the record went into the stream whose head had moved")
	}
	report, err := w.Log().Verify(t.Context(), was)
	if err != nil || report.Batches != 1 || len(report.Faults) != 1 || report.Faults[0].Problem != audit.HeadWrong {
		t.Errorf("Verify of the old stream = %+v, %v, want one batch and HeadWrong", report, err)
	}
}
