package metadata_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"os"
	"path/filepath"
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
	"kmsgate/metadata/pgserver"
)

func TestAcknowledgedRecordsSurviveKilledBackends(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{Keep: true, SweepEvery: 20 * time.Millisecond, FoldEvery: 10 * time.Millisecond})
	const callers, each, least = 8, 60, 5
	var acknowledged, refused sync.Map
	var answers, kills atomic.Int64
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			// However slow the killer is: they go on until it has done its part.
			for i := 0; i < each || kills.Load() < least && t.Context().Err() == nil; i++ {
				event := recordOf("Encrypt")
				err := recordOrChange(t, w, event, caller%4 == 0, i%3 > 0)
				answers.Add(1)
				if err == nil {
					acknowledged.Store(string(event), nil)
				} else {
					refused.Store(string(event), err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	killBackends(t, db.URL, &answers, &kills, done)
	closeWriter(t, w)
	heir := openWriter(t, db.URL, metadata.WriterOptions{Instance: "heir"})
	sweep(t, heir)
	closeWriter(t, heir)
	times, _ := logged(t, db.URL)
	n := 0
	acknowledged.Range(func(event, _ any) bool {
		n++
		if got := times[event.(string)]; got != 1 {
			t.Errorf("an acknowledged record is in the log %d times", got)
		}
		return true
	})
	refused.Range(func(event, err any) bool {
		if got := times[event.(string)]; got > 1 {
			t.Errorf("a record that was refused (%v) is in the log %d times", err, got)
		}
		return true
	})
	if all := int(answers.Load()); n < all*3/4 {
		t.Errorf("only %d of %d records were acknowledged", n, all)
	}
}

// recordOrChange records, or commits a change and, maybe, forgets to say so.
func recordOrChange(t *testing.T, w *metadata.Writer, event []byte, change, report bool) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if !change {
		return w.Record(ctx, event, nil)
	}
	row, err := w.InsertOutbox(ctx, event)
	if err == nil && report {
		w.Committed(row)
	}
	return err
}

// killBackends ends the connections of the database's clients after every few
// answers.
func killBackends(t *testing.T, url string, answers, kills *atomic.Int64, done <-chan struct{}) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for last := int64(0); ; {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
		}
		if answers.Load() < last+20 {
			continue
		}
		last = answers.Load()
		var n int64
		err := conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'kmsgate'`).Scan(&n)
		if err != nil {
			t.Error(err)
			kills.Store(math.MaxInt32) // nobody waits for more
			<-done
			return
		}
		kills.Add(n)
	}
}

// faultyNet makes connections that break at the next batch that is sent.
type faultyNet struct {
	mode atomic.Int32
	hits atomic.Int32
}

const (
	healthy      = iota
	loseQuestion // the batch is not sent
	loseAnswer   // the batch is sent and the answer not read
	hang         // the batch is sent, and the server's process is left alone with it
)

func (n *faultyNet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	return &faultyConn{Conn: c, net: n}, err
}

type faultyConn struct {
	net.Conn
	net    *faultyNet
	broken atomic.Bool
}

var errCable = errors.New("somebody pulled the cable")

func (c *faultyConn) Write(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, errCable
	}
	if !bytes.Contains(b, []byte(account)) { // which only batches name here
		return c.Conn.Write(b)
	}
	mode := c.net.mode.Swap(healthy)
	if mode == healthy {
		return c.Conn.Write(b)
	}
	c.net.hits.Add(1)
	c.broken.Store(true)
	if mode != loseQuestion {
		if _, err := c.Conn.Write(b); err != nil {
			return 0, err
		}
	}
	if mode != hang {
		time.Sleep(20 * time.Millisecond) // the server may or may not be through
		c.Conn.Close()
	}
	if mode == loseQuestion {
		return 0, errCable
	}
	return len(b), nil
}

func (c *faultyConn) Read(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, errCable
	}
	return c.Conn.Read(b)
}

func (c *faultyConn) Close() error {
	if c.broken.Load() {
		return nil // the server hears nothing of it
	}
	return c.Conn.Close()
}

func TestLostQuestionsAndAnswersAreSettled(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]int32{"question": loseQuestion, "answer": loseAnswer, "both sides": hang} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := metadatatest.NewDatabase(t)
			var faults faultyNet
			execSQL(t, db.URL, `INSERT INTO accounts (id, created_at) VALUES ($1, now())`, account)
			w := openWriter(t, db.URL, metadata.WriterOptions{Dial: faults.dial})
			for i := range 5 {
				faults.mode.Store(mode)
				if err := w.Refuse(t.Context(), recordOf("Encrypt"), newRefusal(noon), metadata.Saw(account, 1)); err != nil {
					t.Fatalf("Record: %v", err)
				}
				if got := faults.hits.Load(); got != int32(i+1) {
					t.Fatalf("%d faults, want %d", got, i+1)
				}
			}
			closeWriter(t, w)
			times, streams := logged(t, db.URL)
			if len(streams) != 1 || len(times) != 7 {
				t.Errorf("%d streams, %d records, want 1 and 7", len(streams), len(times))
			}
			if kept := execSQL(t, db.URL, `DELETE FROM refusals`); kept != 5 {
				t.Errorf("%d refusals are kept, want 5", kept)
			}
			for r, n := range times {
				if n != 1 {
					t.Errorf("record %s is in the log %d times", r, n)
				}
			}
		})
	}
}

func TestMovedHeadBeginsANewStream(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]string{
		"moved on":    `UPDATE audit_streams SET number = number + 1, seq = seq + 1 WHERE id = $1`,
		"moved back":  `UPDATE audit_streams SET number = number - 1 WHERE id = $1`,
		"another":     `UPDATE audit_streams SET hash = decode(repeat('ab', 32), 'hex') WHERE id = $1`,
		"ended":       `UPDATE audit_streams SET ended = true WHERE id = $1`,
		"disappeared": `WITH f AS (DELETE FROM audit_folds WHERE stream = $1) DELETE FROM audit_streams WHERE id = $1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := metadatatest.NewDatabase(t)
			w := openWriter(t, db.URL, metadata.WriterOptions{})
			mustRecord(t, w, recordOf("Before"))
			was := w.Stream()
			if name == "disappeared" { // in one statement the reference would be looked at too late
				execSQL(t, db.URL, `DELETE FROM audit_folds WHERE stream = $1`, uuid.UUID(was))
			}
			if n := execSQL(t, db.URL, move, uuid.UUID(was)); n != 1 {
				t.Fatalf("moved %d heads", n)
			}
			mustRecord(t, w, recordOf("After"))
			mustRecord(t, w, recordOf("Later"))
			if w.Stream() == was {
				t.Fatal("the stream is the same as before")
			}
			log := openLog(t, db.URL)
			report, err := log.Verify(t.Context(), w.Stream())
			if err != nil || len(report.Faults) > 0 || report.Head.Seq != 3 {
				t.Errorf("Verify = %+v, %v, want 3 records without a fault", report, err)
			}
			streams, err := log.Streams(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			newest := streams[len(streams)-1]
			want := was
			if name == "disappeared" {
				want = audit.StreamID{}
			}
			if newest.Head.Stream != w.Stream() || newest.Previous != want {
				t.Errorf("newest stream %+v, want %v after %v", newest, w.Stream(), want)
			}
			records, _, err := log.Last(t.Context(), 10)
			if err != nil {
				t.Fatal(err)
			}
			var told bool
			for _, r := range records {
				told = told || r.Stream == w.Stream() && r.Seq == 1 &&
					strings.Contains(string(r.Event), `"left":{"stream":"`+was.String()+`","number":2,"seq":2,`)
			}
			if !told {
				t.Error("the new stream does not begin with where the last one was left")
			}
		})
	}
}

func TestStreamThatWasTakenUpIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{Instance: "lost"})
	mustRecord(t, w, recordOf("Before"))
	was := w.Stream()
	row, err := w.InsertOutbox(t.Context(), recordOf("Change"))
	if err != nil {
		t.Fatal(err)
	}
	other := openWriter(t, db.URL, metadata.WriterOptions{Instance: "other"})
	execSQL(t, db.URL, `SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l
		JOIN pg_stat_activity AS a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND a.datname = current_database() AND l.pid <> $1`, backendOf(t, db.URL, other.Stream()))
	eventually(t, "the stream is taken up", func() bool {
		if err := other.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		streams, err := other.Log().Streams(t.Context())
		return err == nil && streams[0].Ended
	})
	w.Committed(row) // too late: the other has it
	mustRecord(t, w, recordOf("After"))
	if w.Stream() == was {
		t.Error("the writer goes on in a stream that was taken up")
	}
	times, streams := logged(t, db.URL)
	if len(streams) != 3 {
		t.Errorf("%d streams, want 3", len(streams))
	}
	for r, n := range times {
		if n != 1 {
			t.Errorf("record %s is in the log %d times", r, n)
		}
	}
	if len(times) != 6 {
		t.Errorf("%d records in the log, want 3 and 3 starts", len(times))
	}
}

// Whoever holds the lock of a stream is taking it up.
func TestStreamWhoseLockIsTakenIsLeft(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	was := w.Stream()
	heir, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close(context.WithoutCancel(t.Context()))
	backend := backendOf(t, db.URL, was)
	execSQL(t, db.URL, `SELECT pg_terminate_backend($1)`, backend)
	key := int64(binary.BigEndian.Uint64(was[:8]))
	if _, err := heir.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, key); err != nil {
		t.Fatal(err)
	}
	mustRecord(t, w, recordOf("After"))
	if w.Stream() == was {
		t.Error("the writer goes on in a stream that another one holds")
	}
	if err := heir.Ping(t.Context()); err != nil {
		t.Errorf("who held the lock was thrown out: %v", err)
	}
}

// backendOf is the process that holds the lock of a stream.
func backendOf(t *testing.T, url string, stream audit.StreamID) (pid int32) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	err = conn.QueryRow(t.Context(), `SELECT pid FROM pg_locks
		WHERE locktype = 'advisory' AND lpad(to_hex(classid::bigint), 8, '0') || lpad(to_hex(objid::bigint), 8, '0') = $1`,
		strings.ReplaceAll(stream.String(), "-", "")[:16]).Scan(&pid)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestMissingPartitionIsMade(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	var now atomic.Pointer[time.Time]
	start := time.Date(2027, 11, 30, 23, 59, 59, 0, time.UTC)
	now.Store(&start)
	clock := func() time.Time { return *now.Load() }
	w := openWriter(t, db.URL, metadata.WriterOptions{Clock: clock})
	mustRecord(t, w, recordOf("November"))
	for _, month := range []string{"2027_11", "2027_12"} {
		execSQL(t, db.URL, `SELECT * FROM audit_batches_`+month)
	}
	later := time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC) // nobody has made a partition for it
	now.Store(&later)
	mustRecord(t, w, recordOf("February"))
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	execSQL(t, db.URL, `DROP TABLE audit_batches_2028_03`)
	closeWriter(t, w)

	log, err := metadata.OpenAuditLog(t.Context(), metadata.Config{URL: db.URL, Instance: "x", AllowUnsafeDurability: true, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	report, err := log.Verify(t.Context(), w.Stream())
	if err != nil || len(report.Faults) > 0 || report.Head.Seq != 4 {
		t.Errorf("Verify = %+v, %v, want 4 records in two months without a fault", report, err)
	}
}

func TestInstancesMakePartitionsAtOnce(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { openWriter(t, db.URL, metadata.WriterOptions{}) })
	}
	wg.Wait()
}

func TestStoppedDatabaseIsSurvived(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("/tmp", "kmsgate-writer-"+uuid.NewString()[:8])
	t.Cleanup(func() { os.RemoveAll(dir) })
	start := func() *pgserver.Server {
		s, err := pgserver.Start(t.Context(), pgserver.Config{Dir: dir, Durable: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Stop() })
		return s
	}
	server := start()
	if err := metadata.Migrate(t.Context(), server.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	w := openWriter(t, server.URL("postgres"), metadata.WriterOptions{Keep: true, SweepEvery: 10 * time.Millisecond})
	before := recordOf("Before")
	mustRecord(t, w, before)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	late := recordOf("Late")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := w.Record(ctx, late, nil); !errors.Is(err, metadata.ErrUnavailable) {
		t.Errorf("Record without a database: %v, want ErrUnavailable", err)
	}
	patient := recordOf("Patient")
	answer := make(chan error, 1)
	go func() { answer <- w.Record(t.Context(), patient, nil) }()
	server = start()
	if err := <-answer; err != nil {
		t.Errorf("Record that waited for the database: %v", err)
	}
	closeWriter(t, w)
	times, _ := logged(t, server.URL("postgres"))
	if times[string(before)] != 1 || times[string(patient)] != 1 || times[string(late)] != 0 {
		t.Errorf("the records are in the log %d, %d and %d times, want 1, 1 and 0",
			times[string(before)], times[string(patient)], times[string(late)])
	}
}
