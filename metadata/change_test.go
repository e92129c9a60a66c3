package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"kmsgate/metadata"
)

func TestErrorUndoesTheWholeChange(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	refusal := errors.New("no")
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		if err := tx.SetDescription(t.Context(), region, account, id, "half"); err != nil {
			return err
		}
		return refusal
	})
	if !errors.Is(err, refusal) {
		t.Errorf("Change = %v, want fn's error", err)
	}
	if got := key(t, f.Store, id).Description; got == "half" {
		t.Error("a change whose function failed was made")
	}
}

func TestChangeWithoutARecordIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	err := f.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return nil, tx.SetDescription(t.Context(), region, account, id, "unrecorded")
	})
	if err == nil || key(t, f.Store, id).Description == "unrecorded" {
		t.Errorf("Change without a record = %v, want an error and nothing done", err)
	}
}

// TestChangeIsRecordedForAllWhomItConcerns, once: what a try that was undone has
// recorded is undone with it.
func TestChangeIsRecordedForAllWhomItConcerns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, second := []byte(`{"for":"one"}`), []byte(`{"for":"another"}`)
	for _, refusal := range []error{errors.New("no"), nil} {
		err := f.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
			tx.AlsoRecord(second)
			return first, refusal
		})
		if !errors.Is(err, refusal) {
			t.Fatalf("Change = %v, want %v", err, refusal)
		}
	}
	eventually(t, "both records are in the log", func() bool {
		records, _, err := f.AuditLog().Last(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, r := range records {
			count[string(r.Event)]++
		}
		return count[string(first)] == 1 && count[string(second)] == 1
	})
}

func TestDeadlockedChangeIsRunAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ids := []string{f.insertKey(t, account), f.insertKey(t, account)}
	var both sync.WaitGroup // has each hold one row before it wants the other's
	both.Add(2)
	var runs atomic.Int32
	errs := make(chan error, 2)
	for i := range 2 {
		go func() {
			met := false
			errs <- f.try(t.Context(), func(tx *metadata.Tx) error {
				runs.Add(1)
				if err := tx.SetDescription(t.Context(), region, account, ids[i], "x"); err != nil {
					return err
				}
				if !met {
					met = true
					both.Done()
					both.Wait()
				}
				return tx.SetDescription(t.Context(), region, account, ids[1-i], "x")
			})
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Errorf("Change = %v", err)
		}
	}
	// Postgres ends one of the two, or both if they notice at the same time.
	if got := runs.Load(); got < 3 {
		t.Errorf("the functions ran %d times, want at least 3", got)
	}
}

// race runs n changes at once and returns how many succeeded; the others must
// fail with ErrLimit.
func race(t *testing.T, n int, change func(i int) error) int {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- change(i) }()
	}
	done := 0
	for range n {
		err := <-errs
		if err == nil {
			done++
		} else if !errors.Is(err, metadata.ErrLimit) {
			t.Errorf("change = %v, want success or ErrLimit", err)
		}
	}
	return done
}

func TestLimitsHoldWhenChangesRace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stores := []*metadata.Store{f.Store, f.database.Open(t, nil)}
	id, elsewhere := f.insertKey(t, account), f.insertKey(t, account)
	change := func(i int, do func(context.Context, *metadata.Tx) error) error {
		return stores[i%2].Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) { return []byte(`{}`), do(t.Context(), tx) })
	}
	if got := race(t, metadata.MaxAliases+10, func(i int) error {
		return change(i, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.InsertAlias(ctx, metadata.Alias{Account: account, Region: region, Name: aliasName(i), KeyID: id, CreatedAt: noon}, metadata.MaxAliases)
		})
	}); got != metadata.MaxAliases {
		t.Errorf("%d aliases were added, want %d", got, metadata.MaxAliases)
	}
	if got := race(t, metadata.MaxTags+10, func(i int) error {
		return change(i, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.UpsertTags(ctx, region, account, id, []metadata.Tag{{Key: fmt.Sprint(i)}})
		})
	}); got != metadata.MaxTags {
		t.Errorf("%d tags were added, want %d", got, metadata.MaxTags)
	}
	f.insertAlias(t, account, "alias/z", elsewhere)
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		return tx.UpdateAlias(t.Context(), metadata.Alias{Account: account, Region: region, Name: "alias/z", KeyID: id, UpdatedAt: noon}, metadata.MaxAliases)
	})
	if !errors.Is(err, metadata.ErrLimit) {
		t.Errorf("UpdateAlias to a full key = %v, want ErrLimit", err)
	}
}
