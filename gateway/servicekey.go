package gateway

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

// serviceKeyDescription is the description of a service's key.
func serviceKeyDescription(service string) string {
	return "Protects what " + service + " stores when no other key is named"
}

// serviceKeyPolicy is the policy of a service's key: everybody in the account may
// use it, through the service alone, and the account may look at it. Nobody may
// change it (KMS Developer Guide, "AWS managed keys").
func serviceKeyPolicy(service, account, region string) string {
	return `{
  "Version" : "2012-10-17",
  "Id" : "service-key-1",
  "Statement" : [ {
    "Sid" : "Use through the service",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "*"
    },
    "Action" : [ "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant", "kms:DescribeKey" ],
    "Resource" : "*",
    "Condition" : {
      "StringEquals" : {
        "kms:CallerAccount" : "` + account + `",
        "kms:ViaService" : "` + principalName(service, region) + `"
      }
    }
  }, {
    "Sid" : "Look at the key",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "` + arn.Root(account) + `"
    },
    "Action" : [ "kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant" ],
    "Resource" : "*"
  } ]
}`
}

// viaService is the name of the service through which the caller uses a target: that
// of the service whose key it is, if it is one that the service calls with.
func (c *call) viaService(r *resource) string {
	if r == nil || r.key == nil || r.key.Service == "" {
		return ""
	}
	caller := c.caller.Principal()
	if !c.gateway.services.callsAs(r.key.Service, orDefault(caller.RoleARN, caller.ARN)) {
		return ""
	}
	return principalName(r.key.Service, r.key.Region)
}

// firstUse makes the key of a declared service if an alias of the caller's account
// that is not there is its: unless its policy would not let the caller act on it, or
// the call is a dry run. When it has, or another call has meanwhile, the error is
// metadata.ErrStale: the call has to be decided anew.
func (c *call) firstUse(t *target, account, alias string) error {
	service, declared := c.gateway.services.ofAlias(alias)
	if !declared || account != c.caller.Account || c.dryRun(c.in) {
		return nil
	}
	entry, err := c.newServiceKey(service)
	if err != nil {
		return err
	}
	r := resource{target: t, account: account, arn: entry.ARN(), key: entry, alias: alias}
	if !policy.Authorize(c.question(&r, c.in)).Allowed {
		return nil
	}
	_, err, _ = c.gateway.firstUses.Do(account+" "+entry.Region+" "+alias, func() (any, error) {
		return nil, c.makeServiceKey(entry, alias)
	})
	if err == nil || errors.Is(err, metadata.ErrExists) {
		return fmt.Errorf("first use of %s: %w", alias, metadata.ErrStale)
	}
	return err
}

// newServiceKey is the key of a service as it will be, but for its material.
func (c *call) newServiceKey(service Service) (*metadata.KeyEntry, error) {
	document := serviceKeyPolicy(service.Name, c.caller.Account, c.region)
	compiled, err := policy.Parse(document)
	if err != nil {
		return nil, err
	}
	return &metadata.KeyEntry{
		Key: metadata.Key{
			Region: c.region, ID: uuid.NewString(), Account: c.caller.Account, Store: c.gateway.defaultStore(c.region),
			Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS, State: metadata.Enabled,
			Service: service.Name, Description: serviceKeyDescription(service.Name), CreatedAt: c.now,
		},
		PolicyDocument: document, Policy: compiled,
	}, nil
}

// makeServiceKey has the token make the key of a service and stores it with its
// alias, in a change of the gateway's own. Of several instances that make it at
// once one succeeds; metadata.ErrExists for the others, which drop theirs.
func (c *call) makeServiceKey(entry *metadata.KeyEntry, alias string) error {
	material, err := c.newMaterial(c.ctx, entry)
	if err != nil {
		return err
	}
	entry.Materials = []metadata.Material{material}
	if material.Residency == hsm.Wrapped { // it is rotated every year, as AWS managed keys are
		entry.Rotation.PeriodDays = rotationDays
		next := entry.Rotation.Next(c.now)
		entry.Rotation.NextAt = &next
	}
	event := c.serviceKeyEvent(entry, alias)
	return c.gateway.store.Change(c.ctx, c.view, func(tx *metadata.Tx) ([]byte, error) {
		if err := tx.InsertKey(c.ctx, entry.Key, material, metadata.KeyPolicy{Document: entry.PolicyDocument}, nil); err != nil {
			return nil, err
		}
		return event.AppendJSON(nil), tx.InsertAlias(c.ctx, metadata.Alias{
			Account: entry.Account, Region: entry.Region, Name: alias, KeyID: entry.ID, CreatedAt: c.now, UpdatedAt: c.now,
		}, metadata.MaxAliases)
	})
}

// serviceKeyEvent is the record of a key that a service got at its first use. It
// names the request that was the first.
func (c *call) serviceKeyEvent(entry *metadata.KeyEntry, alias string) *audit.Event {
	m := metadataOf(entry)
	return &audit.Event{
		Identity: audit.Internal(entry.Account), Time: c.now, Source: serviceKMS.eventSource(), Name: "CreateKey",
		Region: entry.Region, SourceIP: "AWS Internal", EventID: uuid.NewString(), Type: audit.ServiceEvent,
		ResponseElements: audit.Members{keyMetadataElement("keyMetadata", &m)},
		Resources: []audit.Resource{
			audit.KeyResource(entry.Account, entry.ARN()),
			audit.KeyResource(entry.Account, arn.AliasARNOf(entry.Region, entry.Account, alias)),
		},
		ServiceEventDetails: audit.Members{
			audit.String("keyId", entry.ID), audit.String("service", entry.Service), audit.String("requestId", c.requestID),
		},
		RecipientAccount: entry.Account,
	}
}

// checkManager refuses changes to a service's key, whatever its policy says: to the
// caller as if the policy did.
func (c *call) checkManager(r *resource) error {
	if r.key == nil || r.key.Service == "" || c.op.readOnly || r.target.services {
		return nil
	}
	return kmsapi.Denied(c.caller.ARN, c.op.action(r.target), kmsapi.ResourceTarget(r.arn), kmsapi.ResourceBasedPolicy)
}
