package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/softhsm"
)

// A token behind a network, as the shim makes one of SoftHSM: so long a call takes,
// and so many are made at once.
const (
	networkLatency  = 5 * time.Millisecond
	networkSessions = 32
)

// gcmOperations are the operations with symmetric keys as the gateway makes them.
// Each works on a key of its own with a ciphertext under it.
var gcmOperations = []struct {
	name string
	run  func(b testing.TB, e *Engine, k *hsm.Key, sealed hsm.Ciphertext) error
}{
	{"Encrypt", func(b testing.TB, e *Engine, k *hsm.Key, _ hsm.Ciphertext) error {
		_, err := e.Encrypt(b.Context(), client, k, canary[:], nil)
		return err
	}},
	{"Decrypt", func(b testing.TB, e *Engine, k *hsm.Key, sealed hsm.Ciphertext) error {
		_, err := e.Decrypt(b.Context(), client, k, sealed, nil)
		return err
	}},
	{"GenerateDataKey", func(b testing.TB, e *Engine, k *hsm.Key, _ hsm.Ciphertext) error {
		key, err := e.Random(b.Context(), client, 32)
		if err == nil {
			_, err = e.Encrypt(b.Context(), client, k, key, nil)
		}
		return err
	}},
}

// TestRoundTrips counts the calls of the library that an operation makes: two with
// the key, and one of the random generator for many operations.
func TestRoundTrips(t *testing.T) {
	e, shim := openWithShim(t, func(c *Config) { c.MaxSessions = 1 })
	k := generate(t, e, "k")
	sealed, err := e.Encrypt(t.Context(), client, k, canary[:], nil)
	must(t, err)
	const times = 2 * ivBatch // whole stocks of IVs, and of keys with one more
	for _, o := range gcmOperations {
		before, random := allCalls(shim), shim.Calls(softhsm.GenerateRandom)
		for range times {
			must(t, o.run(t, e, k, sealed))
		}
		calls, random := allCalls(shim)-before, shim.Calls(softhsm.GenerateRandom)-random
		t.Logf("%s: %.2f calls", o.name, float64(calls)/times)
		if calls-random != 2*times || random > 2+times*32/stockBytes+1 {
			t.Errorf("%s, %d times: %d calls, %d of them of the random generator; want two each, and few of these", o.name, times, calls, random)
		}
	}
}

// allCalls is how often any function of the library was called.
func allCalls(shim *softhsm.Shim) (n uint64) {
	for f := range softhsm.WaitForSlotEvent + 1 {
		n += shim.Calls(f)
	}
	return n
}

// BenchmarkNetwork holds the engine's rates against a bare loop over the same calls
// of the same library, in turns: the median of some rounds. Then it looks at what
// four times the load does to it, and how soon a token is back.
func BenchmarkNetwork(b *testing.B) {
	e, shim := openWithShim(b, func(c *Config) { c.MaxSessions = networkSessions })
	k := generate(b, e, "k")
	sealed, err := e.Encrypt(b.Context(), client, k, canary[:], nil)
	must(b, err)
	shim.Slow(networkLatency, 0)
	for _, o := range gcmOperations {
		b.Run(o.name, func(b *testing.B) {
			for b.Loop() {
				var ratios, rates []float64
				for range 3 {
					bare := bareRate(b, e, k, sealed, o.name == "Decrypt")
					rate, _ := rateOf(b, 2*networkSessions, 0, func() error { return o.run(b, e, k, sealed) })
					ratios, rates = append(ratios, rate/bare), append(rates, rate)
				}
				b.ReportMetric(medianOf(rates), "ops/s")
				b.ReportMetric(100*medianOf(ratios), "%-of-bare-loop")
			}
		})
	}
	b.Run("Overload", func(b *testing.B) {
		for b.Loop() {
			encrypt := func() error { return gcmOperations[0].run(b, e, k, sealed) }
			peak, at := rateOf(b, 2*networkSessions, networkRound, encrypt)
			over, late := rateOf(b, 8*networkSessions, networkRound, encrypt) // at first it is taken for a burst
			b.ReportMetric(100*over/peak, "%-goodput")
			b.ReportMetric(late.Seconds()/at.Seconds(), "x-p99")
		}
	})
	b.Run("Recovery", func(b *testing.B) {
		for b.Loop() {
			shim.Remove(softhsm.AllSlots)
			for gcmOperations[0].run(b, e, k, sealed) == nil {
			}
			time.Sleep(2 * time.Second)
			shim.PutBack()
			start := time.Now()
			for gcmOperations[0].run(b, e, k, sealed) != nil {
				time.Sleep(time.Millisecond)
			}
			b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-first-success")
		}
	})
	shim.Slow(0, 0)
}

// networkRound is how long one measurement takes.
const networkRound = time.Second

// rateOf is how much callers get done at once, and the time that one in a hundred of
// what was accepted takes longer than, after some time of the same. Who is refused
// comes again after a call's time.
func rateOf(b *testing.B, callers int, warmUp time.Duration, do func() error) (perSecond float64, p99 time.Duration) {
	b.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	begin := time.Now().Add(warmUp)
	for range callers {
		all.Go(func() {
			var mine []time.Duration
			for start := time.Now(); time.Since(begin) < networkRound; start = time.Now() {
				err := do()
				switch {
				case err == nil && start.Before(begin):
				case err == nil:
					mine = append(mine, time.Since(start))
				case errors.Is(err, hsm.ErrBusy):
					time.Sleep(networkLatency)
				default:
					b.Error(err)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	all.Wait()
	elapsed := time.Since(begin).Seconds()
	slices.Sort(took)
	return float64(len(took)) / elapsed, took[len(took)*99/100]
}

// bareRate is what a loop over the same calls gets done with as many sessions.
func bareRate(b *testing.B, e *Engine, k *hsm.Key, sealed hsm.Ciphertext, decrypt bool) float64 {
	b.Helper()
	en, err := e.handles.get(b.Context(), k, secretPart)
	must(b, err)
	defer en.release()
	var done atomic.Int64
	var all sync.WaitGroup
	lib, begin := e.module.lib, time.Now()
	for n := range networkSessions {
		all.Go(func() {
			session, err := e.module.openSession(e.slot)
			if err != nil {
				b.Error(err)
				return
			}
			iv, out := [ivBytes]byte{byte(n), 1}, make([]byte, 1024)
			for time.Since(begin) < networkRound && err == nil {
				if decrypt {
					_, err = lib.gcmDecrypt(session, en.handle, sealed.IV, nil, sealed.Data, out)
				} else {
					_, err = lib.gcmEncrypt(session, en.handle, iv[:], nil, canary[:], out)
				}
				done.Add(1)
			}
			if err := errors.Join(err, e.module.closeSession(session)); err != nil {
				b.Error(fmt.Errorf("bare loop: %w", err))
			}
		})
	}
	all.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds()
}

func medianOf(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
