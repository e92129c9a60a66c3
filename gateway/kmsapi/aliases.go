package kmsapi

// CreateAliasRequest names a key.
type CreateAliasRequest struct {
	AliasName   *string `json:"AliasName,omitzero" kms:"required,len=1..256,pattern=AliasName"`
	TargetKeyID *string `json:"TargetKeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// CreateAliasResponse has no members.
type CreateAliasResponse = Empty

// UpdateAliasRequest points an alias to another key.
type UpdateAliasRequest struct {
	AliasName   *string `json:"AliasName,omitzero" kms:"required,len=1..256,pattern=AliasName"`
	TargetKeyID *string `json:"TargetKeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
}

// UpdateAliasResponse has no members.
type UpdateAliasResponse = Empty

// DeleteAliasRequest removes an alias; its key stays.
type DeleteAliasRequest struct {
	AliasName *string `json:"AliasName,omitzero" kms:"required,len=1..256,pattern=AliasName"`
}

// DeleteAliasResponse has no members.
type DeleteAliasResponse = Empty

// ListAliasesRequest asks for the aliases of the account in the region, or of
// one key.
type ListAliasesRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"len=1..2048,pattern=KeyId"`
	// Limit is 50 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..100"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListAliasesResponse is a page of aliases.
type ListAliasesResponse struct {
	Aliases []AliasListEntry `json:"Aliases"`
	Page
}

// AliasListEntry describes an alias.
type AliasListEntry struct {
	AliasName       string    `json:"AliasName,omitzero"` // with its "alias/"
	AliasARN        string    `json:"AliasArn,omitzero"`
	TargetKeyID     string    `json:"TargetKeyId,omitzero"` // the bare id
	CreationDate    Timestamp `json:"CreationDate,omitzero"`
	LastUpdatedDate Timestamp `json:"LastUpdatedDate,omitzero"`
}
