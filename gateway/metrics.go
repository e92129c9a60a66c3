package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the gateway's numbers. Labels come from closed sets: operations
// of the table and error codes; never key ids, accounts or addresses.
type metrics struct {
	requests *prometheus.CounterVec   // by operation and code
	duration *prometheus.HistogramVec // by operation
	inFlight prometheus.Gauge
	alarms   prometheus.Counter
	// unexplained are refusals that kmsgate explain knows nothing of.
	unexplained prometheus.Counter
}

// durationBuckets reach from a cached answer to a request at its deadline, in seconds.
var durationBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 60}

// newMetrics registers the numbers; registerer may be nil.
func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmsgate_requests_total", Help: "Requests answered, by operation and error code (OK for success).",
		}, []string{"operation", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmsgate_request_duration_seconds", Help: "Time from a request's arrival to its answer.",
			Buckets: durationBuckets,
		}, []string{"operation"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmsgate_requests_in_flight", Help: "Requests that are being worked on.",
		}),
		alarms: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmsgate_integrity_alarms_total",
			Help: "Keys whose binding or material did not verify or is missing, and PINs refused: somebody has to look at each.",
		}),
		unexplained: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmsgate_refusals_unexplained_total",
			Help: "Refusals by policy whose reasons were not kept, because there were too many of one account's at once.",
		}),
	}
	if registerer != nil {
		registerer.MustRegister(m.requests, m.duration, m.inFlight, m.alarms, m.unexplained)
	}
	return m
}

// answered counts a request that was answered. An operation that is not on the
// table counts as Unknown, so that callers cannot make up labels.
func (m *metrics) answered(op *operation, code string, took time.Duration) {
	name := "Unknown"
	if op != nil {
		name = op.name
	}
	m.requests.WithLabelValues(name, code).Inc()
	m.duration.WithLabelValues(name).Observe(took.Seconds())
}
