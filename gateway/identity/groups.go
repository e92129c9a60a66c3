package identity

import (
	"context"
	"errors"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// Group is a group as responses have it (IAM API Reference, "Group").
type Group struct {
	Path       string
	GroupName  string
	GroupID    string `xml:"GroupId"`
	Arn        string
	CreateDate time.Time
}

func groupOf(p *metadata.Principal) Group {
	return Group{Path: p.Path, GroupName: p.Name, GroupID: p.ID, Arn: p.ARN(), CreateDate: date(p.CreatedAt)}
}

func groupsOf(found []metadata.Principal) []Group {
	out := make([]Group, 0, len(found))
	for i := range found {
		out = append(out, groupOf(&found[i]))
	}
	return out
}

// CreateGroupRequest makes a group (IAM API Reference, CreateGroup).
type CreateGroupRequest struct {
	GroupName *string `kms:"required,len=1..128,pattern=IAMName"`
	// Path is "/" if absent.
	Path *string `kms:"len=1..512,pattern=IAMPath"`
}

// CreateGroupResponse is the group.
type CreateGroupResponse struct {
	Group Group
}

// CreateGroup makes a group. Its name must differ from others in more than letter
// case.
func CreateGroup(ctx context.Context, tx *metadata.Tx, r *Request, in *CreateGroupRequest) (*CreateGroupResponse, error) {
	path, err := pathOf(in.Path)
	if err != nil {
		return nil, err
	}
	p := metadata.Principal{Account: r.Caller.Account, Kind: metadata.Group, Name: *in.GroupName, Path: path, CreatedAt: r.Now}
	if err := create(ctx, tx, &p, nil); err != nil {
		return nil, err
	}
	return &CreateGroupResponse{groupOf(&p)}, nil
}

// GroupPageRequest asks for a page of what a group has (IAM API Reference, GetGroup,
// ListGroupPolicies).
type GroupPageRequest struct {
	GroupName *string `kms:"required,len=1..128,pattern=IAMName"`
	PageRequest
}

// GetGroupResponse is a group and a page of its users.
type GetGroupResponse struct {
	Group Group
	Users []User `xml:"Users>member"`
	Paged
}

// GetGroup returns a group and its users in the order of their names.
func GetGroup(ctx context.Context, r *Request, in *GroupPageRequest) (*GetGroupResponse, error) {
	e, err := r.View.Principal(ctx, r.Caller.Account, metadata.Group, *in.GroupName)
	if errors.Is(err, metadata.ErrNotFound) {
		return nil, NoSuchGroup(*in.GroupName)
	}
	if err != nil {
		return nil, err
	}
	found, paged, err := pageOf(&in.PageRequest, principalName, func(after string, limit int) ([]metadata.Principal, error) {
		return r.Store.ListMembers(ctx, r.Caller.Account, *in.GroupName, after, limit)
	})
	return &GetGroupResponse{groupOf(&e.Principal), usersOf(found), paged}, err
}

// ListGroupsResponse is a page of groups.
type ListGroupsResponse struct {
	Groups []Group `xml:"Groups>member"`
	Paged
}

// ListGroups returns the account's groups in the order of their names.
func ListGroups(ctx context.Context, r *Request, in *ListRequest) (*ListGroupsResponse, error) {
	found, paged, err := listPrincipals(ctx, r, metadata.Group, in)
	return &ListGroupsResponse{groupsOf(found), paged}, err
}

// ListGroupsForUser returns the groups that a user is in, in the order of their
// names.
func ListGroupsForUser(ctx context.Context, r *Request, in *UserPageRequest) (*ListGroupsResponse, error) {
	found, paged, err := pageOf(&in.PageRequest, principalName, func(after string, limit int) ([]metadata.Principal, error) {
		return r.Store.ListGroupsOf(ctx, r.Caller.Account, *in.UserName, after, limit)
	})
	return &ListGroupsResponse{groupsOf(found), paged}, err
}

// GroupRequest is on a group (IAM API Reference, DeleteGroup).
type GroupRequest struct {
	GroupName *string `kms:"required,len=1..128,pattern=IAMName"`
}

// DeleteGroup deletes a group that has neither users nor policies any more.
func DeleteGroup(ctx context.Context, tx *metadata.Tx, r *Request, in *GroupRequest) (*kmsapi.Empty, error) {
	return remove(ctx, tx, r, metadata.Group, *in.GroupName)
}

// MemberRequest is on a user of a group (IAM API Reference, AddUserToGroup,
// RemoveUserFromGroup).
type MemberRequest struct {
	GroupName *string `kms:"required,len=1..128,pattern=IAMName"`
	UserName  *string `kms:"required,len=1..128,pattern=IAMName"`
}

// AddUserToGroup adds a user to a group; one who is in it stays.
func AddUserToGroup(ctx context.Context, tx *metadata.Tx, r *Request, in *MemberRequest) (*kmsapi.Empty, error) {
	err := tx.InsertMember(ctx, r.Caller.Account, *in.GroupName, *in.UserName)
	return done(overQuota(err, "GroupsPerUser"), NoSuchUser(*in.UserName))
}

// RemoveUserFromGroup takes a user out of a group; one who is not in it is no error.
func RemoveUserFromGroup(ctx context.Context, tx *metadata.Tx, r *Request, in *MemberRequest) (*kmsapi.Empty, error) {
	return done(tx.DeleteMember(ctx, r.Caller.Account, *in.GroupName, *in.UserName), NoSuchUser(*in.UserName))
}

// PutGroupPolicyRequest adds or replaces an inline policy (IAM API Reference,
// PutGroupPolicy).
type PutGroupPolicyRequest struct {
	GroupName      *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyName     *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyDocument *string `kms:"required,len=1..131072,pattern=Policy"`
}

// PutGroupPolicy adds an inline policy to a group or replaces it.
func PutGroupPolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *PutGroupPolicyRequest) (*kmsapi.Empty, error) {
	return putPolicy(ctx, tx, r, metadata.Group, *in.GroupName, *in.PolicyName, *in.PolicyDocument)
}

// GroupPolicyRequest is on an inline policy of a group (IAM API Reference,
// GetGroupPolicy, DeleteGroupPolicy).
type GroupPolicyRequest struct {
	GroupName  *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyName *string `kms:"required,len=1..128,pattern=IAMName"`
}

// GetGroupPolicyResponse is an inline policy; its document is percent-encoded.
type GetGroupPolicyResponse struct {
	GroupName      string
	PolicyName     string
	PolicyDocument string
}

// GetGroupPolicy returns an inline policy of a group.
func GetGroupPolicy(ctx context.Context, r *Request, in *GroupPolicyRequest) (*GetGroupPolicyResponse, error) {
	document, err := getPolicy(ctx, r, metadata.Group, *in.GroupName, *in.PolicyName)
	return &GetGroupPolicyResponse{*in.GroupName, *in.PolicyName, document}, err
}

// DeleteGroupPolicy removes an inline policy from a group.
func DeleteGroupPolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *GroupPolicyRequest) (*kmsapi.Empty, error) {
	return deletePolicy(ctx, tx, r, metadata.Group, *in.GroupName, *in.PolicyName)
}

// ListGroupPolicies returns the names of a group's inline policies.
func ListGroupPolicies(ctx context.Context, r *Request, in *GroupPageRequest) (*PolicyNamesResponse, error) {
	return listPolicies(ctx, r, metadata.Group, *in.GroupName, &in.PageRequest)
}
