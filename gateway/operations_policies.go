package gateway

import "kmsgate/gateway/identity"

// managedPolicies are IAM's operations on managed policies, on what they are
// attached to, and on permissions boundaries.
var managedPolicies = []operation{
	{
		service: serviceIAM, name: "CreatePolicy", bucket: "iam",
		targets: []target{{kind: onPolicy, member: "PolicyName", action: "CreatePolicy", makes: true}},
		records: []string{"PolicyName", "Path", "PolicyDocument", "Description"},
		typed:   do(nil, iamChanges(identity.CreatePolicy)),
	},
	{
		service: serviceIAM, name: "GetPolicy", bucket: "iam", readOnly: true,
		targets: []target{{kind: onPolicy, member: "PolicyArn", action: "GetPolicy"}},
		records: []string{"PolicyArn"},
		typed:   do(nil, iamReads(identity.GetPolicy)),
	},
	{
		service: serviceIAM, name: "GetPolicyVersion", bucket: "iam", readOnly: true,
		targets: []target{{kind: onPolicy, member: "PolicyArn", action: "GetPolicyVersion"}},
		records: []string{"PolicyArn", "VersionId"},
		typed:   do(nil, iamReads(identity.GetPolicyVersion)),
	},
	{
		service: serviceIAM, name: "ListPolicyVersions", bucket: "iam", readOnly: true,
		targets: []target{{kind: onPolicy, member: "PolicyArn", action: "ListPolicyVersions"}},
		records: []string{"PolicyArn", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListPolicyVersions)),
	},
	{
		service: serviceIAM, name: "ListPolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onAccount, action: "ListPolicies"}},
		records: []string{"Scope", "OnlyAttached", "PathPrefix", "PolicyUsageFilter", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListPolicies)),
	},
	{
		service: serviceIAM, name: "ListEntitiesForPolicy", bucket: "iam", readOnly: true,
		targets: []target{{kind: onPolicy, member: "PolicyArn", action: "ListEntitiesForPolicy"}},
		records: []string{"PolicyArn", "EntityFilter", "PathPrefix", "PolicyUsageFilter", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListEntitiesForPolicy)),
	},
	{
		service: serviceIAM, name: "DeletePolicy", bucket: "iam",
		targets: []target{{kind: onPolicy, member: "PolicyArn", action: "DeletePolicy"}},
		records: []string{"PolicyArn"},
		typed:   do(nil, iamChanges(identity.DeletePolicy)),
	},
	{
		service: serviceIAM, name: "AttachUserPolicy", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "AttachUserPolicy"}},
		records: []string{"UserName", "PolicyArn"},
		typed:   do(nil, iam(identity.AttachUserPolicy)),
	},
	{
		service: serviceIAM, name: "DetachUserPolicy", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "DetachUserPolicy"}},
		records: []string{"UserName", "PolicyArn"},
		typed:   do(nil, iamChanges(identity.DetachUserPolicy)),
	},
	{
		service: serviceIAM, name: "ListAttachedUserPolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "ListAttachedUserPolicies"}},
		records: []string{"UserName", "PathPrefix", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListAttachedUserPolicies)),
	},
	{
		service: serviceIAM, name: "AttachGroupPolicy", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "AttachGroupPolicy"}},
		records: []string{"GroupName", "PolicyArn"},
		typed:   do(nil, iam(identity.AttachGroupPolicy)),
	},
	{
		service: serviceIAM, name: "DetachGroupPolicy", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "DetachGroupPolicy"}},
		records: []string{"GroupName", "PolicyArn"},
		typed:   do(nil, iamChanges(identity.DetachGroupPolicy)),
	},
	{
		service: serviceIAM, name: "ListAttachedGroupPolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onGroup, member: "GroupName", action: "ListAttachedGroupPolicies"}},
		records: []string{"GroupName", "PathPrefix", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListAttachedGroupPolicies)),
	},
	{
		service: serviceIAM, name: "AttachRolePolicy", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "AttachRolePolicy"}},
		records: []string{"RoleName", "PolicyArn"},
		typed:   do(nil, iam(identity.AttachRolePolicy)),
	},
	{
		service: serviceIAM, name: "DetachRolePolicy", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "DetachRolePolicy"}},
		records: []string{"RoleName", "PolicyArn"},
		typed:   do(nil, iamChanges(identity.DetachRolePolicy)),
	},
	{
		service: serviceIAM, name: "ListAttachedRolePolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onRole, member: "RoleName", action: "ListAttachedRolePolicies"}},
		records: []string{"RoleName", "PathPrefix", "Marker", "MaxItems"},
		typed:   do(nil, iamReads(identity.ListAttachedRolePolicies)),
	},
	{
		service: serviceIAM, name: "PutUserPermissionsBoundary", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "PutUserPermissionsBoundary"}},
		records: []string{"UserName", "PermissionsBoundary"},
		typed:   do(nil, iam(identity.PutUserPermissionsBoundary)),
	},
	{
		service: serviceIAM, name: "DeleteUserPermissionsBoundary", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "DeleteUserPermissionsBoundary"}},
		records: []string{"UserName"},
		typed:   do(nil, iamChanges(identity.DeleteUserPermissionsBoundary)),
	},
	{
		service: serviceIAM, name: "PutRolePermissionsBoundary", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "PutRolePermissionsBoundary"}},
		records: []string{"RoleName", "PermissionsBoundary"},
		typed:   do(nil, iam(identity.PutRolePermissionsBoundary)),
	},
	{
		service: serviceIAM, name: "DeleteRolePermissionsBoundary", bucket: "iam",
		targets: []target{{kind: onRole, member: "RoleName", action: "DeleteRolePermissionsBoundary"}},
		records: []string{"RoleName"},
		typed:   do(nil, iamChanges(identity.DeleteRolePermissionsBoundary)),
	},
}
