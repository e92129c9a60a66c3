package identity

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// TagRoleRequest adds tags (IAM API Reference, TagRole).
type TagRoleRequest struct {
	RoleName *string `kms:"required,len=1..64,pattern=IAMName"`
	Tags     []Tag   `xml:"Tags>member" kms:"required,len=0..50"`
}

// TagRole adds tags to a role, or replaces their values.
func TagRole(ctx context.Context, tx *metadata.Tx, r *Request, in *TagRoleRequest) (*kmsapi.Empty, error) {
	return tag(ctx, tx, r, metadata.Role, *in.RoleName, in.Tags)
}

// UntagRoleRequest removes tags (IAM API Reference, UntagRole).
type UntagRoleRequest struct {
	RoleName *string  `kms:"required,len=1..64,pattern=IAMName"`
	TagKeys  []string `xml:"TagKeys>member" kms:"required,len=0..50,each-len=1..128"`
}

// UntagRole removes tags; keys that the role does not have are no error.
func UntagRole(ctx context.Context, tx *metadata.Tx, r *Request, in *UntagRoleRequest) (*kmsapi.Empty, error) {
	return untag(ctx, tx, r, metadata.Role, *in.RoleName, in.TagKeys)
}

// RolePageRequest asks for a page of what a role has (IAM API Reference,
// ListRoleTags, ListRolePolicies).
type RolePageRequest struct {
	RoleName *string `kms:"required,len=1..64,pattern=IAMName"`
	PageRequest
}

// ListRoleTags returns a role's tags in the order of their keys.
func ListRoleTags(ctx context.Context, r *Request, in *RolePageRequest) (*TagsResponse, error) {
	return listTags(ctx, r, metadata.Role, *in.RoleName, &in.PageRequest)
}

// PutRolePolicyRequest adds or replaces an inline policy (IAM API Reference,
// PutRolePolicy).
type PutRolePolicyRequest struct {
	RoleName       *string `kms:"required,len=1..64,pattern=IAMName"`
	PolicyName     *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyDocument *string `kms:"required,len=1..131072,pattern=Policy"`
}

// PutRolePolicy adds an inline policy to a role or replaces it.
func PutRolePolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *PutRolePolicyRequest) (*kmsapi.Empty, error) {
	return putPolicy(ctx, tx, r, metadata.Role, *in.RoleName, *in.PolicyName, *in.PolicyDocument)
}

// RolePolicyRequest is on an inline policy of a role (IAM API Reference,
// GetRolePolicy, DeleteRolePolicy).
type RolePolicyRequest struct {
	RoleName   *string `kms:"required,len=1..64,pattern=IAMName"`
	PolicyName *string `kms:"required,len=1..128,pattern=IAMName"`
}

// GetRolePolicyResponse is an inline policy; its document is percent-encoded.
type GetRolePolicyResponse struct {
	RoleName       string
	PolicyName     string
	PolicyDocument string
}

// GetRolePolicy returns an inline policy of a role.
func GetRolePolicy(ctx context.Context, r *Request, in *RolePolicyRequest) (*GetRolePolicyResponse, error) {
	document, err := getPolicy(ctx, r, metadata.Role, *in.RoleName, *in.PolicyName)
	return &GetRolePolicyResponse{*in.RoleName, *in.PolicyName, document}, err
}

// DeleteRolePolicy removes an inline policy from a role.
func DeleteRolePolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *RolePolicyRequest) (*kmsapi.Empty, error) {
	return deletePolicy(ctx, tx, r, metadata.Role, *in.RoleName, *in.PolicyName)
}

// ListRolePolicies returns the names of a role's inline policies.
func ListRolePolicies(ctx context.Context, r *Request, in *RolePageRequest) (*PolicyNamesResponse, error) {
	return listPolicies(ctx, r, metadata.Role, *in.RoleName, &in.PageRequest)
}
