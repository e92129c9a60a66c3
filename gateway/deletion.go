package gateway

import (
	"context"
	"reflect"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// pendingWindow is how many days a key waits for its deletion if nobody says.
const pendingWindow = 30

func completeScheduleKeyDeletion(in *kmsapi.ScheduleKeyDeletionRequest) error {
	setDefault(&in.PendingWindowInDays, pendingWindow)
	return nil
}

func (c *call) scheduleKeyDeletion(in *kmsapi.ScheduleKeyDeletionRequest) (work[kmsapi.ScheduleKeyDeletionResponse], error) {
	key, window := c.key(0), *in.PendingWindowInDays
	at := c.now.UTC().AddDate(0, 0, int(window)) // days of 24 hours
	return work[kmsapi.ScheduleKeyDeletionResponse]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.ScheduleKeyDeletionResponse, error) {
		state, err := tx.ScheduleDeletion(ctx, key.Name(), at, window)
		if err != nil {
			return nil, err
		}
		out := &kmsapi.ScheduleKeyDeletionResponse{KeyID: key.ARN(), KeyState: kmsapi.KeyState(state), PendingWindowInDays: window}
		if state == metadata.PendingDeletion { // of a primary key that has replicas nobody knows when
			out.DeletionDate = kmsapi.Timestamp{Time: at}
		}
		c.event.ResponseElements = membersOf(reflect.ValueOf(*out))
		return out, nil
	}}, nil
}

func (c *call) cancelKeyDeletion(*kmsapi.CancelKeyDeletionRequest) (work[kmsapi.CancelKeyDeletionResponse], error) {
	key := c.key(0)
	return work[kmsapi.CancelKeyDeletionResponse]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.CancelKeyDeletionResponse, error) {
		if err := tx.CancelDeletion(ctx, key.Name()); err != nil {
			return nil, err
		}
		c.event.ResponseElements = audit.Members{audit.String("keyId", key.ARN())}
		return &kmsapi.CancelKeyDeletionResponse{KeyID: key.ARN()}, nil
	}}, nil
}
