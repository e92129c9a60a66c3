package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kmsgate/metadata"
	"kmsgate/policy"
)

// connect opens a connection of the test's own.
func connect(t *testing.T, f fixture) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.database.URL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// version is an account's version in the database.
func version(t *testing.T, conn *pgx.Conn, account string) (v int64) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "SELECT version FROM accounts WHERE id = $1", account).Scan(&v); err != nil {
		t.Fatalf("version of %s: %v", account, err)
	}
	return v
}

// shiftedClock runs with the real one, ahead of it by what a test says.
type shiftedClock struct{ ahead atomic.Int64 }

func (c *shiftedClock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *shiftedClock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func (f fixture) openWithClock(t *testing.T) (*metadata.Store, *shiftedClock) {
	t.Helper()
	clock := new(shiftedClock)
	return f.database.Open(t, func(c *metadata.Config) { c.Clock = clock.now }), clock
}

// unleased is a further store that has stopped listening and whose lease is over.
func (f fixture) unleased(t *testing.T) *metadata.Store {
	t.Helper()
	s, clock := f.openWithClock(t)
	eventually(t, "a lease", s.Leased)
	s.StopListening()
	clock.advance(time.Second)
	if s.Leased() {
		t.Fatal("the lease holds a second after the last heartbeat was sent")
	}
	return s
}

func record(s *metadata.Store, t *testing.T, v *metadata.View) error {
	return s.Record(t.Context(), v, metadata.Record{Event: []byte(`{}`)})
}

func TestHitsMakeNoQuery(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	f.insertAlias(t, account, "alias/a", id)
	f.insertAccessKey(t, account, accessKey)
	s := f.unleased(t) // nothing else asks for connections but the keeper's sweeps
	look := func() {
		v := s.View()
		_, err1 := v.Key(t.Context(), region, id)
		_, err2 := v.Alias(t.Context(), account, region, "alias/a")
		_, err3 := v.AccessKey(t.Context(), accessKey)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
	}
	look()
	before := s.Queries()
	for range 1000 {
		look()
	}
	if made := s.Queries() - before; made > 100 {
		t.Errorf("3000 look-ups made %d queries, want none of their own", made)
	}
}

func TestChangeReachesTheOtherStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	other := f.database.Open(t, nil)
	first, second := f.insertKey(t, account), f.insertKey(t, account)
	f.insertAlias(t, account, "alias/a", first)
	eventually(t, "a lease", other.Leased)

	if got := key(t, other, first); got.State != metadata.Enabled {
		t.Fatalf("State = %s, want Enabled", got.State)
	}
	f.disable(t, first)
	eventually(t, "DisableKey is seen", func() bool { return key(t, other, first).State == metadata.Disabled })

	document := policy.DefaultKeyPolicy(stranger)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.PutPolicy(ctx, region, account, first, metadata.KeyPolicy{Document: document})
	})
	eventually(t, "PutKeyPolicy is seen", func() bool { return key(t, other, first).PolicyDocument == document })

	points := func(to string) bool {
		a, err := other.View().Alias(ctx, account, region, "alias/a")
		return err == nil && a.KeyID == to
	}
	if !points(first) {
		t.Fatal("alias/a does not point to the first key")
	}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.UpdateAlias(ctx, metadata.Alias{Account: account, Region: region, Name: "alias/a", KeyID: second, UpdatedAt: noon}, metadata.MaxAliases)
	})
	eventually(t, "UpdateAlias is seen", func() bool { return points(second) })

	if _, err := other.View().AccessKey(ctx, accessKey); !errors.Is(err, metadata.ErrNotFound) {
		t.Fatalf("AccessKey = %v, want ErrNotFound", err)
	}
	f.insertAccessKey(t, account, accessKey)
	eventually(t, "a new access key is seen", func() bool {
		_, err := other.View().AccessKey(ctx, accessKey)
		return err == nil
	})
}

func TestOwnChangeHoldsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.StopListening() // no notice helps
	if _, err := f.View().AccessKey(t.Context(), accessKey); !errors.Is(err, metadata.ErrNotFound) {
		t.Fatalf("AccessKey = %v, want ErrNotFound", err)
	}
	f.insertAccessKey(t, account, accessKey)
	if _, err := f.View().AccessKey(t.Context(), accessKey); err != nil {
		t.Errorf("AccessKey after InsertAccessKey = %v", err)
	}
	id := f.insertKey(t, account)
	for i := range 20 {
		want := fmt.Sprint("description ", i)
		f.change(t, func(tx *metadata.Tx) error { return tx.SetDescription(t.Context(), region, account, id, want) })
		if got := key(t, f.Store, id).Description; got != want {
			t.Fatalf("Description = %q, want %q", got, want)
		}
	}
}

func TestRacingFillIsThrownAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	conn := connect(t, f)
	id := f.insertKey(t, account)
	eventually(t, "a lease", other.Leased)

	for name, s := range map[string]*metadata.Store{"own change": f.Store, "another's change": other} {
		kept, err := s.SlowFill(t.Context(), region, id, func() {
			f.change(t, func(tx *metadata.Tx) error { return tx.SetDescription(t.Context(), region, account, id, name) })
			now := version(t, conn, account)
			eventually(t, "the notice", func() bool { return s.Noticed(account) >= now })
		})
		if err != nil || kept {
			t.Errorf("%s: a fill that it overtook was kept (%v)", name, err)
		}
		if got := key(t, s, id).Description; got != name {
			t.Errorf("%s: Description = %q after it", name, got)
		}
		if !s.Caches(region, id) {
			t.Errorf("%s: a fill that nothing overtook was not kept", name)
		}
	}
}

func TestRacingAbsenceIsThrownAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	err := f.SlowAbsence(t.Context(), accessKey, func() { f.insertAccessKey(t, account, accessKey) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.View().AccessKey(t.Context(), accessKey); err != nil {
		t.Errorf("AccessKey = %v after it was inserted", err)
	}
}

func TestFillAcrossANewListeningConnectionIsThrownAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, witness := f.insertKey(t, account), f.insertKey(t, stranger)
	eventually(t, "a lease", f.Leased)
	key(t, f.Store, witness)
	kept, err := f.SlowFill(t.Context(), region, id, func() {
		terminateListeners(t, f)
		eventually(t, "the cache is dropped", func() bool { return !f.Caches(region, witness) })
	})
	if err != nil || kept {
		t.Errorf("kept = %v, %v, want a fill that was not watched to be thrown away", kept, err)
	}
}

// terminateListeners ends the listening connections of a fixture's stores.
func terminateListeners(t *testing.T, f fixture) {
	t.Helper()
	tag, err := connect(t, f).Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'kmsgate listen'`)
	if err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("terminate listeners: %v, %v", tag, err)
	}
}

func TestLostListeningConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, clock := f.openWithClock(t)
	id := f.insertKey(t, account)
	eventually(t, "a lease", s.Leased)
	key(t, s, id)
	terminateListeners(t, f)
	clock.advance(time.Second)
	eventually(t, "a new lease", s.Leased)
	if s.Caches(region, id) {
		t.Error("what was cached before the connection was lost is trusted after it")
	}
	key(t, s, id)
	f.disable(t, id)
	eventually(t, "a change is seen again", func() bool { return key(t, s, id).State == metadata.Disabled })
}

func TestGapDropsTheAccount(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.StopListening()
	mine, strangers := f.insertKey(t, account), f.insertKey(t, stranger)
	fill := func() int64 {
		v := f.View()
		for _, id := range []string{mine, strangers} {
			if _, err := v.Key(t.Context(), region, id); err != nil {
				t.Fatal(err)
			}
		}
		return v.Saw(account)
	}
	for _, c := range []struct {
		name    string
		notice  func(now int64) string
		dropped bool
	}{
		{"the next version, another key", func(now int64) string {
			return fmt.Sprintf(`{"a":%q,"v":%d,"t":[{"k":"key","r":%q,"i":"other"}]}`, account, now+1, region)
		}, false},
		{"an old version", func(now int64) string {
			return fmt.Sprintf(`{"a":%q,"v":%d,"t":[{"k":"key","r":%q,"i":%q}]}`, account, now, region, mine)
		}, false},
		{"a gap", func(now int64) string {
			return fmt.Sprintf(`{"a":%q,"v":%d,"t":[{"k":"key","r":%q,"i":"other"}]}`, account, now+2, region)
		}, true},
		{"a kind of a newer release", func(now int64) string {
			return fmt.Sprintf(`{"a":%q,"v":%d,"t":[{"k":"grant","i":"g"}]}`, account, now+1)
		}, true},
		{"no target", func(now int64) string { return fmt.Sprintf(`{"a":%q,"v":%d}`, account, now+1) }, true},
	} {
		// The database's version follows, so that the next fill is not void.
		if err := f.Notice(c.notice(fill())); err != nil {
			t.Fatal(err)
		}
		if got := !f.Caches(region, mine); got != c.dropped {
			t.Errorf("%s: dropped = %v, want %v", c.name, got, c.dropped)
		}
		if !f.Caches(region, strangers) {
			t.Errorf("%s: a key of another account was dropped", c.name)
		}
		_, err := connect(t, f).Exec(t.Context(), "UPDATE accounts SET version = $2 WHERE id = $1", account, f.Noticed(account))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnreadableNoticeDropsEverything(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	eventually(t, "a lease", f.Leased)
	key(t, f.Store, id)
	if _, err := connect(t, f).Exec(t.Context(), "NOTIFY kmsgate, 'what?'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cache is dropped", func() bool { return !f.Caches(region, id) })
}

func TestCreateKeyNeitherRaisesNorNotifies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	conn, listening := connect(t, f), connect(t, f)
	if _, err := listening.Exec(t.Context(), "LISTEN kmsgate"); err != nil {
		t.Fatal(err)
	}
	before := version(t, conn, account)
	id := f.insertKey(t, account)
	if got := version(t, conn, account); got != before {
		t.Errorf("InsertKey raised the account's version from %d to %d", before, got)
	}
	f.disable(t, id)
	if got := version(t, conn, account); got != before+1 {
		t.Errorf("SetKeyState raised the account's version from %d to %d, want by one", before, got)
	}
	want := fmt.Sprintf(`{"a" : "%s", "v" : %d, "t" : [{"k":"key","r":"%s","i":"%s"}]}`, account, before+1, region, id)
	for {
		n, err := listening.WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n.Payload[:4] == `{"s"` {
			continue // a heartbeat
		}
		if n.Payload != want {
			t.Errorf("first notice = %s, want %s", n.Payload, want)
		}
		return
	}
}

func TestChangeOfManyThingsNotifiesThatAnythingChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	id := f.insertKey(t, account)
	eventually(t, "a lease", other.Leased)
	key(t, other, id)
	f.change(t, func(tx *metadata.Tx) error {
		for i := range 200 {
			if err := tx.InsertAccessKey(t.Context(), newAccessKey(account, fmt.Sprintf("AKIAIOSFODNN7EXAM%03d", i))); err != nil {
				return err
			}
		}
		return nil
	})
	eventually(t, "everything of the account is dropped", func() bool { return !other.Caches(region, id) })
}

func TestValueThatKeepsMovingIsUsedAndNotCached(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.StopListening()
	id := f.insertKey(t, account)
	if err := f.Notice(fmt.Sprintf(`{"a":%q,"v":1000}`, account)); err != nil { // ahead of every fill
		t.Fatal(err)
	}
	v := f.View()
	if e, err := v.Key(t.Context(), region, id); err != nil || e.ID != id {
		t.Errorf("Key = %v, %v", e, err)
	}
	if got := v.Saw(account); got == 0 || got >= 1000 {
		t.Errorf("the view rests on version %d, want what was read", got)
	}
	if f.Caches(region, id) {
		t.Error("what a later version was noticed of is cached")
	}
}

func TestViewRestsOnTheOldestOfItsReads(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.unleased(t)
	first, second := f.insertKey(t, account), f.insertKey(t, account)
	key(t, s, first)
	f.disable(t, second)
	v := s.View()
	for _, id := range []string{second, first} {
		if _, err := v.Key(t.Context(), region, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := record(s, t, v); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record of a decision that an old read is part of = %v, want ErrStale", err)
	}
}
