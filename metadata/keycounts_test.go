package metadata_test

import (
	"context"
	"errors"
	"testing"

	"kmsgate/metadata"
	"kmsgate/policy"
)

// insertLimited adds a key of a service, or of a customer, unless the account has
// limit keys.
func insertLimited(ctx context.Context, s *metadata.Store, service string, limit int) error {
	k, m := newKey(account)
	k.Service = service
	return s.Change(ctx, nil, func(tx *metadata.Tx) ([]byte, error) {
		if err := tx.InsertKey(ctx, k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil); err != nil {
			return nil, err
		}
		return []byte(`{}`), tx.LimitKeys(ctx, account, region, limit)
	})
}

func (f fixture) wantKeys(t *testing.T, owner, in string, want int64) {
	t.Helper()
	if n, err := f.KeyCount(t.Context(), owner, in); err != nil || n != want {
		t.Errorf("%s has %d keys in %s, %v; want %d", owner, n, in, err, want)
	}
}

func TestLimitOfKeysHoldsWhenChangesRace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stores := []*metadata.Store{f.Store, f.database.Open(t, nil)}
	const limit = 20
	if got := race(t, limit+10, func(i int) error { return insertLimited(t.Context(), stores[i%2], "", limit) }); got != limit {
		t.Errorf("%d keys were made, want %d", got, limit)
	}
	f.wantKeys(t, account, region, limit)
	f.wantKeys(t, account, "elsewhere", 0)
	f.wantKeys(t, stranger, region, 0)
	if err := insertLimited(t.Context(), f.Store, "storage", limit+1); err != nil {
		t.Errorf("a service's key is not outside of the limit: %v", err)
	}
	f.wantKeys(t, account, region, limit)
}

// TestMakersOfKeysDoNotWait makes a key while another is not committed yet: far from
// the limit nobody waits for anybody.
func TestMakersOfKeysDoNotWait(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.database.Open(t, nil)
	undone := errors.New("undone")
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		k, m := newKey(account)
		if err := tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil); err != nil {
			return err
		}
		if err := tx.LimitKeys(t.Context(), account, region, metadata.MaxKeys); err != nil {
			return err
		}
		for range 3 { // each would wait for ever for this change
			if err := insertLimited(t.Context(), other, "", metadata.MaxKeys); err != nil {
				return err
			}
		}
		return undone
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	f.wantKeys(t, account, region, 3)
}
