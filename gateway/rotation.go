package gateway

import (
	"cmp"
	"context"
	"slices"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

const (
	// rotationDays is the period of automatic rotation if none is named.
	rotationDays = 365
	// rotationNear is how long before an automatic rotation none is begun on demand.
	rotationNear = 20 * time.Minute
)

func completeEnableKeyRotation(in *kmsapi.EnableKeyRotationRequest) error {
	setDefault(&in.RotationPeriodInDays, int32(rotationDays))
	return nil
}

func (c *call) enableKeyRotation(in *kmsapi.EnableKeyRotationRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	if err := cmp.Or(madeHere(key), rotatedHere(key)); err != nil {
		return work[kmsapi.Empty]{}, err
	}
	rotation := metadata.Rotation{PeriodDays: *in.RotationPeriodInDays}
	next := rotation.Next(c.now)
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		return nil, tx.SetRotation(ctx, key.Region, key.Account, key.ID, rotation.PeriodDays, &next)
	}}, nil
}

// disableKeyRotation succeeds for keys that are never rotated, and changes nothing.
func (c *call) disableKeyRotation(*kmsapi.DisableKeyRotationRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	if err := cmp.Or(madeHere(key), onPrimary(key)); err != nil {
		return work[kmsapi.Empty]{}, err
	}
	if key.Spec != keyspec.SymmetricDefault {
		return work[kmsapi.Empty]{do: func(context.Context) (*kmsapi.Empty, error) { return nil, nil }}, nil
	}
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		return nil, tx.SetRotation(ctx, key.Region, key.Account, key.ID, 0, nil)
	}}, nil
}

func (c *call) getKeyRotationStatus(*kmsapi.GetKeyRotationStatusRequest) (work[kmsapi.GetKeyRotationStatusResponse], error) {
	key := c.key(0)
	if err := inDefaultStore(key); err != nil {
		return work[kmsapi.GetKeyRotationStatusResponse]{}, err
	}
	out := &kmsapi.GetKeyRotationStatusResponse{KeyID: key.ARN()}
	if next := key.Rotation.NextAt; next != nil && !metadata.Pending.Has(key.State) {
		out.KeyRotationEnabled, out.RotationPeriodInDays = true, key.Rotation.PeriodDays
		out.NextRotationDate = kmsapi.Timestamp{Time: *next}
	}
	if requested := key.Rotation.RequestedAt; requested != nil {
		out.OnDemandRotationStartDate = kmsapi.Timestamp{Time: *requested}
	}
	return work[kmsapi.GetKeyRotationStatusResponse]{
		do: func(context.Context) (*kmsapi.GetKeyRotationStatusResponse, error) { return out, nil },
	}, nil
}

// rotateKeyOnDemand has the key rotated soon after: it encrypts with the material
// that it has until then.
func (c *call) rotateKeyOnDemand(*kmsapi.RotateKeyOnDemandRequest) (work[kmsapi.RotateKeyOnDemandResponse], error) {
	key := c.key(0)
	if err := cmp.Or(c.isWhole(key), inDefaultStore(key), rotatedHere(key), c.hasMaterialToCome(key), c.mayRotateNow(key)); err != nil {
		return work[kmsapi.RotateKeyOnDemandResponse]{}, err
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.RotateKeyOnDemandResponse, error) {
		if err := tx.RequestRotation(ctx, key.Region, key.Account, key.ID, c.now); err != nil {
			return nil, err
		}
		c.event.ResponseElements = audit.Members{audit.String("keyId", key.ARN())}
		return &kmsapi.RotateKeyOnDemandResponse{KeyID: key.ARN()}, nil
	}
	return work[kmsapi.RotateKeyOnDemandResponse]{commit: commit}, nil
}

// mayRotateNow refuses a rotation on demand over the quota, and one beside another.
func (c *call) mayRotateNow(key *metadata.KeyEntry) error {
	rotation := &key.Rotation
	switch {
	case rotation.RequestedAt != nil:
		return kmsapi.RotationInProgress(key.ARN())
	case rotation.OnDemand >= metadata.MaxOnDemandRotations:
		return kmsapi.TooManyRotations(key.ARN())
	case rotation.NextAt != nil && rotation.NextAt.Before(c.now.Add(rotationNear)):
		return kmsapi.AutomaticRotationNear()
	}
	return nil
}

// inDefaultStore refuses keys of custom key stores.
func inDefaultStore(key *metadata.KeyEntry) error {
	if key.Origin != keyspec.AWSKMS && key.Origin != keyspec.External {
		return kmsapi.OriginInvalid(key.ARN(), key.Origin)
	}
	return nil
}

// madeHere refuses keys whose material KMS does not make.
func madeHere(key *metadata.KeyEntry) error {
	if key.Origin != keyspec.AWSKMS {
		return kmsapi.OriginInvalid(key.ARN(), key.Origin)
	}
	return nil
}

// onPrimary refuses replicas, which follow their primary key.
func onPrimary(key *metadata.KeyEntry) error {
	if key.MultiRegionRole == metadata.Replica {
		return kmsapi.NotPrimary(key.ARN())
	}
	return nil
}

// rotatedHere refuses keys that have one material for ever, replicas, and keys whose
// material the token would have to make as an object of its own.
func rotatedHere(key *metadata.KeyEntry) error {
	switch current := key.Current(); {
	case key.Spec != keyspec.SymmetricDefault:
		return kmsapi.NotRotated()
	case current != nil && current.Residency == hsm.Resident && key.Origin != keyspec.External:
		return kmsapi.ResidentNotRotated(key.ARN())
	}
	return onPrimary(key)
}

// hasMaterialToCome refuses an imported key without material to be rotated to, here or
// in a related key.
func (c *call) hasMaterialToCome(key *metadata.KeyEntry) error {
	if key.Origin != keyspec.External {
		return nil
	}
	i := slices.IndexFunc(key.Materials, func(m metadata.Material) bool { return m.Pending && m.Present(c.now) })
	if i < 0 {
		return kmsapi.NothingToRotateTo(key.ARN())
	}
	everywhere, err := c.isEverywhere(key, key.Materials[i].MaterialID)
	if err == nil && !everywhere {
		err = kmsapi.NothingToRotateTo(key.ARN())
	}
	return err
}

// isEverywhere tells whether all keys that are related to a key have a material.
func (c *call) isEverywhere(key *metadata.KeyEntry, id hsm.MaterialID) (bool, error) {
	related, err := c.related(key)
	for _, k := range related {
		if m := k.Material(id); m == nil || !m.Present(c.now) {
			return false, nil
		}
	}
	return err == nil, err
}

func (c *call) listKeyRotations(in *kmsapi.ListKeyRotationsRequest) (work[kmsapi.ListKeyRotationsResponse], error) {
	key, include := c.key(0), kmsapi.Or(in.IncludeKeyMaterial, kmsapi.RotationsOnly)
	if err := inDefaultStore(key); err != nil {
		return work[kmsapi.ListKeyRotationsResponse]{}, err
	}
	if in.IncludeKeyMaterial != nil && key.Spec != keyspec.SymmetricDefault {
		return work[kmsapi.ListKeyRotationsResponse]{}, kmsapi.NotRotated()
	}
	page, err := c.page(in.Limit, in.Marker, 100, key.ID+" "+string(include))
	if err != nil {
		return work[kmsapi.ListKeyRotationsResponse]{}, err
	}
	materials := materialsInTurn(key, include)
	if page.after != "" {
		i := slices.IndexFunc(materials, func(m metadata.Material) bool { return m.MaterialID.String() == page.after })
		if i < 0 { // it is not listed any more
			return work[kmsapi.ListKeyRotationsResponse]{}, kmsapi.InvalidMarker()
		}
		materials = materials[i+1:]
	}
	materials, truncated := cut(materials, page)
	out := &kmsapi.ListKeyRotationsResponse{
		Rotations: make([]kmsapi.RotationsListEntry, 0, len(materials)), Page: kmsapi.Page{Truncated: truncated},
	}
	for i := range materials {
		entry, err := c.rotationOf(key, &materials[i])
		if err != nil {
			return work[kmsapi.ListKeyRotationsResponse]{}, err
		}
		out.Rotations = append(out.Rotations, entry)
	}
	if truncated {
		out.NextMarker = page.next(materials[len(materials)-1].MaterialID.String())
	}
	return work[kmsapi.ListKeyRotationsResponse]{
		do: func(context.Context) (*kmsapi.ListKeyRotationsResponse, error) { return out, nil },
	}, nil
}

// materialsInTurn are the materials that a list of rotations has, in the order in
// which they became current; one that waits for that comes last. A key that is never
// rotated has none.
func materialsInTurn(key *metadata.KeyEntry, include kmsapi.IncludeKeyMaterial) (materials []metadata.Material) {
	if key.Spec != keyspec.SymmetricDefault {
		return nil
	}
	for _, m := range key.Materials {
		if m.RotatedAt != nil || include == kmsapi.AllKeyMaterial {
			materials = append(materials, m)
		}
	}
	since := func(m *metadata.Material) time.Time { // zero for the first one
		switch {
		case m.RotatedAt != nil:
			return *m.RotatedAt
		case m.Pending:
			return m.CreatedAt
		}
		return time.Time{}
	}
	slices.SortFunc(materials, func(a, b metadata.Material) int {
		pending := func(m *metadata.Material) int { return map[bool]int{true: 1}[m.Pending] }
		return cmp.Or(
			cmp.Compare(pending(&a), pending(&b)), since(&a).Compare(since(&b)),
			cmp.Compare(a.MaterialID.String(), b.MaterialID.String()),
		)
	})
	return materials
}

// rotationOf is a material as lists of rotations have it.
func (c *call) rotationOf(key *metadata.KeyEntry, m *metadata.Material) (kmsapi.RotationsListEntry, error) {
	out := kmsapi.RotationsListEntry{
		KeyID: key.ARN(), KeyMaterialID: m.MaterialID.String(), KeyMaterialState: kmsapi.NonCurrent, RotationType: string(m.RotationType),
	}
	switch {
	case m.Current:
		out.KeyMaterialState = kmsapi.Current
	case m.Pending:
		everywhere, err := c.isEverywhere(key, m.MaterialID)
		if err != nil {
			return out, err
		}
		out.KeyMaterialState = map[bool]kmsapi.KeyMaterialState{true: kmsapi.PendingRotation, false: kmsapi.PendingRegions}[everywhere]
	}
	if m.RotatedAt != nil {
		out.RotationDate = kmsapi.Timestamp{Time: *m.RotatedAt}
	}
	if key.Origin != keyspec.External {
		return out, nil
	}
	out.KeyMaterialDescription, out.ImportState = m.Description, kmsapi.Imported
	switch {
	case m.Residency == hsm.Absent:
		out.ImportState = kmsapi.PendingReimporting
	case m.ExpiresAt != nil:
		out.ExpirationModel, out.ValidTo = kmsapi.KeyMaterialExpires, kmsapi.Timestamp{Time: *m.ExpiresAt}
	default:
		out.ExpirationModel = kmsapi.KeyMaterialDoesNotExpire
	}
	return out, nil
}
