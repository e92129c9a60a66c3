package reconcile

import (
	"context"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// wantJobsFail runs the jobs that change keys without a table, which is back when they
// have failed.
func (f *fixture) wantJobsFail(t *testing.T, table string, now time.Time) {
	t.Helper()
	r, _ := f.instance(t)
	r.Store = f.database.Open(t, func(c *metadata.Config) { c.QueueEvents = true })
	f.database.Exec(t, "ALTER TABLE "+table+" RENAME TO gone")
	defer f.database.Exec(t, "ALTER TABLE gone RENAME TO "+table)
	for name, run := range map[string]func(context.Context, time.Time) (int, error){
		"Delete": r.Delete, "ExpireMaterial": r.ExpireMaterial, "Rotate": r.Rotate,
	} {
		if done, err := run(t.Context(), now); done != 0 || err == nil {
			t.Errorf("%s without %s = %d, %v; want nothing done and an error", name, table, done, err)
		}
	}
}

// TestJobsDoNothingThatIsNotRecorded has the keys, the records and the webhook's
// events be out of reach in turn: no material is gone of which there is no record,
// and all is done once they are back.
func TestJobsDoNothingThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	deleted, expired, rotated := f.keyIn(t, residentStore), f.imported(t, noon.Add(day)), f.rotated(t, 90)
	f.schedule(t, deleted, 7)
	current, now := f.key(t, rotated).Current().MaterialID, noon.Add(100*day)
	for _, table := range []string{"keys", "audit_outbox", "event_outbox"} {
		f.wantJobsFail(t, table, now)
		now = now.Add(2 * claimFor)
		if m := f.key(t, expired).Current(); m.Residency != hsm.Wrapped {
			t.Errorf("without %s: the expired material is %+v", table, m)
		}
		if m := f.key(t, rotated).Current(); m.MaterialID != current {
			t.Errorf("without %s: the current material is %s, want %s", table, m.MaterialID, current)
		}
		if table == "event_outbox" { // the record that the deletion has begun is there
			continue
		}
		f.wantInToken(t, deleted, true)
		if k := f.key(t, deleted); k.State != metadata.PendingDeletion {
			t.Errorf("without %s: the key to be deleted is %s", table, k.State)
		}
	}
	if k, err := f.store.DeletedKey(t.Context(), deleted); err != nil || k.Materials[0].Residency == hsm.Absent {
		t.Errorf("the deletion that nobody is told of: %+v, %v; want it to be unfinished", k, err)
	}
	r, _ := f.instance(t)
	r.Store = f.database.Open(t, func(c *metadata.Config) { c.QueueEvents = true })
	deletes(t, r, now, 1)
	f.wantDeleted(t, deleted)
	mustRotate(t, r, now, 1)
	if done, err := r.ExpireMaterial(t.Context(), now); done != 1 || err != nil {
		t.Errorf("ExpireMaterial = %d, %v; want 1", done, err)
	}
	if waiting, _, err := r.Store.EventBacklog(t.Context()); waiting != 3 || err != nil {
		t.Errorf("%d events wait, %v; want 3", waiting, err)
	}
}
