package gateway

import (
	"cmp"
	"context"
	"errors"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// shown is a target as refusals name it: what exists in IAM as the request does, for
// its ARN would tell that it exists and its path.
func (r *resource) shown() string {
	row, ok := principalTargets[r.target.kind]
	switch {
	case r.target.kind == onHolder:
		return "access key " + r.accessKey
	case r.target.kind == onPolicy && !r.target.makes:
		return "policy " + r.arn
	case !ok || r.target.makes || r.name == "":
		return r.arn
	}
	return string(row.kind) + " " + r.name
}

// principalTargets are the targets that are users, groups and roles, by name.
var principalTargets = map[targetKind]struct {
	kind    metadata.PrincipalKind
	arn     func(account, path, name string) string
	missing func(name string) *kmsapi.Error
}{
	onUser:  {metadata.User, arn.User, identity.NoSuchUser},
	onGroup: {metadata.Group, arn.Group, identity.NoSuchGroup},
	onRole:  {metadata.Role, arn.Role, identity.NoSuchRole},
}

// findIAM finds a thing of IAM, of the caller's account but for a role that is to
// be assumed.
func (c *call) findIAM(t *target, in any, named string) (resource, error) {
	switch {
	case t.self && named == "":
		return c.findSelf(t)
	case t.makes:
		return c.toMake(t, in, named), nil
	case t.kind == onTrust:
		return c.findTrust(t, named)
	case t.kind == onPolicy:
		return findByARN(c, t, named, "policy", c.view.ManagedPolicy, identity.NoSuchPolicy)
	case t.kind == onProvider:
		return findByARN(c, t, named, "oidc-provider", c.view.Provider, identity.NoSuchProvider)
	case t.kind == onHolder:
		return c.findHolder(t, named)
	default:
		return c.findPrincipal(t, c.caller.Account, named)
	}
}

// findSelf is the caller itself: a user, or the account's root.
func (c *call) findSelf(t *target) (resource, error) {
	r := resource{target: t, account: c.caller.Account, arn: arn.Root(c.caller.Account)}
	switch c.caller.Kind {
	case policy.User:
		r.arn, r.name, r.entry = c.caller.ARN, c.caller.Entry.Name, c.caller.Entry
	case policy.AccountRoot:
	default:
		return r, &kmsapi.Error{Code: awsquery.ValidationError, Message: "Must specify userName when calling with non-User credentials"}
	}
	return r, nil
}

// toMake is a thing that the request is to make.
func (c *call) toMake(t *target, in any, named string) resource {
	path := "/"
	if _, ok := c.op.fields["Path"]; ok {
		path = cmp.Or(c.op.text(in, "Path"), path)
	}
	r := resource{target: t, account: c.caller.Account, name: named}
	switch t.kind {
	case onPolicy:
		r.arn = arn.Policy(r.account, path, named)
	case onProvider:
		if issuer, ok := identity.IssuerOf(named); ok { // else it is refused, to those who may
			r.name = issuer
		}
		r.arn = arn.Provider(r.account, r.name)
	default:
		r.arn = principalTargets[t.kind].arn(r.account, path, named)
	}
	return r
}

// findPrincipal finds a user, group or role. Of one that is missing the ARN is that
// of one without a path.
func (c *call) findPrincipal(t *target, account, name string) (resource, error) {
	row := principalTargets[t.kind]
	r := resource{target: t, account: account, name: name, arn: row.arn(account, "/", name)}
	entry, err := c.view.Principal(c.ctx, account, row.kind, name)
	switch {
	case err == nil:
		r.entry, r.arn = entry, entry.ARN()
	case errors.Is(err, metadata.ErrNotFound):
		r.missing = row.missing(name)
	default:
		return resource{}, err
	}
	return r, nil
}

// findTrust finds a role that is to be assumed, of whichever account. Callers cannot
// tell one that is missing from one that does not trust them.
func (c *call) findTrust(t *target, named string) (resource, error) {
	a, ok := arn.ParseIAM(named)
	if !ok || a.Kind != "role" {
		return resource{}, &kmsapi.Error{Code: awsquery.ValidationError, Message: named + " is invalid"}
	}
	r := resource{target: t, account: a.Account, name: a.Name, arn: named}
	entry, err := c.view.Principal(c.ctx, a.Account, metadata.Role, a.Name)
	switch {
	case err == nil && entry.ARN() == named:
		r.entry = entry
	case err == nil, errors.Is(err, metadata.ErrNotFound):
	default:
		return resource{}, err
	}
	return r, nil
}

// findHolder finds who has an access key. Of a key that is missing, or of another
// account, that is the account's root.
func (c *call) findHolder(t *target, accessKeyID string) (resource, error) {
	r := resource{target: t, account: c.caller.Account, arn: arn.Root(c.caller.Account), accessKey: accessKeyID}
	key, err := c.view.AccessKey(c.ctx, accessKeyID)
	switch {
	case errors.Is(err, metadata.ErrNotFound), err == nil && key.Account != c.caller.Account:
		r.missing = identity.NoSuchAccessKey(accessKeyID)
		return r, nil
	case err != nil:
		return resource{}, err
	case key.User == "":
		return r, nil
	}
	r.name, r.arn = key.User, key.Principal
	r.entry, err = c.view.Principal(c.ctx, key.Account, metadata.User, key.User)
	return r, err
}

// findByARN finds what is named by an ARN of the caller's account, which must be the
// one that the thing of that name has.
func findByARN[T interface{ ARN() string }](
	c *call, t *target, named, kind string,
	find func(ctx context.Context, account, name string) (T, error), missing func(arn string) *kmsapi.Error,
) (resource, error) {
	r := resource{target: t, account: c.caller.Account, arn: named}
	a, ok := arn.ParseIAM(named)
	if !ok || a.Kind != kind || a.Account != c.caller.Account {
		r.missing = missing(named)
		return r, nil
	}
	r.name = a.Name
	found, err := find(c.ctx, a.Account, a.Name)
	switch {
	case errors.Is(err, metadata.ErrNotFound), err == nil && found.ARN() != named:
		r.missing = missing(named)
	case err != nil:
		return resource{}, err
	}
	return r, nil
}
