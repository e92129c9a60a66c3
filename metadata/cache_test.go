package metadata_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/metadata"
	"kmsgate/policy"
)

func TestCacheKeepsToItsEntries(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.database.Open(t, func(c *metadata.Config) { c.CacheEntries = 10 })
	eventually(t, "a lease", s.Leased) // it begins with an empty cache
	hot := f.insertKey(t, account)
	for range 40 {
		key(t, s, hot)
		key(t, s, f.insertKey(t, account))
		if entries, _, _, _ := s.CacheSize(); entries > 10 {
			t.Fatalf("%d entries, want at most 10", entries)
		}
		if !s.Caches(region, hot) {
			t.Fatal("a key that is used all the time was evicted")
		}
	}
	if entries, _, _, _ := s.CacheSize(); entries != 10 {
		t.Errorf("%d entries, want 10", entries)
	}
}

func TestCacheKeepsToItsBytes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const limit = 200_000
	s := f.database.Open(t, func(c *metadata.Config) { c.CacheBytes = limit })
	for i := range 30 {
		k, m := newKey(account)
		document := policy.DefaultKeyPolicy(account) + strings.Repeat(" ", 10_000+i)
		f.change(t, func(tx *metadata.Tx) error {
			return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: document}, nil)
		})
		key(t, s, k.ID)
		if _, bytes, _, _ := s.CacheSize(); bytes > limit {
			t.Fatalf("%d bytes, want at most %d", bytes, limit)
		}
	}
	if entries, _, policies, _ := s.CacheSize(); entries == 0 || entries == 30 || policies != entries {
		t.Errorf("%d entries with %d policies, want some evicted", entries, policies)
	}
}

func TestAccountsThatAreRememberedAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.database.Open(t, func(c *metadata.Config) { c.CacheEntries = 5 })
	s.StopListening()
	id := f.insertKey(t, account)
	kept, err := s.SlowFill(t.Context(), region, id, func() {
		for i := range 20 {
			if err := s.Notice(fmt.Sprintf(`{"a":"%012d","v":7}`, i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err != nil || kept {
		t.Errorf("kept = %v, %v, want a fill void whose account may have been forgotten", kept, err)
	}
	if _, _, _, accounts := s.CacheSize(); accounts > 5 {
		t.Errorf("%d accounts, want at most 5", accounts)
	}
	if got := key(t, s, id); got.ID != id {
		t.Errorf("Key = %v", got)
	}
}

func TestKeysWithOnePolicyShareIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a, b := key(t, f.Store, f.insertKey(t, account)), key(t, f.Store, f.insertKey(t, account))
	if a.Policy != b.Policy {
		t.Error("two keys with the same document have two compiled policies")
	}
	if _, _, policies, _ := f.CacheSize(); policies != 1 {
		t.Errorf("%d policies, want 1", policies)
	}
}

func TestPoliciesThatAreBoundDifferentlyAreNotShared(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	document := policy.DefaultKeyPolicy(account)
	insert := func(bindings map[string]string) *metadata.KeyEntry {
		k, m := newKey(account)
		f.change(t, func(tx *metadata.Tx) error {
			return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: document, Bindings: bindings}, nil)
		})
		return key(t, f.Store, k.ID)
	}
	insert(map[string]string{"arn": "AIDA1"})
	insert(map[string]string{"arn": "AIDA2"})
	insert(map[string]string{"arn": "AIDA1"})
	insert(nil)
	if _, _, policies, _ := f.CacheSize(); policies != 3 {
		t.Errorf("%d policies, want one for each of the three bindings", policies)
	}
}

func TestDamagedRowIsAnErrorAndNotAnAnswer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k, m := newKey(account)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: `{"Statement":`}, nil)
	})
	e, err := f.View().Key(t.Context(), region, k.ID)
	if e != nil || err == nil || errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Key with a policy that does not parse = %v, %v, want an error", e, err)
	}
	if _, err := connect(t, f).Exec(t.Context(), "DELETE FROM policies WHERE key_id = $1", k.ID); err != nil {
		t.Fatal(err)
	}
	if e, err = f.View().Key(t.Context(), region, k.ID); e != nil || err == nil {
		t.Errorf("Key without a policy = %v, %v, want an error", e, err)
	}
}

func TestKeyWithoutMaterialHasNoCurrentOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	if _, err := connect(t, f).Exec(t.Context(), "DELETE FROM materials WHERE key_id = $1", id); err != nil {
		t.Fatal(err)
	}
	if got := key(t, f.Store, id); got.Current() != nil || len(got.Materials) != 0 {
		t.Errorf("Materials = %v, Current = %v, want none", got.Materials, got.Current())
	}
}

func TestMaterialsComeCurrentFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.insertKey(t, account)
	// Two older ones, as rotation leaves them.
	_, err := connect(t, f).Exec(t.Context(), `
		INSERT INTO materials (account, region, key_id, id, residency, current, generation, blob, binding, created_at)
		SELECT account, region, key_id, sha256(age::text::bytea), residency, false, generation, blob, binding, created_at - age * interval '1 day'
		FROM materials, generate_series(1, 2) AS age WHERE key_id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	e := key(t, f.Store, id)
	for _, m := range e.Materials {
		got = append(got, int(noon.Sub(m.CreatedAt).Hours()/24))
	}
	if diff := cmp.Diff([]int{0, 1, 2}, got); diff != "" || e.Current() != &e.Materials[0] {
		t.Errorf("ages of the materials in days (-want +got):\n%s", diff)
	}
}

func TestMetricsAreRegisteredAndUnregistered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	registry := prometheus.NewPedanticRegistry()
	for range 2 { // the second needs the first to have been unregistered
		t.Run("store", func(t *testing.T) {
			s := f.database.Open(t, func(c *metadata.Config) { c.Metrics = registry })
			key(t, s, f.insertKey(t, account))
			families, err := registry.Gather()
			if err != nil || len(families) < 10 {
				t.Errorf("Gather = %d families, %v", len(families), err)
			}
		})
	}
}
