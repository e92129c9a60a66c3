package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the numbers of the jobs. Labels are the names of jobs.
type metrics struct {
	runs     *prometheus.CounterVec // by job and outcome
	done     *prometheus.CounterVec // by job
	duration *prometheus.HistogramVec
	last     *prometheus.GaugeVec
	worn     prometheus.Gauge // materials
}

// Outcomes of a run.
const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
	outcomeUnfit  = "unfit" // not begun: the clock is off, or a token is not well
)

// durationBuckets reach from a query that finds nothing to a claim that runs out, in seconds.
var durationBuckets = []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300}

// newMetrics registers the numbers; registerer may be nil.
func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmsgate_reconcile_runs_total", Help: "Runs of background jobs, by job and outcome (ok, failed, unfit).",
		}, []string{"job", "outcome"}),
		done: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmsgate_reconcile_done_total", Help: "Pieces of work that background jobs have finished, such as deletions of keys.",
		}, []string{"job"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmsgate_reconcile_duration_seconds", Help: "Time that a run of a background job took.", Buckets: durationBuckets,
		}, []string{"job"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmsgate_reconcile_last_success_timestamp_seconds", Help: "When a background job last ran without an error.",
		}, []string{"job"}),
		worn: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmsgate_worn_key_materials",
			Help: "Key materials that are in use and have encrypted half as often as they may: their keys must be rotated.",
		}),
	}
	if registerer != nil {
		registerer.MustRegister(m.runs, m.done, m.duration, m.last, m.worn)
	}
	return m
}

func (m *metrics) unfit(job string) { m.runs.WithLabelValues(job, outcomeUnfit).Inc() }

func (m *metrics) ran(job string, done int, took time.Duration, err error) {
	m.done.WithLabelValues(job).Add(float64(done))
	m.duration.WithLabelValues(job).Observe(took.Seconds())
	if err != nil {
		m.runs.WithLabelValues(job, outcomeFailed).Inc()
		return
	}
	m.runs.WithLabelValues(job, outcomeOK).Inc()
	m.last.WithLabelValues(job).SetToCurrentTime()
}
