package gateway

import (
	"slices"

	"kmsgate/gateway/identity"
)

// roleOperations are IAM's operations on roles, managed policies and OIDC providers.
var roleOperations = slices.Concat(rolesThemselves, managedPolicies, oidcProviders)

var rolesThemselves = []operation{
	{
		service: serviceIAM, name: "CreateRole", bucket: "iam",
		targets: []target{
			{kind: onRole, member: "RoleName", action: "CreateRole", makes: true},
			{kind: onRole, member: "RoleName", action: "TagRole", makes: true, with: "Tags"},
		},
		records: []string{"Path", "RoleName", "AssumeRolePolicyDocument", "Description", "MaxSessionDuration", "PermissionsBoundary", "Tags"},
		typed:   do(nil, iam(identity.CreateRole)),
	},
	{
		service: serviceIAM, name: "GetRole", bucket: "iam", readOnly: true,
		targets: []target{{kind: onRole, member: "RoleName", action: "GetRole"}},
		records: []string{"RoleName"},
		typed:   do(nil, iamReads(identity.GetRole)),
	},
	{
		service: serviceIAM, name: "ListRoles", bucket: "iam", readOnly: true,
		targets: []target{{kind: onAccount, action: "ListRoles"}},
		records: []string{"PathPrefix", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListRoles)),
	},
	{
		service: serviceIAM, name: "DeleteRole", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "DeleteRole"}},
		records: []string{"RoleName"},
		typed:   do(nil, iamChanges(identity.DeleteRole)),
	},
	{
		service: serviceIAM, name: "UpdateRole", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "UpdateRole"}},
		records: []string{"RoleName", "Description", "MaxSessionDuration"},
		typed:   do(nil, iamChanges(identity.UpdateRole)),
	},
	{
		service: serviceIAM, name: "UpdateRoleDescription", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "UpdateRoleDescription"}},
		records: []string{"RoleName", "Description"},
		typed:   do(nil, iam(identity.UpdateRoleDescription)),
	},
	{
		service: serviceIAM, name: "ListInstanceProfilesForRole", bucket: "iam", readOnly: true,
		targets: []target{{kind: onRole, member: "RoleName", action: "ListInstanceProfilesForRole"}},
		records: []string{"RoleName", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListInstanceProfilesForRole)),
	},
	{
		service: serviceIAM, name: "UpdateAssumeRolePolicy", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "UpdateAssumeRolePolicy"}},
		records: []string{"RoleName", "PolicyDocument"},
		typed:   do(nil, iam(identity.UpdateAssumeRolePolicy)),
	},
	{
		service: serviceIAM, name: "TagRole", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "TagRole"}},
		records: []string{"RoleName", "Tags"},
		typed:   do(nil, iamChanges(identity.TagRole)),
	},
	{
		service: serviceIAM, name: "UntagRole", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "UntagRole"}},
		records: []string{"RoleName", "TagKeys"},
		typed:   do(nil, iamChanges(identity.UntagRole)),
	},
	{
		service: serviceIAM, name: "ListRoleTags", bucket: "iam", readOnly: true,
		targets: []target{{kind: onRole, member: "RoleName", action: "ListRoleTags"}},
		records: []string{"RoleName", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListRoleTags)),
	},
	{
		service: serviceIAM, name: "PutRolePolicy", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "PutRolePolicy"}},
		records: []string{"RoleName", "PolicyName", "PolicyDocument"},
		typed:   do(nil, iamChanges(identity.PutRolePolicy)),
	},
	{
		service: serviceIAM, name: "GetRolePolicy", bucket: "iam", readOnly: true,
		targets: []target{{kind: onRole, member: "RoleName", action: "GetRolePolicy"}},
		records: []string{"RoleName", "PolicyName"},
		typed:   do(nil, iamReads(identity.GetRolePolicy)),
	},
	{
		service: serviceIAM, name: "DeleteRolePolicy", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "DeleteRolePolicy"}},
		records: []string{"RoleName", "PolicyName"},
		typed:   do(nil, iamChanges(identity.DeleteRolePolicy)),
	},
	{
		service: serviceIAM, name: "ListRolePolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onRole, member: "RoleName", action: "ListRolePolicies"}},
		records: []string{"RoleName", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListRolePolicies)),
	},
}

var oidcProviders = []operation{
	{
		service: serviceIAM, name: "CreateOpenIDConnectProvider", bucket: "iam",
		targets: []target{{kind: onProvider, member: "Url", action: "CreateOpenIDConnectProvider", makes: true}},
		records: []string{"Url", "ClientIDList", "ThumbprintList"},
		typed:   do(nil, iamChanges(identity.CreateOpenIDConnectProvider)),
	},
	{
		service: serviceIAM, name: "GetOpenIDConnectProvider", bucket: "iam", readOnly: true,
		targets: []target{{kind: onProvider, member: "OpenIDConnectProviderArn", action: "GetOpenIDConnectProvider"}},
		records: []string{"OpenIDConnectProviderArn"},
		typed:   do(nil, iamReads(identity.GetOpenIDConnectProvider)),
	},
	{
		service: serviceIAM, name: "ListOpenIDConnectProviders", bucket: "iam", readOnly: true,
		targets: []target{{kind: onAccount, action: "ListOpenIDConnectProviders"}},
		typed:   do(nil, iamReads(identity.ListOpenIDConnectProviders)),
	},
	{
		service: serviceIAM, name: "DeleteOpenIDConnectProvider", bucket: "iam",
		targets: []target{{kind: onProvider, member: "OpenIDConnectProviderArn", action: "DeleteOpenIDConnectProvider"}},
		records: []string{"OpenIDConnectProviderArn"},
		typed:   do(nil, iamChanges(identity.DeleteOpenIDConnectProvider)),
	},
	{
		service: serviceIAM, name: "AddClientIDToOpenIDConnectProvider", bucket: "iam",
		targets: []target{{kind: onProvider, member: "OpenIDConnectProviderArn", action: "AddClientIDToOpenIDConnectProvider"}},
		records: []string{"OpenIDConnectProviderArn", "ClientID"},
		typed:   do(nil, iamChanges(identity.AddClientIDToOpenIDConnectProvider)),
	},
	{
		service: serviceIAM, name: "RemoveClientIDFromOpenIDConnectProvider", bucket: "iam",
		targets: []target{{kind: onProvider, member: "OpenIDConnectProviderArn", action: "RemoveClientIDFromOpenIDConnectProvider"}},
		records: []string{"OpenIDConnectProviderArn", "ClientID"},
		typed:   do(nil, iamChanges(identity.RemoveClientIDFromOpenIDConnectProvider)),
	},
}
