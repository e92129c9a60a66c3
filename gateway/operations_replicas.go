package gateway

import "kmsgate/metadata"

// replicaOperations have multi-Region keys be replicated. Whoever makes a replica must
// be allowed to make a key in its Region, where it counts as two (KMS Developer Guide,
// "Request quotas").
var replicaOperations = []operation{{
	service: serviceKMS, name: "ReplicateKey", bucket: "ReplicateKey",
	targets: []target{
		manages("ReplicateKey", metadata.Replicable),
		{kind: onReplica, action: "CreateKey", place: "ReplicaRegion", draws: []bucket{"CreateKey", "CreateKey"}},
		{kind: onReplica, action: "TagResource", member: "Tags", optional: true},
	},
	records: []string{"KeyId", "ReplicaRegion", "Policy", "BypassPolicyLockoutSafetyCheck", "Description", "Tags"},
	typed:   do(completeReplicateKey, (*call).replicateKey),
}}
