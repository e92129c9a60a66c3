package worker

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
	"kmsgate/hsm/pkcs11"
)

// BenchmarkEncrypt holds a token in a worker against its engine in this process, both
// on the library itself and on one that takes 5 ms a call, 32 at once, as a token
// behind a network does. Rounds take turns; the ratio is that of the two.
func BenchmarkEncrypt(b *testing.B) {
	for _, c := range []struct {
		name    string
		latency time.Duration
		callers int
	}{{"local", 0, 16}, {"network", 5 * time.Millisecond, 32}} {
		b.Run(c.name, func(b *testing.B) {
			cfg := newConfig(b)
			cfg.MaxSessions = c.callers
			shim := withShim(b, &cfg)
			token := openWithKeys(b, cfg)
			k := generateKey(b, token, "bench")
			here := cfg
			beside := withShim(b, &here)
			for row := range token.services {
				here.ServiceKeys = append(here.ServiceKeys, token.services[row])
			}
			e, err := pkcs11.Open(b.Context(), here)
			must(b, err)
			defer e.Close()
			if c.latency > 0 {
				shim.Slow(c.latency, 32)
				beside.Slow(c.latency, 32)
			}
			var worker, engine time.Duration
			for b.Loop() {
				worker += rounds(b, token, k, c.callers)
				engine += rounds(b, e, k, c.callers)
			}
			b.ReportMetric(engine.Seconds()/worker.Seconds(), "worker/engine")
			b.ReportMetric(float64(b.N*calls)/worker.Seconds(), "worker-ops/s")
			b.ReportMetric(float64(b.N*calls)/engine.Seconds(), "engine-ops/s")
			shim.Slow(0, 0)
			beside.Slow(0, 0)
		})
	}
}

// calls is how many calls make a round.
const calls = 4000

func rounds(b *testing.B, token hsm.Token, k *hsm.Key, callers int) time.Duration {
	b.Helper()
	var left atomic.Int64
	left.Store(calls)
	plaintext, aad := make([]byte, 32), make([]byte, 64)
	begun := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := token.Encrypt(b.Context(), client, k, plaintext, aad); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begun)
}
