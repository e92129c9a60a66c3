package kmsapi

import "kmsgate/hsm/keyspec"

// ImportType says whether imported material is new or comes back.
type ImportType string

// Import types.
const (
	NewKeyMaterial      ImportType = "NEW_KEY_MATERIAL"
	ExistingKeyMaterial ImportType = "EXISTING_KEY_MATERIAL"
)

// wrappingAlgorithms is the enum of GetParametersForImport.
var wrappingAlgorithms = []keyspec.WrappingAlgorithm{
	keyspec.WrapRSAPKCS1V15, keyspec.WrapOAEPSHA1, keyspec.WrapOAEPSHA256, keyspec.WrapRSAAESSHA1, keyspec.WrapRSAAESSHA256, keyspec.WrapSM2PKE,
}

// GetParametersForImportRequest asks for a pair to wrap material to.
type GetParametersForImportRequest struct {
	KeyID             *string                    `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	WrappingAlgorithm *keyspec.WrappingAlgorithm `json:"WrappingAlgorithm,omitzero" kms:"required,enum=WrappingAlgorithm"`
	WrappingKeySpec   *keyspec.Spec              `json:"WrappingKeySpec,omitzero" kms:"required,enum=WrappingKeySpec"`
}

// GetParametersForImportResponse has the public key and what to send back with the
// material. Both are of use until ParametersValidTo, 24 hours.
type GetParametersForImportResponse struct {
	KeyID             string    `json:"KeyId"` // the key ARN
	ImportToken       Blob      `json:"ImportToken"`
	PublicKey         Blob      `json:"PublicKey"` // SubjectPublicKeyInfo
	ParametersValidTo Timestamp `json:"ParametersValidTo"`
}

// ImportKeyMaterialRequest brings material in.
type ImportKeyMaterialRequest struct {
	KeyID                *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	ImportToken          Secret  `json:"ImportToken,omitzero" kms:"required,secret,len=1..6144"`
	EncryptedKeyMaterial Secret  `json:"EncryptedKeyMaterial,omitzero" kms:"required,secret,len=1..6144"`
	// ValidTo is when the material expires.
	ValidTo *Timestamp `json:"ValidTo,omitzero"`
	// ExpirationModel is KEY_MATERIAL_EXPIRES if absent.
	ExpirationModel *ExpirationModel `json:"ExpirationModel,omitzero" kms:"enum=ExpirationModel"`
	// ImportType is absent for new material if there was none before, else for the
	// same again.
	ImportType *ImportType `json:"ImportType,omitzero" kms:"enum=ImportType"`
	// KeyMaterialDescription is kept from the import before if absent.
	KeyMaterialDescription *string `json:"KeyMaterialDescription,omitzero" kms:"len=0..256,pattern=KeyMaterialDescription"`
	// KeyMaterialID is the id that the material must turn out to have.
	KeyMaterialID *string `json:"KeyMaterialId,omitzero" kms:"len=64..64,pattern=KeyMaterialId"`
}

// ImportKeyMaterialResponse names the material.
type ImportKeyMaterialResponse struct {
	KeyID         string `json:"KeyId"`                  // the key ARN
	KeyMaterialID string `json:"KeyMaterialId,omitzero"` // of symmetric encryption keys
}

// DeleteImportedKeyMaterialRequest deletes material that was imported.
type DeleteImportedKeyMaterialRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// KeyMaterialID is absent for the current material.
	KeyMaterialID *string `json:"KeyMaterialId,omitzero" kms:"len=64..64,pattern=KeyMaterialId"`
}

// DeleteImportedKeyMaterialResponse names the material.
type DeleteImportedKeyMaterialResponse struct {
	KeyID         string `json:"KeyId"`                  // the key ARN
	KeyMaterialID string `json:"KeyMaterialId,omitzero"` // of symmetric encryption keys
}
