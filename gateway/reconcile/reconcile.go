// Package reconcile does what is due without anybody's asking: deletion, rotation,
// expiry. Its jobs are functions of (context, time), find their work by query,
// claim it in a short transaction, do it without one, and commit it if the claim
// still stands: any instance may run them, and run them again after a crash.
package reconcile

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"kmsgate/hsm"
	"kmsgate/metadata"
)

// Config is what a Reconciler works with.
type Config struct {
	Store  *metadata.Store
	Tokens map[string]hsm.Token // by key store
	Logger *slog.Logger
	// Fit tells whether the instance may work: its clock is right, and its tokens are well.
	Fit func(context.Context) error
	// Clock tells the time that work is due by.
	Clock func() time.Time
	// Webhook is where events are posted. Optional.
	Webhook *Webhook
	// Metrics is where the numbers are registered. Optional.
	Metrics prometheus.Registerer
}

// Reconciler does the jobs. Make it with New; safe for concurrent use.
type Reconciler struct {
	Config
	// Holder is the name under which this process claims work: a new one at every start.
	Holder  uuid.UUID
	metrics *metrics
	watched *watched
	wake    map[string]chan struct{} // by job

	committing chan struct{} // holds an element for each change that is being committed
	together   together
	transports transports
}

// maxCommitting is how many changes are committed at once.
const maxCommitting = 4

// New makes a Reconciler.
func New(c Config) *Reconciler {
	r := &Reconciler{
		Config: c, Holder: uuid.New(), metrics: newMetrics(c.Metrics), watched: newWatched(c.Metrics), wake: map[string]chan struct{}{},
		committing: make(chan struct{}, maxCommitting), together: together{waiting: map[string][]*waitingChange{}},
		transports: transports{pairs: map[string]transport{}, turns: map[string]chan struct{}{}},
	}
	for _, j := range jobs {
		r.wake[j.name] = make(chan struct{}, 1)
	}
	return r
}
