package pkcs11

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsgate/hsm"
)

// rewrapped is how many blobs the benchmark moves in one round.
const rewrapped = 10_000

// BenchmarkRewrap moves 10,000 blobs, and in turn does with as many sessions what of
// that is raw: C_UnwrapKey, C_WrapKey, C_DestroyObject. The medians of the rounds
// compare.
func BenchmarkRewrap(b *testing.B) {
	for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("%d", workers), func(b *testing.B) { benchmarkRewrap(b, workers) })
	}
}

func benchmarkRewrap(b *testing.B, workers int) {
	e := openWithKeys(b, func(c *Config) { c.MaxSessions = 4 * workers })
	_, err := e.CreateServiceKeys(b.Context(), serviceKeyRows(testStore, 2))
	must(b, err)
	some := make([]hsm.Key, 0, 10*MaxBatch)
	for n := range cap(some) {
		some = append(some, *generate(b, e, fmt.Sprint(n)))
	}
	var engine, raw []float64
	for b.Loop() {
		for range 3 {
			raw = append(raw, perSecond(b, workers, func() int { return e.rewrapRaw(b, some) }))
			engine = append(engine, perSecond(b, workers, func() int {
				for chunk := range slices.Chunk(some, MaxBatch) {
					if _, err := e.RewrapAll(b.Context(), hsm.Call{Class: hsm.Background}, chunk, 1); err != nil {
						b.Error(err)
					}
				}
				return len(some)
			}))
		}
	}
	slices.Sort(engine)
	slices.Sort(raw)
	b.ReportMetric(engine[len(engine)/2], "rewraps/s")
	b.ReportMetric(raw[len(raw)/2], "raw/s")
	b.ReportMetric(100*engine[len(engine)/2]/raw[len(raw)/2], "%of-raw")
}

// perSecond is the rate at which workers do something until enough is done.
func perSecond(b *testing.B, workers int, do func() int) float64 {
	b.Helper()
	var done atomic.Int64
	var working sync.WaitGroup
	began := time.Now()
	for range workers {
		working.Go(func() {
			for done.Load() < rewrapped {
				done.Add(int64(do()))
			}
		})
	}
	working.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// rewrapRaw does nothing but what a token must.
func (e *Engine) rewrapRaw(b *testing.B, keys []hsm.Key) int {
	h, err := e.module.openSession(e.slot)
	must(b, err)
	s := &session{engine: e, handle: h, epoch: e.epoch.Load()}
	domain, _ := e.service.Load().find(testStore, hsm.DomainKey, keys[0].Generation)
	t, err := typeOf(&keys[0])
	must(b, err)
	opening, blob := s.opening(&t, mayBeExtracted), make([]byte, maxBlobBytes)
	for i := range keys {
		key, err := s.unwrap(domain, keys[i].Blob, opening)
		must(b, err)
		_, err = e.module.lib.wrap(s.handle, domain.wrapMech, domain.handle, key, blob)
		must(b, err)
		must(b, e.module.lib.destroy(s.handle, key))
	}
	must(b, e.module.closeSession(h))
	return len(keys)
}
