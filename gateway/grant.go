package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

// Limits of a constraint on the encryption context (KMS API Reference, "CreateGrant").
const (
	maxConstraintPairs = 8
	maxConstraintValue = 384 // characters
)

func completeCreateGrant(in *kmsapi.CreateGrantRequest) error {
	switch {
	case in.GranteePrincipal == nil && in.GranteeServicePrincipal == nil:
		return kmsapi.MissingMember("granteePrincipal")
	case in.GranteePrincipal != nil && in.GranteeServicePrincipal != nil:
		return kmsapi.BothGrantees()
	case in.RetiringPrincipal != nil && in.RetiringServicePrincipal != nil:
		return kmsapi.BothRetiring()
	}
	constraints := constraintsOf(in.Constraints)
	if in.GranteeServicePrincipal != nil &&
		(constraints.SourceARN == "" || in.RetiringPrincipal == nil && in.RetiringServicePrincipal == nil) {
		return kmsapi.ServiceGrantIncomplete()
	}
	equals, subset := constraints.EncryptionContextEquals, constraints.EncryptionContextSubset
	switch {
	case equals != nil && subset != nil:
		return kmsapi.MoreThanOneConstraint()
	case equals != nil:
		return checkConstraint(equals)
	case subset != nil:
		return checkConstraint(subset)
	}
	return nil
}

// constraintsOf are the constraints of a request.
func constraintsOf(in *kmsapi.GrantConstraints) policy.GrantConstraints {
	if in == nil {
		return policy.GrantConstraints{}
	}
	return policy.GrantConstraints{
		EncryptionContextEquals: in.EncryptionContextEquals, EncryptionContextSubset: in.EncryptionContextSubset,
		SourceARN: kmsapi.Or(in.SourceARN, ""),
	}
}

// checkConstraint refuses a constraint that is too large, and one without pairs: it
// would pass for a constraint in conditions of policies and constrain nothing.
func checkConstraint(context map[string]string) error {
	switch {
	case len(context) == 0:
		return kmsapi.ConstraintWithoutPairs()
	case len(context) > maxConstraintPairs:
		return kmsapi.ConstraintTooManyPairs(maxConstraintPairs)
	}
	for _, v := range context {
		if utf8.RuneCountInString(v) > maxConstraintValue {
			return kmsapi.ConstraintTooLong(maxConstraintValue)
		}
	}
	return checkContext(context)
}

func (c *call) createGrant(in *kmsapi.CreateGrantRequest) (work[kmsapi.CreateGrantResponse], error) {
	none, key := work[kmsapi.CreateGrantResponse]{}, c.key(0)
	g, err := c.newGrant(key, in)
	if err != nil {
		return none, err
	}
	if err := c.checkParent(&g, in); err != nil {
		return none, err
	}
	properties, err := propertiesOf(&g)
	if err != nil {
		return none, err
	}
	return work[kmsapi.CreateGrantResponse]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.CreateGrantResponse, error) {
		id, err := tx.InsertGrant(ctx, g, properties, c.gateway.quotas.Grants)
		if errors.Is(err, metadata.ErrLimit) {
			return nil, kmsapi.TooManyGrants(key.ARN())
		}
		if err != nil {
			return nil, err
		}
		c.event.ResponseElements = audit.Members{audit.String("grantId", id)}
		return &kmsapi.CreateGrantResponse{GrantID: id, GrantToken: newGrantToken(key.ARN(), id)}, nil
	}}, nil
}

// newGrant is the grant that a request asks for. It refuses what grants on such a
// key cannot have, and principals that do not exist.
func (c *call) newGrant(key *metadata.KeyEntry, in *kmsapi.CreateGrantRequest) (metadata.Grant, error) {
	g := metadata.Grant{
		Account: key.Account, Region: key.Region, KeyID: key.ID, ID: newGrantID(), Name: kmsapi.Or(in.Name, ""),
		IssuingAccount: c.caller.Account, Constraints: constraintsOf(in.Constraints), CreatedAt: c.now,
	}
	for _, operation := range in.Operations {
		if !grantable(key, operation) {
			return g, kmsapi.GrantOperationOfKey(operation, key.Spec, key.Usage)
		}
		if !slices.Contains(g.Operations, string(operation)) {
			g.Operations = append(g.Operations, string(operation))
		}
	}
	if key.Spec != keyspec.SymmetricDefault && (g.Constraints.EncryptionContextEquals != nil || g.Constraints.EncryptionContextSubset != nil) {
		return g, kmsapi.ConstraintOfKey(key.Spec)
	}
	g.Compiled = policy.NewGrant(g.ID, g.Operations, g.Constraints)
	var err error
	if g.Grantee, g.GranteeID, g.GranteeIsService, err = c.bind(in.GranteePrincipal, in.GranteeServicePrincipal); err != nil {
		return g, err
	}
	g.Retiring, g.RetiringID, g.RetiringIsService, err = c.bind(in.RetiringPrincipal, in.RetiringServicePrincipal)
	return g, err
}

// bind finds the principal that a grant names by ARN, or the service by name, and
// the unique id of a user or a role. Both members may be absent.
func (c *call) bind(principal, service *string) (name, id string, isService bool, err error) {
	switch {
	case service != nil && !c.gateway.isServicePrincipal(*service):
		return "", "", true, kmsapi.PrincipalNotFound(*service)
	case service != nil:
		return *service, "", true, nil
	case principal != nil:
		id, err = c.principalID(*principal)
		return *principal, id, false, err
	}
	return "", "", false, nil
}

// principalID is the unique id of a user or role by its ARN, of a role's session
// that of the role; an account has none. InvalidArnException for a principal that
// does not exist.
func (c *call) principalID(principal string) (string, error) {
	parsed, ok := arn.ParseIAM(principal)
	if ok && parsed.Kind == "root" {
		known, err := c.gateway.store.AccountsExist(c.ctx, []string{parsed.Account})
		if err == nil && !known {
			err = kmsapi.PrincipalNotFound(principal)
		}
		return "", err
	}
	ids, err := c.gateway.store.PrincipalIDs(c.ctx, []string{principal})
	if err != nil {
		return "", err
	}
	if ids[principal] == "" {
		return "", kmsapi.PrincipalNotFound(principal)
	}
	return ids[principal], nil
}

// grantedAlways are the grant operations of every key.
var grantedAlways = []kmsapi.GrantOperation{kmsapi.GrantCreateGrant, kmsapi.GrantRetireGrant, kmsapi.GrantDescribeKey}

// grantedToSymmetric are those of keys that encrypt and have no public key.
var grantedToSymmetric = []kmsapi.GrantOperation{
	kmsapi.GrantEncrypt, kmsapi.GrantDecrypt, kmsapi.GrantReEncryptFrom, kmsapi.GrantReEncryptTo,
	kmsapi.GrantGenerateDataKey, kmsapi.GrantGenerateDataKeyWithoutPlaintext,
	kmsapi.GrantGenerateDataKeyPair, kmsapi.GrantGenerateDataKeyPairWithoutPlaintext,
}

// grantedByUsage are those of all others (KMS Developer Guide, "Grant operations").
var grantedByUsage = map[keyspec.Usage][]kmsapi.GrantOperation{
	keyspec.EncryptDecrypt: {
		kmsapi.GrantEncrypt, kmsapi.GrantDecrypt, kmsapi.GrantReEncryptFrom, kmsapi.GrantReEncryptTo, kmsapi.GrantGetPublicKey,
	},
	keyspec.SignVerify:             {kmsapi.GrantSign, kmsapi.GrantVerify, kmsapi.GrantGetPublicKey},
	keyspec.KeyAgreement:           {kmsapi.GrantDeriveSharedSecret, kmsapi.GrantGetPublicKey},
	keyspec.GenerateVerifyMAC:      {kmsapi.GrantGenerateMac, kmsapi.GrantVerifyMac},
	keyspec.EncapsulateDecapsulate: {kmsapi.GrantEncapsulate, kmsapi.GrantDecapsulate, kmsapi.GrantGetPublicKey},
}

// grantable tells whether a grant on a key can allow an operation.
func grantable(key *metadata.KeyEntry, operation kmsapi.GrantOperation) bool {
	its := grantedByUsage[key.Usage]
	if key.Spec == keyspec.SymmetricDefault {
		its = grantedToSymmetric
	}
	return slices.Contains(its, operation) || slices.Contains(grantedAlways, operation)
}

// checkParent refuses a grant that gives more than the grants through which its
// maker may make grants (KMS Developer Guide, "Granting CreateGrant permission").
func (c *call) checkParent(child *metadata.Grant, in *kmsapi.CreateGrantRequest) error {
	r := &c.resources[0]
	if r.decision.Reason != policy.GrantAllows {
		return nil
	}
	q := c.question(r, in)
	if _, err := c.addGrants(&q, r); err != nil {
		return err
	}
	for _, parents := range []*[]*policy.Grant{&q.Grants, &q.RoleGrants, &q.AccountGrants} {
		*parents = slices.DeleteFunc(*parents, func(parent *policy.Grant) bool { return !parent.Covers(child.Compiled) })
	}
	if r.decision = policy.Authorize(q); r.decision.Allowed {
		return nil
	}
	r.authorised = false
	c.noteRefusal(r, q)
	return c.denial(r)
}

// propertiesOf is a hash of all that a grant was asked for with, and by whom; the
// order of operations does not matter.
func propertiesOf(g *metadata.Grant) ([sha256.Size]byte, error) {
	asked := *g
	asked.ID, asked.Compiled, asked.CreatedAt = "", nil, time.Time{}
	asked.Operations = slices.Sorted(slices.Values(g.Operations))
	text, err := json.Marshal(asked) // maps in the order of their keys
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("hash of a grant: %w", err)
	}
	return sha256.Sum256(text), nil
}

func completeRevokeGrant(in *kmsapi.RevokeGrantRequest) error { return checkGrantID(*in.GrantID) }

func (c *call) revokeGrant(in *kmsapi.RevokeGrantRequest) (work[kmsapi.Empty], error) {
	g, err := c.gateway.store.Grant(c.ctx, c.key(0).Region, c.key(0).Account, c.key(0).ID, *in.GrantID)
	if errors.Is(err, metadata.ErrNotFound) {
		return work[kmsapi.Empty]{}, kmsapi.GrantNotFound(*in.GrantID)
	}
	if err != nil {
		return work[kmsapi.Empty]{}, err
	}
	return c.endGrant(g), nil
}

// endGrant is the work of ending a grant.
func (c *call) endGrant(g *metadata.Grant) work[kmsapi.Empty] {
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		err := tx.DeleteGrant(ctx, g.Region, g.Account, g.KeyID, g.ID)
		if errors.Is(err, metadata.ErrNotFound) {
			return nil, kmsapi.GrantNotFound(g.ID)
		}
		return nil, err
	}}
}
