package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// MaxRefusalBytes bounds the document of a refusal.
const MaxRefusalBytes = 64 << 10

// Refusal is why a request was refused, for administrators. It is stored together
// with the request's audit record and kept for a while.
type Refusal struct {
	RequestID uuid.UUID
	Account   string // of the caller
	At        time.Time
	// Document says why; what is in it is for the gateway to know. At most
	// MaxRefusalBytes.
	Document []byte
}

// insertRefusals is a part of appendBatch. A request that is there already was
// stored by an attempt whose answer got lost.
const insertRefusals = `
    INSERT INTO refusals (request_id, account, at, document)
    SELECT r.request_id, r.account, r.at, r.document
    FROM unnest(@refused::uuid[], @refused_accounts::text[], @refused_at::timestamptz[], @refusal_documents::bytea[])
         AS r (request_id, account, at, document)
    WHERE EXISTS (SELECT FROM moved)
    ON CONFLICT DO NOTHING`

// addRefusals adds the arguments of insertRefusals.
func addRefusals(args pgx.StrictNamedArgs, items []*item) {
	requests, accounts, times, documents := []uuid.UUID{}, []string{}, []time.Time{}, [][]byte{}
	for _, it := range items {
		for _, r := range it.refusals {
			requests, accounts = append(requests, r.RequestID), append(accounts, r.Account)
			times, documents = append(times, r.At), append(documents, r.Document)
		}
	}
	args["refused"], args["refused_accounts"], args["refused_at"], args["refusal_documents"] = requests, accounts, times, documents
}

const selectRefusal = `
SELECT request_id, account, at, document
FROM refusals
WHERE request_id = @id`

// Refusal returns why a request was refused, whichever account's it was.
// ErrNotFound if it was not refused, or so long ago that it is not kept any more.
func (s *Store) Refusal(ctx context.Context, requestID uuid.UUID) (*Refusal, error) {
	rows, err := s.pool.Query(ctx, selectRefusal, pgx.StrictNamedArgs{"id": requestID})
	if err != nil {
		return nil, wrap(err, "refusal of request %s", requestID)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Refusal])
	return r, wrap(err, "refusal of request %s", requestID)
}

// Instances that delete at once take different rows.
const deleteRefusals = `
DELETE FROM refusals
WHERE request_id IN (
    SELECT request_id FROM refusals WHERE at < @before ORDER BY at LIMIT @limit FOR UPDATE SKIP LOCKED)`

// DeleteRefusals removes at most limit refusals from before a time and tells how
// many it has removed.
func (s *Store) DeleteRefusals(ctx context.Context, before time.Time, limit int) (int, error) {
	tag, err := s.pool.Exec(ctx, deleteRefusals, pgx.StrictNamedArgs{"before": before, "limit": limit})
	return int(tag.RowsAffected()), wrap(err, "delete refusals")
}

// check refuses what would break the batch that it is stored with.
func (r *Refusal) check() error {
	if len(r.Document) > MaxRefusalBytes {
		return fmt.Errorf("refusal of request %s: %d bytes, more than %d", r.RequestID, len(r.Document), MaxRefusalBytes)
	}
	return nil
}
