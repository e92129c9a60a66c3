package identity

import (
	"context"
	"errors"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// principalWords are IAM's words about a kind of principal.
type principalWords struct {
	title  string // begins sentences
	word   string // stands in them
	prefix string // of its unique ids
	quota  string // of how many an account can have
	noSuch func(name string) *kmsapi.Error
}

var words = map[metadata.PrincipalKind]principalWords{
	metadata.User:  {"User", "user", "AIDA", "UsersPerAccount", NoSuchUser},
	metadata.Group: {"Group", "group", "AGPA", "GroupsPerAccount", NoSuchGroup},
	metadata.Role:  {"Role", "role", "AROA", "RolesPerAccount", NoSuchRole},
}

// create stores a principal of the caller's account with its tags, and gives it a
// unique id.
func create(ctx context.Context, tx *metadata.Tx, p *metadata.Principal, tags []metadata.Tag) error {
	w := words[p.Kind]
	p.ID = newID(w.prefix)
	err := tx.InsertPrincipal(ctx, *p, tags)
	return overQuota(refusals{
		{metadata.ErrExists, alreadyExists(w.title + " with name " + p.Name + " already exists.")},
		{metadata.ErrNotFound, NoSuchPolicy(p.Boundary)}, // the account is there: it calls
	}.of(err), w.quota)
}

// remove deletes a principal of the caller's account.
func remove(ctx context.Context, tx *metadata.Tx, r *Request, kind metadata.PrincipalKind, name string) (*kmsapi.Empty, error) {
	return done(stillInUse(tx.DeletePrincipal(ctx, r.Caller.Account, kind, name)), words[kind].noSuch(name))
}

// done is the answer of a change without one; absent is said if what it was on is not
// there any more.
func done(err error, absent *kmsapi.Error) (*kmsapi.Empty, error) {
	if errors.Is(err, metadata.ErrNotFound) {
		return nil, absent
	}
	if err != nil {
		return nil, err
	}
	return &kmsapi.Empty{}, nil
}

// tag adds tags to a principal of the caller's account.
func tag(ctx context.Context, tx *metadata.Tx, r *Request, kind metadata.PrincipalKind, name string, in []Tag) (*kmsapi.Empty, error) {
	tags, err := tagsOf(in)
	if err != nil {
		return nil, err
	}
	w := words[kind]
	err = tx.UpsertPrincipalTags(ctx, r.Caller.Account, kind, name, tags)
	return done(overQuota(err, "TagsPer"+w.title), w.noSuch(name))
}

// untag removes tags by their keys.
func untag(ctx context.Context, tx *metadata.Tx, r *Request, kind metadata.PrincipalKind, name string, keys []string) (*kmsapi.Empty, error) {
	return done(tx.DeletePrincipalTags(ctx, r.Caller.Account, kind, name, keys), words[kind].noSuch(name))
}

// listTags is a page of a principal's tags.
func listTags(ctx context.Context, r *Request, kind metadata.PrincipalKind, name string, in *PageRequest) (*TagsResponse, error) {
	key := func(t metadata.Tag) string { return t.Key }
	tags, paged, err := pageOf(in, key, func(after string, limit int) ([]metadata.Tag, error) {
		return r.Store.ListPrincipalTags(ctx, r.Caller.Account, kind, name, after, limit)
	})
	return &TagsResponse{tagsOut(tags), paged}, err
}

// listPrincipals is a page of the caller's account's principals of a kind.
func listPrincipals(ctx context.Context, r *Request, kind metadata.PrincipalKind, in *ListRequest) ([]metadata.Principal, Paged, error) {
	return pageOf(&in.PageRequest, principalName, func(after string, limit int) ([]metadata.Principal, error) {
		return r.Store.ListPrincipals(ctx, r.Caller.Account, kind, kmsapi.Or(in.PathPrefix, "/"), after, limit)
	})
}

func principalName(p metadata.Principal) string { return p.Name }

// ListRequest asks for the principals of a kind (IAM API Reference, ListUsers,
// ListGroups, ListRoles).
type ListRequest struct {
	PathPrefix *string `kms:"len=1..512,pattern=IAMPathPrefix"`
	PageRequest
}
