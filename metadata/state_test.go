package metadata_test

import (
	"testing"

	"kmsgate/metadata"
)

func TestSetsOfStates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		set  metadata.States
		s    metadata.State
		want bool
	}{
		{metadata.Switchable, metadata.Enabled, true},
		{metadata.Switchable, metadata.PendingDeletion, false},
		{metadata.Manageable, metadata.PendingImport, true},
		{metadata.Manageable, metadata.PendingReplicaDeletion, false},
		{metadata.Manageable, metadata.Deleted, false},
		{metadata.AllStates, metadata.Deleted, true},
		{metadata.AllStates, "Unheard", false},
		{0, metadata.Enabled, false},
	} {
		if got := c.set.Has(c.s); got != c.want {
			t.Errorf("%b.Has(%s) = %v, want %v", c.set, c.s, got, c.want)
		}
	}
}
