package kmsapi

// GetKeyLastUsageRequest asks when a key was used last; by id or key ARN.
type GetKeyLastUsageRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// GetKeyLastUsageResponse says when a key was used last, and since when that is
// known.
type GetKeyLastUsageResponse struct {
	KeyID             string           `json:"KeyId"` // the key's ARN
	KeyCreationDate   Timestamp        `json:"KeyCreationDate"`
	KeyLastUsage      KeyLastUsageData `json:"KeyLastUsage"`
	TrackingStartDate Timestamp        `json:"TrackingStartDate"`
}

// KeyLastUsageData is the last successful cryptographic operation; empty if there
// was none.
type KeyLastUsageData struct {
	Operation         string    `json:"Operation,omitzero"`
	Timestamp         Timestamp `json:"Timestamp,omitzero"`
	CloudTrailEventID string    `json:"CloudTrailEventId,omitzero"`
	KmsRequestID      string    `json:"KmsRequestId,omitzero"`
}
