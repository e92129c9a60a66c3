package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

func completeCreateKey(in *kmsapi.CreateKeyRequest) error {
	if in.KeySpec != nil && in.CustomerMasterKeySpec != nil {
		return kmsapi.BothKeySpecs()
	}
	setDefault(&in.KeySpec, kmsapi.Or(in.CustomerMasterKeySpec, keyspec.SymmetricDefault))
	setDefault(&in.Origin, keyspec.AWSKMS)
	spec := *in.KeySpec
	if in.KeyUsage == nil && spec != keyspec.SymmetricDefault {
		return kmsapi.KeyUsageRequired()
	}
	setDefault(&in.KeyUsage, keyspec.EncryptDecrypt)
	row, _ := keyspec.Lookup(spec)
	switch {
	case spec == keyspec.SM2:
		return kmsapi.KeySpecNotServed(spec)
	case !slices.Contains(row.Usages(), *in.KeyUsage):
		return kmsapi.KeyUsageIncompatible(*in.KeyUsage, spec)
	}
	if err := checkOrigin(in); err != nil {
		return err
	}
	return checkTags(in.Tags)
}

// checkOrigin refuses the origins that are not served.
func checkOrigin(in *kmsapi.CreateKeyRequest) error {
	switch {
	case in.XksKeyID != nil && *in.Origin != keyspec.ExternalKeyStore:
		return kmsapi.XksKeyIDUnsupported()
	case in.CustomKeyStoreID != nil:
		return kmsapi.CustomKeyStoreNotFound()
	case *in.Origin != keyspec.AWSKMS && *in.Origin != keyspec.External:
		return kmsapi.OriginNotServed(*in.Origin)
	}
	if row, _ := keyspec.Lookup(*in.KeySpec); *in.Origin == keyspec.External && !row.Importable() {
		return kmsapi.ExternalKeySpec(row.Spec)
	}
	return nil
}

func (c *call) createKey(in *kmsapi.CreateKeyRequest) (work[kmsapi.CreateKeyResponse], error) {
	if c.entry == nil {
		if err := c.limitKeys(c.region); err != nil {
			return work[kmsapi.CreateKeyResponse]{}, err
		}
		c.entry = &metadata.KeyEntry{Key: metadata.Key{
			Region: c.region, ID: uuid.NewString(), Account: c.caller.Account, Store: c.gateway.defaultStore(c.region),
			Spec: *in.KeySpec, Usage: *in.KeyUsage, Origin: *in.Origin, State: metadata.Enabled,
			Description: kmsapi.Or(in.Description, ""),
			CreatedAt:   c.now,
		}}
		if kmsapi.Or(in.MultiRegion, false) {
			becomePrimary(c.entry)
		}
	}
	document := metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(c.caller.Account)}
	if in.Policy != nil {
		var err error
		if document, err = c.checkPolicy(*in.Policy, c.entry.ARN(), kmsapi.Or(in.BypassPolicyLockoutSafetyCheck, false), c.facts(nil, in)); err != nil {
			return work[kmsapi.CreateKeyResponse]{}, err
		}
	}
	if err := c.awaitMaterial(c.entry); err != nil {
		return work[kmsapi.CreateKeyResponse]{}, err
	}
	entry := c.entry
	do := func(ctx context.Context) (*kmsapi.CreateKeyResponse, error) {
		if len(entry.Materials) > 0 || entry.Origin == keyspec.External {
			return nil, nil // made when the call was decided before
		}
		material, err := c.newMaterial(ctx, entry)
		if err != nil {
			return nil, err
		}
		entry.Materials = []metadata.Material{material}
		return nil, nil
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.CreateKeyResponse, error) {
		if err := tx.InsertKey(ctx, entry.Key, kmsapi.Or(entry.Current(), metadata.Material{}), document, tagsOf(in.Tags)); err != nil {
			return nil, err
		}
		if err := tx.LimitKeys(ctx, entry.Account, entry.Region, c.gateway.quotas.Keys); err != nil {
			return nil, tooManyKeys(entry.Account, err)
		}
		out := &kmsapi.CreateKeyResponse{KeyMetadata: metadataOf(entry)}
		c.made = entry.ARN()
		c.event.ResponseElements = audit.Members{keyMetadataElement("keyMetadata", &out.KeyMetadata)}
		return out, nil
	}
	return work[kmsapi.CreateKeyResponse]{do: do, commit: commit}, nil
}

// awaitMaterial has a new key of origin EXTERNAL wait for its material. A key is
// refused for which none could ever come.
func (c *call) awaitMaterial(key *metadata.KeyEntry) error {
	if key.Origin != keyspec.External {
		return nil
	}
	key.State = metadata.PendingImport
	return c.canImport(key)
}

// canImport refuses a key whose token takes no material for it, under no wrapping
// algorithm.
func (c *call) canImport(key *metadata.KeyEntry) error {
	token, err := c.tokenOf(key)
	if err != nil {
		return err
	}
	for _, row := range keyspec.WrappingAlgorithms {
		if err = token.Imports(key.Store, key.Spec, key.Usage, row.Algorithm); err == nil {
			return nil
		}
	}
	return c.failed(key, keySpecText(key.Spec)+" of Origin "+string(key.Origin), err)
}

// newMaterial has the token make a material for the key.
func (c *call) newMaterial(ctx context.Context, key *metadata.KeyEntry) (metadata.Material, error) {
	token := c.token(key)
	id, err := token.Random(ctx, c.onBehalf(key), len(hsm.MaterialID{}))
	if err != nil {
		return metadata.Material{}, err
	}
	made, err := token.Generate(ctx, making(key.Account, key.Spec), hsm.Key{
		Store: key.Store, Region: key.Region, Account: key.Account, KeyID: key.ID, MaterialID: hsm.MaterialID(id),
		Spec: key.Spec, Usage: key.Usage, Origin: key.Origin,
	})
	if err != nil {
		return metadata.Material{}, c.failed(key, keySpecText(key.Spec), err)
	}
	if key.MultiRegionRole != "" && made.Residency != hsm.Wrapped {
		return metadata.Material{}, cmpError(token.Destroy(ctx, c.onBehalf(key), &made), kmsapi.ResidentNotMultiRegion(key.Spec))
	}
	return metadata.Material{Key: made, Current: true, CreatedAt: c.now}, nil
}

// making is the call for a new key or pair of a spec: those that take long have
// a share of the sessions of their own, and keep no other waiting.
func making(account string, spec keyspec.Spec) hsm.Call {
	on := hsm.Call{Account: account}
	if keyspec.IsSlowToMake(spec) {
		on.Class = hsm.Generation
	}
	return on
}

func (c *call) describeKey(*kmsapi.DescribeKeyRequest) (work[kmsapi.DescribeKeyResponse], error) {
	key := c.key(0)
	return work[kmsapi.DescribeKeyResponse]{do: func(context.Context) (*kmsapi.DescribeKeyResponse, error) {
		return &kmsapi.DescribeKeyResponse{KeyMetadata: metadataOf(key)}, nil
	}}, nil
}

func (c *call) enableKey(*kmsapi.EnableKeyRequest) (work[kmsapi.Empty], error) {
	return c.setState(metadata.Enabling)
}

func (c *call) disableKey(*kmsapi.DisableKeyRequest) (work[kmsapi.Empty], error) {
	return c.setState(metadata.Disabling)
}

// setState switches a key on or off; doing so again changes nothing and succeeds.
func (c *call) setState(way metadata.Transition) (work[kmsapi.Empty], error) {
	key := c.key(0)
	if way.To == metadata.Enabled { // a cancelled deletion leaves a key disabled, whatever it lacks
		if err := c.isWhole(key); err != nil {
			return work[kmsapi.Empty]{}, err
		}
	}
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		return nil, tx.SetKeyState(ctx, key.Region, key.Account, key.ID, way)
	}}, nil
}

func (c *call) updateKeyDescription(in *kmsapi.UpdateKeyDescriptionRequest) (work[kmsapi.Empty], error) {
	key := c.key(0)
	return work[kmsapi.Empty]{commit: func(ctx context.Context, tx *metadata.Tx) (*kmsapi.Empty, error) {
		return nil, tx.SetDescription(ctx, key.Region, key.Account, key.ID, *in.Description)
	}}, nil
}

func (c *call) listKeys(in *kmsapi.ListKeysRequest) (work[kmsapi.ListKeysResponse], error) {
	page, err := c.page(in.Limit, in.Marker, 100, "")
	if err != nil {
		return work[kmsapi.ListKeysResponse]{}, err
	}
	return work[kmsapi.ListKeysResponse]{do: func(ctx context.Context) (*kmsapi.ListKeysResponse, error) {
		keys, err := c.gateway.store.ListKeys(ctx, c.caller.Account, c.region, page.after, page.limit+1)
		if err != nil {
			return nil, err
		}
		keys, truncated := cut(keys, page)
		out := &kmsapi.ListKeysResponse{Keys: make([]kmsapi.KeyListEntry, 0, len(keys)), Page: kmsapi.Page{Truncated: truncated}}
		for _, id := range keys {
			out.Keys = append(out.Keys, kmsapi.KeyListEntry{KeyID: id, KeyARN: arn.KeyARNOf(c.region, c.caller.Account, id)})
		}
		if truncated {
			out.NextMarker = page.next(keys[len(keys)-1])
		}
		return out, nil
	}}, nil
}

// noteExpiry says when the first of a key's imported materials expires, if all that
// it needs are there.
func noteExpiry(m *kmsapi.KeyMetadata, k *metadata.KeyEntry) {
	if k.Origin != keyspec.External || len(k.Materials) == 0 {
		return
	}
	var first *time.Time
	for i := range k.Materials {
		of := &k.Materials[i]
		if of.Pending {
			continue
		}
		if of.Residency == hsm.Absent {
			return
		}
		if of.ExpiresAt != nil && (first == nil || of.ExpiresAt.Before(*first)) {
			first = of.ExpiresAt
		}
	}
	m.ExpirationModel = kmsapi.KeyMaterialDoesNotExpire
	if first != nil {
		m.ExpirationModel, m.ValidTo = kmsapi.KeyMaterialExpires, kmsapi.Timestamp{Time: *first}
	}
}

// metadataOf is what callers see of a key.
func metadataOf(k *metadata.KeyEntry) kmsapi.KeyMetadata {
	m := kmsapi.KeyMetadata{
		AWSAccountID: k.Account, KeyID: k.ID, ARN: k.ARN(), CreationDate: kmsapi.Timestamp{Time: k.CreatedAt},
		Enabled: k.State == metadata.Enabled, Description: k.Description, KeyState: kmsapi.KeyState(k.State), KeyUsage: k.Usage,
		KeySpec: k.Spec, CustomerMasterKeySpec: k.Spec, Origin: k.Origin, KeyManager: kmsapi.ManagedByCustomer,
		EncryptionAlgorithms:    algorithmsOf(k, keyspec.EncryptDecrypt),
		SigningAlgorithms:       algorithmsOf(k, keyspec.SignVerify),
		KeyAgreementAlgorithms:  algorithmsOf(k, keyspec.KeyAgreement),
		MacAlgorithms:           algorithmsOf(k, keyspec.GenerateVerifyMAC),
		EncapsulationAlgorithms: algorithmsOf(k, keyspec.EncapsulateDecapsulate),
	}
	if k.Service != "" {
		m.KeyManager = kmsapi.ManagedByAWS
	}
	if current := k.Current(); current != nil && k.Spec == keyspec.SymmetricDefault {
		m.CurrentKeyMaterialID = current.MaterialID.String()
	}
	noteExpiry(&m, k)
	m.MultiRegion, m.MultiRegionConfiguration = k.MultiRegionRole != "", relativesOf(k)
	if k.DeletionAt != nil {
		m.DeletionDate = kmsapi.Timestamp{Time: *k.DeletionAt}
	}
	if k.State == metadata.PendingReplicaDeletion {
		m.PendingDeletionWindowInDays = k.DeletionWindow
	}
	return m
}
