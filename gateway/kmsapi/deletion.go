package kmsapi

// ScheduleKeyDeletionRequest has a key be deleted after a while.
type ScheduleKeyDeletionRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// PendingWindowInDays is 30 if absent.
	PendingWindowInDays *int32 `json:"PendingWindowInDays,omitzero" kms:"range=7..30"`
}

// ScheduleKeyDeletionResponse says when.
type ScheduleKeyDeletionResponse struct {
	KeyID string `json:"KeyId"` // the ARN
	// DeletionDate is absent in state PendingReplicaDeletion.
	DeletionDate        Timestamp `json:"DeletionDate,omitzero"`
	KeyState            KeyState  `json:"KeyState"`
	PendingWindowInDays int32     `json:"PendingWindowInDays"`
}

// CancelKeyDeletionRequest undoes ScheduleKeyDeletion.
type CancelKeyDeletionRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// CancelKeyDeletionResponse names the key, which is disabled.
type CancelKeyDeletionResponse struct {
	KeyID string `json:"KeyId"` // the ARN
}
