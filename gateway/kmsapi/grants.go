package kmsapi

// GrantOperation is an operation that a grant can allow, by the name of its IAM action.
type GrantOperation string

// Grant operations (KMS Developer Guide, "Grant operations").
const (
	GrantDecrypt                             GrantOperation = "Decrypt"
	GrantEncrypt                             GrantOperation = "Encrypt"
	GrantGenerateDataKey                     GrantOperation = "GenerateDataKey"
	GrantGenerateDataKeyWithoutPlaintext     GrantOperation = "GenerateDataKeyWithoutPlaintext"
	GrantReEncryptFrom                       GrantOperation = "ReEncryptFrom"
	GrantReEncryptTo                         GrantOperation = "ReEncryptTo"
	GrantSign                                GrantOperation = "Sign"
	GrantVerify                              GrantOperation = "Verify"
	GrantGetPublicKey                        GrantOperation = "GetPublicKey"
	GrantCreateGrant                         GrantOperation = "CreateGrant"
	GrantRetireGrant                         GrantOperation = "RetireGrant"
	GrantDescribeKey                         GrantOperation = "DescribeKey"
	GrantGenerateDataKeyPair                 GrantOperation = "GenerateDataKeyPair"
	GrantGenerateDataKeyPairWithoutPlaintext GrantOperation = "GenerateDataKeyPairWithoutPlaintext"
	GrantGenerateMac                         GrantOperation = "GenerateMac"
	GrantVerifyMac                           GrantOperation = "VerifyMac"
	GrantDeriveSharedSecret                  GrantOperation = "DeriveSharedSecret"
	GrantEncapsulate                         GrantOperation = "Encapsulate"
	GrantDecapsulate                         GrantOperation = "Decapsulate"
)

// grantOperations is the enum of CreateGrant.
var grantOperations = []GrantOperation{
	GrantDecrypt, GrantEncrypt, GrantGenerateDataKey, GrantGenerateDataKeyWithoutPlaintext, GrantReEncryptFrom, GrantReEncryptTo,
	GrantSign, GrantVerify, GrantGetPublicKey, GrantCreateGrant, GrantRetireGrant, GrantDescribeKey, GrantGenerateDataKeyPair,
	GrantGenerateDataKeyPairWithoutPlaintext, GrantGenerateMac, GrantVerifyMac, GrantDeriveSharedSecret, GrantEncapsulate, GrantDecapsulate,
}

// GrantConstraints bound what a grant allows, in requests and responses.
type GrantConstraints struct {
	// EncryptionContextSubset must all be in a request's encryption context. Nil for none.
	EncryptionContextSubset map[string]string `json:"EncryptionContextSubset,omitzero"`
	// EncryptionContextEquals must be the whole of it. Nil for none.
	EncryptionContextEquals map[string]string `json:"EncryptionContextEquals,omitzero"`
	// SourceARN is what aws:SourceArn must be.
	SourceARN *string `json:"SourceArn,omitzero" kms:"len=1..2048,pattern=Text"`
}

// CreateGrantRequest gives operations on a key to a principal.
type CreateGrantRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// GranteePrincipal is an ARN; either it or GranteeServicePrincipal must be sent.
	GranteePrincipal         *string           `json:"GranteePrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	GranteeServicePrincipal  *string           `json:"GranteeServicePrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	RetiringPrincipal        *string           `json:"RetiringPrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	RetiringServicePrincipal *string           `json:"RetiringServicePrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	Operations               []GrantOperation  `json:"Operations,omitzero" kms:"required,len=1..128,each-enum=GrantOperation"`
	Constraints              *GrantConstraints `json:"Constraints,omitzero"`
	GrantTokens              []string          `json:"GrantTokens,omitempty" kms:"secret,len=0..10,each-len=1..8192"`
	// Name makes a repetition of the request the same grant.
	Name *string `json:"Name,omitzero" kms:"len=1..256,pattern=AliasName"`
	Trial
}

// CreateGrantResponse has the grant's id and a token of it.
type CreateGrantResponse struct {
	GrantToken string `json:"GrantToken"`
	GrantID    string `json:"GrantId"`
}

// GrantListEntry is a grant in lists.
type GrantListEntry struct {
	KeyID                    string            `json:"KeyId"` // the key ARN
	GrantID                  string            `json:"GrantId"`
	Name                     string            `json:"Name"` // empty for none, and sent then too
	CreationDate             Timestamp         `json:"CreationDate"`
	GranteePrincipal         string            `json:"GranteePrincipal,omitzero"`
	GranteeServicePrincipal  string            `json:"GranteeServicePrincipal,omitzero"`
	RetiringPrincipal        string            `json:"RetiringPrincipal,omitzero"`
	RetiringServicePrincipal string            `json:"RetiringServicePrincipal,omitzero"`
	IssuingAccount           string            `json:"IssuingAccount"` // ARN of the account's root
	Operations               []GrantOperation  `json:"Operations"`
	Constraints              *GrantConstraints `json:"Constraints,omitzero"`
}

// ListGrantsRequest asks for the grants on a key.
type ListGrantsRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// GrantID narrows the list down to one grant.
	GrantID *string `json:"GrantId,omitzero" kms:"len=1..128"`
	// GranteePrincipal narrows it down to those of one principal.
	GranteePrincipal        *string `json:"GranteePrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	GranteeServicePrincipal *string `json:"GranteeServicePrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	// Limit is 50 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..100"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListGrantsResponse is a page of grants.
type ListGrantsResponse struct {
	Grants []GrantListEntry `json:"Grants"`
	Page
}

// ListRetirableGrantsRequest asks for the grants that a principal may retire.
type ListRetirableGrantsRequest struct {
	// RetiringPrincipal is an ARN; either it or RetiringServicePrincipal must be sent.
	RetiringPrincipal        *string `json:"RetiringPrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	RetiringServicePrincipal *string `json:"RetiringServicePrincipal,omitzero" kms:"len=1..256,pattern=Principal"`
	// Limit is 50 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..100"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListRetirableGrantsResponse is a page of grants.
type ListRetirableGrantsResponse = ListGrantsResponse

// RetireGrantRequest ends a grant on behalf of those who use it. It names the grant
// by a token, or by its key and its id.
type RetireGrantRequest struct {
	GrantToken *string `json:"GrantToken,omitzero" kms:"secret,len=1..8192"`
	KeyID      *string `json:"KeyId,omitzero" kms:"len=1..2048,pattern=KeyId"`
	GrantID    *string `json:"GrantId,omitzero" kms:"len=1..128"`
	Trial
}

// RetireGrantResponse has no members.
type RetireGrantResponse = Empty

// RevokeGrantRequest ends a grant on behalf of those who rule the key.
type RevokeGrantRequest struct {
	KeyID   *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	GrantID *string `json:"GrantId,omitzero" kms:"required,len=1..128"`
	Trial
}

// RevokeGrantResponse has no members.
type RevokeGrantResponse = Empty
