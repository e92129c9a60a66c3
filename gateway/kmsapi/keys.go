package kmsapi

import "kmsgate/hsm/keyspec"

// CreateKeyRequest makes a key.
type CreateKeyRequest struct {
	// Policy is the key policy; absent means the default one.
	Policy *string `json:"Policy,omitzero" kms:"len=1..131072,pattern=Policy"`
	// Description is absent for an empty one.
	Description *string `json:"Description,omitzero" kms:"len=0..8192,pattern=Text"`
	// KeyUsage may be absent for SYMMETRIC_DEFAULT only.
	KeyUsage *keyspec.Usage `json:"KeyUsage,omitzero" kms:"enum=KeyUsage"`
	// CustomerMasterKeySpec is the old name of KeySpec; not both.
	CustomerMasterKeySpec *keyspec.Spec `json:"CustomerMasterKeySpec,omitzero" kms:"enum=CustomerMasterKeySpec"`
	// KeySpec is absent for SYMMETRIC_DEFAULT.
	KeySpec *keyspec.Spec `json:"KeySpec,omitzero" kms:"enum=KeySpec"`
	// Origin is absent for AWS_KMS.
	Origin           *keyspec.Origin `json:"Origin,omitzero" kms:"enum=Origin"`
	CustomKeyStoreID *string         `json:"CustomKeyStoreId,omitzero" kms:"len=1..64"`
	// BypassPolicyLockoutSafetyCheck allows a policy that the caller can't change again.
	BypassPolicyLockoutSafetyCheck *bool   `json:"BypassPolicyLockoutSafetyCheck,omitzero"`
	Tags                           []Tag   `json:"Tags,omitempty"`
	MultiRegion                    *bool   `json:"MultiRegion,omitzero"`
	XksKeyID                       *string `json:"XksKeyId,omitzero" kms:"len=1..128,pattern=XksKeyId"`
}

// CreateKeyResponse describes the new key.
type CreateKeyResponse struct {
	KeyMetadata KeyMetadata `json:"KeyMetadata"`
}

// DescribeKeyRequest asks for a key's metadata; all four forms of id.
type DescribeKeyRequest struct {
	KeyID       *string  `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	GrantTokens []string `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
}

// DescribeKeyResponse describes the key.
type DescribeKeyResponse struct {
	KeyMetadata KeyMetadata `json:"KeyMetadata"`
}

// KeyMetadata is all that KMS tells of a key, except tags, aliases, rotation and
// policy. Members without "omit" are sent for every key.
type KeyMetadata struct {
	AWSAccountID          string         `json:"AWSAccountId"`
	KeyID                 string         `json:"KeyId"` // the bare id
	ARN                   string         `json:"Arn"`
	CreationDate          Timestamp      `json:"CreationDate"`
	Enabled               bool           `json:"Enabled"` // true in state Enabled only
	Description           string         `json:"Description"`
	KeyUsage              keyspec.Usage  `json:"KeyUsage"`
	KeyState              KeyState       `json:"KeyState"`
	Origin                keyspec.Origin `json:"Origin"`
	KeyManager            KeyManager     `json:"KeyManager"`
	CustomerMasterKeySpec keyspec.Spec   `json:"CustomerMasterKeySpec"` // the same as KeySpec
	KeySpec               keyspec.Spec   `json:"KeySpec"`
	MultiRegion           bool           `json:"MultiRegion"`

	// The list that belongs to KeyUsage; the others are absent.
	EncryptionAlgorithms    []keyspec.Algorithm `json:"EncryptionAlgorithms,omitempty"`
	SigningAlgorithms       []keyspec.Algorithm `json:"SigningAlgorithms,omitempty"`
	KeyAgreementAlgorithms  []keyspec.Algorithm `json:"KeyAgreementAlgorithms,omitempty"`
	MacAlgorithms           []keyspec.Algorithm `json:"MacAlgorithms,omitempty"`
	EncapsulationAlgorithms []keyspec.Algorithm `json:"EncapsulationAlgorithms,omitempty"`

	// CurrentKeyMaterialID is set for symmetric encryption keys that have, or had, material.
	CurrentKeyMaterialID string `json:"CurrentKeyMaterialId,omitzero"`
	// DeletionDate is set in state PendingDeletion only.
	DeletionDate Timestamp `json:"DeletionDate,omitzero"`
	// PendingDeletionWindowInDays is set in state PendingReplicaDeletion only.
	PendingDeletionWindowInDays int32 `json:"PendingDeletionWindowInDays,omitzero"`
	// ExpirationModel and ValidTo are set for imported material that is present.
	ExpirationModel ExpirationModel `json:"ExpirationModel,omitzero"`
	ValidTo         Timestamp       `json:"ValidTo,omitzero"`
	// MultiRegionConfiguration is set if MultiRegion is true.
	MultiRegionConfiguration *MultiRegionConfiguration `json:"MultiRegionConfiguration,omitzero"`
	// CustomKeyStoreID, CloudHsmClusterID and XksKeyConfiguration are set for keys in custom key stores.
	CustomKeyStoreID    string                   `json:"CustomKeyStoreId,omitzero"`
	CloudHsmClusterID   string                   `json:"CloudHsmClusterId,omitzero"`
	XksKeyConfiguration *XksKeyConfigurationType `json:"XksKeyConfiguration,omitzero"`
}

// MultiRegionConfiguration lists the related keys of a multi-Region key.
type MultiRegionConfiguration struct {
	MultiRegionKeyType MultiRegionKeyType `json:"MultiRegionKeyType,omitzero"`
	PrimaryKey         *MultiRegionKey    `json:"PrimaryKey,omitzero"`
	ReplicaKeys        []MultiRegionKey   `json:"ReplicaKeys"`
}

// MultiRegionKey is one of several related keys.
type MultiRegionKey struct {
	ARN    string `json:"Arn,omitzero"`
	Region string `json:"Region,omitzero"`
}

// XksKeyConfigurationType names the external key of a key in an external key store.
type XksKeyConfigurationType struct {
	ID string `json:"Id,omitzero"`
}

// ListKeysRequest asks for the keys of the caller's account in the region.
type ListKeysRequest struct {
	// Limit is 100 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..1000"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListKeysResponse is a page of keys.
type ListKeysResponse struct {
	Keys []KeyListEntry `json:"Keys"`
	Page
}

// KeyListEntry names a key.
type KeyListEntry struct {
	KeyID  string `json:"KeyId,omitzero"` // the bare id
	KeyARN string `json:"KeyArn,omitzero"`
}

// EnableKeyRequest sets a key's state to Enabled.
type EnableKeyRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// EnableKeyResponse has no members.
type EnableKeyResponse = Empty

// DisableKeyRequest sets a key's state to Disabled.
type DisableKeyRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// DisableKeyResponse has no members.
type DisableKeyResponse = Empty

// UpdateKeyDescriptionRequest replaces a key's description.
type UpdateKeyDescriptionRequest struct {
	KeyID       *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	Description *string `json:"Description,omitzero" kms:"required,len=0..8192,pattern=Text"`
}

// UpdateKeyDescriptionResponse has no members.
type UpdateKeyDescriptionResponse = Empty
