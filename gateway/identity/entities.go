package identity

import (
	"context"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// ListEntitiesForPolicyRequest as in the IAM API Reference, ListEntitiesForPolicy.
type ListEntitiesForPolicyRequest struct {
	PolicyRequest
	EntityFilter      *string `kms:"enum=IAMEntityType"`
	PathPrefix        *string `kms:"len=1..512,pattern=IAMPathPrefix"`
	PolicyUsageFilter *string `kms:"enum=IAMPolicyUsage"`
	PageRequest
}

// PolicyGroup is a group that has a managed policy.
type PolicyGroup struct {
	GroupName string
	GroupID   string `xml:"GroupId"`
}

// PolicyUser is a user that has a managed policy.
type PolicyUser struct {
	UserName string
	UserID   string `xml:"UserId"`
}

// PolicyRole is a role that has a managed policy.
type PolicyRole struct {
	RoleName string
	RoleID   string `xml:"RoleId"`
}

// ListEntitiesForPolicyResponse is a page of those that have a managed policy.
type ListEntitiesForPolicyResponse struct {
	PolicyGroups []PolicyGroup `xml:"PolicyGroups>member"`
	PolicyUsers  []PolicyUser  `xml:"PolicyUsers>member"`
	PolicyRoles  []PolicyRole  `xml:"PolicyRoles>member"`
	Paged
}

// entityKinds are the kinds of principals that EntityFilter names. Its values
// LocalManagedPolicy and AWSManagedPolicy name no kind of them, and find nobody.
var entityKinds = map[string]metadata.PrincipalKind{"": "", "User": metadata.User, "Group": metadata.Group, "Role": metadata.Role}

// ListEntitiesForPolicy lists the groups, roles and users that a managed policy is
// attached to, or whose permissions boundary it is.
func ListEntitiesForPolicy(ctx context.Context, r *Request, in *ListEntitiesForPolicyRequest) (*ListEntitiesForPolicyResponse, error) {
	e, err := r.View.ManagedPolicy(ctx, r.Target.Account, r.Target.Name)
	if err != nil {
		return nil, missingPolicy(err, *in.PolicyArn)
	}
	kind, ok := entityKinds[kmsapi.Or(in.EntityFilter, "")]
	place := func(e metadata.PolicyEntity) string { return e.Place() }
	found, paged, err := pageOf(&in.PageRequest, place, func(after string, limit int) ([]metadata.PolicyEntity, error) {
		if !ok {
			return nil, nil
		}
		return r.Store.PolicyEntities(ctx, &e.ManagedPolicy, metadata.EntityFilter{
			Kind: kind, PathPrefix: kmsapi.Or(in.PathPrefix, ""), Use: metadata.PolicyUse(kmsapi.Or(in.PolicyUsageFilter, "")),
		}, after, limit)
	})
	if err != nil {
		return nil, err
	}
	out := &ListEntitiesForPolicyResponse{Paged: paged}
	for _, e := range found {
		out.add(e)
	}
	return out, nil
}

func (out *ListEntitiesForPolicyResponse) add(e metadata.PolicyEntity) {
	switch e.Kind {
	case metadata.User:
		out.PolicyUsers = append(out.PolicyUsers, PolicyUser{UserName: e.Name, UserID: e.ID})
	case metadata.Group:
		out.PolicyGroups = append(out.PolicyGroups, PolicyGroup{GroupName: e.Name, GroupID: e.ID})
	case metadata.Role:
		out.PolicyRoles = append(out.PolicyRoles, PolicyRole{RoleName: e.Name, RoleID: e.ID})
	}
}
