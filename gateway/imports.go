package gateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/reconcile"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// importWindow is how long import parameters are of use.
	importWindow = 24 * time.Hour
	// longestExpiry is how far ahead imported material may expire.
	longestExpiry = 365 * 24 * time.Hour
)

func completeGetParametersForImport(in *kmsapi.GetParametersForImportRequest) error {
	if _, served := keyspec.LookupWrapping(*in.WrappingAlgorithm); !served {
		return kmsapi.WrappingNotServed(*in.WrappingAlgorithm)
	}
	if *in.WrappingKeySpec == keyspec.SM2 {
		return kmsapi.WrappingKeySpecNotServed(*in.WrappingKeySpec)
	}
	return nil
}

// getParametersForImport has the token make a pair for one import.
func (c *call) getParametersForImport(in *kmsapi.GetParametersForImportRequest) (work[kmsapi.GetParametersForImportResponse], error) {
	key := c.key(0)
	if err := c.checkWrapping(key, *in.WrappingAlgorithm, *in.WrappingKeySpec); err != nil {
		return work[kmsapi.GetParametersForImportResponse]{}, err
	}
	do := func(ctx context.Context) (*kmsapi.GetParametersForImportResponse, error) {
		if c.parameters != nil {
			return nil, nil // made when the call was decided before
		}
		made, err := c.newWrappingKey(ctx, key, *in.WrappingKeySpec)
		if err != nil {
			return nil, err
		}
		p := &metadata.ImportParameters{
			ID: uuid.New(), Algorithm: *in.WrappingAlgorithm, Wrapping: made, CreatedAt: c.now,
			ExpiresAt: c.now.Add(importWindow).Truncate(time.Second),
		}
		if c.parametersToken, err = c.importToken(ctx, key, p); err != nil {
			return nil, err
		}
		c.parameters = p
		return nil, nil
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.GetParametersForImportResponse, error) {
		p := c.parameters
		return &kmsapi.GetParametersForImportResponse{
			KeyID: key.ARN(), ImportToken: c.parametersToken, PublicKey: p.Wrapping.PublicKey,
			ParametersValidTo: kmsapi.Timestamp{Time: p.ExpiresAt},
		}, tx.InsertImportParameters(ctx, *p)
	}
	return work[kmsapi.GetParametersForImportResponse]{do: do, commit: commit}, nil
}

// checkWrapping refuses what the key's material cannot be sent under.
func (c *call) checkWrapping(key *metadata.KeyEntry, a keyspec.WrappingAlgorithm, wrapping keyspec.Spec) error {
	row, _ := keyspec.LookupWrapping(a)
	if !row.WrapsSpec(key.Spec) {
		return kmsapi.WrappingIncompatible(a, key.Spec)
	}
	// PKCS#8 of P-521 has no room in a block of OAEP under 2048 bits.
	if !row.Hybrid && key.Spec == keyspec.ECCNISTP521 && wrapping == keyspec.RSA2048 {
		return kmsapi.WrappingKeyTooSmall(wrapping, key.Spec)
	}
	err := c.token(key).Imports(key.Store, key.Spec, key.Usage, a)
	return c.failed(key, "WrappingAlgorithm "+string(a)+" with "+keySpecText(key.Spec), err)
}

// newWrappingKey has the token make a pair that material for the key is wrapped to.
func (c *call) newWrappingKey(ctx context.Context, key *metadata.KeyEntry, spec keyspec.Spec) (hsm.Key, error) {
	id, err := c.token(key).Random(ctx, c.onBehalf(key), len(hsm.MaterialID{}))
	if err != nil {
		return hsm.Key{}, err
	}
	made, err := c.token(key).Generate(ctx, making(key.Account, spec), hsm.Key{
		Store: key.Store, Region: key.Region, Account: key.Account, KeyID: key.ID, MaterialID: hsm.MaterialID(id),
		Spec: spec, Usage: keyspec.ImportWrapping, Origin: keyspec.AWSKMS,
	})
	return made, c.failed(key, "WrappingKeySpec "+string(spec), err)
}

// completeImportKeyMaterial checks that there is a time of expiry if, and only if,
// the material expires. The default of ExpirationModel is not filled in: conditions
// see that it was left out.
func completeImportKeyMaterial(in *kmsapi.ImportKeyMaterialRequest) error {
	expires := kmsapi.Or(in.ExpirationModel, kmsapi.KeyMaterialExpires) == kmsapi.KeyMaterialExpires
	switch {
	case expires && in.ValidTo == nil:
		return kmsapi.ValidToRequired()
	case !expires && in.ValidTo != nil:
		return kmsapi.ValidToOfEverlasting()
	case in.KeyMaterialID != nil && kmsapi.Or(in.ImportType, "") == kmsapi.NewKeyMaterial:
		return kmsapi.NewMaterialWithID()
	}
	return nil
}

// importKeyMaterial brings material in. What is wrong with it or with its token shows
// when the token opens it; nothing has changed then.
func (c *call) importKeyMaterial(in *kmsapi.ImportKeyMaterialRequest) (work[kmsapi.ImportKeyMaterialResponse], error) {
	key := c.key(0)
	if err := c.checkImport(in, key); err != nil {
		return work[kmsapi.ImportKeyMaterialResponse]{}, err
	}
	var p metadata.ImportParameters
	var material metadata.Material
	lapsed := key.Lapsed(c.now)
	if importKind(in) != metadata.NewMaterial {
		lapsed = nil // it is in nobody's way
	}
	do := func(ctx context.Context) (_ *kmsapi.ImportKeyMaterialResponse, err error) {
		if p, err = c.importParameters(ctx, key, in.ImportToken); err != nil {
			return nil, err
		}
		if material, err = c.opened(ctx, in, key, &p); err != nil || lapsed == nil || lapsed.MaterialID == material.MaterialID {
			return nil, err
		}
		return nil, c.forget(ctx, key, lapsed)
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.ImportKeyMaterialResponse, error) {
		if err := c.dropLapsed(ctx, tx, key, lapsed); err != nil {
			return nil, err
		}
		if err := tx.ImportMaterial(ctx, material, importKind(in), p.ID, c.now); err != nil {
			return nil, importRefused(key, material.MaterialID, err)
		}
		out := &kmsapi.ImportKeyMaterialResponse{KeyID: key.ARN(), KeyMaterialID: historyText(key, material.MaterialID)}
		c.event.ResponseElements = materialElements(out.KeyID, out.KeyMaterialID)
		return out, nil
	}
	return work[kmsapi.ImportKeyMaterialResponse]{do: do, commit: commit}, nil
}

// dropLapsed erases what waited for a rotation and has expired, as the job of expiry
// would in a while, with its record. What is not there any more is in nobody's way.
func (c *call) dropLapsed(ctx context.Context, tx *metadata.Tx, key *metadata.KeyEntry, lapsed *metadata.Material) error {
	if lapsed == nil {
		return nil
	}
	record, err := reconcile.DropExpired(ctx, tx, key.Name(), lapsed.MaterialID, c.now)
	if errors.Is(err, metadata.ErrNotFound) {
		return nil
	}
	if err == nil {
		tx.AlsoRecord(record)
	}
	return err
}

// checkImport refuses what can be refused before the material is opened.
func (c *call) checkImport(in *kmsapi.ImportKeyMaterialRequest, key *metadata.KeyEntry) error {
	if key.Spec != keyspec.SymmetricDefault {
		for _, member := range []struct {
			name  string
			given bool
		}{
			{"ImportType", in.ImportType != nil},
			{"KeyMaterialId", in.KeyMaterialID != nil},
			{"KeyMaterialDescription", in.KeyMaterialDescription != nil},
		} {
			if member.given {
				return kmsapi.OneMaterialOnly(member.name, key.Spec)
			}
		}
	}
	replica := key.MultiRegionRole == metadata.Replica
	switch {
	case replica && importKind(in) == metadata.NewMaterial:
		return kmsapi.NotPrimary(key.ARN())
	case replica && in.KeyMaterialDescription != nil:
		return kmsapi.DescribedByPrimary()
	case in.ValidTo != nil && !in.ValidTo.After(c.now):
		return kmsapi.ValidToPast()
	case in.ValidTo != nil && in.ValidTo.After(c.now.Add(longestExpiry)):
		return kmsapi.ValidToFar()
	}
	return nil
}

// importKinds are the kinds of imports by ImportType.
var importKinds = map[kmsapi.ImportType]metadata.ImportKind{
	kmsapi.NewKeyMaterial:      metadata.NewMaterial,
	kmsapi.ExistingKeyMaterial: metadata.KnownAgain,
}

// importKind is what the material is imported as. Only material that the key has had
// can be named.
func importKind(in *kmsapi.ImportKeyMaterialRequest) metadata.ImportKind {
	if in.KeyMaterialID != nil {
		return metadata.KnownAgain
	}
	return importKinds[kmsapi.Or(in.ImportType, "")]
}

// opened has the token open the material, and refuses it if it is not what the caller
// says. Whether the key takes it shows when it is put in service.
func (c *call) opened(ctx context.Context, in *kmsapi.ImportKeyMaterialRequest, key *metadata.KeyEntry, p *metadata.ImportParameters) (metadata.Material, error) {
	wanted := hsm.Key{
		Store: key.Store, Region: key.Region, Account: key.Account, KeyID: key.ID, Spec: key.Spec, Usage: key.Usage, Origin: key.Origin,
	}
	bring := func() (hsm.Key, error) {
		return c.token(key).Import(ctx, c.onBehalf(key), &p.Wrapping, p.Algorithm, in.EncryptedKeyMaterial, wanted)
	}
	made, err := bring()
	if err == nil && made.Residency == hsm.Absent { // it lives in the token, if the key takes it
		if err := c.takes(key, made.MaterialID, importKind(in)); err != nil {
			return metadata.Material{}, err
		}
		wanted.MaterialID = made.MaterialID
		made, err = bring()
	}
	if errors.Is(err, hsm.ErrIncorrectMaterial) {
		return metadata.Material{}, kmsapi.IncorrectKeyMaterial()
	}
	if err != nil {
		return metadata.Material{}, c.failed(key, "Import of "+keySpecText(key.Spec), err)
	}
	if in.KeyMaterialID != nil && *in.KeyMaterialID != made.MaterialID.String() {
		return metadata.Material{}, kmsapi.IncorrectKeyMaterial()
	}
	m := metadata.Material{Key: made, CreatedAt: c.now, Description: kmsapi.Or(in.KeyMaterialDescription, "")}
	if in.ValidTo != nil {
		m.ExpiresAt = &in.ValidTo.Time
	}
	return m, nil
}

// takes refuses material that the key does not take, or its primary key does not have.
func (c *call) takes(key *metadata.KeyEntry, id hsm.MaterialID, kind metadata.ImportKind) error {
	var primary *metadata.KeyEntry
	if key.MultiRegionRole == metadata.Replica {
		related, err := c.related(key)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(related, isPrimary); i >= 0 {
			primary = related[i]
		}
	}
	return importRefused(key, id, key.Takes(id, kind, c.now, primary))
}

// importRefused is what the caller hears if the key does not take the material, or if
// another call was first with the parameters.
func importRefused(key *metadata.KeyEntry, id hsm.MaterialID, err error) error {
	if other, ok := errors.AsType[*metadata.PendingMaterialError](err); ok {
		return kmsapi.AnotherMaterialPending(id.String(), key.ARN(), other.ID.String())
	}
	switch {
	case errors.Is(err, metadata.ErrNotFound): // the parameters
		return kmsapi.InvalidImportToken()
	case errors.Is(err, metadata.ErrOtherMaterial):
		return kmsapi.IncorrectKeyMaterial()
	}
	return err
}

// deleteImportedKeyMaterial erases material. What is gone already stays so.
func (c *call) deleteImportedKeyMaterial(in *kmsapi.DeleteImportedKeyMaterialRequest) (work[kmsapi.DeleteImportedKeyMaterialResponse], error) {
	key := c.key(0)
	material := key.Current()
	if in.KeyMaterialID != nil {
		if key.Spec != keyspec.SymmetricDefault {
			return work[kmsapi.DeleteImportedKeyMaterialResponse]{}, kmsapi.OneMaterialOnly("KeyMaterialId", key.Spec)
		}
		if material = materialNamed(key, *in.KeyMaterialID); material == nil {
			return work[kmsapi.DeleteImportedKeyMaterialResponse]{}, kmsapi.NoSuchMaterial(*in.KeyMaterialID, key.ARN())
		}
	}
	out := &kmsapi.DeleteImportedKeyMaterialResponse{KeyID: key.ARN()}
	if material != nil {
		out.KeyMaterialID = historyText(key, material.MaterialID)
	}
	c.event.ResponseElements = materialElements(out.KeyID, out.KeyMaterialID)
	if material == nil || material.Residency == hsm.Absent {
		return work[kmsapi.DeleteImportedKeyMaterialResponse]{do: func(context.Context) (*kmsapi.DeleteImportedKeyMaterialResponse, error) {
			return out, nil
		}}, nil
	}
	do := func(ctx context.Context) (*kmsapi.DeleteImportedKeyMaterialResponse, error) {
		return nil, c.forget(ctx, key, material)
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.DeleteImportedKeyMaterialResponse, error) {
		err := tx.DropMaterial(ctx, key.Region, key.Account, key.ID, material.MaterialID, nil)
		if errors.Is(err, metadata.ErrNotFound) {
			err = metadata.ErrStale // another call was first
		}
		return out, err
	}
	return work[kmsapi.DeleteImportedKeyMaterialResponse]{do: do, commit: commit}, nil
}

// forget has the tokens destroy what they have of a material that is deleted: that of
// the key and, if it waits in a primary key, of its replicas, where it goes as well.
func (c *call) forget(ctx context.Context, key *metadata.KeyEntry, material *metadata.Material) error {
	forgotten := []*metadata.KeyEntry{key}
	if material.Pending && isPrimary(key) {
		replicas, err := c.related(key)
		if err != nil {
			return err
		}
		forgotten = append(forgotten, replicas...)
	}
	for _, k := range forgotten {
		m := k.Material(material.MaterialID)
		if m == nil || m.Residency == hsm.Absent {
			continue
		}
		token, err := c.tokenOf(k)
		if err != nil {
			return err
		}
		if err := token.Destroy(ctx, c.onBehalf(k), &m.Key); err != nil {
			return err
		}
	}
	return nil
}

// materialNamed is the material of a KeyMaterialId; nil if the key has none such.
func materialNamed(key *metadata.KeyEntry, id string) *metadata.Material {
	for i := range key.Materials {
		if key.Materials[i].MaterialID.String() == id {
			return &key.Materials[i]
		}
	}
	return nil
}

// historyText is the id of a material of a key that has a history of them: one for
// symmetric encryption. Empty for others.
func historyText(key *metadata.KeyEntry, id hsm.MaterialID) string {
	if key.Spec != keyspec.SymmetricDefault {
		return ""
	}
	return id.String()
}

// materialElements are the responseElements of what happens to a material.
func materialElements(keyARN, id string) audit.Members {
	members := audit.Members{audit.String("keyId", keyARN)}
	if id != "" {
		members = append(members, audit.String("keyMaterialId", id))
	}
	return members
}
