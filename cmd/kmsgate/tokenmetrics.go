package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/hsm/pkcs11"
)

// tokenBuckets reach from a call into a library to a far token at its deadline, in seconds.
var tokenBuckets = []float64{.00001, .00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, .5, 1, 5}

// tokenMetrics are the numbers of one token.
type tokenMetrics struct {
	registerer prometheus.Registerer
	calls      *prometheus.HistogramVec
}

// newTokenMetrics registers the calls of a token; registerer may be nil.
func newTokenMetrics(registerer prometheus.Registerer, token string) *tokenMetrics {
	if registerer == nil {
		registerer = prometheus.NewRegistry()
	}
	m := &tokenMetrics{
		registerer: prometheus.WrapRegistererWith(prometheus.Labels{"token": token}, registerer),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmsgate_token_call_duration_seconds", Help: "Time a token took for one unit of work, by mechanism and class of its outcome.",
			Buckets: tokenBuckets,
		}, []string{"mechanism", "class"}),
	}
	m.registerer.MustRegister(m.calls)
	return m
}

func (m *tokenMetrics) observe(mechanism, class string, took time.Duration) {
	m.calls.WithLabelValues(mechanism, class).Observe(took.Seconds())
}

// watch registers the engine's own numbers, read when they are asked for.
func (m *tokenMetrics) watch(e tokenEngine) {
	gauge := func(name, help string, value func(pkcs11.Stats) float64) {
		m.registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return value(e.Stats()) }))
	}
	counter := func(name, help string, value func(pkcs11.Stats) float64) {
		m.registerer.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return value(e.Stats()) }))
	}
	gauge("kmsgate_token_sessions_in_use", "Sessions that are working.", func(s pkcs11.Stats) float64 { return float64(s.SessionsBusy) })
	gauge("kmsgate_token_sessions_waiting", "Calls that wait for a session.", func(s pkcs11.Stats) float64 { return float64(s.Waiting) })
	counter("kmsgate_token_shared_seconds_total", "Time of all sessions, added up, while clients had or wanted some.", func(s pkcs11.Stats) float64 { return s.SharedTime.Seconds() })
	counter("kmsgate_token_background_seconds_total", "Of the shared time, what background work took: a tenth at most.", func(s pkcs11.Stats) float64 { return s.BackgroundTime.Seconds() })
	gauge("kmsgate_token_away_since_seconds", "Unix time since which the token serves nobody; 0 while it serves.", func(s pkcs11.Stats) float64 {
		if s.AwaySince.IsZero() {
			return 0
		}
		return float64(s.AwaySince.UnixMilli()) / 1000
	})
	gauge("kmsgate_token_calls_stuck", "Calls whose caller has gone and that have not returned.", func(s pkcs11.Stats) float64 { return float64(s.Stuck) })
	counter("kmsgate_token_sessions_poisoned_total", "Sessions given up since the start.", func(s pkcs11.Stats) float64 { return float64(s.Poisoned) })
	counter("kmsgate_token_random_faults_total", "Random bytes thrown away because the token's generator repeated itself: the token must be examined.", func(s pkcs11.Stats) float64 { return float64(s.RandomFaults) })
	gauge("kmsgate_token_cached_keys", "Unwrapped keys kept in the token.", func(s pkcs11.Stats) float64 { return float64(s.Handles) })
	counter("kmsgate_token_cache_hits_total", "Uses of keys that were unwrapped already, since the start.", func(s pkcs11.Stats) float64 { return float64(s.Hits) })
	counter("kmsgate_token_cache_misses_total", "Uses of keys that had to be unwrapped, since the start.", func(s pkcs11.Stats) float64 { return float64(s.Misses) })
	counter("kmsgate_token_connections_total", "Times that the token was connected to, the first included.", func(s pkcs11.Stats) float64 { return float64(s.Epoch) })
}
