package metadata

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// QueuedEvent is an event that is to be posted.
type QueuedEvent struct {
	ID       uuid.UUID // the same at every attempt
	Account  string
	Region   string
	KeyID    string
	At       time.Time
	Document []byte // EventBridge's JSON
	Attempts int    // this one counted
}

// Of a key only the oldest event is due: the others wait for it. Instances that
// claim at once take different rows.
const claimEvents = `
WITH due AS (
	SELECT e.number
	FROM event_outbox e
	WHERE e.due_at <= @now AND NOT EXISTS (
		SELECT FROM event_outbox b WHERE b.region = e.region AND b.key_id = e.key_id AND b.number < e.number)
	ORDER BY e.due_at, e.number
	LIMIT @limit
	FOR UPDATE SKIP LOCKED
)
UPDATE event_outbox e SET claimed_by = @holder, due_at = @until, attempts = e.attempts + 1
FROM due d
WHERE e.number = d.number
RETURNING e.id, e.account, e.region, e.key_id, e.at, e.document, e.attempts`

// ClaimEvents takes at most limit events, each of another key, whose next attempt
// is due at now. Nobody else takes them until then: they must be removed or
// postponed by that time, or they are posted again.
func (s *Store) ClaimEvents(ctx context.Context, holder uuid.UUID, now, until time.Time, limit int) ([]QueuedEvent, error) {
	args := pgx.StrictNamedArgs{"holder": holder, "now": now, "until": until, "limit": limit}
	return list(ctx, s, "claim events", claimEvents, args, pgx.RowToStructByName[QueuedEvent])
}

// A claim that ran out does not matter here: what was posted need not be posted
// again.
const deleteEvent = `DELETE FROM event_outbox WHERE id = @id`

// DeleteEvent removes an event that was posted, or that is given up.
func (s *Store) DeleteEvent(ctx context.Context, id uuid.UUID) error {
	_, err := s.pool.Exec(ctx, deleteEvent, pgx.StrictNamedArgs{"id": id})
	return wrap(err, "delete event %s", id)
}

const postponeEvent = `
UPDATE event_outbox SET due_at = @due
WHERE id = @id AND claimed_by = @holder AND attempts = @attempts`

// PostponeEvent ends the claim on an event that could not be posted: the next
// attempt is at due. It does nothing if another process has it now.
func (s *Store) PostponeEvent(ctx context.Context, holder uuid.UUID, e *QueuedEvent, due time.Time) error {
	_, err := s.pool.Exec(ctx, postponeEvent, pgx.StrictNamedArgs{
		"id": e.ID, "holder": holder, "attempts": e.Attempts, "due": due,
	})
	return wrap(err, "postpone event %s", e.ID)
}

// EventBacklog is how many events wait for the webhook, and since when the oldest
// of them; zero for none.
func (s *Store) EventBacklog(ctx context.Context) (waiting int64, since time.Time, err error) {
	var oldest *time.Time
	err = s.pool.QueryRow(ctx, `SELECT count(*), min(at) FROM event_outbox`).Scan(&waiting, &oldest)
	return waiting, orZero(oldest), wrap(err, "event backlog")
}
