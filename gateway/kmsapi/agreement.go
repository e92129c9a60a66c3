package kmsapi

import "kmsgate/hsm/keyspec"

// GetPublicKeyRequest asks for the public key of a pair; all four forms of id.
type GetPublicKeyRequest struct {
	KeyID       *string  `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	GrantTokens []string `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
}

// GetPublicKeyResponse has the public key and what it may be used for.
type GetPublicKeyResponse struct {
	KeyID                 string        `json:"KeyId"`                 // the key ARN
	PublicKey             Blob          `json:"PublicKey"`             // SubjectPublicKeyInfo, DER
	CustomerMasterKeySpec keyspec.Spec  `json:"CustomerMasterKeySpec"` // the same as KeySpec
	KeySpec               keyspec.Spec  `json:"KeySpec"`
	KeyUsage              keyspec.Usage `json:"KeyUsage"`

	// The list that belongs to KeyUsage; the others are absent.
	EncryptionAlgorithms    []keyspec.Algorithm `json:"EncryptionAlgorithms,omitempty"`
	SigningAlgorithms       []keyspec.Algorithm `json:"SigningAlgorithms,omitempty"`
	KeyAgreementAlgorithms  []keyspec.Algorithm `json:"KeyAgreementAlgorithms,omitempty"`
	EncapsulationAlgorithms []keyspec.Algorithm `json:"EncapsulationAlgorithms,omitempty"`
}

// DeriveSharedSecretRequest agrees on a secret with the owner of a public key.
type DeriveSharedSecretRequest struct {
	KeyID                 *string            `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	KeyAgreementAlgorithm *keyspec.Algorithm `json:"KeyAgreementAlgorithm,omitzero" kms:"required,enum=KeyAgreementAlgorithm"`
	// PublicKey is the peer's: SubjectPublicKeyInfo, DER, on the key's own curve.
	PublicKey   Blob     `json:"PublicKey,omitzero" kms:"required,len=1..8192"`
	GrantTokens []string `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
	Recipient *RecipientInfo `json:"Recipient,omitzero"`
}

// DeriveSharedSecretResponse has the raw secret.
type DeriveSharedSecretResponse struct {
	KeyID        string `json:"KeyId"`                 // the key ARN
	SharedSecret Secret `json:"SharedSecret,omitzero"` // x-coordinate, as wide as the field
	// CiphertextForRecipient takes the place of SharedSecret if the request has a Recipient.
	CiphertextForRecipient Blob              `json:"CiphertextForRecipient,omitzero"`
	KeyAgreementAlgorithm  keyspec.Algorithm `json:"KeyAgreementAlgorithm"`
	KeyOrigin              keyspec.Origin    `json:"KeyOrigin"`
}

// EncapsulateRequest makes a secret for the owner of a private key.
type EncapsulateRequest struct {
	KeyID                  *string            `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	EncapsulationAlgorithm *keyspec.Algorithm `json:"EncapsulationAlgorithm,omitzero" kms:"required,enum=EncapsulationAlgorithm"`
	GrantTokens            []string           `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// EncapsulateResponse has the secret in the clear and encapsulated.
type EncapsulateResponse struct {
	KeyID                      string            `json:"KeyId"` // the key ARN
	EncapsulationAlgorithm     keyspec.Algorithm `json:"EncapsulationAlgorithm"`
	SharedSecret               Secret            `json:"SharedSecret"` // 32 bytes
	SharedSecretCiphertextBlob Blob              `json:"SharedSecretCiphertextBlob"`
}

// DecapsulateRequest recovers the secret that Encapsulate made.
type DecapsulateRequest struct {
	KeyID                      *string            `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	EncapsulationAlgorithm     *keyspec.Algorithm `json:"EncapsulationAlgorithm,omitzero" kms:"required,enum=EncapsulationAlgorithm"`
	SharedSecretCiphertextBlob Blob               `json:"SharedSecretCiphertextBlob,omitzero" kms:"required,len=1..6144"`
	GrantTokens                []string           `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// DecapsulateResponse has the secret; for an encapsulation that was changed,
// one that nobody else has (FIPS 203, implicit rejection).
type DecapsulateResponse struct {
	KeyID                  string            `json:"KeyId"` // the key ARN
	EncapsulationAlgorithm keyspec.Algorithm `json:"EncapsulationAlgorithm"`
	SharedSecret           Secret            `json:"SharedSecret"` // 32 bytes
}
