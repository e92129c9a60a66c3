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
