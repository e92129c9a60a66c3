package metadata_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// addGeneration adds a generation of domain and binding keys, which retires the one before.
func (f fixture) addGeneration(t *testing.T, generation int32) {
	t.Helper()
	ctx := t.Context()
	for n, kind := range []hsm.ServiceKeyKind{hsm.DomainKey, hsm.BindingKey} {
		k := hsm.ServiceKey{Store: keyStore, Kind: kind, Generation: generation, ID: bytes.Repeat([]byte{byte(generation), byte(n)}, 8), CheckValue: []byte{1}}
		f.change(t, func(tx *metadata.Tx) error { return tx.InsertServiceKey(ctx, k, noon) })
		f.change(t, func(tx *metadata.Tx) error {
			if generation > 1 {
				old := k
				old.Generation--
				if err := tx.RetireServiceKey(ctx, old); err != nil {
					return err
				}
			}
			return tx.ActivateServiceKey(ctx, k, []string{"serial"})
		})
	}
}

// insertBound adds a key and import parameters for it, both of a generation.
func (f fixture) insertBound(t *testing.T, generation int32) (k metadata.Key, parameters metadata.ImportParameters) {
	t.Helper()
	k, m := newKey(account)
	m.Generation = generation
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account)}, nil)
	})
	parameters = metadata.ImportParameters{
		ID: uuid.New(), Algorithm: keyspec.WrapOAEPSHA256, CreatedAt: noon, ExpiresAt: noon.AddDate(0, 0, 1),
		Wrapping: hsm.Key{
			Store: keyStore, Region: region, Account: account, KeyID: k.ID, Spec: keyspec.RSA2048, Usage: keyspec.ImportWrapping, Origin: keyspec.AWSKMS,
			Residency: hsm.Wrapped, Generation: generation, Blob: []byte("blob"), PublicKey: []byte("public"), Binding: []byte("binding"),
		},
	}
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertImportParameters(t.Context(), parameters) })
	return k, parameters
}

// bound are all rows of a kind up to a generation, read page by page.
func (f fixture) bound(t *testing.T, kind metadata.BoundKind, upTo int32) (all []metadata.Bound) {
	t.Helper()
	var place metadata.BoundPlace
	for {
		page, err := f.Bound(t.Context(), kind, keyStore, upTo, place, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		place = page[len(page)-1].Place()
	}
}

func (f fixture) wantBound(t *testing.T, upTo int32, want int) {
	t.Helper()
	n, err := f.CountBound(t.Context(), keyStore, upTo)
	if err != nil || n != int64(want) {
		t.Errorf("CountBound up to %d = %d, %v, want %d", upTo, n, err, want)
	}
	if rows := len(f.bound(t, metadata.BoundMaterials, upTo)) + len(f.bound(t, metadata.BoundParameters, upTo)); rows != want {
		t.Errorf("%d rows up to generation %d, want %d", rows, upTo, want)
	}
}

func TestRebindLeavesWhatHasChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addGeneration(t, 1)
	for range 5 {
		f.insertBound(t, 1)
	}
	f.addGeneration(t, 2)
	newest, _ := f.insertBound(t, 2)
	f.wantBound(t, 1, 10)
	f.wantBound(t, 2, 12)
	f.wantBound(t, 0, 0)
	if n, err := f.CountBound(t.Context(), "another", 9); n != 0 || err != nil {
		t.Errorf("CountBound of another store = %d, %v, want none", n, err)
	}
	for _, kind := range metadata.BoundKinds {
		rows := f.bound(t, kind, 1)
		var moved []metadata.Rebinding
		for i := range rows {
			r := metadata.Rebinding{Was: rows[i], Is: rows[i].Key}
			r.Is.Generation, r.Is.Blob, r.Is.Binding = 2, []byte(fmt.Sprintf("blob %d", i)), []byte("other")
			moved = append(moved, r)
		}
		// Three have changed since they were read.
		moved[0].Was.Blob, moved[1].Was.Binding, moved[2].Was.Generation = []byte("x"), []byte("x"), 2
		kept := key(t, f.Store, rows[3].KeyID)
		f.change(t, func(tx *metadata.Tx) error {
			keys, err := tx.Rebind(t.Context(), kind, moved)
			if len(keys) != 2 || !slices.ContainsFunc(keys, func(k metadata.KeyName) bool {
				return k == metadata.KeyName{Region: region, Account: account, ID: rows[4].KeyID}
			}) {
				t.Errorf("Rebind of kind %d moved %v, want the last two", kind, keys)
			}
			return err
		})
		if kind == metadata.BoundMaterials {
			got := key(t, f.Store, rows[3].KeyID).Materials[0]
			want := kept.Materials[0]
			want.Generation, want.Blob, want.Binding = 2, []byte("blob 3"), []byte("other")
			if !got.Key.Equal(&want.Key) {
				t.Errorf("the material that was moved is %+v, want %+v", got, want)
			}
		}
	}
	f.wantBound(t, 1, 6)
	if got := f.bound(t, metadata.BoundParameters, 2); got[len(got)-1].Usage != keyspec.ImportWrapping || got[0].Generation != 1 || got[len(got)-1].Generation != 2 {
		t.Errorf("parameters are %+v, want those of the first generation first", got)
	}
	if k := key(t, f.Store, newest.ID); k.Materials[0].Generation != 2 {
		t.Errorf("the key of the newest generation has %d", k.Materials[0].Generation)
	}
}

func TestGenerationIsDestroyedWhenNothingIsUnderIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	begin := func(generation int32) error {
		return f.try(ctx, func(tx *metadata.Tx) error { return tx.BeginDestroying(ctx, keyStore, generation) })
	}
	finish := func(generation int32) error {
		return f.try(ctx, func(tx *metadata.Tx) error { return tx.FinishDestroying(ctx, keyStore, generation) })
	}
	f.addGeneration(t, 1)
	f.insertBound(t, 1)
	if err := begin(1); !errors.Is(err, metadata.ErrInUse) {
		t.Errorf("BeginDestroying with a row under it = %v, want ErrInUse", err)
	}
	f.addGeneration(t, 2)
	f.addGeneration(t, 3)
	for _, generation := range []int32{1, 2} { // the row of generation 1 is in the way of 2 as well
		if err := begin(generation); !errors.Is(err, metadata.ErrInUse) {
			t.Errorf("BeginDestroying(%d) with a row of generation 1 = %v, want ErrInUse", generation, err)
		}
	}
	f.database.Exec(t, `DELETE FROM import_parameters`)
	if err := begin(1); !errors.Is(err, metadata.ErrInUse) {
		t.Errorf("BeginDestroying with a material under it = %v, want ErrInUse", err)
	}
	f.database.Exec(t, `UPDATE materials SET residency = 'absent'`)
	for _, generation := range []int32{3, 4} {
		if err := begin(generation); !errors.Is(err, metadata.ErrNotFound) {
			t.Errorf("BeginDestroying(%d) = %v, want ErrNotFound", generation, err)
		}
	}
	if err := finish(1); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("FinishDestroying of a retired generation = %v, want ErrNotFound", err)
	}
	for range 2 {
		if err := begin(1); err != nil {
			t.Fatalf("BeginDestroying = %v", err)
		}
		f.wantNoMore(t, 1)
	}
	if err := finish(1); err != nil {
		t.Fatalf("FinishDestroying = %v", err)
	}
	f.wantNoMore(t, 1)
	if err := begin(1); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("BeginDestroying of a destroyed generation = %v, want ErrNotFound", err)
	}
	f.insertBound(t, 2)
	keys, err := f.ServiceKeys(ctx, keyStore)
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, k := range keys {
		states = append(states, fmt.Sprintf("%s %d %s %t", k.Kind, k.Generation, k.State, k.InToken()))
	}
	want := []string{"binding 1 destroyed false", "binding 2 retired true", "binding 3 active true", "domain 1 destroyed false", "domain 2 retired true", "domain 3 active true"}
	if !slices.Equal(states, want) {
		t.Errorf("service keys are %q, want %q", states, want)
	}
}

// wantNoMore wants no row to come under a generation, in any way.
func (f fixture) wantNoMore(t *testing.T, generation int32) {
	t.Helper()
	ctx := t.Context()
	k, m := newKey(account)
	m.Generation = generation
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "KG001") {
			t.Errorf("%s under generation %d = %v, want KG001", what, generation, err)
		}
	}
	refused("InsertKey", f.try(ctx, func(tx *metadata.Tx) error { return tx.InsertKey(ctx, k, m, metadata.KeyPolicy{Document: "{}"}, nil) }))
	_, parameters := f.insertBound(t, 3)
	parameters.ID, parameters.Wrapping.Generation = uuid.New(), generation
	refused("InsertImportParameters", f.try(ctx, func(tx *metadata.Tx) error { return tx.InsertImportParameters(ctx, parameters) }))
	for _, kind := range metadata.BoundKinds {
		rows := f.bound(t, kind, 3)
		back := metadata.Rebinding{Was: rows[len(rows)-1], Is: rows[len(rows)-1].Key}
		back.Is.Generation = generation
		refused("Rebind", f.try(ctx, func(tx *metadata.Tx) error {
			_, err := tx.Rebind(ctx, kind, []metadata.Rebinding{back})
			return err
		}))
	}
}

// TestDestroyingWaitsForRowsOnTheirWay: a transaction that has added a row, and has not
// committed, is waited for, and its row is seen.
func TestDestroyingWaitsForRowsOnTheirWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.addGeneration(t, 1)
	f.addGeneration(t, 2)
	inserted, destroyed := make(chan struct{}), make(chan error, 1)
	go func() {
		<-inserted
		destroyed <- f.try(ctx, func(tx *metadata.Tx) error { return tx.BeginDestroying(ctx, keyStore, 1) })
	}()
	k, m := newKey(account)
	conn, err := pgx.Connect(ctx, f.database.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	f.change(t, func(tx *metadata.Tx) error {
		err := tx.InsertKey(ctx, k, m, metadata.KeyPolicy{Document: "{}"}, nil)
		close(inserted)
		eventually(t, "the destruction waits", func() bool {
			var waiting int
			row := conn.QueryRow(ctx, `SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
				WHERE l.locktype = 'advisory' AND NOT l.granted`)
			return row.Scan(&waiting) == nil && waiting == 1
		})
		return err
	})
	if err := <-destroyed; !errors.Is(err, metadata.ErrInUse) {
		t.Errorf("BeginDestroying beside an insertion = %v, want ErrInUse", err)
	}
}

func TestBackupIsToldFromTheLiveDatabase(t *testing.T) {
	t.Parallel()
	f, other := newFixture(t), newFixture(t)
	for _, tc := range []struct {
		of   fixture
		live bool
	}{{f, true}, {other, false}} {
		b, err := metadata.OpenBackup(t.Context(), tc.of.database.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if live, err := b.IsLive(t.Context(), f.Store); live != tc.live || err != nil {
			t.Errorf("IsLive = %t, %v, want %t", live, err, tc.live)
		}
	}
}
