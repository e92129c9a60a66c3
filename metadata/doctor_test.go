package metadata_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/hsm"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/metadata/metadatatest"
)

// insertMaterial adds a key with a material that was changed before.
func (f fixture) insertMaterial(t *testing.T, owner string, change func(*metadata.Key, *metadata.Material)) metadata.KeyMaterial {
	t.Helper()
	k, m := newKey(owner)
	change(&k, &m)
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: "{}"}, nil)
	})
	return metadata.KeyMaterial{Key: k, Material: m}
}

func TestListMaterialsGoesThroughAStore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	none := func(*metadata.Key, *metadata.Material) {}
	want := []metadata.KeyMaterial{
		f.insertMaterial(t, account, none), f.insertMaterial(t, stranger, none),
		f.insertMaterial(t, account, func(k *metadata.Key, _ *metadata.Material) { k.State = metadata.Unavailable }),
		f.insertMaterial(t, account, func(_ *metadata.Key, m *metadata.Material) { m.Residency = hsm.Resident }),
		f.insertMaterial(t, account, none),
	}
	f.insertMaterial(t, account, func(k *metadata.Key, _ *metadata.Material) { k.State = metadata.Deleted })
	f.insertMaterial(t, account, func(_ *metadata.Key, m *metadata.Material) { m.Residency = hsm.External })
	f.change(t, func(tx *metadata.Tx) error {
		return tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
			ID: "own", Region: region, Account: account, Type: metadata.CloudHSMKeyStore, State: metadata.Connected, CreatedAt: noon,
		})
	})
	elsewhere := f.insertMaterial(t, account, func(k *metadata.Key, _ *metadata.Material) { k.Store = "own" })

	slices.SortFunc(want, func(a, b metadata.KeyMaterial) int { return bytes.Compare([]byte(a.Key.ID), []byte(b.Key.ID)) })
	for _, limit := range []int{1, 2, 5, 100} {
		var got []metadata.KeyMaterial
		var place metadata.MaterialPlace
		for {
			page, err := f.ListMaterials(t.Context(), region, keyStore, place, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			if len(page) > limit {
				t.Fatalf("a page of %d has %d", limit, len(page))
			}
			got = append(got, page...)
			last := page[len(page)-1]
			place = metadata.MaterialPlace{KeyID: last.Key.ID, MaterialID: last.Material.MaterialID}
		}
		if len(got) != len(want) {
			t.Fatalf("pages of %d have %d materials, want %d", limit, len(got), len(want))
		}
		for i := range got {
			if !got[i].Material.Key.Equal(&want[i].Material.Key) || got[i].Key.State != want[i].Key.State || !got[i].Material.Current {
				t.Errorf("material %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	}
	own, err := f.ListMaterials(t.Context(), region, "own", metadata.MaterialPlace{}, 10)
	if err != nil || len(own) != 1 || own[0].Key.ID != elsewhere.Key.ID {
		t.Errorf("ListMaterials of the other store = %v, %v, want key %s", own, err, elsewhere.Key.ID)
	}
	if none, err := f.ListMaterials(t.Context(), "eu-west-9", keyStore, metadata.MaterialPlace{}, 10); err != nil || len(none) > 0 {
		t.Errorf("ListMaterials of another region = %v, %v, want none", none, err)
	}
}

func TestResidentsAreThoseOfTheKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	resident := func(_ *metadata.Key, m *metadata.Material) { m.Residency = hsm.Resident }
	one, two := f.insertMaterial(t, account, resident), f.insertMaterial(t, stranger, resident)
	wrapped := f.insertMaterial(t, account, func(*metadata.Key, *metadata.Material) {})
	f.insertMaterial(t, account, resident) // not asked for
	got, err := f.Residents(t.Context(), []string{one.Key.ID, two.Key.ID, wrapped.Key.ID, "of nobody"})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{one.Material.Blob, two.Material.Blob}
	slices.SortFunc(got, bytes.Compare)
	slices.SortFunc(want, bytes.Compare)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Residents differ (-want +got):\n%s", diff)
	}
	if got, err := f.Residents(t.Context(), nil); err != nil || len(got) > 0 {
		t.Errorf("Residents of no keys = %v, %v", got, err)
	}
}

func TestWhatAnExaminationAsks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	facts, err := f.ServerFacts(t.Context())
	if err != nil || facts.Version == "" || facts.Fsync == "" || facts.FullPageWrites == "" || facts.SynchronousCommit == "" {
		t.Errorf("ServerFacts = %+v, %v", facts, err)
	}
	stores, err := f.AllKeyStores(t.Context())
	if err != nil || len(stores) != 1 || stores[0].ID != keyStore || stores[0].Region != region || stores[0].Account != "" {
		t.Errorf("AllKeyStores = %+v, %v", stores, err)
	}
	if marks, err := f.LoginMarks(t.Context()); err != nil || len(marks) > 0 {
		t.Errorf("LoginMarks = %v, %v, want none", marks, err)
	}
	if err := f.MarkLoginRefused(t.Context(), "0123"); err != nil {
		t.Fatal(err)
	}
	marks, err := f.LoginMarks(t.Context())
	if err != nil || len(marks) != 1 || marks[0].Serial != "0123" || marks[0].Instance == "" || time.Since(marks[0].RefusedAt).Abs() > time.Hour {
		t.Errorf("LoginMarks = %+v, %v, want the one", marks, err)
	}
}

func TestDeadRuns(t *testing.T) {
	t.Parallel()
	db := metadatatest.NewDatabase(t)
	living := openWriter(t, db.URL, metadata.WriterOptions{Instance: "living"})
	insertOutbox(t, living, recordOf("CreateKey"))
	dead := openWriter(t, db.URL, metadata.WriterOptions{Instance: "dead"})
	insertOutbox(t, dead, recordOf("CreateKey"))
	insertOutbox(t, dead, recordOf("CreateKey"))
	log := living.Log()
	if got, err := log.DeadRuns(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("DeadRuns of living runs = %+v, %v, want none", got, err)
	}
	stream := dead.Stream()
	dead.Kill()
	var got []metadata.DeadRun
	eventually(t, "the run is dead", func() bool {
		var err error
		got, err = log.DeadRuns(t.Context())
		return err == nil && len(got) > 0
	})
	if len(got) != 1 || got[0].Stream != stream || got[0].Instance != "dead" || got[0].Waiting != 2 || got[0].Started.IsZero() {
		t.Errorf("DeadRuns = %+v, want stream %v of dead with 2 records", got, stream)
	}
	if left, err := log.Left(t.Context(), got); err != nil || len(left) != 1 {
		t.Errorf("Left = %v, %v, want the run", left, err)
	}
	if left, err := log.Left(t.Context(), []metadata.DeadRun{{Stream: audit.StreamID{1}}}); err != nil || len(left) != 0 {
		t.Errorf("Left of another run = %v, %v, want none", left, err)
	}
	sweep(t, living)
	if left, err := log.Left(t.Context(), got); err != nil || len(left) != 0 {
		t.Errorf("Left after it was taken up = %v, %v, want none", left, err)
	}
	if got, err := log.DeadRuns(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("DeadRuns after it was taken up = %+v, %v, want none", got, err)
	}
}
