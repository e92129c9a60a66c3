package metadata_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kmsgate/metadata"
	"kmsgate/metadata/metadatatest"
)

// newEventFixture is a fixture of a site with a webhook.
func newEventFixture(t *testing.T) fixture {
	t.Helper()
	db := metadatatest.NewDatabase(t)
	return fixture{db.Open(t, func(c *metadata.Config) { c.QueueEvents = true }), db}
}

// queue queues the deletion of a key as an event; at says which one it is.
func (f fixture) queue(t *testing.T, key string, at time.Time) {
	t.Helper()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.QueueEvent(t.Context(), metadata.Event{Type: metadata.KeyDeleted, Account: account, Region: region, KeyID: key, At: at})
	})
}

// claim takes what is due at now for a minute, and says which by time.
func (f fixture) claim(t *testing.T, holder uuid.UUID, now time.Time) (events []metadata.QueuedEvent, at []time.Time) {
	t.Helper()
	events, err := f.ClaimEvents(t.Context(), holder, now, now.Add(time.Minute), 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		at = append(at, e.At.UTC())
	}
	return events, at
}

func TestEventIsEventBridges(t *testing.T) {
	t.Parallel()
	f, key := newEventFixture(t), uuid.NewString()
	f.change(t, func(tx *metadata.Tx) error {
		return tx.QueueEvent(t.Context(), metadata.Event{
			Type: metadata.KeyRotated, Account: account, Region: region, KeyID: key, At: noon,
			Detail: map[string]string{"key-origin": "AWS_KMS", "rotation-type": "AUTOMATIC"},
		})
	})
	events, _ := f.claim(t, uuid.New(), noon)
	if len(events) != 1 {
		t.Fatalf("%d events, want 1", len(events))
	}
	var got any
	if err := json.Unmarshal(events[0].Document, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"version": "0", "id": events[0].ID.String(), "detail-type": "KMS CMK Rotation", "source": "aws.kms", "account": account,
		"time": "2026-03-01T12:00:00Z", "region": region, "resources": []any{"arn:aws:kms:" + region + ":" + account + ":key/" + key},
		"detail": map[string]any{"key-id": key, "key-origin": "AWS_KMS", "rotation-type": "AUTOMATIC"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("document differs (-want +got):\n%s", diff)
	}
}

func TestEventsOfAKeyComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	f, one, other, holder := newEventFixture(t), uuid.NewString(), uuid.NewString(), uuid.New()
	second := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) }
	f.queue(t, one, second(1))
	f.queue(t, one, second(2))
	f.queue(t, other, second(3))
	now := noon.Add(time.Hour)
	first, at := f.claim(t, holder, now)
	if diff := cmp.Diff([]time.Time{second(1), second(3)}, at); diff != "" {
		t.Fatalf("due are not the oldest of each key (-want +got):\n%s", diff)
	}
	if _, at := f.claim(t, uuid.New(), now); len(at) > 0 {
		t.Errorf("what is claimed was claimed again: %v", at)
	}
	for i := range first {
		if err := f.DeleteEvent(t.Context(), first[i].ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, at := f.claim(t, holder, now); len(at) != 1 || at[0] != second(2) {
		t.Errorf("due after the first = %v, want the second of the key", at)
	}
}

func TestClaimOnAnEventRunsOut(t *testing.T) {
	t.Parallel()
	f, dead, alive := newEventFixture(t), uuid.New(), uuid.New()
	f.queue(t, uuid.NewString(), noon)
	lost, _ := f.claim(t, dead, noon)
	again, _ := f.claim(t, alive, noon.Add(time.Minute))
	if len(again) != 1 || again[0].ID != lost[0].ID || again[0].Attempts != 2 {
		t.Fatalf("after the claim ran out there is %+v, want the same event a second time", again)
	}
	// Who lost the claim moves nothing any more.
	if err := f.PostponeEvent(t.Context(), dead, &lost[0], noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := f.PostponeEvent(t.Context(), alive, &again[0], noon.Add(70*time.Second)); err != nil {
		t.Fatal(err)
	}
	if events, _ := f.claim(t, alive, noon.Add(69*time.Second)); len(events) > 0 {
		t.Errorf("a postponed event is due early: %+v", events)
	}
	if events, _ := f.claim(t, alive, noon.Add(70*time.Second)); len(events) != 1 {
		t.Errorf("a postponed event is not due in time: %+v", events)
	}
}

func TestEventStandsAndFallsWithItsChange(t *testing.T) {
	t.Parallel()
	f := newEventFixture(t)
	undone := errors.New("undone")
	err := f.try(t.Context(), func(tx *metadata.Tx) error {
		event := metadata.Event{Type: metadata.KeyDeleted, Account: account, Region: region, KeyID: uuid.NewString(), At: noon}
		return errors.Join(tx.QueueEvent(t.Context(), event), undone)
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	f.wantBacklog(t, 0)
	f.queue(t, uuid.NewString(), noon)
	f.wantBacklog(t, 1)
}

func (f fixture) wantBacklog(t *testing.T, want int64) {
	t.Helper()
	if waiting, _, err := f.EventBacklog(context.WithoutCancel(t.Context())); err != nil || waiting != want {
		t.Errorf("backlog = %d, %v, want %d", waiting, err, want)
	}
}

func TestEventsAreNotKeptWithoutAWebhook(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, uuid.NewString(), noon)
	f.wantBacklog(t, 0)
}
