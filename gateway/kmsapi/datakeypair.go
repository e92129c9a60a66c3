package kmsapi

import "kmsgate/hsm/keyspec"

// GenerateDataKeyPairRequest makes a data key pair, whose private key is
// encrypted under a symmetric key.
type GenerateDataKeyPairRequest struct {
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	KeyID             *string           `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	KeyPairSpec       *keyspec.Spec     `json:"KeyPairSpec,omitzero" kms:"required,enum=DataKeyPairSpec"`
	GrantTokens       []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Recipient         *RecipientInfo    `json:"Recipient,omitzero"`
	Trial
}

// GenerateDataKeyPairResponse has the private key twice, in the clear and
// encrypted, and the public key.
type GenerateDataKeyPairResponse struct {
	PrivateKeyCiphertextBlob Blob         `json:"PrivateKeyCiphertextBlob"`     // of the same bytes
	PrivateKeyPlaintext      Secret       `json:"PrivateKeyPlaintext,omitzero"` // PKCS#8, DER
	PublicKey                Blob         `json:"PublicKey"`                    // SubjectPublicKeyInfo, DER
	KeyID                    string       `json:"KeyId"`                        // the key ARN
	KeyPairSpec              keyspec.Spec `json:"KeyPairSpec"`
	// CiphertextForRecipient takes the place of PrivateKeyPlaintext if the request has a Recipient.
	CiphertextForRecipient Blob   `json:"CiphertextForRecipient,omitzero"`
	KeyMaterialID          string `json:"KeyMaterialId,omitzero"`
}

// GenerateDataKeyPairWithoutPlaintextRequest makes a data key pair whose
// private key only Decrypt shows.
type GenerateDataKeyPairWithoutPlaintextRequest struct {
	EncryptionContext map[string]string `json:"EncryptionContext,omitempty"`
	KeyID             *string           `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	KeyPairSpec       *keyspec.Spec     `json:"KeyPairSpec,omitzero" kms:"required,enum=DataKeyPairSpec"`
	GrantTokens       []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	Trial
}

// GenerateDataKeyPairWithoutPlaintextResponse has the encrypted private key and
// the public key.
type GenerateDataKeyPairWithoutPlaintextResponse struct {
	PrivateKeyCiphertextBlob Blob         `json:"PrivateKeyCiphertextBlob"` // of PKCS#8, DER
	PublicKey                Blob         `json:"PublicKey"`                // SubjectPublicKeyInfo, DER
	KeyID                    string       `json:"KeyId"`                    // the key ARN
	KeyPairSpec              keyspec.Spec `json:"KeyPairSpec"`
	KeyMaterialID            string       `json:"KeyMaterialId,omitzero"`
}
