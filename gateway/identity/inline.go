package identity

import (
	"context"
	"errors"
	"strconv"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// putPolicy stores an inline policy of a principal of the caller's account.
func putPolicy(ctx context.Context, tx *metadata.Tx, r *Request, kind metadata.PrincipalKind, name, policyName, document string) (*kmsapi.Empty, error) {
	if err := checkDocument(document); err != nil {
		return nil, err
	}
	err := tx.PutPrincipalPolicy(ctx, r.Caller.Account, kind, name, policyName, document)
	if limit, ok := errors.AsType[*metadata.LimitError](err); ok {
		return nil, policyTooLarge(limit.Limit, words[kind].word, name)
	}
	return done(err, words[kind].noSuch(name))
}

func policyTooLarge(limit int, word, name string) *kmsapi.Error {
	return &kmsapi.Error{
		Code:    awsquery.LimitExceeded,
		Message: "Maximum policy size of " + strconv.Itoa(limit) + " bytes exceeded for " + word + " " + name,
	}
}

func noSuchInlinePolicy(kind metadata.PrincipalKind, policyName string) *kmsapi.Error {
	return noSuch("The " + words[kind].word + " policy with name " + policyName + " cannot be found.")
}

// getPolicy is an inline policy's document, encoded.
func getPolicy(ctx context.Context, r *Request, kind metadata.PrincipalKind, name, policyName string) (string, error) {
	document, err := r.Store.PrincipalPolicy(ctx, r.Caller.Account, kind, name, policyName)
	if errors.Is(err, metadata.ErrNotFound) {
		return "", noSuchInlinePolicy(kind, policyName)
	}
	return encodeDocument(document), err
}

func deletePolicy(ctx context.Context, tx *metadata.Tx, r *Request, kind metadata.PrincipalKind, name, policyName string) (*kmsapi.Empty, error) {
	return done(tx.DeletePrincipalPolicy(ctx, r.Caller.Account, kind, name, policyName), noSuchInlinePolicy(kind, policyName))
}

// PolicyNamesResponse is a page of the names of inline policies.
type PolicyNamesResponse struct {
	PolicyNames []string `xml:"PolicyNames>member"`
	Paged
}

func listPolicies(ctx context.Context, r *Request, kind metadata.PrincipalKind, name string, in *PageRequest) (*PolicyNamesResponse, error) {
	names, paged, err := pageOf(in, itself, func(after string, limit int) ([]string, error) {
		return r.Store.ListPrincipalPolicies(ctx, r.Caller.Account, kind, name, after, limit)
	})
	return &PolicyNamesResponse{names, paged}, err
}

func itself(name string) string { return name }
