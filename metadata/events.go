package metadata

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"kmsgate/gateway/arn"
)

// EventType is the detail-type of an event (KMS Developer Guide, "Monitor KMS keys
// with Amazon EventBridge").
type EventType string

// The events that there are.
const (
	KeyRotated      EventType = "KMS CMK Rotation"
	MaterialExpired EventType = "KMS Imported Key Material Expiration"
	KeyDeleted      EventType = "KMS CMK Deletion"
)

// Event is something that happened to a key, for the site's webhook.
type Event struct {
	Type    EventType
	Account string // of the key
	Region  string
	KeyID   string
	At      time.Time
	// Detail is what the event says besides the key's id, by EventBridge's names.
	Detail map[string]string
}

// document is the event in EventBridge's JSON.
func (e *Event) document(id uuid.UUID) ([]byte, error) {
	detail := map[string]string{"key-id": e.KeyID}
	for name, value := range e.Detail {
		detail[name] = value
	}
	return json.Marshal(struct {
		Version   string            `json:"version"`
		ID        string            `json:"id"`
		Type      EventType         `json:"detail-type"`
		Source    string            `json:"source"`
		Account   string            `json:"account"`
		Time      string            `json:"time"`
		Region    string            `json:"region"`
		Resources []string          `json:"resources"`
		Detail    map[string]string `json:"detail"`
	}{
		"0", id.String(), e.Type, "aws.kms", e.Account, e.At.UTC().Format(time.RFC3339), e.Region,
		[]string{arn.KeyARNOf(e.Region, e.Account, e.KeyID)},
		detail,
	})
}

const insertEvent = `
INSERT INTO event_outbox (id, account, region, key_id, at, document, due_at)
VALUES (@id, @account, @region, @keyID, @at, @document, @at)`

// QueueEvent has an event posted to the site's webhook once the change is
// committed, at least once. Call it after the change of the key, whose row then is
// locked: events of a key are posted in the order in which they were queued. Without
// a webhook it does nothing.
func (tx *Tx) QueueEvent(ctx context.Context, e Event) error {
	if !tx.queueEvents {
		return nil
	}
	id := uuid.New()
	document, err := e.document(id)
	if err != nil {
		return err
	}
	_, err = tx.tx.Exec(ctx, insertEvent, pgx.StrictNamedArgs{
		"id": id, "account": e.Account, "region": e.Region, "keyID": e.KeyID, "at": e.At, "document": document,
	})
	return wrap(err, "queue event of key %s", e.KeyID)
}
