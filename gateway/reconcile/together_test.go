package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kmsgate/metadata"
)

// describing is a change that waits: it describes a key, or fails as it is told
// afterwards. It notes the transactions that it was made in.
func describing(t *testing.T, k metadata.KeyName, fail func() error, in *[]*metadata.Tx) *waitingChange {
	return &waitingChange{done: make(chan error, 1), change: func(tx *metadata.Tx) ([]byte, error) {
		*in = append(*in, tx)
		err := tx.SetDescription(t.Context(), k.Region, k.Account, k.ID, "described")
		if err == nil && fail != nil {
			err = fail()
		}
		return eventOf(k, "Described", noon), err
	}}
}

func TestChangesThatWaitAreCommittedInOneTransaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.instance(t)
	for range maxCommitting {
		r.committing <- struct{}{}
	}
	const changes = 5
	var in []*metadata.Tx
	ended := make(chan error, changes)
	for range changes {
		w := describing(t, f.createKey(t, nil), nil, &in)
		go func() { ended <- r.commitTogether(t.Context(), testAccount, w.change) }()
	}
	waiting := func() int {
		r.together.mu.Lock()
		defer r.together.mu.Unlock()
		return len(r.together.waiting[testAccount])
	}
	for waiting() < changes {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
	<-r.committing
	for range changes {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if n := len(slices.Compact(slices.Clone(in))); n != 1 || len(in) != changes {
		t.Errorf("%d changes were made in %d transactions, want %d in one", len(in), n, changes)
	}
	if n := len(f.events(t, "Described")); n != changes {
		t.Errorf("%d records, want one of each of the %d changes", n, changes)
	}
}

func TestOneChangeKeepsNoOtherFromBeingCommitted(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"refused": func() error { return fmt.Errorf("no more: %w", metadata.ErrClaim) },
		"panic":   func() error { panic("at the disco") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r, _ := f.instance(t)
			var in []*metadata.Tx
			keys := []metadata.KeyName{f.createKey(t, nil), f.createKey(t, nil), f.createKey(t, nil)}
			all := []*waitingChange{
				describing(t, keys[0], nil, &in), describing(t, keys[1], fail, &in), describing(t, keys[2], nil, &in),
			}
			r.commitAll(t.Context(), all)
			for i, w := range all {
				err := <-w.done
				if bad := i == 1; (err != nil) != bad || (f.key(t, keys[i]).Description == "") != bad {
					t.Errorf("change %d: %v, and the key is described as %q", i, err, f.key(t, keys[i]).Description)
				}
				if i == 1 && !errors.Is(err, metadata.ErrClaim) && !strings.Contains(err.Error(), "panic") {
					t.Errorf("the one that failed: %v", err)
				}
			}
			if n := len(f.events(t, "Described")); n != 2 {
				t.Errorf("%d records, want those of the two that were made", n)
			}
		})
	}
}
