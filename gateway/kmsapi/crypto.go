package kmsapi

import "kmsgate/hsm/keyspec"

// EncryptRequest encrypts up to 4096 bytes under a key.
type EncryptRequest struct {
	KeyID     *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	Plaintext Secret  `json:"Plaintext,omitzero" kms:"required,len=1..4096"`
	// EncryptionContext is bound to the ciphertext as additional data.
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	GrantTokens       []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	// EncryptionAlgorithm is SYMMETRIC_DEFAULT if absent.
	EncryptionAlgorithm *keyspec.Algorithm `json:"EncryptionAlgorithm,omitzero" kms:"enum=EncryptionAlgorithm"`
	Trial
}

// EncryptResponse has the ciphertext.
type EncryptResponse struct {
	CiphertextBlob      Blob              `json:"CiphertextBlob"`
	KeyID               string            `json:"KeyId"` // the key ARN
	EncryptionAlgorithm keyspec.Algorithm `json:"EncryptionAlgorithm"`
}

// DecryptRequest opens a ciphertext.
type DecryptRequest struct {
	// CiphertextBlob names its key. It may be absent only in a trial that ignores it.
	CiphertextBlob    Blob              `json:"CiphertextBlob,omitzero" kms:"required,unless=DryRunModifiers,len=1..6144"`
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	GrantTokens       []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	// KeyID may be absent for a symmetric ciphertext.
	KeyID *string `json:"KeyId,omitzero" kms:"len=1..2048,pattern=KeyId"`
	// EncryptionAlgorithm is SYMMETRIC_DEFAULT if absent.
	EncryptionAlgorithm *keyspec.Algorithm `json:"EncryptionAlgorithm,omitzero" kms:"enum=EncryptionAlgorithm"`
	Recipient           *RecipientInfo     `json:"Recipient,omitzero"`
	Trial
	DryRunModifiers []DryRunModifier `json:"DryRunModifiers,omitempty" kms:"each-enum=DryRunModifier"`
}

// DecryptResponse has the plaintext.
type DecryptResponse struct {
	KeyID               string            `json:"KeyId"` // the key ARN
	Plaintext           Secret            `json:"Plaintext,omitzero"`
	EncryptionAlgorithm keyspec.Algorithm `json:"EncryptionAlgorithm"`
	// CiphertextForRecipient takes the place of Plaintext if the request has a Recipient.
	CiphertextForRecipient Blob `json:"CiphertextForRecipient,omitzero"`
	// KeyMaterialID is the material that encrypted the blob; symmetric keys only.
	KeyMaterialID string `json:"KeyMaterialId,omitzero"`
}

// ReEncryptRequest opens a ciphertext and encrypts the result under another
// key, another context, or the newest material of the same key. Contexts are
// not inherited: an absent one is an empty one.
type ReEncryptRequest struct {
	CiphertextBlob          Blob              `json:"CiphertextBlob,omitzero" kms:"required,unless=DryRunModifiers,len=1..6144"`
	SourceEncryptionContext map[string]string `json:"SourceEncryptionContext,omitempty"`
	// SourceKeyID may be absent for a symmetric ciphertext.
	SourceKeyID                  *string           `json:"SourceKeyId,omitzero" kms:"len=1..2048,pattern=KeyId"`
	DestinationKeyID             *string           `json:"DestinationKeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	DestinationEncryptionContext map[string]string `json:"DestinationEncryptionContext,omitempty"`
	// SourceEncryptionAlgorithm and DestinationEncryptionAlgorithm are SYMMETRIC_DEFAULT if absent.
	SourceEncryptionAlgorithm      *keyspec.Algorithm `json:"SourceEncryptionAlgorithm,omitzero" kms:"enum=EncryptionAlgorithm"`
	DestinationEncryptionAlgorithm *keyspec.Algorithm `json:"DestinationEncryptionAlgorithm,omitzero" kms:"enum=EncryptionAlgorithm"`
	GrantTokens                    []string           `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
	DryRunModifiers []DryRunModifier `json:"DryRunModifiers,omitempty" kms:"each-enum=DryRunModifier"`
}

// ReEncryptResponse has the new ciphertext.
type ReEncryptResponse struct {
	CiphertextBlob                 Blob              `json:"CiphertextBlob"`
	SourceKeyID                    string            `json:"SourceKeyId"` // the source key's ARN
	KeyID                          string            `json:"KeyId"`       // the destination key's ARN
	SourceEncryptionAlgorithm      keyspec.Algorithm `json:"SourceEncryptionAlgorithm"`
	DestinationEncryptionAlgorithm keyspec.Algorithm `json:"DestinationEncryptionAlgorithm"`
	// SourceKeyMaterialID and DestinationKeyMaterialID are set for symmetric keys only.
	SourceKeyMaterialID      string `json:"SourceKeyMaterialId,omitzero"`
	DestinationKeyMaterialID string `json:"DestinationKeyMaterialId,omitzero"`
}

// GenerateDataKeyRequest makes a data key: exactly one of NumberOfBytes and KeySpec.
type GenerateDataKeyRequest struct {
	KeyID             *string           `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	NumberOfBytes     *int32            `json:"NumberOfBytes,omitzero" kms:"range=1..1024"`
	KeySpec           *DataKeySpec      `json:"KeySpec,omitzero" kms:"enum=DataKeySpec"`
	GrantTokens       []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Recipient         *RecipientInfo    `json:"Recipient,omitzero"`
	Trial
}

// GenerateDataKeyResponse has the data key twice, in the clear and encrypted.
type GenerateDataKeyResponse struct {
	CiphertextBlob Blob   `json:"CiphertextBlob"`
	Plaintext      Secret `json:"Plaintext,omitzero"`
	KeyID          string `json:"KeyId"` // the key ARN
	// CiphertextForRecipient takes the place of Plaintext if the request has a Recipient.
	CiphertextForRecipient Blob   `json:"CiphertextForRecipient,omitzero"`
	KeyMaterialID          string `json:"KeyMaterialId,omitzero"`
}

// GenerateDataKeyWithoutPlaintextRequest makes a data key that only Decrypt
// shows: exactly one of NumberOfBytes and KeySpec.
type GenerateDataKeyWithoutPlaintextRequest struct {
	KeyID             *string           `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	KeySpec           *DataKeySpec      `json:"KeySpec,omitzero" kms:"enum=DataKeySpec"`
	NumberOfBytes     *int32            `json:"NumberOfBytes,omitzero" kms:"range=1..1024"`
	GrantTokens       []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// GenerateDataKeyWithoutPlaintextResponse has the encrypted data key.
type GenerateDataKeyWithoutPlaintextResponse struct {
	CiphertextBlob Blob   `json:"CiphertextBlob"`
	KeyID          string `json:"KeyId"` // the key ARN
	KeyMaterialID  string `json:"KeyMaterialId,omitzero"`
}

// GenerateRandomRequest asks for random bytes.
type GenerateRandomRequest struct {
	// NumberOfBytes is required, though not by a constraint: see [NumberOfBytesRequired].
	NumberOfBytes    *int32         `json:"NumberOfBytes,omitzero" kms:"range=1..1024"`
	CustomKeyStoreID *string        `json:"CustomKeyStoreId,omitzero" kms:"len=1..64"`
	Recipient        *RecipientInfo `json:"Recipient,omitzero"`
}

// GenerateRandomResponse has the random bytes.
type GenerateRandomResponse struct {
	Plaintext Secret `json:"Plaintext,omitzero"`
	// CiphertextForRecipient takes the place of Plaintext if the request has a Recipient.
	CiphertextForRecipient Blob `json:"CiphertextForRecipient,omitzero"`
}

// RecipientInfo asks that the plaintext be encrypted to an attested enclave.
type RecipientInfo struct {
	KeyEncryptionAlgorithm *KeyEncryptionMechanism `json:"KeyEncryptionAlgorithm,omitzero" kms:"enum=KeyEncryptionMechanism"`
	AttestationDocument    Blob                    `json:"AttestationDocument,omitzero" kms:"len=1..262144"`
}
