package gateway

import (
	"kmsgate/gateway/arn"
	"kmsgate/metadata"
)

// grants is the target of operations on the grants of a key, of any account.
func grants(action string, states metadata.States) []target {
	return []target{{kind: onKey, member: "KeyId", action: action, forms: arn.KeyForms, foreign: true, services: true, states: states}}
}

// grantOperations are the operations on grants.
var grantOperations = []operation{
	{
		service: serviceKMS, name: "CreateGrant", bucket: "CreateGrant",
		targets: grants("CreateGrant", metadata.Grantable),
		records: []string{
			"KeyId", "GranteePrincipal", "GranteeServicePrincipal", "RetiringPrincipal", "RetiringServicePrincipal",
			"Operations", "Constraints", "Name", "DryRun",
		},
		typed: do(completeCreateGrant, (*call).createGrant),
	},
	{
		service: serviceKMS, name: "ListGrants", bucket: "ListGrants", readOnly: true,
		targets: grants("ListGrants", 0),
		records: []string{"KeyId", "GrantId", "GranteePrincipal", "GranteeServicePrincipal", "Limit", "Marker"},
		typed:   do(completeListGrants, (*call).listGrants),
	},
	{
		service: serviceKMS, name: "ListRetirableGrants", bucket: "ListRetirableGrants", readOnly: true,
		targets: []target{{kind: onPrincipal, member: "RetiringPrincipal", action: "ListRetirableGrants"}},
		records: []string{"RetiringPrincipal", "RetiringServicePrincipal", "Limit", "Marker"},
		typed:   do(completeListRetirableGrants, (*call).listRetirableGrants),
	},
	{
		service: serviceKMS, name: "RetireGrant", bucket: "RetireGrant",
		targets: []target{{kind: onGrant, member: "KeyId", action: "RetireGrant", forms: arn.KeyForms, foreign: true, services: true}},
		// CloudTrail has no parameters of it.
		typed: do(completeRetireGrant, (*call).retireGrant),
	},
	{
		service: serviceKMS, name: "RevokeGrant", bucket: "RevokeGrant",
		targets: grants("RevokeGrant", 0),
		records: []string{"KeyId", "GrantId", "DryRun"},
		typed:   do(completeRevokeGrant, (*call).revokeGrant),
	},
}
