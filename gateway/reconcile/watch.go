package reconcile

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of an attempt to post an event.
const (
	eventPosted  = "posted"
	eventFailed  = "failed"
	eventDropped = "dropped" // given up after a week; its last attempt is counted as failed too
)

// watched are the numbers that operators should be warned by. Labels are regions and
// outcomes.
type watched struct {
	events   *prometheus.CounterVec // by outcome
	waiting  prometheus.Gauge
	oldest   prometheus.Gauge
	pending  *prometheus.GaugeVec // by region, like the following
	deletion *prometheus.GaugeVec
	expiring *prometheus.GaugeVec
	expiry   *prometheus.GaugeVec
	overdue  *prometheus.GaugeVec
}

// newWatched registers the numbers; registerer may be nil.
func newWatched(registerer prometheus.Registerer) *watched {
	byRegion := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"region"})
	}
	w := &watched{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmsgate_event_posts_total", Help: "Attempts to post events to the webhook by outcome (posted, failed), and events given up (dropped).",
		}, []string{"outcome"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmsgate_events_waiting", Help: "Events that wait for the webhook, of all instances.",
		}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmsgate_events_oldest_seconds", Help: "Age of the oldest event that waits for the webhook; 0 if none does.",
		}),
		pending:  byRegion("kmsgate_keys_pending_deletion", "Keys that wait for the end of their window to be deleted."),
		deletion: byRegion("kmsgate_next_key_deletion_seconds", "Time until the next key is deleted; absent if none waits for it."),
		expiring: byRegion("kmsgate_key_materials_expiring", "Imported key materials that are there and have a time at which they expire."),
		expiry:   byRegion("kmsgate_next_key_material_expiration_seconds", "Time until the next imported key material expires; absent if none does."),
		overdue:  byRegion("kmsgate_key_rotations_overdue", "Enabled keys whose automatic rotation is more than an hour late."),
	}
	if registerer != nil {
		registerer.MustRegister(w.events, w.waiting, w.oldest, w.pending, w.deletion, w.expiring, w.expiry, w.overdue)
	}
	return w
}

// late is how late a rotation may be before it counts as overdue.
const late = time.Hour

// Watch brings the numbers up to date that operators should be warned by. Every
// instance does, for its own; nothing is claimed, and nothing is done.
func (r *Reconciler) Watch(ctx context.Context, now time.Time) (done int, err error) {
	waiting, since, err := r.Store.EventBacklog(ctx)
	if err != nil {
		return 0, err
	}
	figures, err := r.Store.LifeFigures(ctx, now.Add(-late))
	if err != nil {
		return 0, err
	}
	w := r.watched
	w.waiting.Set(float64(waiting))
	w.oldest.Set(0)
	if waiting > 0 {
		w.oldest.Set(max(0, now.Sub(since).Seconds()))
	}
	for _, f := range figures {
		w.pending.WithLabelValues(f.Region).Set(float64(f.PendingDeletions))
		w.expiring.WithLabelValues(f.Region).Set(float64(f.ExpiringMaterials))
		w.overdue.WithLabelValues(f.Region).Set(float64(f.OverdueRotations))
		setUntil(w.deletion, f.Region, f.NextDeletion, now)
		setUntil(w.expiry, f.Region, f.NextExpiry, now)
	}
	return 0, nil
}

// setUntil sets the time until something, or that there is nothing.
func setUntil(gauge *prometheus.GaugeVec, region string, at *time.Time, now time.Time) {
	if at == nil {
		gauge.DeleteLabelValues(region)
		return
	}
	gauge.WithLabelValues(region).Set(at.Sub(now).Seconds())
}
