package pkcs11

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/der"
	"kmsgate/hsm/keyspec"
	"kmsgate/softhsm"
)

// allFaults has the whole product of functions and faults run, not a part of it.
const allFaults = "KMSGATE_ALL_FAULTS"

// faultyFunctions are those of the data plane and of recovery. What is of recovery
// is only called when the token was lost.
var faultyFunctions = []struct {
	softhsm.Function
	recovery bool
}{
	{softhsm.Encrypt, false},
	{softhsm.Initialize, true},
	{softhsm.EncryptInit, false},
	{softhsm.Finalize, true},
	{softhsm.Decrypt, false},
	{softhsm.GetSlotList, true},
	{softhsm.DecryptInit, false},
	{softhsm.GetTokenInfo, true},
	{softhsm.Sign, false},
	{softhsm.Login, true},
	{softhsm.SignInit, false},
	{softhsm.FindObjectsInit, true},
	{softhsm.UnwrapKey, false},
	{softhsm.FindObjects, true},
	{softhsm.WrapKey, false},
	{softhsm.FindObjectsFinal, true},
	{softhsm.GenerateKey, false},
	{softhsm.GenerateRandom, false},
	{softhsm.DestroyObject, false},
	{softhsm.OpenSession, false},
	{softhsm.CloseSession, false},
	{softhsm.GetSessionInfo, false},
}

// faultKind is something that happens to calls of a function, or to the token as a
// whole while they are made.
type faultKind struct {
	name  string
	fault softhsm.Fault
	token func(*softhsm.Shim) // to the token as a whole
	hang  bool
	only  []softhsm.Function // that have such an output; nil: all
}

var (
	withLengths = []softhsm.Function{softhsm.Encrypt, softhsm.Decrypt, softhsm.Sign, softhsm.WrapKey}
	// withLies are the functions whose lies are noticed, see honest.go.
	withLies = []softhsm.Function{softhsm.WrapKey, softhsm.UnwrapKey, softhsm.GenerateKey, softhsm.OpenSession}
)

// faultKinds are one code of each class that does not end the service for good,
// and all else that a module does wrong.
var faultKinds = []faultKind{
	{name: "session", fault: softhsm.Fault{Code: 0xB3}},
	{name: "object", fault: softhsm.Fault{Code: 0x82}},
	{name: "login", fault: softhsm.Fault{Code: 0x101}},
	{name: "device", fault: softhsm.Fault{Code: 0x30}},
	{name: "busy", fault: softhsm.Fault{Code: 0x80000041}},
	{name: "capacity", fault: softhsm.Fault{Code: 0x31}},
	{name: "answer lost", fault: softhsm.Fault{Code: 0x30, After: true}},
	{name: "delay", fault: softhsm.Fault{Delay: 20 * time.Millisecond}},
	{name: "hang", hang: true},
	{name: "sessions dropped", token: (*softhsm.Shim).DropSessions},
	{name: "login lost", token: (*softhsm.Shim).LoseLogin},
	{name: "token removed", token: func(s *softhsm.Shim) { s.Remove(softhsm.AllSlots) }},
	{name: "slots renumbered", token: func(s *softhsm.Shim) { s.Renumber(7); s.DropSessions() }},
	{name: "library dead", token: (*softhsm.Shim).Die},
	{name: "too short", fault: softhsm.Fault{Length: softhsm.TooShort}, only: withLengths},
	{name: "too long", fault: softhsm.Fault{Length: softhsm.Huge}, only: withLengths},
	{name: "corrupt", fault: softhsm.Fault{Corrupt: softhsm.Flipped}, only: withLies},
}

// faultBench is an engine under a load whose every answer is examined.
type faultBench struct {
	t        *testing.T
	e        *Engine
	shim     *softhsm.Shim
	aes, rsa *hsm.Key
	public   *der.Public
	ivs      sync.Map
	right    atomic.Int64 // answers that were right
	refused  atomic.Int64 // and calls that were refused
}

func newFaultBench(t *testing.T) *faultBench {
	b := &faultBench{t: t}
	b.e, b.shim = openWithShim(t, func(c *Config) {
		c.MaxSessions, c.OwnerSessions, c.ReturnCodes = 8, 2, map[uint]string{0x80000041: "busy"}
		c.CallTimeout, c.QuiesceTimeout = time.Second, 2*time.Second
	})
	b.aes, b.rsa = generate(t, b.e, "aes"), makeKey(t, b.e, keyspec.RSA2048, keyspec.SignVerify)
	var err error
	b.public, err = publicOf(b.rsa)
	must(t, err)
	return b
}

// operations are the mix. Each returns an error of hsm, or errWrong.
var operations = []func(*faultBench) error{(*faultBench).roundTrip, (*faultBench).sign, (*faultBench).create, (*faultBench).roundTrip}

var errWrong = errors.New("a wrong answer")

func (b *faultBench) roundTrip() error { return b.roundTripWith(b.aes) }

func (b *faultBench) roundTripWith(k *hsm.Key) error {
	plaintext := make([]byte, 40)
	rand.Read(plaintext)
	c, err := b.e.Encrypt(b.t.Context(), client, k, plaintext, plaintext[:8])
	if err != nil {
		return err
	}
	if _, again := b.ivs.LoadOrStore(string(c.IV), true); again {
		return fmt.Errorf("%w: an IV that was there before", errWrong)
	}
	got, err := b.e.Decrypt(b.t.Context(), client, k, c, plaintext[:8])
	if err == nil && !bytes.Equal(got, plaintext) {
		return fmt.Errorf("%w: another plaintext", errWrong)
	}
	return err
}

func (b *faultBench) sign() error {
	message := make([]byte, 40)
	rand.Read(message)
	signature, err := b.e.Sign(b.t.Context(), client, b.rsa, keyspec.RSASSAPSSSHA256, keyspec.Raw, message)
	if err != nil {
		return err
	}
	sig, err := newSignature(b.rsa.Spec, keyspec.RSASSAPSSSHA256, keyspec.Raw, message)
	must(b.t, err)
	if sig.verifyHere(b.public, sig.message, signature) != nil {
		return fmt.Errorf("%w: a signature that is not valid", errWrong)
	}
	return nil
}

// create makes a key, which works from then on: now or when the token is back.
func (b *faultBench) create() error {
	k, err := b.e.Generate(b.t.Context(), client, newKey("made"))
	if err != nil {
		return err
	}
	err = b.roundTripWith(&k)
	if errors.Is(err, hsm.ErrWrongMaterial) || errors.Is(err, hsm.ErrBinding) {
		return fmt.Errorf("%w: a key was acknowledged that is lost: %w", errWrong, err)
	}
	return err
}

// load runs the mix until stop is closed; rounds is how often at least.
func (b *faultBench) load(what string, rounds int) {
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			for i := range rounds {
				switch err := operations[(w+i)%len(operations)](b); {
				case err == nil:
					b.right.Add(1)
				case errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrBusy) || errors.Is(err, hsm.ErrDeadline):
					b.refused.Add(1)
				default:
					b.t.Errorf("%s: %v, want the right answer, or that the token is not there", what, err)
				}
			}
		})
	}
	workers.Wait()
}

// works waits until everything works.
func (b *faultBench) works(what string) {
	b.t.Helper()
	var err error
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if err = errors.Join(b.roundTrip(), b.sign(), b.create()); err == nil {
			return
		}
		if errors.Is(err, errWrong) {
			break
		}
	}
	b.t.Fatalf("%s: %v", what, err)
}

// run makes one fault happen under load, heals it, and wants full service.
func (b *faultBench) run(f softhsm.Function, recovery bool, kind *faultKind) {
	what := fmt.Sprintf("%s, %s", f, kind.name)
	b.works(what + ": before")
	fault := kind.fault
	fault.Times = 3
	if recovery {
		fault.Times = 1
	}
	b.e.handles.reset() // what is cached would keep some functions from being called
	switch {
	case kind.token != nil:
		kind.token(b.shim)
	case kind.hang:
		b.shim.Hang(f, true)
	default:
		b.shim.Inject(f, fault)
	}
	if recovery && kind.token == nil {
		b.shim.Die()
	}
	heal := time.AfterFunc(100*time.Millisecond, b.shim.Heal)
	b.load(what, 4)
	heal.Stop()
	b.shim.Heal()
	b.works(what + ": afterwards")
}

// TestFaults makes each function fail in each way under a load of all kinds of
// calls: no answer is wrong, what is refused is refused for the token's absence,
// everything works afterwards, and nothing piles up. Without the variable
// allFaults each function meets a part of the faults, each fault a part of the functions.
func TestFaults(t *testing.T) {
	b := newFaultBench(t)
	b.works("at first")
	goroutines := runtime.NumGoroutine()
	all := os.Getenv(allFaults) != ""
	var table strings.Builder
	for i := range faultKinds {
		kind := &faultKinds[i]
		right, refused, cases := b.right.Load(), b.refused.Load(), 0
		for j, f := range faultyFunctions {
			if kind.only != nil && !slices.Contains(kind.only, f.Function) || kind.token != nil && (j > 0 || f.recovery) {
				continue
			}
			if all || kind.only != nil || kind.token != nil || (i+j)%6 == 0 {
				b.run(f.Function, f.recovery, kind)
				cases++
			}
		}
		fmt.Fprintf(&table, "| %s | %d | %d | %d |\n", kind.name, cases, b.right.Load()-right, b.refused.Load()-refused)
	}
	t.Logf("| fault | cases | right answers | calls refused |\n|---|---|---|---|\n%s", &table)
	// The anchor, the owners', the workers', health's, and one that a probe has.
	eventually(t, "no session is left open", func() bool { return b.shim.Sessions() <= 1+2+8+1+1 })
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines+16 })
	eventually(t, "no call is stuck", func() bool { return b.e.Stats().Stuck == 0 })
}
