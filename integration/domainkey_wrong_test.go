package integration_test

import (
	"testing"

	"kmsgate/softhsm"
)

// TestRotateDomainKeyStoresNothingThatDoesNotOpen has the token wrap one of the keys
// wrongly: none of its batch takes the place of what opens, and the command can be run
// again.
func TestRotateDomainKeyStoresNothingThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	keys := map[string]credentials{own: s.prepare(t)}
	c := s.serve(t, keys).newClient(own)
	all := keep(t, c, 20)
	shim := s.shimmed(t)
	s.kmsgate(t, "init", "-account", own).wantSuccess(t, "init again")
	wrapped := shim.Calls(softhsm.WrapKey) // at a start
	rotate := []string{"hsm", "rotate-domain-key", "-workers", "1"}

	// The check value of a domain key takes one wrapping.
	shim.Inject(softhsm.WrapKey, softhsm.Fault{Corrupt: softhsm.Flipped, Every: wrapped + 10, Times: 1})
	s.kmsgate(t, rotate...).wantFailure(t, "hsm rotate-domain-key on a token that wraps wrongly", 1, "does not open")
	if outdated, newest := s.outdated(t); outdated != len(all) || newest != 2 {
		t.Errorf("%d rows are under older generations than %d, want %d and 2", outdated, newest, len(all))
	}
	wantKept(t, c, all)
	shim.Clear(softhsm.WrapKey)
	s.kmsgate(t, rotate...).wantSuccess(t, "hsm rotate-domain-key again")
	s.wantMoved(t, 2)
	wantKept(t, c, all)
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor after that")
}
