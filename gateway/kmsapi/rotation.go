package kmsapi

// EnableKeyRotationRequest has a key rotated by itself from now on.
type EnableKeyRotationRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// RotationPeriodInDays is 365 if absent.
	RotationPeriodInDays *int32 `json:"RotationPeriodInDays,omitzero" kms:"range=90..2560"`
}

// EnableKeyRotationResponse has no members.
type EnableKeyRotationResponse = Empty

// DisableKeyRotationRequest ends that a key is rotated by itself.
type DisableKeyRotationRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// DisableKeyRotationResponse has no members.
type DisableKeyRotationResponse = Empty

// GetKeyRotationStatusRequest asks when a key is rotated.
type GetKeyRotationStatusRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// GetKeyRotationStatusResponse says when a key is rotated.
type GetKeyRotationStatusResponse struct {
	KeyID              string `json:"KeyId"` // the key ARN
	KeyRotationEnabled bool   `json:"KeyRotationEnabled"`
	// RotationPeriodInDays and NextRotationDate are set if KeyRotationEnabled is true.
	RotationPeriodInDays int32     `json:"RotationPeriodInDays,omitzero"`
	NextRotationDate     Timestamp `json:"NextRotationDate,omitzero"`
	// OnDemandRotationStartDate is set while a rotation on demand is under way.
	OnDemandRotationStartDate Timestamp `json:"OnDemandRotationStartDate,omitzero"`
}

// RotateKeyOnDemandRequest has a key rotated once.
type RotateKeyOnDemandRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// RotateKeyOnDemandResponse says that the rotation has begun.
type RotateKeyOnDemandResponse struct {
	KeyID string `json:"KeyId"` // the key ARN
}

// IncludeKeyMaterial says which materials a list of rotations has.
type IncludeKeyMaterial string

// Materials that a list of rotations has.
const (
	RotationsOnly  IncludeKeyMaterial = "ROTATIONS_ONLY"   // those that a rotation made current
	AllKeyMaterial IncludeKeyMaterial = "ALL_KEY_MATERIAL" // the first one too, and the one that waits for a rotation
)

// KeyMaterialState is what a key material is used for.
type KeyMaterialState string

// States of materials.
const (
	NonCurrent      KeyMaterialState = "NON_CURRENT"      // decrypts
	Current         KeyMaterialState = "CURRENT"          // encrypts and decrypts
	PendingRotation KeyMaterialState = "PENDING_ROTATION" // imported, and nothing yet
	// PendingRegions: the same, and not imported into all related keys.
	PendingRegions KeyMaterialState = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"
)

// ImportState says whether an imported material is there.
type ImportState string

// States of imported material.
const (
	Imported           ImportState = "IMPORTED"
	PendingReimporting ImportState = "PENDING_IMPORT"
)

// ListKeyRotationsRequest asks for the rotations of a key.
type ListKeyRotationsRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// IncludeKeyMaterial is ROTATIONS_ONLY if absent.
	IncludeKeyMaterial *IncludeKeyMaterial `json:"IncludeKeyMaterial,omitzero" kms:"enum=IncludeKeyMaterial"`
	// Limit is 100 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..1000"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListKeyRotationsResponse is a page of rotations, the oldest first.
type ListKeyRotationsResponse struct {
	Rotations []RotationsListEntry `json:"Rotations"`
	Page
}

// RotationsListEntry is a material with the rotation that made it current.
type RotationsListEntry struct {
	KeyID            string           `json:"KeyId,omitzero"` // the key ARN
	KeyMaterialID    string           `json:"KeyMaterialId,omitzero"`
	KeyMaterialState KeyMaterialState `json:"KeyMaterialState,omitzero"`
	// RotationDate and RotationType are absent for the first material and for one
	// that waits for a rotation.
	RotationDate Timestamp `json:"RotationDate,omitzero"`
	RotationType string    `json:"RotationType,omitzero"`
	// The others are those of imported material.
	KeyMaterialDescription string          `json:"KeyMaterialDescription,omitzero"`
	ImportState            ImportState     `json:"ImportState,omitzero"`
	ExpirationModel        ExpirationModel `json:"ExpirationModel,omitzero"`
	ValidTo                Timestamp       `json:"ValidTo,omitzero"`
}
