package metadata_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/metadata"
)

func newRefusal(at time.Time) *metadata.Refusal {
	return &metadata.Refusal{RequestID: uuid.New(), Account: account, At: at, Document: []byte(`{"why":"not"}`)}
}

func (f fixture) refuse(t *testing.T, r *metadata.Refusal) {
	t.Helper()
	if err := f.Record(t.Context(), nil, metadata.Record{Event: recordOf("Refused"), Refusal: r}); err != nil {
		t.Fatalf("Record: %v", err)
	}
}

func TestRefusalIsStoredWithItsRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := newRefusal(noon)
	f.refuse(t, want)
	got, err := f.Refusal(t.Context(), want.RequestID)
	if err != nil {
		t.Fatal(err)
	}
	if got.RequestID != want.RequestID || got.Account != account || !got.At.Equal(noon) || !bytes.Equal(got.Document, want.Document) {
		t.Errorf("Refusal = %+v, want %+v", got, want)
	}
	// An attempt whose answer was lost is made again.
	f.refuse(t, want)
	if _, err := f.Refusal(t.Context(), uuid.New()); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Refusal of another request: %v, want ErrNotFound", err)
	}
}

func TestRefusalIsStoredOnlyIfItsDecisionHolds(t *testing.T) {
	t.Parallel()
	db := newFixture(t).database
	w := openWriter(t, db.URL, metadata.WriterOptions{})
	r := newRefusal(noon)
	err := w.Refuse(t.Context(), recordOf("Refused"), r, metadata.Saw(account, 1<<40))
	if !errors.Is(err, metadata.ErrStale) {
		t.Fatalf("Record on an old version: %v, want ErrStale", err)
	}
	s := db.Open(t, nil)
	if _, err := s.Refusal(t.Context(), r.RequestID); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("Refusal: %v, want ErrNotFound", err)
	}
}

func TestRefusalsHaveALimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := newRefusal(noon)
	r.Document = make([]byte, metadata.MaxRefusalBytes)
	f.refuse(t, r)
	r = newRefusal(noon)
	r.Document = make([]byte, metadata.MaxRefusalBytes+1)
	if err := f.Record(t.Context(), nil, metadata.Record{Event: recordOf("Refused"), Refusal: r}); err == nil {
		t.Error("Record with a refusal of more than MaxRefusalBytes succeeds")
	}
}

func TestOldRefusalsAreDeletedInBatches(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	kept := newRefusal(noon)
	f.refuse(t, kept)
	for range 5 {
		f.refuse(t, newRefusal(noon.Add(-time.Second)))
	}
	var deleted []int
	for range 4 {
		n, err := f.DeleteRefusals(t.Context(), noon, 2)
		if err != nil {
			t.Fatal(err)
		}
		deleted = append(deleted, n)
	}
	if want := []int{2, 2, 1, 0}; !slices.Equal(deleted, want) {
		t.Errorf("deleted %v, want %v", deleted, want)
	}
	if _, err := f.Refusal(t.Context(), kept.RequestID); err != nil {
		t.Errorf("the refusal of %v: %v", noon, err)
	}
}
