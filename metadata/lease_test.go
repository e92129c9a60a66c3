package metadata_test

import (
	"errors"
	"testing"
	"time"

	"kmsgate/metadata"
)

func TestWithoutLeaseAStaleDecisionIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	s := f.unleased(t)
	key(t, s, id)
	f.disable(t, id)

	stale := s.View()
	if e, err := stale.Key(t.Context(), region, id); err != nil || e.State != metadata.Enabled {
		t.Fatalf("Key = %v, %v, want the cached one", e, err)
	}
	if err := record(s, t, stale); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record = %v, want ErrStale", err)
	}
	fresh := s.View()
	if e, err := fresh.Key(t.Context(), region, id); err != nil || e.State != metadata.Disabled {
		t.Errorf("Key after ErrStale = %v, %v, want a fresh one", e, err)
	}
	if err := record(s, t, fresh); err != nil {
		t.Errorf("Record of a fresh decision = %v", err)
	}
}

func TestWithoutLeaseAStaleChangeIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	s := f.unleased(t)
	key(t, s, id)
	f.disable(t, id)
	enable := func(v *metadata.View) error {
		return s.Change(t.Context(), v, func(tx *metadata.Tx) ([]byte, error) {
			return []byte(`{}`), tx.SetDescription(t.Context(), region, account, id, "changed")
		})
	}
	stale := s.View()
	if _, err := stale.Key(t.Context(), region, id); err != nil {
		t.Fatal(err)
	}
	if err := enable(stale); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Change = %v, want ErrStale", err)
	}
	if got := key(t, f.Store, id).Description; got == "changed" {
		t.Error("a change that was refused as stale was made")
	}
	fresh := s.View()
	if _, err := fresh.Key(t.Context(), region, id); err != nil {
		t.Fatal(err)
	}
	if err := enable(fresh); err != nil {
		t.Errorf("Change on a fresh view = %v", err)
	}
}

func TestLeaseCoversADecision(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, clock := f.openWithClock(t)
	conn := connect(t, f)
	id := f.insertKey(t, account)
	decide := func() *metadata.View {
		v := s.View()
		if _, err := v.Key(t.Context(), region, id); err != nil {
			t.Fatal(err)
		}
		return v
	}
	eventually(t, "a lease", s.Leased)
	v := decide()
	f.disable(t, id)
	if err := record(s, t, v); err != nil {
		t.Errorf("Record within the lease that it was decided under = %v", err)
	}
	now := version(t, conn, account)
	eventually(t, "the notice", func() bool { return s.Noticed(account) >= now })

	clock.advance(time.Second) // that lease is over
	eventually(t, "a new lease", s.Leased)
	if err := record(s, t, v); !errors.Is(err, metadata.ErrStale) {
		t.Errorf("Record of a decision from before a change, under a later lease = %v, want ErrStale", err)
	}
	v = decide()
	clock.advance(time.Second)
	eventually(t, "a new lease", s.Leased)
	if err := record(s, t, v); err != nil {
		t.Errorf("Record of a decision that nothing overtook, under a later lease = %v", err)
	}
}
