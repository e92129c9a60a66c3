package identity

import (
	"context"
	"errors"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// User is a user as responses have it (IAM API Reference, "User"); of the account's
// root, which GetUser shows too, it has neither name nor path.
type User struct {
	Path                string `xml:",omitempty"`
	UserName            string `xml:",omitempty"`
	UserID              string `xml:"UserId"`
	Arn                 string
	CreateDate          time.Time
	PermissionsBoundary *Boundary
	Tags                []Tag `xml:"Tags>member"`
}

func userOf(p *metadata.Principal) User {
	return User{
		Path: p.Path, UserName: p.Name, UserID: p.ID, Arn: p.ARN(), CreateDate: date(p.CreatedAt),
		PermissionsBoundary: boundaryOf(p.Boundary),
	}
}

// usersOf are users in a list: without tags and boundaries, as AWS has it.
func usersOf(found []metadata.Principal) []User {
	out := make([]User, 0, len(found))
	for i := range found {
		u := userOf(&found[i])
		u.PermissionsBoundary = nil
		out = append(out, u)
	}
	return out
}

// date is a time as IAM tells it, to the second.
func date(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// CreateUserRequest makes a user (IAM API Reference, CreateUser).
type CreateUserRequest struct {
	UserName *string `kms:"required,len=1..64,pattern=IAMName"`
	// Path is "/" if absent.
	Path                *string `kms:"len=1..512,pattern=IAMPath"`
	PermissionsBoundary *string `kms:"len=20..2048"`
	Tags                []Tag   `xml:"Tags>member" kms:"len=0..50"`
}

// UserResponse is a user.
type UserResponse struct {
	User User
}

// CreateUser makes a user. Its name must differ from others in more than letter
// case.
func CreateUser(ctx context.Context, tx *metadata.Tx, r *Request, in *CreateUserRequest) (*UserResponse, error) {
	tags, err := tagsOf(in.Tags)
	if err != nil {
		return nil, err
	}
	path, err := pathOf(in.Path)
	if err != nil {
		return nil, err
	}
	p := metadata.Principal{
		Account: r.Caller.Account, Kind: metadata.User, Name: *in.UserName, Path: path,
		CreatedAt: r.Now, Boundary: kmsapi.Or(in.PermissionsBoundary, ""),
	}
	if err := create(ctx, tx, &p, tags); err != nil {
		return nil, err
	}
	out := &UserResponse{userOf(&p)}
	out.User.Tags = tagsOut(tags)
	return out, nil
}

// GetUserRequest asks for a user; without a name for the caller.
type GetUserRequest struct {
	UserName *string `kms:"len=1..128,pattern=IAMName"`
}

// GetUser returns a user with its tags, or what there is to say of the account's
// root.
func GetUser(ctx context.Context, r *Request, _ *GetUserRequest) (*UserResponse, error) {
	if r.Target.Name == "" {
		return getRoot(ctx, r)
	}
	e, err := r.View.Principal(ctx, r.Caller.Account, metadata.User, r.Target.Name)
	if errors.Is(err, metadata.ErrNotFound) {
		return nil, NoSuchUser(r.Target.Name)
	}
	if err != nil {
		return nil, err
	}
	out := &UserResponse{userOf(&e.Principal)}
	out.User.Tags = tagsOut(e.Tags)
	return out, nil
}

func getRoot(ctx context.Context, r *Request) (*UserResponse, error) {
	account, err := r.Store.Account(ctx, r.Caller.Account)
	if err != nil {
		return nil, err
	}
	return &UserResponse{User{UserID: account.ID, Arn: arn.Root(account.ID), CreateDate: date(account.CreatedAt)}}, nil
}

// ListUsersResponse is a page of users.
type ListUsersResponse struct {
	Users []User `xml:"Users>member"`
	Paged
}

// ListUsers returns the account's users in the order of their names.
func ListUsers(ctx context.Context, r *Request, in *ListRequest) (*ListUsersResponse, error) {
	found, paged, err := listPrincipals(ctx, r, metadata.User, in)
	return &ListUsersResponse{usersOf(found), paged}, err
}

// UserRequest is on a user (IAM API Reference, DeleteUser).
type UserRequest struct {
	UserName *string `kms:"required,len=1..128,pattern=IAMName"`
}

// DeleteUser deletes a user that has nothing any more. Its sessions are not good
// from then on.
func DeleteUser(ctx context.Context, tx *metadata.Tx, r *Request, in *UserRequest) (*kmsapi.Empty, error) {
	return remove(ctx, tx, r, metadata.User, *in.UserName)
}

// TagUserRequest adds tags (IAM API Reference, TagUser).
type TagUserRequest struct {
	UserName *string `kms:"required,len=1..128,pattern=IAMName"`
	Tags     []Tag   `xml:"Tags>member" kms:"required,len=0..50"`
}

// TagUser adds tags to a user, or replaces their values.
func TagUser(ctx context.Context, tx *metadata.Tx, r *Request, in *TagUserRequest) (*kmsapi.Empty, error) {
	return tag(ctx, tx, r, metadata.User, *in.UserName, in.Tags)
}

// UntagUserRequest removes tags (IAM API Reference, UntagUser).
type UntagUserRequest struct {
	UserName *string  `kms:"required,len=1..128,pattern=IAMName"`
	TagKeys  []string `xml:"TagKeys>member" kms:"required,len=0..50,each-len=1..128"`
}

// UntagUser removes tags; keys that the user does not have are no error.
func UntagUser(ctx context.Context, tx *metadata.Tx, r *Request, in *UntagUserRequest) (*kmsapi.Empty, error) {
	return untag(ctx, tx, r, metadata.User, *in.UserName, in.TagKeys)
}

// UserPageRequest asks for a page of what a user has (IAM API Reference,
// ListUserTags, ListUserPolicies, ListGroupsForUser).
type UserPageRequest struct {
	UserName *string `kms:"required,len=1..128,pattern=IAMName"`
	PageRequest
}

// ListUserTags returns a user's tags in the order of their keys.
func ListUserTags(ctx context.Context, r *Request, in *UserPageRequest) (*TagsResponse, error) {
	return listTags(ctx, r, metadata.User, *in.UserName, &in.PageRequest)
}

// PutUserPolicyRequest adds or replaces an inline policy (IAM API Reference,
// PutUserPolicy).
type PutUserPolicyRequest struct {
	UserName       *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyName     *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyDocument *string `kms:"required,len=1..131072,pattern=Policy"`
}

// PutUserPolicy adds an inline policy to a user or replaces it.
func PutUserPolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *PutUserPolicyRequest) (*kmsapi.Empty, error) {
	return putPolicy(ctx, tx, r, metadata.User, *in.UserName, *in.PolicyName, *in.PolicyDocument)
}

// UserPolicyRequest is on an inline policy of a user (IAM API Reference,
// GetUserPolicy, DeleteUserPolicy).
type UserPolicyRequest struct {
	UserName   *string `kms:"required,len=1..128,pattern=IAMName"`
	PolicyName *string `kms:"required,len=1..128,pattern=IAMName"`
}

// GetUserPolicyResponse is an inline policy; its document is percent-encoded.
type GetUserPolicyResponse struct {
	UserName       string
	PolicyName     string
	PolicyDocument string
}

// GetUserPolicy returns an inline policy of a user.
func GetUserPolicy(ctx context.Context, r *Request, in *UserPolicyRequest) (*GetUserPolicyResponse, error) {
	document, err := getPolicy(ctx, r, metadata.User, *in.UserName, *in.PolicyName)
	return &GetUserPolicyResponse{*in.UserName, *in.PolicyName, document}, err
}

// DeleteUserPolicy removes an inline policy from a user.
func DeleteUserPolicy(ctx context.Context, tx *metadata.Tx, r *Request, in *UserPolicyRequest) (*kmsapi.Empty, error) {
	return deletePolicy(ctx, tx, r, metadata.User, *in.UserName, *in.PolicyName)
}

// ListUserPolicies returns the names of a user's inline policies.
func ListUserPolicies(ctx context.Context, r *Request, in *UserPageRequest) (*PolicyNamesResponse, error) {
	return listPolicies(ctx, r, metadata.User, *in.UserName, &in.PageRequest)
}
