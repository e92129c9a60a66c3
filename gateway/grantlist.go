package gateway

import (
	"context"
	"errors"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// grantsPerPage is how many grants a page has unless Limit says otherwise.
const grantsPerPage = 50

func completeListGrants(in *kmsapi.ListGrantsRequest) error {
	switch {
	case in.GranteePrincipal != nil && in.GranteeServicePrincipal != nil:
		return kmsapi.BothGrantees()
	case in.GranteeServicePrincipal != nil:
		return kmsapi.ServiceCallersOnly("GranteeServicePrincipal")
	case in.GrantID != nil:
		return checkGrantID(*in.GrantID)
	}
	return nil
}

func (c *call) listGrants(in *kmsapi.ListGrantsRequest) (work[kmsapi.ListGrantsResponse], error) {
	key, id, grantee := c.key(0), kmsapi.Or(in.GrantID, ""), kmsapi.Or(in.GranteePrincipal, "")
	page, err := c.page(in.Limit, in.Marker, grantsPerPage, key.ARN()+"\x00"+id+"\x00"+grantee)
	if err != nil {
		return work[kmsapi.ListGrantsResponse]{}, err
	}
	store := c.gateway.store
	return pageOfGrants(page, func(ctx context.Context) ([]*metadata.Grant, error) {
		switch {
		case id != "":
			return theGrant(ctx, store, key, id, grantee)
		case grantee != "":
			return store.ListGrantsTo(ctx, key.Region, key.Account, key.ID, grantee, page.after, page.limit+1)
		}
		return store.ListGrants(ctx, key.Region, key.Account, key.ID, page.after, page.limit+1)
	}), nil
}

// theGrant is the grant of an id, if it is one to the grantee; empty for any.
func theGrant(ctx context.Context, store *metadata.Store, key *metadata.KeyEntry, id, grantee string) ([]*metadata.Grant, error) {
	g, err := store.Grant(ctx, key.Region, key.Account, key.ID, id)
	switch {
	case errors.Is(err, metadata.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case grantee != "" && g.Grantee != grantee:
		return nil, nil
	}
	return []*metadata.Grant{g}, nil
}

func completeListRetirableGrants(in *kmsapi.ListRetirableGrantsRequest) error {
	switch {
	case in.RetiringPrincipal != nil && in.RetiringServicePrincipal != nil:
		return kmsapi.BothRetiring()
	case in.RetiringServicePrincipal != nil:
		return kmsapi.ServiceCallersOnly("RetiringServicePrincipal")
	case in.RetiringPrincipal == nil:
		return kmsapi.MissingMember("retiringPrincipal")
	}
	if _, ok := arn.ParseIAM(*in.RetiringPrincipal); !ok {
		return kmsapi.PrincipalNotFound(*in.RetiringPrincipal)
	}
	return nil
}

func (c *call) listRetirableGrants(in *kmsapi.ListRetirableGrantsRequest) (work[kmsapi.ListRetirableGrantsResponse], error) {
	none, retiring := work[kmsapi.ListRetirableGrantsResponse]{}, *in.RetiringPrincipal
	page, err := c.page(in.Limit, in.Marker, grantsPerPage, retiring)
	if err != nil {
		return none, err
	}
	id, err := c.principalID(retiring)
	if err != nil {
		return none, err
	}
	return pageOfGrants(page, func(ctx context.Context) ([]*metadata.Grant, error) {
		return c.gateway.store.ListRetirableGrants(ctx, c.region, retiring, id, page.after, page.limit+1)
	}), nil
}

// pageOfGrants is the work of a list of grants, which are read with one more than
// the page holds.
func pageOfGrants(p page, read func(context.Context) ([]*metadata.Grant, error)) work[kmsapi.ListGrantsResponse] {
	return work[kmsapi.ListGrantsResponse]{do: func(ctx context.Context) (*kmsapi.ListGrantsResponse, error) {
		grants, err := read(ctx)
		if err != nil {
			return nil, err
		}
		grants, truncated := cut(grants, p)
		out := &kmsapi.ListGrantsResponse{Grants: make([]kmsapi.GrantListEntry, 0, len(grants)), Page: kmsapi.Page{Truncated: truncated}}
		for _, g := range grants {
			out.Grants = append(out.Grants, grantEntry(g))
		}
		if truncated {
			out.NextMarker = p.next(grants[len(grants)-1].ID)
		}
		return out, nil
	}}
}

// grantEntry is what callers see of a grant.
func grantEntry(g *metadata.Grant) kmsapi.GrantListEntry {
	e := kmsapi.GrantListEntry{
		KeyID: arn.KeyARNOf(g.Region, g.Account, g.KeyID), GrantID: g.ID, Name: g.Name, CreationDate: kmsapi.Timestamp{Time: g.CreatedAt},
		IssuingAccount: arn.Root(g.IssuingAccount), Operations: make([]kmsapi.GrantOperation, 0, len(g.Operations)),
	}
	e.GranteePrincipal, e.GranteeServicePrincipal = principalOrService(g.Grantee, g.GranteeIsService)
	e.RetiringPrincipal, e.RetiringServicePrincipal = principalOrService(g.Retiring, g.RetiringIsService)
	for _, operation := range g.Operations {
		e.Operations = append(e.Operations, kmsapi.GrantOperation(operation))
	}
	constraints := kmsapi.GrantConstraints{
		EncryptionContextEquals: g.Constraints.EncryptionContextEquals, EncryptionContextSubset: g.Constraints.EncryptionContextSubset,
	}
	if source := g.Constraints.SourceARN; source != "" {
		constraints.SourceARN = &source
	}
	if constraints.EncryptionContextEquals != nil || constraints.EncryptionContextSubset != nil || constraints.SourceARN != nil {
		e.Constraints = &constraints
	}
	return e
}

func principalOrService(name string, isService bool) (principal, service string) {
	if isService {
		return "", name
	}
	return name, ""
}
