package integration_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/pgserver"
)

// databaseURL is what the gateway's configuration says.
func (i *instance) databaseURL(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(i.config())
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^ +url: "?(postgres:[^"\n]+)"?$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no URL of a database in\n%s", text)
	}
	return string(found[1])
}

// connect connects to a gateway's database.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) }) // the server may be gone
	return conn
}

// awaitTakenUp waits until the gateway has finished the streams of all runs before
// its own.
func (i *instance) awaitTakenUp(t testing.TB) {
	t.Helper()
	conn := connect(t, i.databaseURL(t))
	eventually(t, "the end of the streams of dead runs", func() bool {
		var open, waiting int
		err := conn.QueryRow(t.Context(), `
			SELECT (SELECT count(*) FROM audit_streams WHERE NOT ended), (SELECT count(*) FROM audit_outbox)`).Scan(&open, &waiting)
		if err != nil {
			t.Fatal(err)
		}
		return open == 1 && waiting == 0
	})
}

// storedLog is a gateway's audit log, read from its database while it does not run.
type storedLog struct {
	*metadata.AuditLog
	conn    *pgx.Conn
	records [][]byte
}

// openLog starts the Postgres of a gateway that has stopped and reads its log.
func openLog(t testing.TB, i *instance) *storedLog {
	t.Helper()
	server, err := pgserver.Start(t.Context(), pgserver.Config{Dir: filepath.Join(i.dir, "postgres"), Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return readLog(t, server.URL("kmsgate"))
}

// readLog reads the log in a database.
func readLog(t testing.TB, url string) *storedLog {
	t.Helper()
	log, err := metadata.OpenAuditLog(t.Context(), metadata.Config{URL: url, Instance: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	l := &storedLog{AuditLog: log, conn: connect(t, url)}
	const page = 1000
	for cursor := (metadata.AuditCursor{}); ; {
		records, next, err := log.Records(t.Context(), cursor, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			l.records = append(l.records, r.Event)
		}
		if cursor = next; len(records) < page {
			return l
		}
	}
}

// wantWhole wants the chain of every stream to verify, every stream to have ended,
// and nothing to wait for its place.
func (l *storedLog) wantWhole(t testing.TB) {
	t.Helper()
	streams, err := l.Streams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		report, err := l.Verify(t.Context(), s.Head.Stream)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Faults {
			t.Errorf("stream %v, batch %d: %v: %s", s.Head.Stream, f.Number, f.Problem, f.Detail)
		}
		if !s.Ended {
			t.Errorf("stream %v has not ended", s.Head.Stream)
		}
	}
	waiting, err := l.Outbox(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(waiting) > 0 {
		t.Errorf("%d records wait in the outbox after the gateway has stopped, want none: %s", len(waiting), waiting[0].Event)
	}
	t.Logf("%d records in %d streams", len(l.records), len(streams))
}

// wantOnce wants every request that was answered to be on record, once, under its
// operation; and no record twice.
func (l *storedLog) wantOnce(t testing.TB, books []*book) {
	t.Helper()
	operations, events := map[string][]string{}, map[string]int{}
	for _, r := range l.records {
		var e event
		if err := json.Unmarshal(r, &e); err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		events[e.EventID]++
		if e.RequestID != "" {
			operations[e.RequestID] = append(operations[e.RequestID], e.EventName)
		}
	}
	answers := 0
	for _, b := range books {
		for id, operation := range b.answers {
			answers++
			if got := operations[id]; len(got) != 1 || got[0] != operation {
				t.Errorf("%s, request %s, was answered: on record are %q, want it once", operation, id, got)
			}
		}
	}
	for id, n := range events {
		if n != 1 {
			t.Errorf("event %s is on record %d times, want once", id, n)
		}
	}
	t.Logf("%d requests were answered", answers)
}

// wantUsesCounted wants the use counts of materials to be what the records say.
func (l *storedLog) wantUsesCounted(t testing.TB) {
	t.Helper()
	type uses struct{ Encryptions, Decryptions int64 }
	want := map[string]uses{}
	for _, r := range l.records {
		told, err := audit.UsesOf(r)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		for _, u := range told {
			if u.Encryptions+u.Decryptions == 0 {
				continue
			}
			name := u.Region + " " + u.KeyID + " " + hex.EncodeToString(u.MaterialID[:])
			sum := want[name]
			want[name] = uses{sum.Encryptions + u.Encryptions, sum.Decryptions + u.Decryptions}
		}
	}
	rows, err := l.conn.Query(t.Context(), `SELECT region || ' ' || key_id || ' ' || encode(material_id, 'hex'), encryptions, decryptions FROM material_uses`)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uses{}
	var name string
	var u uses
	if _, err := pgx.ForEachRow(rows, []any{&name, &u.Encryptions, &u.Decryptions}, func() error {
		got[name] = u
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("use counts, records against table (-records +table):\n%s", diff)
	}
	t.Logf("uses of %d materials", len(want))
}
