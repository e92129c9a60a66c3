package gateway

import (
	"context"
	"sync"
	"time"
)

// readinessFor is how long an answer to whether the gateway is ready holds:
// whoever asks more often cannot load the token.
const readinessFor = time.Second

// readiness remembers the newest answer. Safe for concurrent use; only one asks
// at a time, the others wait for its answer.
type readiness struct {
	mu    sync.Mutex
	asked time.Time // guarded by mu; zero before the first time
	err   error     // guarded by mu
}

func (r *readiness) ask(ctx context.Context, clock func() time.Time, check func(context.Context) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := clock(); r.asked.IsZero() || now.Sub(r.asked) >= readinessFor {
		r.err = check(ctx)
		r.asked = clock()
	}
	return r.err
}

// readyTimeout bounds one readiness check.
const readyTimeout = 3 * time.Second

// fit tells whether the gateway can serve, by an answer that is not old. The answer is
// others' too: a caller who goes away does not end the check.
func (g *Gateway) fit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	return g.readiness.ask(ctx, g.clock, g.Ready)
}
