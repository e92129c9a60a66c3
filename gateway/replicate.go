package gateway

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/gateway/reconcile"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

func completeReplicateKey(in *kmsapi.ReplicateKeyRequest) error { return checkTags(in.Tags) }

// replicateKey makes a replica that waits for its materials, which a job brings.
func (c *call) replicateKey(in *kmsapi.ReplicateKeyRequest) (work[kmsapi.ReplicateKeyResponse], error) {
	primary := c.key(0)
	if err := c.checkReplica(primary, *in.ReplicaRegion); err != nil {
		return work[kmsapi.ReplicateKeyResponse]{}, err
	}
	replica := c.newReplica(primary, in)
	if err := c.canArrive(replica); err != nil {
		return work[kmsapi.ReplicateKeyResponse]{}, err
	}
	document := metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(replica.Account)}
	if in.Policy != nil {
		var err error
		bypass := kmsapi.Or(in.BypassPolicyLockoutSafetyCheck, false)
		if document, err = c.checkPolicy(*in.Policy, replica.ARN(), bypass, c.facts(&c.resources[1], in)); err != nil {
			return work[kmsapi.ReplicateKeyResponse]{}, err
		}
	}
	shown, err := policy.Format(document.Document)
	if err != nil {
		return work[kmsapi.ReplicateKeyResponse]{}, err
	}
	commit := func(ctx context.Context, tx *metadata.Tx) (*kmsapi.ReplicateKeyResponse, error) {
		err := tx.InsertReplica(ctx, primary.Name(), replica.Key, document, tagsOf(in.Tags))
		if errors.Is(err, metadata.ErrExists) {
			return nil, kmsapi.ReplicaExists(replica.ARN())
		}
		if err != nil {
			return nil, err
		}
		if err := tx.LimitKeys(ctx, replica.Account, replica.Region, c.gateway.quotas.Keys); err != nil {
			return nil, tooManyKeys(replica.Account, err)
		}
		out := &kmsapi.ReplicateKeyResponse{ReplicaKeyMetadata: metadataOf(replica), ReplicaPolicy: shown, ReplicaTags: in.Tags}
		c.event.ResponseElements = audit.Members{
			keyMetadataElement("replicaKeyMetadata", &out.ReplicaKeyMetadata), audit.String("replicaPolicy", shown),
		}
		tx.AlsoRecord(c.replicaMade(in, &out.ReplicaKeyMetadata))
		return out, nil
	}
	return work[kmsapi.ReplicateKeyResponse]{commit: commit, wakes: reconcile.Replicas}, nil
}

// checkReplica refuses what is no primary key, and Regions that no replica of it can be
// made in.
func (c *call) checkReplica(primary *metadata.KeyEntry, region string) error {
	related := func(r metadata.Relative) bool { return r.Region == region }
	switch {
	case !isPrimary(primary):
		return kmsapi.NotPrimary(primary.ARN())
	case slices.ContainsFunc(primary.Related, related):
		return kmsapi.ReplicaExists(arn.KeyARNOf(region, primary.Account, primary.ID))
	case !c.gateway.serves(region):
		return kmsapi.ReplicaRegionNotServed(region)
	}
	return c.limitKeys(region)
}

// canArrive refuses a replica that would wait for ever for its materials, and keep its
// primary key from being rotated.
func (c *call) canArrive(replica *metadata.KeyEntry) error {
	if replica.Origin == keyspec.External {
		return c.canImport(replica)
	}
	token, err := c.tokenOf(replica)
	if err != nil {
		return err
	}
	err = token.Receives(replica.Store, replica.Spec, replica.Usage)
	if errors.Is(err, hsm.ErrUnsupported) {
		c.gateway.report(c, false, err)
		return kmsapi.ReplicaRegionUnable(replica.Region, replica.Spec)
	}
	return err
}

// newReplica is the replica as it will be, but for its materials.
func (c *call) newReplica(primary *metadata.KeyEntry, in *kmsapi.ReplicateKeyRequest) *metadata.KeyEntry {
	region := c.gateway.regionName(*in.ReplicaRegion)
	replica := &metadata.KeyEntry{Key: metadata.Key{
		Region: region, ID: primary.ID, Account: primary.Account, Store: c.gateway.defaultStore(region),
		Spec: primary.Spec, Usage: primary.Usage, Origin: primary.Origin, MultiRegionRole: metadata.Replica, State: metadata.Creating,
		Description: kmsapi.Or(in.Description, ""), CreatedAt: c.now,
	}}
	own := metadata.Relative{Region: region, Role: metadata.Replica, State: metadata.Creating, Store: replica.Store}
	replica.Related = append(slices.Clone(primary.Related), own)
	slices.SortFunc(replica.Related, func(a, b metadata.Relative) int { return strings.Compare(a.Region, b.Region) })
	return replica
}

// replicaMade is the record of the new key in the replica's Region.
func (c *call) replicaMade(in *kmsapi.ReplicateKeyRequest, made *kmsapi.KeyMetadata) []byte {
	event := c.event
	event.Name, event.Region, event.EventID, event.RequestID = "CreateKey", *in.ReplicaRegion, uuid.NewString(), ""
	event.SourceIP, event.UserAgent, event.TLS = "AWS Internal", "AWS Internal", audit.TLSDetails{}
	event.RequestParameters = audit.Members{
		audit.String("description", made.Description), audit.String("keyUsage", string(made.KeyUsage)),
		audit.String("keySpec", string(made.KeySpec)), audit.String("origin", string(made.Origin)), audit.Bool("multiRegion", true),
	}
	if in.Policy != nil {
		event.RequestParameters = append(event.RequestParameters, audit.String("policy", *in.Policy))
	}
	if len(in.Tags) > 0 {
		event.RequestParameters = append(event.RequestParameters, listOf("tags", reflect.ValueOf(in.Tags)))
	}
	event.ResponseElements = audit.Members{keyMetadataElement("keyMetadata", made)}
	event.AdditionalEventData = audit.Members{audit.String("requestId", c.requestID)}
	event.Resources = []audit.Resource{audit.KeyResource(c.caller.Account, made.ARN)}
	return event.AppendJSON(nil)
}
