package integration_test

import (
	"encoding/base64"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// A matrixRow is one operation of the matrix.
type matrixRow struct {
	service, operation string
	scope              scope
	foreign            bool                // works across accounts
	grantable          bool                // can be given by a grant
	keySpec            m                   // the key that every cell makes; nil for none
	in                 func(*matrixCase) m // the request; nil for none
	then               string              // the code that an authorised call ends with; empty for a success
	special            map[way]outcome     // where expectations do not hold
}

// Keys that rows ask for.
var (
	symmetricKey = m{}
	macKey       = m{"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
	signingKey   = m{"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}
	agreementKey = m{"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"}
)

// usageOf is the usage that CreateKey gives a key.
func usageOf(spec m) string {
	if usage, ok := spec["KeyUsage"]; ok {
		return usage.(string)
	}
	return "ENCRYPT_DECRYPT"
}

// grantable are the operations that a grant can allow, by the key's usage.
var grantable = map[string][]string{
	"ENCRYPT_DECRYPT": {
		"Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
		"ReEncryptFrom", "ReEncryptTo", "CreateGrant", "RetireGrant", "DescribeKey",
	},
	"GENERATE_VERIFY_MAC": {"GenerateMac", "VerifyMac", "CreateGrant", "RetireGrant", "DescribeKey"},
	"SIGN_VERIFY":         {"Sign", "Verify", "GetPublicKey", "CreateGrant", "RetireGrant", "DescribeKey"},
	"KEY_AGREEMENT":       {"DeriveSharedSecret", "GetPublicKey", "CreateGrant", "RetireGrant", "DescribeKey"},
}

// key makes a request of the key and further members, in pairs.
func key(more ...any) func(*matrixCase) m {
	return func(c *matrixCase) m {
		in := m{"KeyId": c.key}
		for i := 0; i < len(more); i += 2 {
			in[more[i].(string)] = more[i+1]
		}
		return in
	}
}

// usesKey is a row of a cryptographic operation.
func usesKey(operation string, spec m, in func(*matrixCase) m) matrixRow {
	return matrixRow{service: "kms", operation: operation, scope: onKeyScope, foreign: true, grantable: true, keySpec: spec, in: in}
}

// managesKey is a row of an operation on a key of the own account.
func managesKey(operation string, in func(*matrixCase) m) matrixRow {
	return matrixRow{service: "kms", operation: operation, scope: onKeyScope, keySpec: symmetricKey, in: in}
}

// account is a row of an operation on no resource, or on one that IAM alone
// decides about.
func account(service, operation string, in m, then string) matrixRow {
	return matrixRow{service: service, operation: operation, scope: onAccountScope, then: then, in: func(*matrixCase) m { return in }}
}

// byRoot calls as the root that owns the cell's key.
func (c *matrixCase) byRoot(operation string, in m) m {
	c.t.Helper()
	in["KeyId"] = c.key
	return c.g.mustCall(c.t, own, operation, in)
}

var digest = base64.StdEncoding.EncodeToString(make([]byte, 32))

// matrix are the operations that are served.
var matrix = slices.Concat(kmsRows, grantRows, aliasRows, iamRows(), stsRows)

var kmsRows = []matrixRow{
	usesKey("Encrypt", symmetricKey, key("Plaintext", "AA==")),
	usesKey("Decrypt", symmetricKey, func(c *matrixCase) m {
		return m{"KeyId": c.key, "CiphertextBlob": c.byRoot("Encrypt", m{"Plaintext": "AA=="})["CiphertextBlob"]}
	}),
	usesKey("ReEncrypt", symmetricKey, func(c *matrixCase) m {
		return m{"CiphertextBlob": c.byRoot("Encrypt", m{"Plaintext": "AA=="})["CiphertextBlob"], "SourceKeyId": c.key, "DestinationKeyId": c.key}
	}),
	usesKey("GenerateDataKey", symmetricKey, key("NumberOfBytes", 16)),
	usesKey("GenerateDataKeyWithoutPlaintext", symmetricKey, key("NumberOfBytes", 16)),
	usesKey("GenerateDataKeyPair", symmetricKey, key("KeyPairSpec", "ECC_NIST_P256")),
	usesKey("GenerateDataKeyPairWithoutPlaintext", symmetricKey, key("KeyPairSpec", "ECC_NIST_P256")),
	usesKey("GenerateMac", macKey, key("Message", "AA==", "MacAlgorithm", "HMAC_SHA_256")),
	usesKey("VerifyMac", macKey, func(c *matrixCase) m {
		made := c.byRoot("GenerateMac", m{"Message": "AA==", "MacAlgorithm": "HMAC_SHA_256"})
		return m{"KeyId": c.key, "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256", "Mac": made["Mac"]}
	}),
	usesKey("Sign", signingKey, key("Message", digest, "MessageType", "DIGEST", "SigningAlgorithm", "ECDSA_SHA_256")),
	usesKey("Verify", signingKey, func(c *matrixCase) m {
		in := m{"Message": digest, "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
		in["Signature"] = c.byRoot("Sign", in)["Signature"]
		return in
	}),
	usesKey("DeriveSharedSecret", agreementKey, func(c *matrixCase) m {
		return m{"KeyId": c.key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": c.byRoot("GetPublicKey", m{})["PublicKey"]}
	}),
	usesKey("GetPublicKey", signingKey, key()),
	usesKey("DescribeKey", symmetricKey, key()),
	wrongUsage(usesKey("Encapsulate", signingKey, key("EncapsulationAlgorithm", "ML_KEM"))),
	wrongUsage(usesKey("Decapsulate", signingKey, key("EncapsulationAlgorithm", "ML_KEM", "SharedSecretCiphertextBlob", "AA=="))),

	managesKey("CancelKeyDeletion", func(c *matrixCase) m {
		c.byRoot("ScheduleKeyDeletion", m{"PendingWindowInDays": 7})
		return m{"KeyId": c.key}
	}),
	managesKey("ScheduleKeyDeletion", key("PendingWindowInDays", 7)),
	managesKey("DisableKey", key()),
	managesKey("EnableKey", key()),
	managesKey("GetKeyLastUsage", key()),
	managesKey("GetKeyPolicy", key()),
	managesKey("ListKeyPolicies", key()),
	madeHere(managesKey("DeleteImportedKeyMaterial", key())),
	madeHere(managesKey("GetParametersForImport", key("WrappingAlgorithm", "RSAES_OAEP_SHA_256", "WrappingKeySpec", "RSA_2048"))),
	madeHere(managesKey("ImportKeyMaterial", key("ImportToken", "AA==", "EncryptedKeyMaterial", "AA==", "ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE"))),
	managesKey("PutKeyPolicy", func(c *matrixCase) m {
		return m{"KeyId": c.key, "Policy": document(c.t, statement("Allow", own, "kms:*")), "BypassPolicyLockoutSafetyCheck": true}
	}),
	managesKey("ListResourceTags", key()),
	managesKey("TagResource", key("Tags", []m{{"TagKey": "a", "TagValue": "b"}})),
	managesKey("UntagResource", key("TagKeys", []string{"a"})),
	managesKey("UpdateKeyDescription", key("Description", "d")),
	managesKey("EnableKeyRotation", key("RotationPeriodInDays", 90)),
	managesKey("DisableKeyRotation", key()),
	{service: "kms", operation: "GetKeyRotationStatus", scope: onKeyScope, foreign: true, keySpec: symmetricKey, in: key()},
	managesKey("ListKeyRotations", key()),
	managesKey("RotateKeyOnDemand", key()),
	madeHere(managesKey("UpdatePrimaryRegion", key("PrimaryRegion", "eu-west-1"))),
	{
		// To a region that is not served. The key in the other region is made by IAM's leave
		// alone.
		service: "kms", operation: "ReplicateKey", scope: onKeyScope, keySpec: m{"MultiRegion": true}, in: key("ReplicaRegion", "ap-nowhere-1"),
		then: "UnsupportedOperationException", special: map[way]outcome{byKeyPolicy: refusedOutcome},
	},

	account("kms", "CreateKey", m{"Tags": []m{{"TagKey": "a", "TagValue": "b"}}}, ""),
	account("kms", "GenerateRandom", m{"NumberOfBytes": 1}, ""),
	account("kms", "ListAliases", m{}, ""),
	account("kms", "ListKeys", m{}, ""),
}

// wrongUsage is a row whose key cannot do it, for want of a token that can: an
// authorised caller learns so. No grant can allow it on such a key.
func wrongUsage(r matrixRow) matrixRow {
	r.then, r.grantable = "InvalidKeyUsageException", false
	return r
}

// madeHere is a row whose key has no imported material, or no related keys: an
// authorised caller learns so.
func madeHere(r matrixRow) matrixRow {
	r.then = "UnsupportedOperationException"
	return r
}

var grantRows = []matrixRow{
	{
		service: "kms", operation: "CreateGrant", scope: onKeyScope, foreign: true, grantable: true, keySpec: symmetricKey,
		in: func(c *matrixCase) m {
			return m{"KeyId": c.key, "GranteePrincipal": c.cast.plainARN, "Operations": []string{"Encrypt"}}
		},
	},
	{service: "kms", operation: "ListGrants", scope: onKeyScope, foreign: true, keySpec: symmetricKey, in: key()},
	{
		service: "kms", operation: "RevokeGrant", scope: onKeyScope, foreign: true, keySpec: symmetricKey,
		in: func(c *matrixCase) m { return m{"KeyId": c.key, "GrantId": c.grant(rootOf(third), "Encrypt")} },
	},
	{
		// A grant that names nobody of the cast: its account may retire it, and so
		// those in it whom IAM allows. Key policies have no say.
		service: "kms", operation: "RetireGrant", scope: retireScope, keySpec: symmetricKey,
		in:      func(c *matrixCase) m { return m{"KeyId": c.key, "GrantId": c.grant(rootOf(third), "Encrypt")} },
		special: map[way]outcome{byIdentity: authorised, undelegated: authorised, roleSession: authorised, keyPolicyDenies: authorised},
	},
	{
		service: "kms", operation: "ListRetirableGrants", scope: onAccountScope,
		in: func(c *matrixCase) m {
			if fromOutside[c.way] {
				return m{"RetiringPrincipal": rootOf(other)}
			}
			return m{"RetiringPrincipal": rootOf(own)}
		},
	},
}

// aliasName is an alias that nobody else has.
func (c *matrixCase) aliasName() string { return "alias/matrix-" + idOf(c.key) }

// taken makes the alias point at the cell's key.
func (c *matrixCase) taken() string {
	c.t.Helper()
	c.g.mustCall(c.t, own, "CreateAlias", m{"AliasName": c.aliasName(), "TargetKeyId": c.key})
	return c.aliasName()
}

var aliasRows = []matrixRow{
	{
		service: "kms", operation: "CreateAlias", scope: onAliasScope, keySpec: symmetricKey,
		in: func(c *matrixCase) m { return m{"AliasName": c.aliasName(), "TargetKeyId": c.key} },
	},
	{
		service: "kms", operation: "DeleteAlias", scope: onAliasScope, keySpec: symmetricKey,
		in: func(c *matrixCase) m { return m{"AliasName": c.taken()} }, then: "NotFoundException",
		// A name means an alias of the caller's own account, where there is none.
		special: map[way]outcome{wrongAccount: authorised, invited: authorised, foreignGrant: authorised},
	},
	{
		service: "kms", operation: "UpdateAlias", scope: onAliasScope, keySpec: symmetricKey,
		in: func(c *matrixCase) m { return m{"AliasName": c.taken(), "TargetKeyId": c.key} }, then: "NotFoundException",
		special: map[way]outcome{wrongAccount: authorised, invited: authorised, foreignGrant: authorised},
	},
}

// iamRows are IAM's operations on things that are not there: whoever is allowed
// learns that, and nothing is changed.
func iamRows() (rows []matrixRow) {
	const absent, policyARN = "matrix-absent", "arn:aws:iam::" + own + ":policy/matrix-absent"
	const provider = "arn:aws:iam::" + own + ":oidc-provider/absent.example.com"
	user, group, role := m{"UserName": absent}, m{"GroupName": absent}, m{"RoleName": absent}
	with := func(base m, more ...string) m {
		in := m{}
		for k, v := range base {
			in[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			in[more[i]] = more[i+1]
		}
		return in
	}
	const doc = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}`
	const trust = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + own + `"},"Action":"sts:AssumeRole"}}`
	missing := map[string]m{
		"GetUser": user, "DeleteUser": user, "ListUserTags": user, "TagUser": with(user, "Tags.member.1.Key", "a", "Tags.member.1.Value", "b"),
		"UntagUser": with(user, "TagKeys.member.1", "a"), "ListGroupsForUser": user, "ListUserPolicies": user,
		"PutUserPolicy": with(user, "PolicyName", "p", "PolicyDocument", doc), "GetUserPolicy": with(user, "PolicyName", "p"),
		"DeleteUserPolicy": with(user, "PolicyName", "p"), "CreateAccessKey": user, "ListAccessKeys": user,
		"UpdateAccessKey": with(user, "AccessKeyId", "AKIAAAAAAAAAAAAAAAAA", "Status", "Inactive"),
		"DeleteAccessKey": with(user, "AccessKeyId", "AKIAAAAAAAAAAAAAAAAA"),
		"GetGroup":        group, "DeleteGroup": group, "AddUserToGroup": with(group, "UserName", absent), "RemoveUserFromGroup": with(group, "UserName", absent),
		"ListGroupPolicies": group, "PutGroupPolicy": with(group, "PolicyName", "p", "PolicyDocument", doc),
		"GetGroupPolicy": with(group, "PolicyName", "p"), "DeleteGroupPolicy": with(group, "PolicyName", "p"),
		"GetRole": role, "DeleteRole": role, "UpdateRole": role, "UpdateRoleDescription": with(role, "Description", "d"),
		"ListInstanceProfilesForRole": role, "UpdateAssumeRolePolicy": with(role, "PolicyDocument", trust),
		"TagRole": with(role, "Tags.member.1.Key", "a", "Tags.member.1.Value", "b"), "UntagRole": with(role, "TagKeys.member.1", "a"), "ListRoleTags": role,
		"ListRolePolicies": role, "PutRolePolicy": with(role, "PolicyName", "p", "PolicyDocument", doc),
		"GetRolePolicy": with(role, "PolicyName", "p"), "DeleteRolePolicy": with(role, "PolicyName", "p"),
		"GetPolicy": {"PolicyArn": policyARN}, "GetPolicyVersion": {"PolicyArn": policyARN, "VersionId": "v1"},
		"ListPolicyVersions": {"PolicyArn": policyARN}, "DeletePolicy": {"PolicyArn": policyARN}, "ListEntitiesForPolicy": {"PolicyArn": policyARN},
		"AttachUserPolicy": with(user, "PolicyArn", policyARN), "DetachUserPolicy": with(user, "PolicyArn", policyARN),
		"AttachGroupPolicy": with(group, "PolicyArn", policyARN), "DetachGroupPolicy": with(group, "PolicyArn", policyARN),
		"AttachRolePolicy": with(role, "PolicyArn", policyARN), "DetachRolePolicy": with(role, "PolicyArn", policyARN),
		"ListAttachedUserPolicies": user, "ListAttachedGroupPolicies": group, "ListAttachedRolePolicies": role,
		"PutUserPermissionsBoundary": with(user, "PermissionsBoundary", policyARN), "DeleteUserPermissionsBoundary": user,
		"PutRolePermissionsBoundary": with(role, "PermissionsBoundary", policyARN), "DeleteRolePermissionsBoundary": role,
		"GetOpenIDConnectProvider": {"OpenIDConnectProviderArn": provider}, "DeleteOpenIDConnectProvider": {"OpenIDConnectProviderArn": provider},
		"AddClientIDToOpenIDConnectProvider":      {"OpenIDConnectProviderArn": provider, "ClientID": "c"},
		"RemoveClientIDFromOpenIDConnectProvider": {"OpenIDConnectProviderArn": provider, "ClientID": "c"},
		"GetAccessKeyLastUsed":                    {"AccessKeyId": "AKIAAAAAAAAAAAAAAAAA"},
	}
	for operation, in := range missing {
		rows = append(rows, account("iam", operation, in, "NoSuchEntity"))
	}
	for _, operation := range []string{"ListUsers", "ListGroups", "ListRoles", "ListPolicies", "ListOpenIDConnectProviders"} {
		rows = append(rows, account("iam", operation, m{}, ""))
	}
	made := func(operation, member string, more ...string) {
		rows = append(rows, matrixRow{service: "iam", operation: operation, scope: onAccountScope, in: func(c *matrixCase) m {
			return with(m{member: c.fresh()}, more...)
		}})
	}
	made("CreateUser", "UserName")
	made("CreateGroup", "GroupName")
	made("CreateRole", "RoleName", "AssumeRolePolicyDocument", trust)
	made("CreatePolicy", "PolicyName", "PolicyDocument", doc)
	return append(rows, matrixRow{service: "iam", operation: "CreateOpenIDConnectProvider", scope: onAccountScope, in: func(c *matrixCase) m {
		return m{"Url": "https://" + c.fresh() + ".example.com", "ClientIDList.member.1": "c"}
	}})
}

// fresh is a name that no other cell has.
func (c *matrixCase) fresh() string { return "matrix-" + strconv.Itoa(slices.Index(ways, c.way)) }

var stsRows = []matrixRow{
	{service: "sts", operation: "GetCallerIdentity", scope: freeScope},
	{
		// Temporary credentials get no more of themselves.
		service: "sts", operation: "GetSessionToken", scope: freeScope,
		special: map[way]outcome{roleSession: refusedOutcome, sessionPolicy: refusedOutcome},
	},
	{
		// The role trusts its account: IAM decides there, and nowhere else.
		service: "sts", operation: "AssumeRole", scope: trustScope,
		in:      func(c *matrixCase) m { return m{"RoleArn": c.cast.role, "RoleSessionName": "matrix"} },
		special: map[way]outcome{byIdentity: authorised, undelegated: authorised, keyPolicyDenies: authorised, roleSession: authorised},
	},
	{
		// Nobody signs it: the token says who calls, and this one says nothing.
		service: "sts", operation: "AssumeRoleWithWebIdentity", scope: freeScope, then: "InvalidIdentityToken",
		in: func(c *matrixCase) m {
			return m{"RoleArn": c.cast.role, "RoleSessionName": "matrix", "WebIdentityToken": "no.token.atall"}
		},
		special: map[way]outcome{nobody: authorised},
	},
}

// servedEverywhere are the operations of all services that are served, as
// service:operation: of KMS those of served, of the others whatever the SDK has
// and is not refused as unknown.
func servedEverywhere(t *testing.T, g *instance) (all []string) {
	t.Helper()
	for _, operation := range served {
		all = append(all, "kms:"+operation)
	}
	for service, client := range map[string]reflect.Type{"iam": reflect.TypeFor[*iam.Client](), "sts": reflect.TypeFor[*sts.Client]()} {
		for i := range client.NumMethod() {
			method := client.Method(i)
			if method.Type.NumIn() != 4 || method.Type.In(2).String() != "*"+service+"."+method.Name+"Input" {
				continue
			}
			// A parameter that nothing has: a served operation refuses it before anything else.
			a := g.do(t, g.root(third), true, service, method.Name, m{"NoSuchParameter": "x"})
			if a.code(t) != "InvalidAction" {
				all = append(all, service+":"+method.Name)
			}
		}
	}
	slices.Sort(all)
	return all
}
