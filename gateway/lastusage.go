package gateway

import (
	"context"
	"errors"
	"strconv"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// getKeyLastUsage tells of the last use of a key. Uses are known from its creation
// on: they are in the audit log, and nothing is used without a record.
func (c *call) getKeyLastUsage(*kmsapi.GetKeyLastUsageRequest) (work[kmsapi.GetKeyLastUsageResponse], error) {
	key := c.key(0)
	return work[kmsapi.GetKeyLastUsageResponse]{do: func(ctx context.Context) (*kmsapi.GetKeyLastUsageResponse, error) {
		out := &kmsapi.GetKeyLastUsageResponse{
			KeyID: key.ARN(), KeyCreationDate: kmsapi.Timestamp{Time: key.CreatedAt}, TrackingStartDate: kmsapi.Timestamp{Time: key.CreatedAt},
		}
		use, err := c.gateway.store.LastUse(ctx, key.Region, key.ID)
		switch {
		case errors.Is(err, metadata.ErrNotFound):
			return out, nil
		case err != nil:
			return nil, err
		}
		out.KeyLastUsage = kmsapi.KeyLastUsageData{
			Operation: use.Operation, Timestamp: kmsapi.Timestamp{Time: use.At},
			CloudTrailEventID: use.EventID.String(), KmsRequestID: use.RequestID,
		}
		return out, nil
	}}, nil
}

// useFacts are about the uses of a key.
var useFacts = map[string]func(*facts) []string{
	"kms:trailingdayswithoutkeyusage": (*facts).trailingDays,
}

// endsUse are the operations that have the condition key of trailing days.
var endsUse = map[string]bool{"DisableKey": true, "ScheduleKeyDeletion": true}

// trailingDays are the whole days since the last use of the key, of one that was
// never used since its creation. What cannot be read is noted in the call, which
// then fails: a Deny must not be missed for want of the value.
func (f *facts) trailingDays() []string {
	if f.resource == nil || f.resource.key == nil || !endsUse[f.call.op.name] {
		return nil
	}
	if f.idle != nil {
		return f.idle
	}
	key := f.resource.key
	since := key.CreatedAt
	use, err := f.call.gateway.store.LastUse(f.call.ctx, key.Region, key.ID)
	switch {
	case err == nil:
		since = use.At
	case !errors.Is(err, metadata.ErrNotFound):
		f.call.unread = err
		return nil
	}
	days := max(0, f.call.now.Sub(since)/(24*time.Hour))
	f.idle = one(strconv.FormatInt(int64(days), 10))
	return f.idle
}
