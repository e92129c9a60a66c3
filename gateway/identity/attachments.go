package identity

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// UserAttachmentRequest names a user and a managed policy.
type UserAttachmentRequest struct {
	UserName  *string `kms:"required,len=1..64,pattern=IAMName"`
	PolicyArn *string `kms:"required,len=20..2048"`
}

// GroupAttachmentRequest names a group and a managed policy.
type GroupAttachmentRequest struct {
	GroupName *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyArn *string `kms:"required,len=20..2048"`
}

// RoleAttachmentRequest names a role and a managed policy.
type RoleAttachmentRequest struct {
	RoleName  *string `kms:"required,len=1..64,pattern=IAMName"`
	PolicyArn *string `kms:"required,len=20..2048"`
}

// AttachUserPolicy attaches a managed policy of the same account to a user (IAM API
// Reference, AttachUserPolicy).
func AttachUserPolicy(r *Request, in *UserAttachmentRequest) (Work[kmsapi.Empty], error) {
	return r.attach(metadata.User, *in.PolicyArn), nil
}

// AttachGroupPolicy does the same to a group.
func AttachGroupPolicy(r *Request, in *GroupAttachmentRequest) (Work[kmsapi.Empty], error) {
	return r.attach(metadata.Group, *in.PolicyArn), nil
}

// AttachRolePolicy does the same to a role.
func AttachRolePolicy(r *Request, in *RoleAttachmentRequest) (Work[kmsapi.Empty], error) {
	return r.attach(metadata.Role, *in.PolicyArn), nil
}

func (r *Request) attach(kind metadata.PrincipalKind, policyARN string) Work[kmsapi.Empty] {
	return Work[kmsapi.Empty]{
		Do: func(ctx context.Context) (*kmsapi.Empty, error) { return nil, r.attachable(ctx, "Policy", policyARN) },
		Commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
			err := tx.AttachPolicy(ctx, r.Caller.Account, kind, r.Target.Name, policyARN)
			return done(overQuota(err, "PoliciesPer"+words[kind].title), NoSuchPolicy(policyARN))
		},
	}
}

// DetachUserPolicy takes a managed policy from a user (IAM API Reference,
// DetachUserPolicy).
func DetachUserPolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *UserAttachmentRequest) (*kmsapi.Empty, error) {
	return r.detach(ctx, tx, metadata.User, *in.PolicyArn)
}

// DetachGroupPolicy takes it from a group.
func DetachGroupPolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *GroupAttachmentRequest) (*kmsapi.Empty, error) {
	return r.detach(ctx, tx, metadata.Group, *in.PolicyArn)
}

// DetachRolePolicy takes it from a role.
func DetachRolePolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *RoleAttachmentRequest) (*kmsapi.Empty, error) {
	return r.detach(ctx, tx, metadata.Role, *in.PolicyArn)
}

func (r *Request) detach(ctx context.Context, tx *metadata.Tx, kind metadata.PrincipalKind, policyARN string) (*kmsapi.Empty, error) {
	return done(tx.DetachPolicy(ctx, r.Caller.Account, kind, r.Target.Name, policyARN), NoSuchPolicy(policyARN))
}

// AttachedPolicy is a managed policy as lists of what is attached show it.
type AttachedPolicy struct {
	PolicyName string
	PolicyArn  string
}

// AttachedPage is which of the attached policies are asked for.
type AttachedPage struct {
	PathPrefix *string `kms:"len=1..512,pattern=IAMPathPrefix"`
	PageRequest
}

// ListAttachedUserPoliciesRequest as in the IAM API Reference, ListAttachedUserPolicies.
type ListAttachedUserPoliciesRequest struct {
	UserName *string `kms:"required,len=1..64,pattern=IAMName"`
	AttachedPage
}

// ListAttachedGroupPoliciesRequest as in the IAM API Reference, ListAttachedGroupPolicies.
type ListAttachedGroupPoliciesRequest struct {
	GroupName *string `kms:"required,len=1..128,pattern=IAMName"`
	AttachedPage
}

// ListAttachedRolePoliciesRequest as in the IAM API Reference, ListAttachedRolePolicies.
type ListAttachedRolePoliciesRequest struct {
	RoleName *string `kms:"required,len=1..64,pattern=IAMName"`
	AttachedPage
}

// AttachedPoliciesResponse is a page of what is attached.
type AttachedPoliciesResponse struct {
	AttachedPolicies []AttachedPolicy `xml:"AttachedPolicies>member"`
	Paged
}

// ListAttachedUserPolicies lists the managed policies of a user, without those of
// its groups.
func ListAttachedUserPolicies(ctx context.Context, r *Request, in *ListAttachedUserPoliciesRequest) (*AttachedPoliciesResponse, error) {
	return r.attached(ctx, metadata.User, &in.AttachedPage)
}

// ListAttachedGroupPolicies lists those of a group.
func ListAttachedGroupPolicies(ctx context.Context, r *Request, in *ListAttachedGroupPoliciesRequest) (*AttachedPoliciesResponse, error) {
	return r.attached(ctx, metadata.Group, &in.AttachedPage)
}

// ListAttachedRolePolicies lists those of a role.
func ListAttachedRolePolicies(ctx context.Context, r *Request, in *ListAttachedRolePoliciesRequest) (*AttachedPoliciesResponse, error) {
	return r.attached(ctx, metadata.Role, &in.AttachedPage)
}

func (r *Request) attached(ctx context.Context, kind metadata.PrincipalKind, in *AttachedPage) (*AttachedPoliciesResponse, error) {
	name := func(p metadata.ManagedPolicy) string { return p.Name }
	found, paged, err := pageOf(&in.PageRequest, name, func(after string, limit int) ([]metadata.ManagedPolicy, error) {
		return r.Store.AttachedPolicies(ctx, r.Caller.Account, kind, r.Target.Name, kmsapi.Or(in.PathPrefix, ""), after, limit)
	})
	if err != nil {
		return nil, err
	}
	out := &AttachedPoliciesResponse{Paged: paged}
	for i := range found {
		out.AttachedPolicies = append(out.AttachedPolicies, AttachedPolicy{PolicyName: found[i].Name, PolicyArn: found[i].ARN()})
	}
	return out, nil
}
