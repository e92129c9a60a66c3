package gateway

import "kmsgate/gateway/identity"

// userOperations are IAM's operations on users, groups and access keys.
var userOperations = []operation{
	{
		service: serviceIAM, name: "CreateUser", bucket: "iam",
		targets: []target{
			{kind: onUser, member: "UserName", action: "CreateUser", makes: true},
			{kind: onUser, member: "UserName", action: "TagUser", makes: true, with: "Tags"},
		},
		records: []string{"UserName", "Path", "PermissionsBoundary", "Tags"}, typed: do(nil, iamChanges(identity.CreateUser)),
	},
	{
		service: serviceIAM, name: "GetUser", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "GetUser", self: true}},
		records: []string{"UserName"}, typed: do(nil, iamReads(identity.GetUser)),
	},
	{
		service: serviceIAM, name: "ListUsers", bucket: "iam", readOnly: true,
		targets: []target{{kind: onAccount, action: "ListUsers"}},
		records: []string{"PathPrefix", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListUsers)),
	},
	{
		service: serviceIAM, name: "DeleteUser", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "DeleteUser"}},
		records: []string{"UserName"}, typed: do(nil, iamChanges(identity.DeleteUser)),
	},
	{
		service: serviceIAM, name: "TagUser", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "TagUser"}},
		records: []string{"UserName", "Tags"}, typed: do(nil, iamChanges(identity.TagUser)),
	},
	{
		service: serviceIAM, name: "UntagUser", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "UntagUser"}},
		records: []string{"UserName", "TagKeys"}, typed: do(nil, iamChanges(identity.UntagUser)),
	},
	{
		service: serviceIAM, name: "ListUserTags", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "ListUserTags"}},
		records: []string{"UserName", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListUserTags)),
	},
	{
		service: serviceIAM, name: "PutUserPolicy", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "PutUserPolicy"}},
		records: []string{"UserName", "PolicyName", "PolicyDocument"}, typed: do(nil, iamChanges(identity.PutUserPolicy)),
	},
	{
		service: serviceIAM, name: "GetUserPolicy", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "GetUserPolicy"}},
		records: []string{"UserName", "PolicyName"}, typed: do(nil, iamReads(identity.GetUserPolicy)),
	},
	{
		service: serviceIAM, name: "DeleteUserPolicy", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "DeleteUserPolicy"}},
		records: []string{"UserName", "PolicyName"}, typed: do(nil, iamChanges(identity.DeleteUserPolicy)),
	},
	{
		service: serviceIAM, name: "ListUserPolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "ListUserPolicies"}},
		records: []string{"UserName", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListUserPolicies)),
	},
	{
		service: serviceIAM, name: "PutGroupPolicy", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "PutGroupPolicy"}},
		records: []string{"GroupName", "PolicyName", "PolicyDocument"}, typed: do(nil, iamChanges(identity.PutGroupPolicy)),
	},
	{
		service: serviceIAM, name: "GetGroupPolicy", bucket: "iam", readOnly: true,
		targets: []target{{kind: onGroup, member: "GroupName", action: "GetGroupPolicy"}},
		records: []string{"GroupName", "PolicyName"}, typed: do(nil, iamReads(identity.GetGroupPolicy)),
	},
	{
		service: serviceIAM, name: "DeleteGroupPolicy", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "DeleteGroupPolicy"}},
		records: []string{"GroupName", "PolicyName"}, typed: do(nil, iamChanges(identity.DeleteGroupPolicy)),
	},
	{
		service: serviceIAM, name: "ListGroupPolicies", bucket: "iam", readOnly: true,
		targets: []target{{kind: onGroup, member: "GroupName", action: "ListGroupPolicies"}},
		records: []string{"GroupName", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListGroupPolicies)),
	},
	{
		service: serviceIAM, name: "CreateGroup", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "CreateGroup", makes: true}},
		records: []string{"GroupName", "Path"}, typed: do(nil, iamChanges(identity.CreateGroup)),
	},
	{
		service: serviceIAM, name: "GetGroup", bucket: "iam", readOnly: true,
		targets: []target{{kind: onGroup, member: "GroupName", action: "GetGroup"}},
		records: []string{"GroupName", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.GetGroup)),
	},
	{
		service: serviceIAM, name: "ListGroups", bucket: "iam", readOnly: true,
		targets: []target{{kind: onAccount, action: "ListGroups"}},
		records: []string{"PathPrefix", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListGroups)),
	},
	{
		service: serviceIAM, name: "ListGroupsForUser", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "ListGroupsForUser"}},
		records: []string{"UserName", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListGroupsForUser)),
	},
	{
		service: serviceIAM, name: "DeleteGroup", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "DeleteGroup"}},
		records: []string{"GroupName"}, typed: do(nil, iamChanges(identity.DeleteGroup)),
	},
	{
		service: serviceIAM, name: "AddUserToGroup", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "AddUserToGroup"}},
		records: []string{"GroupName", "UserName"}, typed: do(nil, iamChanges(identity.AddUserToGroup)),
	},
	{
		service: serviceIAM, name: "RemoveUserFromGroup", bucket: "iam",
		targets: []target{{kind: onGroup, member: "GroupName", action: "RemoveUserFromGroup"}},
		records: []string{"GroupName", "UserName"}, typed: do(nil, iamChanges(identity.RemoveUserFromGroup)),
	},
	{
		service: serviceIAM, name: "CreateAccessKey", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "CreateAccessKey", self: true}},
		records: []string{"UserName"}, typed: do(nil, iam(identity.CreateAccessKey)),
	},
	{
		service: serviceIAM, name: "ListAccessKeys", bucket: "iam", readOnly: true,
		targets: []target{{kind: onUser, member: "UserName", action: "ListAccessKeys", self: true}},
		records: []string{"UserName", "Marker", "MaxItems"}, typed: do(nil, iamReads(identity.ListAccessKeys)),
	},
	{
		service: serviceIAM, name: "UpdateAccessKey", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "UpdateAccessKey", self: true}},
		records: []string{"UserName", "AccessKeyId", "Status"}, typed: do(nil, iamChanges(identity.UpdateAccessKey)),
	},
	{
		service: serviceIAM, name: "DeleteAccessKey", bucket: "iam",
		targets: []target{{kind: onUser, member: "UserName", action: "DeleteAccessKey", self: true}},
		records: []string{"UserName", "AccessKeyId"}, typed: do(nil, iamChanges(identity.DeleteAccessKey)),
	},
	{
		service: serviceIAM, name: "GetAccessKeyLastUsed", bucket: "iam", readOnly: true,
		targets: []target{{kind: onHolder, member: "AccessKeyId", action: "GetAccessKeyLastUsed"}},
		records: []string{"AccessKeyId"}, typed: do(nil, iamReads(identity.GetAccessKeyLastUsed)),
	},
}
