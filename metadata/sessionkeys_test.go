package metadata_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/metadata"
)

func TestSessionKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if keys, err := f.SessionKeys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("SessionKeys of nothing = %v, %v", keys, err)
	}
	newSessionKey := func(id int32, expires time.Duration) metadata.SessionKey {
		return metadata.SessionKey{ID: id, Store: keyStore, Sealed: []byte{byte(id)}, CreatedAt: noon, ExpiresAt: noon.Add(expires)}
	}
	first, second, third := newSessionKey(1, time.Hour), newSessionKey(2, 2*time.Hour), newSessionKey(3, 0)
	for _, k := range []metadata.SessionKey{first, second, third} {
		f.change(t, func(tx *metadata.Tx) error { return tx.InsertSessionKey(t.Context(), k) })
	}
	err := f.try(t.Context(), func(tx *metadata.Tx) error { return tx.InsertSessionKey(t.Context(), newSessionKey(2, time.Hour)) })
	if !errors.Is(err, metadata.ErrExists) {
		t.Errorf("InsertSessionKey of an id that is taken = %v, want ErrExists", err)
	}
	wantKeys := func(want ...metadata.SessionKey) {
		t.Helper()
		keys, err := f.SessionKeys(t.Context())
		if diff := cmp.Diff(want, keys); err != nil || diff != "" {
			t.Errorf("SessionKeys: %v (-want +got):\n%s", err, diff)
		}
	}
	wantKeys(third, second, first)
	f.change(t, func(tx *metadata.Tx) error {
		if n, err := tx.DeleteSessionKeys(t.Context(), noon.Add(time.Hour+time.Second)); err != nil || n != 1 {
			t.Errorf("DeleteSessionKeys = %d, %v, want the one that is over and not the newest", n, err)
		}
		return nil
	})
	wantKeys(third, second)
}
