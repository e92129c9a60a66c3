package gateway

import (
	"kmsgate/gateway/identity"
	"kmsgate/policy"
)

// stsOperations are the operations of STS.
var stsOperations = []operation{
	{
		service: serviceSTS, name: "GetCallerIdentity", bucket: "GetCallerIdentity", readOnly: true,
		typed: do(nil, sts(identity.GetCallerIdentity)),
	},
	{
		service: serviceSTS, name: "GetSessionToken", bucket: "GetSessionToken", readOnly: true,
		records: []string{"DurationSeconds", "MinimumSessionTokenSize", "SerialNumber"},
		typed:   do(nil, getSessionToken),
	},
	{
		service: serviceSTS, name: "AssumeRole", bucket: "AssumeRole", readOnly: true,
		targets: []target{
			{kind: onTrust, member: "RoleArn", action: "AssumeRole"},
			{kind: onTrust, member: "RoleArn", action: "TagSession", with: "Tags", inherits: passesTags},
			{kind: onTrust, member: "RoleArn", action: "SetSourceIdentity", with: "SourceIdentity", inherits: passesSourceIdentity},
		},
		records: []string{
			"RoleArn", "RoleSessionName", "DurationSeconds", "MinimumSessionTokenSize", "Policy", "PolicyArns", "ExternalId", "Tags", "TransitiveTagKeys",
			"SourceIdentity", "SerialNumber",
		},
		typed: do(nil, stsAssumes(identity.AssumeRole)),
	},
	{
		service: serviceSTS, name: "AssumeRoleWithWebIdentity", bucket: "AssumeRoleWithWebIdentity", readOnly: true,
		anonymous: true, identify: identifyWebIdentity,
		targets: []target{{kind: onTrust, member: "RoleArn", action: "AssumeRoleWithWebIdentity"}},
		records: []string{"RoleArn", "RoleSessionName", "DurationSeconds", "MinimumSessionTokenSize", "Policy", "PolicyArns", "ProviderId"},
		typed:   do(nil, stsAssumes(identity.AssumeRoleWithWebIdentity)),
	},
}

// passesTags tells whether a session made with the caller's gets tags of it.
func passesTags(c *call) bool {
	return c.caller.Kind == policy.RoleSession && len(c.caller.Session.TransitiveTags) > 0
}

// passesSourceIdentity tells whether a session made with the caller's gets its source
// identity.
func passesSourceIdentity(c *call) bool {
	return c.caller.Kind == policy.RoleSession && c.caller.Session.SourceIdentity != ""
}
