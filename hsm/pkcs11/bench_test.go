package pkcs11

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsgate/hsm/keyspec"
)

// cpu is what the process has used, all threads.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEncrypt and BenchmarkRaw report CPU time a call beside the rate: on
// a machine that does other work too, only that compares.
func BenchmarkEncrypt(b *testing.B) {
	e := openWithKeys(b, nil)
	k := generate(b, e, "bench")
	plaintext, aad := make([]byte, 32), make([]byte, 64)
	const callers = 16
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	before := cpu(b)
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
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkRaw(b *testing.B) {
	cfg := configFor(newToken(b))
	for b.Loop() {
		r, err := Loop(b.Context(), cfg, keyspec.SymmetricDefault, keyspec.EncryptDecrypt, keyspec.AlgorithmSymmetricDefault, 16, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(r.CPU.Nanoseconds())/float64(r.Operations), "cpu-ns/op")
		b.ReportMetric(r.PerSecond(), "ops/s")
	}
}
