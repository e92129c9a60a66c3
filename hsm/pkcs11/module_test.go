package pkcs11

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"go.uber.org/goleak"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// served is a token in service with a key of its own.
type served struct {
	*Engine
	key *hsm.Key
	cfg Config
}

// tokensOfOneModule opens tokens of one module behind a shim.
func tokensOfOneModule(t *testing.T, change func(*Config), labels ...string) (*Module, []*served, *softhsm.Shim) {
	t.Helper()
	dir := t.TempDir()
	var shimmed Config
	shim := newShim(t, &shimmed)
	m := NewModule(shimmed.Module, "")
	var tokens []*served
	for _, label := range labels { // all, before the module is in use
		tok, err := softhsm.Provision(dir, label)
		must(t, err)
		tokens = append(tokens, &served{cfg: configFor(tok)})
	}
	for _, s := range tokens {
		if change != nil {
			change(&s.cfg)
		}
		s.open(t, m)
	}
	return m, tokens, shim
}

// open opens the token, and makes its service keys and a key.
func (s *served) open(t *testing.T, m *Module) {
	t.Helper()
	e, err := m.Open(t.Context(), s.cfg)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	s.Engine, s.cfg.ServiceKeys = e, serviceKeyRows(testStore, 1)
	s.cfg.ServiceKeys, err = e.CreateServiceKeys(t.Context(), s.cfg.ServiceKeys)
	must(t, err)
	s.key = generate(t, e, "k")
}

// works tells whether the token does what it is asked for now.
func (s *served) works(t *testing.T) error {
	c, err := s.Encrypt(t.Context(), client, s.key, []byte("x"), nil)
	if err != nil {
		return err
	}
	_, err = s.Decrypt(t.Context(), client, s.key, c, nil)
	return err
}

// underLoad lets callers use a token until the result is called, which returns
// the errors they have met.
func (s *served) underLoad(t *testing.T) func() []error {
	var stop atomic.Bool
	var mu sync.Mutex
	var met []error
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				if err := s.works(t); err != nil {
					mu.Lock()
					met = append(met, err)
					mu.Unlock()
				}
			}
		})
	}
	return func() []error {
		stop.Store(true)
		wg.Wait()
		return met
	}
}

// lost tells whether callers of the token are refused.
func (s *served) lost(t *testing.T) bool { return s.works(t) != nil && !s.Stats().Serving }

func (s *served) idle() bool {
	s.repair.mu.Lock()
	defer s.repair.mu.Unlock()
	return s.repair.running == nil
}

func TestTokensOfOneModuleServeTogether(t *testing.T) {
	m, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	if one.Stats().Serial == two.Stats().Serial {
		t.Fatalf("both serve token %s", one.Stats().Serial)
	}
	loads := []func() []error{one.underLoad(t), two.underLoad(t)}
	time.Sleep(50 * time.Millisecond)
	for _, end := range loads {
		if met := end(); met != nil {
			t.Errorf("beside the other token: %v", met[0])
		}
	}
	if _, err := two.Encrypt(t.Context(), client, one.key, []byte("x"), nil); err == nil {
		t.Error("one token uses the other's key")
	}
	if n := sessionObjects(t, one.Engine); n != 2 {
		t.Errorf("token one has %d session objects, want its own key and the copy of its binding key", n)
	}
	end := two.underLoad(t)
	must(t, one.Close())
	time.Sleep(20 * time.Millisecond)
	if met := end(); met != nil {
		t.Errorf("after the other was closed: %v", met[0])
	}
	if n := shim.Calls(softhsm.Initialize); n != 1 || shim.Calls(softhsm.Finalize) != 0 {
		t.Errorf("C_Initialize was called %d times, C_Finalize %d times; want once and not yet", n, shim.Calls(softhsm.Finalize))
	}
	one.open(t, m)
	must(t, one.works(t))
	must(t, two.works(t))
	must(t, one.Close())
	must(t, two.Close())
	if n := shim.Calls(softhsm.Finalize); n != 1 {
		t.Errorf("C_Finalize was called %d times after the last token was closed, want once", n)
	}
	two.open(t, m)
	must(t, two.works(t))
}

func TestOpenThatFailsLeavesTheOtherTokens(t *testing.T) {
	m, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	must(t, two.Close())
	must(t, one.works(t))
	sessions := shim.Sessions()
	end := one.underLoad(t)
	open := func(what string, change func(*Config), want string, logins uint64) {
		t.Helper()
		cfg := two.cfg
		change(&cfg)
		before := shim.Calls(softhsm.Login)
		e, err := m.Open(t.Context(), cfg)
		if err == nil {
			must(t, e.Close())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open of %s = %v, want it to say %q", what, err, want)
		}
		if n := shim.Calls(softhsm.Login) - before; n != logins {
			t.Errorf("Open of %s called C_Login %d times, want %d", what, n, logins)
		}
	}
	open("a token that serves", func(c *Config) { c.Label, c.Serial = "", one.Stats().Serial }, "is meant twice", 0)
	open("no token", func(c *Config) { c.Label = "three" }, "0 tokens match", 0)
	open("a token without a key", func(c *Config) {
		c.ServiceKeys = serviceKeyRows(testStore, 2)
		c.ServiceKeys[0].CheckValue = []byte("x")
	}, "generation 2", 1)
	two.open(t, m)
	must(t, two.works(t))
	must(t, two.Close())
	open("a token whose PIN is wrong", func(c *Config) { c.PIN = pin("000000") }, hsm.ErrPIN.Error(), 1)
	if met := end(); met != nil {
		t.Errorf("while others failed to open: %v", met[0])
	}
	if n := shim.Sessions(); n > sessions+4 { // of the load
		t.Errorf("%d sessions are open, %d were before", n, sessions)
	}
}

func TestLossOfOneTokenLeavesTheOthers(t *testing.T) {
	_, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	end := two.underLoad(t)
	epoch := two.Stats().Epoch
	for range 2 {
		shim.Remove(one.slot)
		eventually(t, "the token is lost", func() bool { return one.lost(t) })
		attempts := shim.Calls(softhsm.GetSlotList)
		eventually(t, "it is looked for again", func() bool { return shim.Calls(softhsm.GetSlotList) > attempts })
		shim.PutBack()
		encryptWorks(t, one.Engine, one.key)
		must(t, one.works(t))
	}
	if met := end(); met != nil {
		t.Errorf("while the other token was away: %v", met[0])
	}
	if two.Stats().Epoch != epoch || shim.Calls(softhsm.Finalize) != 0 {
		t.Errorf("the token that was well was reconnected: %+v, C_Finalize was called %d times", two.Stats(), shim.Calls(softhsm.Finalize))
	}
}

func TestAllTokensComeBackWhenTheModuleIsDead(t *testing.T) {
	_, tokens, shim := tokensOfOneModule(t, nil, "one", "two", "idle")
	one, two, idle := tokens[0], tokens[1], tokens[2]
	const deaths = 3
	for range deaths {
		before := []uint64{one.Stats().Epoch, two.Stats().Epoch, idle.Stats().Epoch}
		loads := []func() []error{one.underLoad(t), two.underLoad(t)}
		time.Sleep(10 * time.Millisecond)
		shim.Die()
		eventually(t, "all tokens are back", func() bool {
			for i, s := range tokens {
				if stats := s.Stats(); stats.Epoch <= before[i] || !stats.Serving {
					return false
				}
			}
			return true
		})
		for _, end := range loads {
			for _, err := range end() {
				if !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrBusy) {
					t.Errorf("while the module was dead: %v", err)
				}
			}
		}
		for _, s := range tokens {
			must(t, s.works(t))
			must(t, s.Check(t.Context()))
		}
		eventually(t, "the repairs end", func() bool { return one.idle() && two.idle() && idle.idle() })
	}
	if n := shim.Calls(softhsm.Initialize); n != 1+deaths {
		t.Errorf("C_Initialize was called %d times, want once at the start and once for each of %d deaths", n, deaths)
	}
}

// TestTokensAreFoundWhereTheSlotsHaveOtherNumbers: after C_Initialize the number
// of one token's slot may be that of another's.
func TestTokensAreFoundWhereTheSlotsHaveOtherNumbers(t *testing.T) {
	_, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	was := []uint{one.slot, two.slot}
	shim.Hang(softhsm.Initialize, true)
	shim.Die()
	eventually(t, "the module is initialised anew", func() bool {
		_ = one.works(t)
		return shim.Calls(softhsm.Initialize) == 2
	})
	shim.Renumber(was[1] - was[0])
	shim.Hang(softhsm.Initialize, false)
	for _, s := range tokens {
		encryptWorks(t, s.Engine, s.key)
	}
	eventually(t, "the repairs end", func() bool { return one.idle() && two.idle() })
	if one.slot != was[1] || two.slot == was[1] {
		t.Errorf("slots %d and %d, were %d and %d: want the first to have the number of the second", one.slot, two.slot, was[0], was[1])
	}
	for _, s := range tokens {
		must(t, s.works(t))
		must(t, s.Check(t.Context()))
	}
}

func TestHungCallsOfOneTokenLeaveTheOthers(t *testing.T) {
	_, tokens, shim := tokensOfOneModule(t, func(c *Config) { c.QuiesceTimeout = 50 * time.Millisecond }, "one", "two")
	one, two := tokens[0], tokens[1]
	must(t, one.works(t))
	end := two.underLoad(t)
	shim.Inject(softhsm.Encrypt, softhsm.Fault{Delay: time.Second, Slot: one.slot, Times: 1})
	if _, err := one.Encrypt(within(t, 20*time.Millisecond), client, one.key, []byte("x"), nil); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Encrypt that hangs = %v, want %v", err, hsm.ErrDeadline)
	}
	for _, reconnect := range []bool{false, true} {
		if err := one.rebuild(reconnect); !errors.Is(err, hsm.ErrDeadline) {
			t.Errorf("reconnect with a call in flight = %v, want %v", err, hsm.ErrDeadline)
		}
	}
	if err := one.Close(); !errors.Is(err, hsm.ErrDeadline) {
		t.Errorf("Close with a call in flight = %v, want %v", err, hsm.ErrDeadline)
	}
	must(t, two.works(t))
	if met := end(); met != nil {
		t.Errorf("while a call of the other token hung: %v", met[0])
	}
	must(t, two.Close())
	if n := shim.Calls(softhsm.Finalize); n != 0 {
		t.Errorf("C_Finalize was called %d times with a call in flight", n)
	}
	eventually(t, "the stuck call returns", func() bool { return one.Stats().Stuck == 0 })
	must(t, one.Close())
	if n := shim.Calls(softhsm.Finalize); n != 1 {
		t.Errorf("C_Finalize was called %d times after the call has returned, want once", n)
	}
	goleak.VerifyNone(t)
}

func TestModuleIsSparedWhileOtherTokensAreWell(t *testing.T) {
	m, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	slot := two.slot
	shim.Remove(one.slot)
	eventually(t, "the token is lost", func() bool { return one.lost(t) })
	if err := m.restart(one.Engine, m.generation.Load()); !errors.Is(err, errSpared) {
		t.Errorf("restart = %v, want %v", err, errSpared)
	}
	for n := uint64(1); n <= 2; n++ {
		end := two.underLoad(t)
		// It comes back slowly: that is no reason to begin again.
		shim.Inject(softhsm.Login, softhsm.Fault{Delay: 300 * time.Millisecond, Slot: slot, Times: 1})
		m.turn.Lock()
		m.sparing.due = time.Now() // the pause is over
		m.turn.Unlock()
		one.repair.hurry()
		eventually(t, "the module is initialised anew", func() bool { return shim.Calls(softhsm.Finalize) == n })
		time.Sleep(50 * time.Millisecond)
		one.repair.hurry()
		encryptWorks(t, two.Engine, two.key)
		for _, err := range end() {
			if !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("while the module was initialised anew: %v", err)
			}
		}
		if err := m.restart(one.Engine, m.generation.Load()); !errors.Is(err, errSpared) {
			t.Errorf("restart soon after another = %v, want %v", err, errSpared)
		}
		if err := m.restart(one.Engine, m.generation.Load()-1); err != nil {
			t.Errorf("restart that somebody has made already = %v, want nil", err)
		}
	}
	must(t, two.works(t))
	shim.PutBack()
	one.repair.hurry()
	encryptWorks(t, one.Engine, one.key)
	if n := shim.Calls(softhsm.Finalize); n != 2 {
		t.Errorf("C_Finalize was called %d times, want 2", n)
	}
}

// TestFalseAlarmsOfOneToken: where a single token would have the module
// initialised anew, it logs in again if there are others.
func TestFalseAlarmsOfOneToken(t *testing.T) {
	_, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	epoch, other := one.Stats().Epoch, two.Stats().Epoch
	for range falseAlarms {
		must(t, one.works(t))
		shim.Inject(softhsm.Encrypt, softhsm.Fault{Code: pkcs11.CKR_DEVICE_ERROR, Slot: one.slot, Times: 1})
		if err := one.works(t); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("Encrypt that meets a device error = %v, want %v", err, hsm.ErrUnavailable)
		}
		eventually(t, "the repair ends", one.idle)
	}
	if one.Stats().Epoch == epoch || two.Stats().Epoch != other || shim.Calls(softhsm.Finalize) != 0 {
		t.Errorf("epochs %d and %d, C_Finalize %d times; want the first token alone to be logged in to again",
			one.Stats().Epoch, two.Stats().Epoch, shim.Calls(softhsm.Finalize))
	}
}

func TestSparing(t *testing.T) {
	var s sparing
	now := time.Now()
	var at []time.Duration // when it was allowed, from the start of the outage
	wishes := func(outage time.Duration) {
		at = nil
		for begin := now; now.Sub(begin) <= outage; now = now.Add(maxBackoff) {
			if s.allows(now) {
				at = append(at, now.Sub(begin))
			}
		}
	}
	want := func(what string, want ...time.Duration) {
		t.Helper()
		if !slices.Equal(at, want) {
			t.Errorf("%s: allowed at %v, want %v", what, at, want)
		}
	}
	wishes(4 * time.Hour)
	want("long outage", time.Minute, 3*time.Minute, 7*time.Minute, 15*time.Minute, 31*time.Minute, 63*time.Minute, 123*time.Minute, 183*time.Minute)
	now = now.Add(10 * time.Minute)
	wishes(30 * time.Minute)
	want("another outage soon after")
	now = now.Add(longestPause + time.Minute)
	wishes(4 * time.Minute)
	want("an outage long after", time.Minute, 3*time.Minute)
}

// TestPINThatOneTokenRefuses: when the module comes back, the PIN of a token that
// has been changed is tried once, and the others are not kept out by it.
func TestPINThatOneTokenRefuses(t *testing.T) {
	var changed atomic.Bool
	var tried atomic.Int64
	_, tokens, shim := tokensOfOneModule(t, func(c *Config) {
		if right := c.PIN; c.Label == "one" {
			c.PIN = func() ([]byte, error) {
				tried.Add(1)
				if changed.Load() {
					return []byte("000000"), nil
				}
				return right()
			}
		}
	}, "one", "two")
	one, two := tokens[0], tokens[1]
	changed.Store(true)
	tried.Store(0)
	for range 2 {
		epoch := two.Stats().Epoch
		shim.Die()
		eventually(t, "the token whose PIN is right is back", func() bool {
			_ = two.works(t)
			return two.Stats().Epoch > epoch && two.Stats().Serving
		})
		eventually(t, "the repairs end", func() bool { return one.idle() && two.idle() })
		must(t, two.works(t))
	}
	if err := one.works(t); !errors.Is(err, hsm.ErrUnavailable) || !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("Encrypt by the token whose PIN is refused = %v, want %v", err, hsm.ErrPIN)
	}
	if n := tried.Load(); n != 1 {
		t.Errorf("the PIN was tried %d times, want once", n)
	}
}

// TestTokensComeAndGoWhileTheModuleDies opens and closes a token while another
// one is in use and the module dies.
func TestTokensComeAndGoWhileTheModuleDies(t *testing.T) {
	m, tokens, shim := tokensOfOneModule(t, nil, "one", "two")
	one, two := tokens[0], tokens[1]
	end := one.underLoad(t)
	for n := range 6 {
		if n%3 == 1 {
			shim.Die()
		}
		if err := two.Close(); err != nil && !errors.Is(err, hsm.ErrDeadline) {
			t.Logf("Close of a token of a dead module = %v", err)
		}
		eventually(t, "the token opens again", func() bool {
			e, err := m.Open(t.Context(), two.cfg)
			if err == nil {
				two.Engine = e
			}
			return err == nil
		})
		t.Cleanup(func() { must(t, two.Close()) })
	}
	encryptWorks(t, one.Engine, one.key)
	for _, err := range end() {
		if !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrBusy) {
			t.Errorf("while another token came and went: %v", err)
		}
	}
	must(t, two.works(t))
}
