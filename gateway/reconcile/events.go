package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kmsgate/metadata"
)

const (
	// eventsAtOnce is how many events, each of another key, are posted at once.
	eventsAtOnce = 8
	// claimSlack is what a claim on an event lasts beyond the time for its post.
	claimSlack = 20 * time.Second
	// maxEventAge is how old an event may become that the receiver does not take.
	maxEventAge = 7 * 24 * time.Hour
	// Time between the attempts, which doubles from one to the next.
	firstPause, longestPause = 5 * time.Second, 10 * time.Minute
)

// SendEvents posts the events that are due to the webhook. What was posted is taken
// from the outbox after it: an event whose sender dies in between is posted again.
// What the receiver does not take is tried again later, for a week.
func (r *Reconciler) SendEvents(ctx context.Context, now time.Time) (done int, err error) {
	if r.Webhook == nil {
		return 0, nil
	}
	due, err := r.Store.ClaimEvents(ctx, r.Holder, now, now.Add(r.Webhook.timeout+claimSlack), eventsAtOnce)
	if err != nil {
		return 0, err
	}
	var group sync.WaitGroup
	failed := make([]error, len(due))
	for i := range due {
		group.Go(func() { failed[i] = r.sendEvent(ctx, &due[i], now) })
	}
	group.Wait()
	for _, err := range failed {
		if err == nil {
			done++
		}
	}
	return done, errors.Join(failed...)
}

func (r *Reconciler) sendEvent(ctx context.Context, e *metadata.QueuedEvent, now time.Time) error {
	err := r.Webhook.post(ctx, e.ID.String(), e.Document, now)
	switch {
	case err == nil:
		r.watched.events.WithLabelValues(eventPosted).Inc()
		return r.Store.DeleteEvent(ctx, e.ID)
	case ctx.Err() != nil: // whether it was taken is not known; the claim runs out
		return ctx.Err()
	}
	r.watched.events.WithLabelValues(eventFailed).Inc()
	err = fmt.Errorf("event %s, attempt %d: %w", e.ID, e.Attempts, err)
	if now.Sub(e.At) > maxEventAge {
		r.watched.events.WithLabelValues(eventDropped).Inc()
		r.Logger.Error("event given up", "event", e.ID, "of", e.At, "attempts", e.Attempts)
		return errors.Join(err, r.Store.DeleteEvent(ctx, e.ID))
	}
	return errors.Join(err, r.Store.PostponeEvent(ctx, r.Holder, e, now.Add(pause(e.Attempts))))
}

// pause is the time to the next attempt after so many.
func pause(attempts int) time.Duration {
	p := firstPause
	for range attempts - 1 {
		if p *= 2; p >= longestPause {
			return longestPause
		}
	}
	return p
}
