package kmsapi

// Tag is a label of a key, in requests and responses. Both members are
// required; the value may be empty.
type Tag struct {
	TagKey   *string `json:"TagKey,omitzero" kms:"required,len=1..128,pattern=Text"`
	TagValue *string `json:"TagValue,omitzero" kms:"required,len=0..256,pattern=Text"`
}

// TagResourceRequest adds tags to a key and replaces those of the same keys.
type TagResourceRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	Tags  []Tag   `json:"Tags,omitzero" kms:"required"`
}

// TagResourceResponse has no members.
type TagResourceResponse = Empty

// UntagResourceRequest removes tags from a key.
type UntagResourceRequest struct {
	KeyID   *string  `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	TagKeys []string `json:"TagKeys,omitzero" kms:"required,each-len=1..128"`
}

// UntagResourceResponse has no members.
type UntagResourceResponse = Empty

// ListResourceTagsRequest asks for a key's tags.
type ListResourceTagsRequest struct {
	KeyID *string `json:"KeyId,omitzero" kms:"required,len=1..2048,pattern=KeyId"`
	// Limit is 50 if absent.
	Limit  *int32  `json:"Limit,omitzero" kms:"range=1..50"`
	Marker *string `json:"Marker,omitzero" kms:"len=1..1024,pattern=Marker"`
}

// ListResourceTagsResponse is a page of tags.
type ListResourceTagsResponse struct {
	Tags []Tag `json:"Tags"`
	Page
}
