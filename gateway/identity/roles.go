package identity

import (
	"context"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// defaultMaxSession is a role's longest session unless it says otherwise (IAM API
// Reference, CreateRole).
const defaultMaxSession = time.Hour

// Role is a role as IAM shows it.
type Role struct {
	Path                     string
	RoleName                 string
	RoleID                   string `xml:"RoleId"`
	Arn                      string
	CreateDate               time.Time
	AssumeRolePolicyDocument string    // percent-encoded
	Description              string    `xml:",omitempty"`
	MaxSessionDuration       int32     // seconds
	PermissionsBoundary      *Boundary `xml:",omitempty"`
	Tags                     []Tag     `xml:"Tags>member,omitempty"`
}

// CreateRoleRequest as in the IAM API Reference, CreateRole.
type CreateRoleRequest struct {
	Path                     *string `kms:"len=1..512,pattern=IAMPath"`
	RoleName                 *string `kms:"required,len=1..64,pattern=IAMName"`
	AssumeRolePolicyDocument *string `kms:"required,len=1..131072,pattern=Policy"`
	Description              *string `kms:"len=0..1000,pattern=Text"`
	MaxSessionDuration       *int32  `kms:"range=3600..43200"`
	PermissionsBoundary      *string `kms:"len=20..2048"`
	Tags                     []Tag   `xml:"Tags>member" kms:"len=0..50"`
}

// RoleResponse is a role.
type RoleResponse struct{ Role Role }

// CreateRole makes a role that those may assume whom its trust policy names.
func CreateRole(r *Request, in *CreateRoleRequest) (Work[RoleResponse], error) {
	tags, err := tagsOf(in.Tags)
	if err != nil {
		return Work[RoleResponse]{}, err
	}
	path, err := pathOf(in.Path)
	if err != nil {
		return Work[RoleResponse]{}, err
	}
	role := metadata.Principal{
		Account: r.Caller.Account, Kind: metadata.Role, Name: *in.RoleName, Path: path, CreatedAt: r.Now,
		Boundary: kmsapi.Or(in.PermissionsBoundary, ""), Description: kmsapi.Or(in.Description, ""),
		Trust: *in.AssumeRolePolicyDocument, MaxSession: seconds(in.MaxSessionDuration, defaultMaxSession),
	}
	return Work[RoleResponse]{
		Do: func(ctx context.Context) (*RoleResponse, error) {
			var err error
			if role.TrustBindings, err = r.bindTrust(ctx, role.Trust); err != nil {
				return nil, err
			}
			return nil, r.checkBoundary(ctx, in.PermissionsBoundary)
		},
		Commit: func(ctx context.Context, tx *metadata.Tx) (*RoleResponse, error) {
			if err := create(ctx, tx, &role, tags); err != nil {
				return nil, err
			}
			return &RoleResponse{shownRole(&role, tags)}, nil
		},
	}, nil
}

func seconds(n *int32, or time.Duration) time.Duration {
	if n == nil {
		return or
	}
	return time.Duration(*n) * time.Second
}

func shownRole(p *metadata.Principal, tags []metadata.Tag) Role {
	return Role{
		Path: p.Path, RoleName: p.Name, RoleID: p.ID, Arn: p.ARN(), CreateDate: date(p.CreatedAt),
		AssumeRolePolicyDocument: encodeDocument(p.Trust), Description: p.Description,
		MaxSessionDuration: int32(p.MaxSession / time.Second), PermissionsBoundary: boundaryOf(p.Boundary), Tags: tagsOut(tags),
	}
}

// RoleRequest is on a role (IAM API Reference, GetRole, DeleteRole).
type RoleRequest struct {
	RoleName *string `kms:"required,len=1..64,pattern=IAMName"`
}

// GetRole returns a role with its tags.
func GetRole(ctx context.Context, r *Request, in *RoleRequest) (*RoleResponse, error) {
	e, err := r.View.Principal(ctx, r.Caller.Account, metadata.Role, *in.RoleName)
	if err != nil {
		return nil, refusals{{metadata.ErrNotFound, NoSuchRole(*in.RoleName)}}.of(err)
	}
	roles := []metadata.Principal{e.Principal}
	if err := r.markDeleted(ctx, roles); err != nil {
		return nil, err
	}
	return &RoleResponse{shownRole(&roles[0], e.Tags)}, nil
}

// ListRolesResponse is a page of roles.
type ListRolesResponse struct {
	Roles []Role `xml:"Roles>member"`
	Paged
}

// ListRoles returns the account's roles in the order of their names, without tags
// and boundaries, as AWS has it. A page has at most maxItems whatever is asked for, as
// clients must expect: each role comes with its trust policy.
func ListRoles(ctx context.Context, r *Request, in *ListRequest) (*ListRolesResponse, error) {
	if in.MaxItems != nil && *in.MaxItems > maxItems {
		in.MaxItems = nil
	}
	found, paged, err := listPrincipals(ctx, r, metadata.Role, in)
	if err == nil {
		err = r.markDeleted(ctx, found)
	}
	out := &ListRolesResponse{Paged: paged}
	for i := range found {
		role := shownRole(&found[i], nil)
		role.PermissionsBoundary = nil
		out.Roles = append(out.Roles, role)
	}
	return out, err
}

// DeleteRole removes a role that has no policies any more. Its sessions are not good
// from then on.
func DeleteRole(ctx context.Context, tx *metadata.Tx, r *Request, in *RoleRequest) (*kmsapi.Empty, error) {
	return remove(ctx, tx, r, metadata.Role, *in.RoleName)
}

// UpdateRoleRequest changes what is not absent (IAM API Reference, UpdateRole).
type UpdateRoleRequest struct {
	RoleName           *string `kms:"required,len=1..64,pattern=IAMName"`
	Description        *string `kms:"len=0..1000,pattern=Text"`
	MaxSessionDuration *int32  `kms:"range=3600..43200"` // seconds
}

// UpdateRoleResponse has no members; unlike most empty answers it is there.
type UpdateRoleResponse struct{}

// UpdateRole changes the description and the longest session of a role.
func UpdateRole(ctx context.Context, tx *metadata.Tx, r *Request, in *UpdateRoleRequest) (*UpdateRoleResponse, error) {
	change := metadata.RoleChange{Description: in.Description}
	if in.MaxSessionDuration != nil {
		longest := seconds(in.MaxSessionDuration, 0)
		change.MaxSession = &longest
	}
	_, err := done(tx.UpdateRole(ctx, r.Caller.Account, *in.RoleName, change), NoSuchRole(*in.RoleName))
	return &UpdateRoleResponse{}, err
}

// UpdateRoleDescriptionRequest changes the description (IAM API Reference,
// UpdateRoleDescription, which UpdateRole replaces; Terraform still sends it).
type UpdateRoleDescriptionRequest struct {
	RoleName    *string `kms:"required,len=1..64,pattern=IAMName"`
	Description *string `kms:"required,len=0..1000,pattern=Text"`
}

// UpdateRoleDescription changes the description of a role and returns it, without its
// tags.
func UpdateRoleDescription(r *Request, in *UpdateRoleDescriptionRequest) (Work[RoleResponse], error) {
	var role Role
	return Work[RoleResponse]{
		Do: func(ctx context.Context) (*RoleResponse, error) {
			out, err := GetRole(ctx, r, &RoleRequest{RoleName: in.RoleName})
			if err == nil {
				role = out.Role
				role.Description, role.Tags = *in.Description, nil
			}
			return nil, err
		},
		Commit: func(ctx context.Context, tx *metadata.Tx) (*RoleResponse, error) {
			_, err := done(tx.UpdateRole(ctx, r.Caller.Account, *in.RoleName, metadata.RoleChange{Description: in.Description}), NoSuchRole(*in.RoleName))
			return &RoleResponse{role}, err
		},
	}, nil
}

// InstanceProfilesResponse has no instance profiles: there are none here. Who deletes
// a role, as Terraform does, asks for them first (IAM API Reference,
// ListInstanceProfilesForRole).
type InstanceProfilesResponse struct {
	InstanceProfiles []struct{} `xml:"InstanceProfiles>member"`
	Paged
}

// ListInstanceProfilesForRole lists nothing.
func ListInstanceProfilesForRole(_ context.Context, _ *Request, in *RolePageRequest) (*InstanceProfilesResponse, error) {
	_, _, err := in.start()
	return new(InstanceProfilesResponse), err
}

// UpdateAssumeRolePolicyRequest replaces a trust policy (IAM API Reference,
// UpdateAssumeRolePolicy).
type UpdateAssumeRolePolicyRequest struct {
	RoleName       *string `kms:"required,len=1..64,pattern=IAMName"`
	PolicyDocument *string `kms:"required,len=1..131072,pattern=Policy"`
}

// UpdateAssumeRolePolicy replaces the trust policy of a role.
func UpdateAssumeRolePolicy(r *Request, in *UpdateAssumeRolePolicyRequest) (Work[kmsapi.Empty], error) {
	var bindings map[string]string
	return Work[kmsapi.Empty]{
		Do: func(ctx context.Context) (_ *kmsapi.Empty, err error) {
			bindings, err = r.bindTrust(ctx, *in.PolicyDocument)
			return nil, err
		},
		Commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
			return done(tx.SetTrust(ctx, r.Caller.Account, *in.RoleName, *in.PolicyDocument, bindings), NoSuchRole(*in.RoleName))
		},
	}, nil
}
