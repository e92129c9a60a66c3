package kmsapi

// ReplicateKeyRequest makes a replica of a multi-Region primary key.
type ReplicateKeyRequest struct {
	KeyID         *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	ReplicaRegion *string `json:"ReplicaRegion,omitzero" kms:"required,len=1..32,pattern=Region"`
	// Policy is the replica's key policy; absent means the default one.
	Policy *string `json:"Policy,omitzero" kms:"len=1..131072,pattern=Policy"`
	// BypassPolicyLockoutSafetyCheck allows a policy that the caller can't change again.
	BypassPolicyLockoutSafetyCheck *bool `json:"BypassPolicyLockoutSafetyCheck,omitzero"`
	// Description is absent for an empty one: the primary key's is not copied.
	Description *string `json:"Description,omitzero" kms:"len=0..8192,pattern=Text"`
	// Tags are the replica's; those of the primary key are not copied.
	Tags []Tag `json:"Tags,omitempty"`
}

// ReplicateKeyResponse describes the replica, which is still being made.
type ReplicateKeyResponse struct {
	ReplicaKeyMetadata KeyMetadata `json:"ReplicaKeyMetadata"`
	ReplicaPolicy      string      `json:"ReplicaPolicy"`
	// ReplicaTags is absent if none were sent.
	ReplicaTags []Tag `json:"ReplicaTags,omitempty"`
}
