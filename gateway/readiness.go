package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"kmsgate/hsm"
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

	awayMu sync.Mutex
	away   map[string]time.Time // guarded by awayMu: since when the token of a store does not answer
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

// since notes whether the token of a store answers, and tells since when it does not.
func (r *readiness) since(store string, now time.Time, err error) time.Time {
	r.awayMu.Lock()
	defer r.awayMu.Unlock()
	if err == nil {
		delete(r.away, store)
		return time.Time{}
	}
	if r.away == nil {
		r.away = map[string]time.Time{}
	}
	if _, known := r.away[store]; !known {
		r.away[store] = now
	}
	return r.away[store]
}

// awayError says that the token of a key store does not serve, and since when that is
// seen.
type awayError struct {
	region, store string
	since         time.Time
	err           error
}

func (e *awayError) Error() string {
	return fmt.Sprintf("region %s, key store %s, since %s: %v", e.region, e.store, e.since.UTC().Format(time.RFC3339), e.err)
}

func (e *awayError) Unwrap() error { return e.err }

// toDo is what an operator does about a token that does not serve, by its error; the
// last row is for all others.
var toDo = []struct {
	is   error
	text string
}{
	{hsm.ErrPIN, "its PIN is refused or locked: mend it, run kmsgate hsm login, then restart"},
	{hsm.ErrBusy, "it has too much to do: wait, or give it fewer callers"},
	{nil, "it is taken in again as soon as it answers: look at the HSM, at the log, and at kmsgate doctor"},
}

// tell is what /readyz says. It is for everybody: it has nothing of the error.
func (e *awayError) tell() string {
	for _, row := range toDo {
		if row.is == nil || errors.Is(e.err, row.is) {
			return fmt.Sprintf("region %s is not served since %s: its token does not answer; %s", e.region, e.since.UTC().Format(time.RFC3339), row.text)
		}
	}
	return ""
}

// unserved are the regions that cannot be served.
type unserved []*awayError

func (u unserved) Error() string {
	texts := make([]string, len(u))
	for i, e := range u {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// notReady is what /readyz answers for an error of [Gateway.Ready].
func notReady(err error) string {
	regions, ok := errors.AsType[unserved](err)
	if !ok {
		return "not ready: see the log\n"
	}
	var b strings.Builder
	for _, e := range regions {
		fmt.Fprintf(&b, "not ready: %s\n", e.tell())
	}
	return b.String()
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

// Ready tells whether the gateway can serve: every token and the database are
// really asked, and the clocks compared. The error says what is wrong, and which
// regions are not served since when.
func (g *Gateway) Ready(ctx context.Context) error {
	skew, err := g.store.ClockSkew(ctx)
	if err != nil {
		return err
	}
	if skew.Abs() > maxClockSkew {
		return fmt.Errorf("the clock differs from the database's by %s; more than %s is not ready", skew, maxClockSkew)
	}
	return g.checkTokens(ctx)
}

// checkTokens asks all tokens at once: one that hangs keeps no other waiting.
func (g *Gateway) checkTokens(ctx context.Context) error {
	var asked sync.WaitGroup
	var mu sync.Mutex
	errs := map[string]error{} // by store; guarded by mu
	for store, token := range g.tokens {
		asked.Go(func() {
			err := token.Check(ctx)
			mu.Lock()
			defer mu.Unlock()
			errs[store] = err
		})
	}
	asked.Wait()
	var away unserved
	for _, r := range g.regions {
		err := errs[r.Store]
		if since := g.readiness.since(r.Store, g.clock(), err); err != nil {
			away = append(away, &awayError{region: r.Name, store: r.Store, since: since, err: err})
		}
	}
	if len(away) > 0 {
		return away
	}
	return nil
}
