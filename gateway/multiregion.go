package gateway

import (
	"strings"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// becomePrimary makes a new key the primary of related multi-Region keys, of which it
// is the first.
func becomePrimary(key *metadata.KeyEntry) {
	key.ID = arn.MultiRegionPrefix + strings.ReplaceAll(uuid.NewString(), "-", "")
	key.MultiRegionRole = metadata.Primary
	key.Related = []metadata.Relative{{Region: key.Region, Role: metadata.Primary, State: key.State, Store: key.Store}}
}

// relativesOf are a multi-Region key and its related keys as callers see them; nil
// for a single-Region key. While the primary is moved there may be none.
func relativesOf(key *metadata.KeyEntry) *kmsapi.MultiRegionConfiguration {
	if key.MultiRegionRole == "" {
		return nil
	}
	out := &kmsapi.MultiRegionConfiguration{
		MultiRegionKeyType: kmsapi.MultiRegionKeyType(key.MultiRegionRole), ReplicaKeys: []kmsapi.MultiRegionKey{},
	}
	for _, r := range key.Related {
		related := kmsapi.MultiRegionKey{ARN: arn.KeyARNOf(r.Region, key.Account, key.ID), Region: r.Region}
		if r.Role == metadata.Primary {
			out.PrimaryKey = &related
			continue
		}
		out.ReplicaKeys = append(out.ReplicaKeys, related)
	}
	return out
}
