package integration_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"kmsgate/softhsm"
)

// severalTokens gives a site's key store a second token, and both a library that can be
// made to fail.
func (s *site) severalTokens(t *testing.T) (second softhsm.Token, shim *softhsm.Shim) {
	t.Helper()
	provisioning.Lock()
	second, err := softhsm.Provision(s.path("softhsm"), "second")
	provisioning.Unlock()
	must(t, "make a second token", err)
	s.set(t, "#- name: second\n      #  label: partition-2\n      #  pin_file: /etc/kmsgate/second.pin\n",
		"- name: second\n        label: second\n        pin_file: "+second.PINFile+"\n")
	s.set(t, "token: main\n", "tokens: [main, second]\n")
	shim, err = softhsm.NewShim(s.dir)
	must(t, "make a shim", err)
	s.set(t, s.token.Module, shim.Module)
	return second, shim
}

// TestSeveralTokensBehindOneStore gives two tokens the same service keys, and serves
// with one of them away.
func TestSeveralTokensBehindOneStore(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	second, shim := s.severalTokens(t)
	s.kmsgate(t, "migrate").wantSuccess(t, "migrate")
	s.kmsgate(t, "init", "-account", own).wantFailure(t, "init before the ceremony", 1, "create-service-keys")
	s.wantCeremony(t)
	r := s.kmsgate(t, "init", "-account", own)
	r.wantSuccess(t, "init")
	key := printedKey(t, r)
	i := s.serve(t, map[string]credentials{own: key})
	c := i.newClient(own)
	all := keep(t, c, 4)

	for _, serial := range []string{s.token.Serial, second.Serial} {
		shim.Remove(slotOf(t, serial))
		var good atomic.Int64
		eventually(t, "calls succeed with a token away", func() bool {
			once(t, c.Client, &all[0].key, "away", &good)
			return good.Load() >= 20
		})
		wantKept(t, c, all) // with the token that is left
		all = append(all, keep(t, c, 2)...)
		if status := i.get(t, i.endpoint+"/readyz"); status != http.StatusOK {
			t.Errorf("readyz answers %d with one token away, want 200", status)
		}
		wantOut(t, i, true)
		shim.PutBack()
		eventually(t, "the token is back", func() bool { return !isOut(t, i) })
	}
	wantKept(t, c, all)
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor")
	r = s.kmsgate(t, "hsm", "inspect")
	r.wantSuccess(t, "hsm inspect")
	if n := strings.Count(r.stdout, "domain key, generation 1"); n != 2 || strings.Contains(r.stdout, "/transport") {
		t.Errorf("the tokens have the domain key %d times, want twice, and no transport pairs:\n%s", n, r.stdout)
	}
	s.wantMovedToNext(t, i, all)
}

// wantCeremony holds the ceremony, first with a fingerprint that is none.
func (s *site) wantCeremony(t *testing.T) {
	t.Helper()
	command := []string{"hsm", "create-service-keys"}
	s.kmsgate(t, command...).wantFailure(t, "a ceremony that nobody confirms", 1, "is not confirmed")
	r := s.kmsgate(t, append(command, "-fingerprints")...)
	r.wantSuccess(t, "show fingerprints")
	shown := strings.Fields(r.stdout)
	if len(shown) != 2 || !strings.HasPrefix(shown[0], "main=") || !strings.HasPrefix(shown[1], "second=") {
		t.Fatalf("fingerprints shown: %q", shown)
	}
	_, other, _ := strings.Cut(shown[0], "=")
	s.kmsgate(t, append(command, "-confirm", shown[0], "-confirm", "second="+other)...).wantFailure(t, "a ceremony with a wrong fingerprint", 1, "nothing was made")
	if n := s.one(t, `SELECT count(*) FROM service_keys`); n != 0 {
		t.Fatalf("%d service keys after a ceremony that was refused, want none", n)
	}
	s.kmsgate(t, append(command, "-confirm", shown[0], "-confirm", shown[1])...).wantSuccess(t, "a ceremony")
	if n := s.one(t, `SELECT count(*) FROM service_keys WHERE state = 'active' AND cardinality(tokens) = 2`); n != 3 {
		t.Fatalf("%d service keys are active in both tokens, want 3", n)
	}
}

// wantMovedToNext holds the ceremony again while the gateway serves, moves all keys to
// the new generation, and wants nothing lost.
func (s *site) wantMovedToNext(t *testing.T, i *instance, all []kept) {
	t.Helper()
	r := s.kmsgate(t, "hsm", "create-service-keys", "-fingerprints")
	r.wantSuccess(t, "show fingerprints")
	command := []string{"hsm", "create-service-keys"}
	for _, shown := range strings.Fields(r.stdout) {
		command = append(command, "-confirm", shown)
	}
	s.kmsgate(t, command...).wantSuccess(t, "a second ceremony")
	s.kmsgate(t, "hsm", "rotate-domain-key").wantSuccess(t, "move all keys")
	s.wantMoved(t, 2)
	c := i.newClient(own)
	wantKept(t, c, append(all, keep(t, c, 1)...))
	s.kmsgate(t, "doctor", "-all").wantSuccess(t, "doctor after the second ceremony")
	if code := i.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, i.stderr)
	}
}

// slotOf is the number that SoftHSM gives the slot of a token.
func slotOf(t testing.TB, serial string) uint {
	t.Helper()
	slot, err := strconv.ParseUint(serial[len(serial)-8:], 16, 32)
	must(t, "read the serial", err)
	return uint(slot & 0x7FFFFFFF)
}

// isOut tells whether the metrics say that a token gets no calls.
func isOut(t testing.TB, i *instance) bool {
	t.Helper()
	out := false
	for line := range strings.Lines(string(get(t, i.admin+"/metrics").body)) {
		if strings.HasPrefix(line, "kmsgate_store_token_out_since_seconds{") {
			out = out || !strings.HasSuffix(line, "} 0\n")
		}
	}
	return out
}

func wantOut(t testing.TB, i *instance, want bool) {
	t.Helper()
	if isOut(t, i) != want {
		t.Errorf("a token is out: %t, want %t", !want, want)
	}
}
