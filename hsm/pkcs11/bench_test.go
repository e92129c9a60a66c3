package pkcs11

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func BenchmarkEncrypt(b *testing.B) {
	e := openWithKeys(b, nil)
	k := generate(b, e, "bench")
	plaintext, aad := make([]byte, 32), make([]byte, 64)
	const callers = 16
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := e.Encrypt(b.Context(), client, k, plaintext, aad); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkRaw(b *testing.B) {
	cfg := configFor(newToken(b))
	for b.Loop() {
		r, err := RawEncryptLoop(b.Context(), cfg, 16, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(r.PerSecond(), "ops/s")
	}
}
