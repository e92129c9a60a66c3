package kmsapi

import "kmsgate/hsm/keyspec"

// SignRequest signs a message, or its digest, of at most 4096 bytes.
type SignRequest struct {
	KeyID   *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	Message Secret  `json:"Message,omitzero" kms:"required,len=1..4096"`
	// MessageType is RAW if absent.
	MessageType      *keyspec.MessageType `json:"MessageType,omitzero" kms:"enum=MessageType"`
	GrantTokens      []string             `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	SigningAlgorithm *keyspec.Algorithm   `json:"SigningAlgorithm,omitzero" kms:"required,enum=SigningAlgorithm"`
	Trial
}

// SignResponse has the signature: DER for ECDSA, raw for the other algorithms.
type SignResponse struct {
	KeyID            string            `json:"KeyId"` // the key ARN
	Signature        Blob              `json:"Signature"`
	SigningAlgorithm keyspec.Algorithm `json:"SigningAlgorithm"`
}

// VerifyRequest verifies what Sign made, or who else has the private key.
type VerifyRequest struct {
	KeyID   *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	Message Secret  `json:"Message,omitzero" kms:"required,len=1..4096"`
	// MessageType is RAW if absent.
	MessageType      *keyspec.MessageType `json:"MessageType,omitzero" kms:"enum=MessageType"`
	Signature        Blob                 `json:"Signature,omitzero" kms:"required,len=1..6144"`
	SigningAlgorithm *keyspec.Algorithm   `json:"SigningAlgorithm,omitzero" kms:"required,enum=SigningAlgorithm"`
	GrantTokens      []string             `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// VerifyResponse says that the signature is valid; one that is not is an error.
type VerifyResponse struct {
	KeyID            string            `json:"KeyId"`          // the key ARN
	SignatureValid   bool              `json:"SignatureValid"` // always true
	SigningAlgorithm keyspec.Algorithm `json:"SigningAlgorithm"`
}

// GenerateMacRequest makes an HMAC of a message of at most 4096 bytes.
type GenerateMacRequest struct {
	Message      Secret             `json:"Message,omitzero" kms:"required,len=1..4096"`
	KeyID        *string            `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	MacAlgorithm *keyspec.Algorithm `json:"MacAlgorithm,omitzero" kms:"required,enum=MacAlgorithm"`
	GrantTokens  []string           `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// GenerateMacResponse has the HMAC, as long as the algorithm's hash.
type GenerateMacResponse struct {
	Mac          Blob              `json:"Mac"`
	MacAlgorithm keyspec.Algorithm `json:"MacAlgorithm"`
	KeyID        string            `json:"KeyId"` // the key ARN
}

// VerifyMacRequest verifies an HMAC.
type VerifyMacRequest struct {
	Message      Secret             `json:"Message,omitzero" kms:"required,len=1..4096"`
	KeyID        *string            `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	MacAlgorithm *keyspec.Algorithm `json:"MacAlgorithm,omitzero" kms:"required,enum=MacAlgorithm"`
	Mac          Blob               `json:"Mac,omitzero" kms:"required,len=1..6144"`
	GrantTokens  []string           `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// VerifyMacResponse says that the HMAC is valid; one that is not is an error.
type VerifyMacResponse struct {
	KeyID        string            `json:"KeyId"`    // the key ARN
	MacValid     bool              `json:"MacValid"` // always true
	MacAlgorithm keyspec.Algorithm `json:"MacAlgorithm"`
}
