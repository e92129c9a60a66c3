package kmsapi

// UpdatePrimaryRegionRequest makes the replica in a Region the primary key.
type UpdatePrimaryRegionRequest struct {
	KeyID         *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	PrimaryRegion *string `json:"PrimaryRegion,omitzero" kms:"required,len=1..32,pattern=Region"`
}

// UpdatePrimaryRegionResponse is empty.
type UpdatePrimaryRegionResponse = Empty
