package identity

import (
	"context"
	"errors"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// AccessKey is a new access key with its secret (IAM API Reference, "AccessKey").
type AccessKey struct {
	UserName        string `xml:",omitempty"` // none for the account's root
	AccessKeyID     string `xml:"AccessKeyId"`
	Status          string
	SecretAccessKey kmsapi.Secret
	CreateDate      time.Time
}

// OwnUserRequest is on a user; without a name on the caller (IAM API Reference,
// CreateAccessKey).
type OwnUserRequest struct {
	UserName *string `kms:"len=1..128,pattern=IAMName"`
}

// CreateAccessKeyResponse is an access key. Its secret is shown this once.
type CreateAccessKeyResponse struct {
	AccessKey AccessKey
}

// CreateAccessKey makes an access key for a user, or for the account's root. The
// secret comes from the token's random generator and is stored sealed.
func CreateAccessKey(r *Request, _ *OwnUserRequest) (Work[CreateAccessKeyResponse], error) {
	user := r.Target.Name // empty for the account's root
	var key metadata.AccessKey
	out := new(CreateAccessKeyResponse)
	return Work[CreateAccessKeyResponse]{
		Do: func(ctx context.Context) (*CreateAccessKeyResponse, error) {
			var err error
			var secret []byte
			if key, secret, err = NewAccessKey(ctx, r.Token, r.KeyStore, metadata.AccessKey{
				Account: r.Caller.Account, User: user, Principal: r.Target.ARN, CreatedAt: r.Now,
			}); err != nil {
				return nil, err
			}
			out.AccessKey = AccessKey{
				UserName: user, AccessKeyID: key.ID, Status: string(key.Status), SecretAccessKey: secret, CreateDate: date(key.CreatedAt),
			}
			return out, nil
		},
		Commit: func(ctx context.Context, tx *metadata.Tx) (*CreateAccessKeyResponse, error) {
			return out, insertAccessKey(ctx, tx, key)
		},
	}, nil
}

func insertAccessKey(ctx context.Context, tx *metadata.Tx, key metadata.AccessKey) error {
	if err := tx.RoomForAccessKey(ctx, key.Account, key.User); err != nil {
		return overQuota(refusals{{metadata.ErrNotFound, NoSuchUser(key.User)}}.of(err), "AccessKeysPerUser")
	}
	return tx.InsertAccessKey(ctx, key)
}

// AccessKeyMetadata is an access key without its secret (IAM API Reference,
// "AccessKeyMetadata").
type AccessKeyMetadata struct {
	UserName    string `xml:",omitempty"`
	AccessKeyID string `xml:"AccessKeyId"`
	Status      string
	CreateDate  time.Time
}

// ListAccessKeysRequest asks for the access keys of a user; without a name for the
// caller's (IAM API Reference, ListAccessKeys).
type ListAccessKeysRequest struct {
	UserName *string `kms:"len=1..128,pattern=IAMName"`
	PageRequest
}

// ListAccessKeysResponse is a page of access keys.
type ListAccessKeysResponse struct {
	AccessKeyMetadata []AccessKeyMetadata `xml:"AccessKeyMetadata>member"`
	Paged
}

// ListAccessKeys returns the access keys of a user, or of the account's root, in the
// order of their ids.
func ListAccessKeys(ctx context.Context, r *Request, in *ListAccessKeysRequest) (*ListAccessKeysResponse, error) {
	user := r.Target.Name // empty for the account's root
	id := func(k metadata.AccessKey) string { return k.ID }
	keys, paged, err := pageOf(&in.PageRequest, id, func(after string, limit int) ([]metadata.AccessKey, error) {
		return r.Store.AccessKeysOf(ctx, r.Caller.Account, user, after, limit)
	})
	if err != nil {
		return nil, err
	}
	out := &ListAccessKeysResponse{Paged: paged}
	for _, k := range keys {
		out.AccessKeyMetadata = append(out.AccessKeyMetadata, AccessKeyMetadata{user, k.ID, string(k.Status), date(k.CreatedAt)})
	}
	return out, nil
}

// UpdateAccessKeyRequest changes the status of an access key of a user; without a
// name of the caller's (IAM API Reference, UpdateAccessKey).
type UpdateAccessKeyRequest struct {
	UserName    *string `kms:"len=1..128,pattern=IAMName"`
	AccessKeyID *string `xml:"AccessKeyId" kms:"required,len=16..128,pattern=AccessKeyId"`
	Status      *string `kms:"required,enum=AccessKeyStatus"`
}

// UpdateAccessKey makes an access key active or inactive.
func UpdateAccessKey(ctx context.Context, tx *metadata.Tx, r *Request, in *UpdateAccessKeyRequest) (*kmsapi.Empty, error) {
	err := tx.SetAccessKeyStatus(ctx, r.Caller.Account, r.Target.Name, *in.AccessKeyID, metadata.AccessKeyStatus(*in.Status))
	return done(err, NoSuchAccessKey(*in.AccessKeyID))
}

// DeleteAccessKeyRequest is on an access key of a user; without a name of the
// caller's (IAM API Reference, DeleteAccessKey).
type DeleteAccessKeyRequest struct {
	UserName    *string `kms:"len=1..128,pattern=IAMName"`
	AccessKeyID *string `xml:"AccessKeyId" kms:"required,len=16..128,pattern=AccessKeyId"`
}

// DeleteAccessKey deletes an access key. It is not good from then on.
func DeleteAccessKey(ctx context.Context, tx *metadata.Tx, r *Request, in *DeleteAccessKeyRequest) (*kmsapi.Empty, error) {
	return done(tx.DeleteAccessKey(ctx, r.Caller.Account, r.Target.Name, *in.AccessKeyID), NoSuchAccessKey(*in.AccessKeyID))
}

// GetAccessKeyLastUsedRequest is on an access key of the account (IAM API Reference,
// GetAccessKeyLastUsed).
type GetAccessKeyLastUsedRequest struct {
	AccessKeyID *string `xml:"AccessKeyId" kms:"required,len=16..128,pattern=AccessKeyId"`
}

// AccessKeyLastUsed is when and where an access key was used last; of one that was
// not used there is no date.
type AccessKeyLastUsed struct {
	LastUsedDate *time.Time
	ServiceName  string
	Region       string
}

// GetAccessKeyLastUsedResponse says whose the key is and when it was used last.
type GetAccessKeyLastUsedResponse struct {
	UserName          string `xml:",omitempty"`
	AccessKeyLastUsed AccessKeyLastUsed
}

// GetAccessKeyLastUsed tells of the last use of an access key, some seconds late. The
// request's target is who has the key.
func GetAccessKeyLastUsed(ctx context.Context, r *Request, in *GetAccessKeyLastUsedRequest) (*GetAccessKeyLastUsedResponse, error) {
	use, err := r.Store.AccessKeyUse(ctx, *in.AccessKeyID)
	out := &GetAccessKeyLastUsedResponse{UserName: r.Target.Name}
	switch {
	case errors.Is(err, metadata.ErrNotFound):
		out.AccessKeyLastUsed = AccessKeyLastUsed{ServiceName: "N/A", Region: "N/A"}
	case err != nil:
		return nil, err
	default:
		at := date(use.At)
		out.AccessKeyLastUsed = AccessKeyLastUsed{&at, use.Service, use.Region}
	}
	return out, nil
}
