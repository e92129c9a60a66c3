package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"kmsgate/metadata"
)

// KeepRefusals is how long it is kept why requests were refused, unless a
// configuration says otherwise.
const KeepRefusals = 30 * 24 * time.Hour

// WhyRefused returns why policy refused a request. metadata.ErrNotFound if it did
// not, or so long ago that it is not kept any more.
func WhyRefused(ctx context.Context, store *metadata.Store, requestID uuid.UUID) (*Refused, error) {
	kept, err := store.Refusal(ctx, requestID)
	if err != nil {
		return nil, err
	}
	refused := new(Refused)
	if err := json.Unmarshal(kept.Document, refused); err != nil {
		return nil, fmt.Errorf("refusal of request %s: %w", requestID, err)
	}
	return refused, nil
}

// Refusals are deleted so many at once, and more often than any account's are made:
// what is left waits for the next time.
const (
	forgetEvery = 5 * time.Second
	forgetBatch = 5000
)

// forgetRefusals deletes refusals that have been kept long enough.
func (g *Gateway) forgetRefusals(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, g.recordTimeout)
	defer cancel()
	if _, err := g.store.DeleteRefusals(ctx, now.Add(-g.keepRefusals), forgetBatch); err != nil {
		g.logger.Warn("old refusals not deleted yet", "error", err)
	}
}
