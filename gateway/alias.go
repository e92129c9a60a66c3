package gateway

import (
	"context"
	"errors"
	"strings"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// checkAliasName refuses names that no alias of a customer can have, in AWS's order.
func checkAliasName(name string) error {
	rest, ok := strings.CutPrefix(name, "alias/")
	switch {
	case !ok:
		return kmsapi.AliasPrefix()
	case strings.HasPrefix(rest, "aws/"):
		return kmsapi.AliasReserved()
	case rest == "":
		return kmsapi.AliasWithoutName()
	case strings.Contains(rest, ":"):
		return kmsapi.AliasCharacters(name)
	}
	return nil
}

// checkAliasTarget refuses an alias as the target of an alias.
func checkAliasTarget(id string) error {
	if ref, err := arn.Parse(id); err == nil && ref.Form&arn.KeyForms == 0 {
		return kmsapi.AliasOfAlias()
	}
	return nil
}

func completeCreateAlias(in *kmsapi.CreateAliasRequest) error {
	if err := checkAliasName(*in.AliasName); err != nil {
		return err
	}
	return checkAliasTarget(*in.TargetKeyID)
}

func (c *call) createAlias(in *kmsapi.CreateAliasRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		err := tx.InsertAlias(ctx, metadata.Alias{
			Account: c.caller.Account, Region: c.region, Name: *in.AliasName, KeyID: key.ID,
			CreatedAt: c.now, UpdatedAt: c.now,
		}, c.gateway.quotas.Aliases)
		switch {
		case errors.Is(err, metadata.ErrExists):
			return nil, kmsapi.AliasExists(arn.AliasARNOf(c.region, c.caller.Account, *in.AliasName))
		case errors.Is(err, metadata.ErrLimit):
			return nil, kmsapi.TooManyAliases(key.ARN())
		}
		return nil, err
	}}, nil
}

func completeUpdateAlias(in *kmsapi.UpdateAliasRequest) error {
	if err := checkAliasName(*in.AliasName); err != nil {
		return err
	}
	return checkAliasTarget(*in.TargetKeyID)
}

func (c *call) updateAlias(in *kmsapi.UpdateAliasRequest) (work[kmsapi.Empty], error) {
	from, to := c.key(0), c.key(1)
	if from.Usage != to.Usage {
		return work[kmsapi.Empty]{}, kmsapi.AliasUsageChange(*in.AliasName, from.Usage, to.Usage)
	}
	if isPair(from.Spec) != isPair(to.Spec) {
		return work[kmsapi.Empty]{}, kmsapi.AliasTypeChange(*in.AliasName, keyType(from.Spec), keyType(to.Spec))
	}
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		err := tx.UpdateAlias(ctx, metadata.Alias{
			Account: c.caller.Account, Region: c.region, Name: *in.AliasName, KeyID: to.ID, UpdatedAt: c.now,
		}, c.gateway.quotas.Aliases)
		switch {
		case errors.Is(err, metadata.ErrNotFound):
			return nil, kmsapi.AliasNotFound(arn.AliasARNOf(c.region, c.caller.Account, *in.AliasName))
		case errors.Is(err, metadata.ErrLimit):
			return nil, kmsapi.TooManyAliases(to.ARN())
		}
		return nil, err
	}}, nil
}

// keyType is what UpdateAlias calls the class of a key that encrypts.
func keyType(s keyspec.Spec) kmsapi.KeyType {
	if isPair(s) {
		return kmsapi.Asymmetric
	}
	return kmsapi.Symmetric
}

func completeDeleteAlias(in *kmsapi.DeleteAliasRequest) error { return checkAliasName(*in.AliasName) }

func (c *call) deleteAlias(in *kmsapi.DeleteAliasRequest) (work[kmsapi.Empty], error) {
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		_, err := tx.DeleteAlias(ctx, c.caller.Account, c.region, *in.AliasName)
		if errors.Is(err, metadata.ErrNotFound) {
			return nil, kmsapi.AliasNotFound(arn.AliasARNOf(c.region, c.caller.Account, *in.AliasName))
		}
		return nil, err
	}}, nil
}

func (c *call) listAliases(in *kmsapi.ListAliasesRequest) (work[kmsapi.ListAliasesResponse], error) {
	none := work[kmsapi.ListAliasesResponse]{}
	keyID, err := c.filterKey(in.KeyID)
	if err != nil {
		return none, err
	}
	page, err := c.page(in.Limit, in.Marker, 50, keyID)
	if err != nil {
		return none, err
	}
	return work[kmsapi.ListAliasesResponse]{do: func(ctx context.Context) (*kmsapi.ListAliasesResponse, error) {
		aliases, err := c.gateway.store.ListAliases(ctx, c.caller.Account, c.region, keyID, page.after, page.limit+1)
		if err != nil {
			return nil, err
		}
		aliases, truncated := cut(aliases, page)
		out := &kmsapi.ListAliasesResponse{Aliases: make([]kmsapi.AliasListEntry, 0, len(aliases)), Page: kmsapi.Page{Truncated: truncated}}
		for _, a := range aliases {
			out.Aliases = append(out.Aliases, kmsapi.AliasListEntry{
				AliasName: a.Name, AliasARN: arn.AliasARNOf(a.Region, a.Account, a.Name), TargetKeyID: a.KeyID,
				CreationDate: kmsapi.Timestamp{Time: a.CreatedAt}, LastUpdatedDate: kmsapi.Timestamp{Time: a.UpdatedAt},
			})
		}
		if truncated {
			out.NextMarker = page.next(aliases[len(aliases)-1].Name)
		}
		return out, nil
	}}, nil
}

// filterKey resolves the key that a list is narrowed down to: a key of the
// caller's own account, which must exist.
func (c *call) filterKey(id *string) (string, error) {
	if id == nil {
		return "", nil
	}
	r, err := c.resolve(&target{kind: onKey, forms: arn.KeyForms}, *id)
	if err != nil {
		return "", err
	}
	if r.key == nil || r.key.Account != c.caller.Account {
		return "", cmpError(r.missing, kmsapi.NotFoundKey(r.arn))
	}
	return r.key.ID, nil
}
