package identity

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// PutUserPermissionsBoundaryRequest as in the IAM API Reference,
// PutUserPermissionsBoundary.
type PutUserPermissionsBoundaryRequest struct {
	UserName            *string `kms:"required,len=1..64,pattern=IAMName"`
	PermissionsBoundary *string `kms:"required,len=20..2048"`
}

// PutRolePermissionsBoundaryRequest as in the IAM API Reference,
// PutRolePermissionsBoundary.
type PutRolePermissionsBoundaryRequest struct {
	RoleName            *string `kms:"required,len=1..64,pattern=IAMName"`
	PermissionsBoundary *string `kms:"required,len=20..2048"`
}

// PutUserPermissionsBoundary bounds what the policies of a user can allow by a
// managed policy.
func PutUserPermissionsBoundary(r *Request, in *PutUserPermissionsBoundaryRequest) (Work[kmsapi.Empty], error) {
	return r.bound(metadata.User, *in.PermissionsBoundary), nil
}

// PutRolePermissionsBoundary bounds those of a role.
func PutRolePermissionsBoundary(r *Request, in *PutRolePermissionsBoundaryRequest) (Work[kmsapi.Empty], error) {
	return r.bound(metadata.Role, *in.PermissionsBoundary), nil
}

func (r *Request) bound(kind metadata.PrincipalKind, policyARN string) Work[kmsapi.Empty] {
	return Work[kmsapi.Empty]{
		Do: func(ctx context.Context) (*kmsapi.Empty, error) { return nil, r.checkBoundary(ctx, &policyARN) },
		Commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
			return done(tx.SetBoundary(ctx, r.Caller.Account, kind, r.Target.Name, policyARN), NoSuchPolicy(policyARN))
		},
	}
}

// checkBoundary refuses what cannot be a permissions boundary of something of the
// caller's account; nil is none.
func (r *Request) checkBoundary(ctx context.Context, policyARN *string) error {
	if policyARN == nil {
		return nil
	}
	return r.attachable(ctx, "Scope ARN:", *policyARN)
}

// DeleteUserPermissionsBoundary takes the permissions boundary from a user.
func DeleteUserPermissionsBoundary(ctx context.Context, tx *metadata.Tx, r *Request, _ *UserRequest) (*kmsapi.Empty, error) {
	return r.unbound(ctx, tx, metadata.User)
}

// DeleteRolePermissionsBoundary takes it from a role.
func DeleteRolePermissionsBoundary(ctx context.Context, tx *metadata.Tx, r *Request, _ *RoleRequest) (*kmsapi.Empty, error) {
	return r.unbound(ctx, tx, metadata.Role)
}

func (r *Request) unbound(ctx context.Context, tx *metadata.Tx, kind metadata.PrincipalKind) (*kmsapi.Empty, error) {
	none := noSuch("The " + words[kind].word + " with name " + r.Target.Name + " does not have a permissions boundary.")
	return done(tx.DeleteBoundary(ctx, r.Caller.Account, kind, r.Target.Name), none)
}
