package gateway

import (
	"errors"
	"slices"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/envelope"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// A resource is one target of a call, looked up. That a key or alias is
// missing is kept, not told: only a caller who is allowed to act on it may
// learn that it does not exist.
type resource struct {
	target *target
	// arn as policies and the record have it; "*" for operations on no resource.
	arn string
	// account that owns it, or would own it.
	account string
	key     *metadata.KeyEntry // nil if missing, and for aliases
	// missing is what only a caller who is allowed to act on it is told, such
	// as that it does not exist.
	missing error
	// authorised: the caller may act on it, and so may know of it.
	authorised bool
	// decision is why the caller may act on it, or may not.
	decision policy.Decision
	// entry is the user, group or role that is the target; nil if it is missing or
	// still to be made, and for other kinds.
	entry *metadata.PrincipalEntry
	// name of a thing of IAM; empty for the account's root.
	name string
	// accessKey is the id that the request names the target by; onHolder only.
	accessKey string
	// grant that is the target; nil if it is missing, and for other kinds.
	grant *metadata.Grant
	// alias that the request named the key by, and its ARN; empty if it did not.
	alias, aliasARN string
	// byCiphertext: the caller did not name the key, its ciphertext did.
	byCiphertext bool
}

// lookUp finds what the call acts on.
func (c *call) lookUp(in any) error {
	for i := range c.op.targets {
		t := &c.op.targets[i]
		named := ""
		if t.with != "" && c.op.member(in, t.with).IsZero() && (t.inherits == nil || !t.inherits(c)) {
			continue
		}
		if t.member != "" {
			if t.optional && c.op.member(in, t.member).IsZero() {
				continue
			}
			if !nameless[t.kind] {
				named = c.op.text(in, t.member)
			}
		}
		if t.kind == onRelated && !isPrimary(c.key(0)) {
			continue
		}
		r, err := c.find(t, in, named)
		if err != nil {
			return err
		}
		c.resources = append(c.resources, r)
	}
	return nil
}

func (c *call) find(t *target, in any, named string) (resource, error) {
	switch t.kind {
	case onAccount, onReplica:
		return resource{target: t, arn: "*", account: c.caller.Account}, nil
	case onAlias:
		return resource{target: t, arn: arn.AliasARNOf(c.region, c.caller.Account, named), account: c.caller.Account}, nil
	case onCiphertext:
		blob := c.op.member(in, t.blob).Bytes()
		if blob == nil || c.ignoresCiphertext(in) {
			return c.resolve(t, named)
		}
		return c.findByCiphertext(t, in, named)
	case onKey, onAliasTarget:
		return c.resolve(t, named)
	case onRelated:
		return c.findRelated(t, named)
	case onGrant:
		return c.findGrant(t, in, named)
	case onPrincipal:
		principal, _ := arn.ParseIAM(named)
		return resource{target: t, arn: named, account: principal.Account}, nil
	default:
		return c.findIAM(t, in, named)
	}
}

// resolve finds the key that an identifier names.
func (c *call) resolve(t *target, named string) (resource, error) {
	ref, err := arn.Parse(named)
	if err != nil && !errors.Is(err, arn.ErrMalformedID) {
		return resource{}, kmsapi.InvalidKeyID(named)
	}
	if ref.Region != "" && ref.Region != c.region {
		return resource{}, kmsapi.InvalidARNRegion(ref.Region)
	}
	if err != nil {
		return resource{}, kmsapi.InvalidKeyIDInARN(ref.ID)
	}
	if ref.Form&t.forms == 0 {
		return resource{}, kmsapi.AliasNotSupported()
	}
	account := ref.Account
	if account == "" {
		account = c.caller.Account
	}
	if ref.Alias == "" {
		return c.findKey(t, account, ref.ID)
	}
	return c.findAlias(t, account, ref.Alias)
}

// findRelated finds the key in a region that is related to the call's primary key.
func (c *call) findRelated(t *target, region string) (resource, error) {
	primary := c.key(0)
	for _, related := range primary.Related {
		if related.Region == region {
			return c.findKeyIn(t, related.Region, primary.Account, primary.ID)
		}
	}
	keyARN := arn.KeyARNOf(region, primary.Account, primary.ID)
	return resource{target: t, account: primary.Account, arn: keyARN, missing: kmsapi.NotFoundKey(keyARN)}, nil
}

func (c *call) findKey(t *target, account, id string) (resource, error) {
	return c.findKeyIn(t, c.region, account, id)
}

// findKeyIn finds a key of an account in a region.
func (c *call) findKeyIn(t *target, region, account, id string) (resource, error) {
	r := resource{target: t, account: account, arn: arn.KeyARNOf(region, account, id)}
	key, err := c.view.Key(c.ctx, region, id)
	switch {
	case err == nil && key.Account == account:
		r.key = key
	case err == nil, errors.Is(err, metadata.ErrNotFound):
		r.missing = kmsapi.NotFoundKey(r.arn)
	default:
		return resource{}, err
	}
	return r, nil
}

// findAlias finds the key that an alias points to. One that is missing is decided
// about as if it pointed to a key that does not exist.
func (c *call) findAlias(t *target, account, name string) (resource, error) {
	aliasARN := arn.AliasARNOf(c.region, account, name)
	alias, err := c.view.Alias(c.ctx, account, c.region, name)
	if errors.Is(err, metadata.ErrNotFound) {
		if err := c.firstUse(t, account, name); err != nil {
			return resource{}, err
		}
		return resource{
			target: t, account: account, arn: arn.KeyARNOf(c.region, account, uuid.Nil.String()), alias: name, aliasARN: aliasARN,
			missing: kmsapi.AliasNotFound(aliasARN),
		}, nil
	}
	if err != nil {
		return resource{}, err
	}
	r, err := c.findKey(t, account, alias.KeyID)
	r.alias, r.aliasARN = name, aliasARN
	return r, err
}

// findByCiphertext finds the key that made a ciphertext. A key that the caller
// names as well must be that key: by a bare key id that is not of the caller's
// account, too. A key pair decides by being named, for its ciphertexts name
// nobody.
func (c *call) findByCiphertext(t *target, in any, named string) (resource, error) {
	header, _, headerErr := envelope.Open(c.op.member(in, t.blob).Bytes())
	if named == "" {
		if headerErr != nil {
			return resource{}, kmsapi.InvalidCiphertext()
		}
		return c.findMaker(t, header.KeyID)
	}
	r, err := c.resolve(t, named)
	if err == nil && r.key == nil && headerErr == nil && named == header.KeyID {
		r, err = c.findMaker(t, header.KeyID)
		r.byCiphertext = false
		return r, err
	}
	if err != nil || r.key == nil {
		return r, err
	}
	symmetric := c.op.text(in, t.side+"EncryptionAlgorithm") == string(keyspec.AlgorithmSymmetricDefault)
	wrong := kmsapi.IncorrectKey()
	switch {
	case isPair(r.key.Spec) && (headerErr != nil || !symmetric):
		return r, nil
	case headerErr != nil:
		wrong = kmsapi.InvalidCiphertext()
	case r.key.ID == header.KeyID && !isPair(r.key.Spec):
		return r, nil
	}
	r.missing = wrong // would tell others that the key exists
	return r, nil
}

// ignoresCiphertext tells whether the request is a trial of what its caller may
// do, whatever the ciphertext that came along.
func (c *call) ignoresCiphertext(in any) bool {
	modifiers, _ := c.op.member(in, "DryRunModifiers").Interface().([]kmsapi.DryRunModifier)
	return slices.Contains(modifiers, kmsapi.IgnoreCiphertext)
}

// findMaker finds a key by the id in a ciphertext, whoever owns it. A key that
// makes no such ciphertexts is as good as none.
func (c *call) findMaker(t *target, id string) (resource, error) {
	key, err := c.view.Key(c.ctx, c.region, id)
	if errors.Is(err, metadata.ErrNotFound) || err == nil && key.Spec != keyspec.SymmetricDefault {
		return resource{target: t, byCiphertext: true}, nil
	}
	if err != nil {
		return resource{}, err
	}
	return resource{target: t, account: key.Account, arn: key.ARN(), key: key, byCiphertext: true}, nil
}
