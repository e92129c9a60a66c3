package gateway

import (
	"slices"

	"kmsgate/gateway/arn"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// Sets of key states in which operations are allowed (KMS Developer Guide,
// "Key states of AWS KMS keys").
var (
	usable     = metadata.Enabled.Set() | metadata.Updating.Set() // cryptographic operations
	readable   = usable | metadata.Disabled.Set()                 // public keys
	manageable = metadata.Manageable
	switchable = metadata.Switchable
)

// encrypts is the target of operations that use a symmetric key to encrypt.
func encrypts(side, action string) target {
	return target{
		kind: onKey, member: side + "KeyId", side: side, action: action, forms: arn.AnyForm, foreign: true,
		usage: keyspec.EncryptDecrypt, states: usable,
	}
}

// decrypts is the target of operations that open a ciphertext.
func decrypts(side, action string) target {
	return target{
		kind: onCiphertext, member: side + "KeyId", side: side, blob: "CiphertextBlob", action: action, forms: arn.AnyForm, foreign: true,
		usage: keyspec.EncryptDecrypt, states: usable,
	}
}

// uses is the target of operations that use a key of another usage.
func uses(action string, usage keyspec.Usage) []target {
	return []target{{kind: onKey, member: "KeyId", action: action, forms: arn.AnyForm, foreign: true, usage: usage, states: usable}}
}

// manages is the target of operations on a key of the caller's own account.
func manages(action string, states metadata.States) target {
	return target{kind: onKey, member: "KeyId", action: action, forms: arn.KeyForms, states: states}
}

// account is the target of operations that name no resource.
func account(action string) []target { return []target{{kind: onAccount, action: action}} }

func alias(action string) target {
	return target{kind: onAlias, member: "AliasName", action: action, forms: arn.AliasName}
}

func aliasTarget(action string) target {
	return target{kind: onAliasTarget, member: "AliasName", action: action, forms: arn.AliasName}
}

func aliasNewTarget(action string) target {
	return target{kind: onKey, member: "TargetKeyId", action: action, forms: arn.KeyForms, states: manageable}
}

// operations is the API: every operation that is served. What is not served
// stands in refusals, with its reason.
var operations = slices.Concat(kmsOperations, importOperations, deletionOperations, replicaOperations, primaryOperations, rotationOperations, useOperations, grantOperations, stsOperations, userOperations, roleOperations)

// kmsOperations are the operations on keys and aliases.
var kmsOperations = []operation{
	{
		service: serviceKMS, name: "CreateAlias", bucket: "CreateAlias",
		targets: []target{alias("CreateAlias"), aliasNewTarget("CreateAlias")},
		records: []string{"AliasName", "TargetKeyId"},
		typed:   do(completeCreateAlias, (*call).createAlias),
	},
	{
		service: serviceKMS, name: "CreateKey", bucket: "CreateKey",
		targets: []target{{kind: onAccount, action: "CreateKey"}, {kind: onAccount, action: "TagResource", member: "Tags", optional: true}},
		records: []string{
			"Description", "KeyUsage", "KeySpec", "CustomerMasterKeySpec", "Origin", "Policy", "Tags",
			"MultiRegion", "BypassPolicyLockoutSafetyCheck", "CustomKeyStoreId", "XksKeyId",
		},
		makes: "KeySpec",
		typed: do(completeCreateKey, (*call).createKey),
	},
	{
		service: serviceKMS, name: "Decapsulate", bucket: mlKEMCrypto, readOnly: true,
		targets: uses("Decapsulate", keyspec.EncapsulateDecapsulate),
		records: []string{"KeyId", "EncapsulationAlgorithm", "DryRun"},
		typed:   do(nil, (*call).decapsulate),
	},
	{
		service: serviceKMS, name: "Decrypt", bucket: anyCrypto, draws: byKeys, readOnly: true,
		targets: []target{decrypts("", "Decrypt")},
		records: []string{"KeyId", "EncryptionAlgorithm", "EncryptionContext", "DryRun", "DryRunModifiers"},
		typed:   do(completeDecrypt, (*call).decrypt),
	},
	{
		service: serviceKMS, name: "DeleteAlias", bucket: "DeleteAlias",
		targets: []target{alias("DeleteAlias"), aliasTarget("DeleteAlias")},
		records: []string{"AliasName"},
		typed:   do(completeDeleteAlias, (*call).deleteAlias),
	},
	{
		service: serviceKMS, name: "DeriveSharedSecret", bucket: eccCrypto, readOnly: true,
		targets: uses("DeriveSharedSecret", keyspec.KeyAgreement),
		records: []string{"KeyId", "KeyAgreementAlgorithm", "DryRun"},
		typed:   do(nil, (*call).deriveSharedSecret),
	},
	{
		service: serviceKMS, name: "DescribeKey", bucket: "DescribeKey", readOnly: true,
		targets: []target{{kind: onKey, member: "KeyId", action: "DescribeKey", forms: arn.AnyForm, foreign: true}},
		records: []string{"KeyId"},
		typed:   do(nil, (*call).describeKey),
	},
	{
		service: serviceKMS, name: "DisableKey", bucket: "DisableKey",
		targets: []target{manages("DisableKey", switchable)}, records: []string{"KeyId"},
		typed: do(nil, (*call).disableKey),
	},
	{
		service: serviceKMS, name: "EnableKey", bucket: "EnableKey",
		targets: []target{manages("EnableKey", switchable)}, records: []string{"KeyId"},
		typed: do(nil, (*call).enableKey),
	},
	{
		service: serviceKMS, name: "Encapsulate", bucket: mlKEMCrypto, readOnly: true,
		targets: uses("Encapsulate", keyspec.EncapsulateDecapsulate),
		records: []string{"KeyId", "EncapsulationAlgorithm", "DryRun"},
		typed:   do(nil, (*call).encapsulate),
	},
	{
		service: serviceKMS, name: "Encrypt", bucket: anyCrypto, draws: byKeys, readOnly: true,
		targets: []target{encrypts("", "Encrypt")},
		records: []string{"KeyId", "EncryptionAlgorithm", "EncryptionContext", "DryRun"},
		typed:   do(completeEncrypt, (*call).encrypt),
	},
	{
		service: serviceKMS, name: "GenerateDataKey", bucket: symmetricCrypto, readOnly: true,
		targets: []target{encrypts("", "GenerateDataKey")},
		records: []string{"KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext", "DryRun"},
		typed:   do(completeGenerateDataKey, (*call).generateDataKey),
	},
	{
		service: serviceKMS, name: "GenerateDataKeyPair", bucket: anyCrypto, draws: byPairSpec, readOnly: true,
		targets: []target{encrypts("", "GenerateDataKeyPair")},
		records: []string{"KeyId", "KeyPairSpec", "EncryptionContext", "DryRun"},
		makes:   "KeyPairSpec",
		typed:   do(completeGenerateDataKeyPair, (*call).generateDataKeyPair),
	},
	{
		service: serviceKMS, name: "GenerateDataKeyPairWithoutPlaintext", bucket: anyCrypto, draws: byPairSpec, readOnly: true,
		targets: []target{encrypts("", "GenerateDataKeyPairWithoutPlaintext")},
		records: []string{"KeyId", "KeyPairSpec", "EncryptionContext", "DryRun"},
		makes:   "KeyPairSpec",
		typed:   do(completeGenerateDataKeyPairWithoutPlaintext, (*call).generateDataKeyPairWithoutPlaintext),
	},
	{
		service: serviceKMS, name: "GenerateDataKeyWithoutPlaintext", bucket: symmetricCrypto, readOnly: true,
		targets: []target{encrypts("", "GenerateDataKeyWithoutPlaintext")},
		records: []string{"KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext", "DryRun"},
		typed:   do(completeGenerateDataKeyWithoutPlaintext, (*call).generateDataKeyWithoutPlaintext),
	},
	{
		service: serviceKMS, name: "GenerateMac", bucket: symmetricCrypto, readOnly: true,
		targets: uses("GenerateMac", keyspec.GenerateVerifyMAC),
		records: []string{"KeyId", "MacAlgorithm", "DryRun"},
		typed:   do(nil, (*call).generateMac),
	},
	{
		service: serviceKMS, name: "GenerateRandom", bucket: symmetricCrypto, readOnly: true,
		targets: account("GenerateRandom"), records: []string{"NumberOfBytes", "CustomKeyStoreId"},
		typed: do(completeGenerateRandom, (*call).generateRandom),
	},
	{
		service: serviceKMS, name: "GetKeyPolicy", bucket: "GetKeyPolicy", readOnly: true,
		targets: []target{manages("GetKeyPolicy", 0)}, records: []string{"KeyId", "PolicyName"},
		typed: do(nil, (*call).getKeyPolicy),
	},
	{
		service: serviceKMS, name: "GetPublicKey", bucket: "GetPublicKey", readOnly: true,
		targets: []target{{
			kind: onKey, member: "KeyId", action: "GetPublicKey", forms: arn.AnyForm, foreign: true, public: true, states: readable,
		}},
		records: []string{"KeyId"},
		typed:   do(nil, (*call).getPublicKey),
	},
	{
		service: serviceKMS, name: "ListAliases", bucket: "ListAliases", readOnly: true,
		targets: []target{{kind: onAccount, action: "ListAliases"}},
		records: []string{"KeyId", "Limit", "Marker"},
		typed:   do(nil, (*call).listAliases),
	},
	{
		service: serviceKMS, name: "ListKeyPolicies", bucket: "ListKeyPolicies", readOnly: true,
		targets: []target{manages("ListKeyPolicies", 0)}, records: []string{"KeyId", "Limit", "Marker"},
		typed: do(nil, (*call).listKeyPolicies),
	},
	{
		service: serviceKMS, name: "ListKeys", bucket: "ListKeys", readOnly: true,
		targets: account("ListKeys"), records: []string{"Limit", "Marker"},
		typed: do(nil, (*call).listKeys),
	},
	{
		service: serviceKMS, name: "ListResourceTags", bucket: "ListResourceTags", readOnly: true,
		targets: []target{manages("ListResourceTags", 0)}, records: []string{"KeyId", "Limit", "Marker"},
		typed: do(nil, (*call).listResourceTags),
	},
	{
		service: serviceKMS, name: "PutKeyPolicy", bucket: "PutKeyPolicy",
		targets: []target{manages("PutKeyPolicy", 0)},
		records: []string{"KeyId", "PolicyName", "Policy", "BypassPolicyLockoutSafetyCheck"},
		typed:   do(nil, (*call).putKeyPolicy),
	},
	{
		service: serviceKMS, name: "ReEncrypt", bucket: anyCrypto, draws: byKeys, readOnly: true,
		targets: []target{decrypts("Source", "ReEncryptFrom"), encrypts("Destination", "ReEncryptTo")},
		records: []string{
			"SourceKeyId", "SourceEncryptionAlgorithm", "SourceEncryptionContext",
			"DestinationKeyId", "DestinationEncryptionAlgorithm", "DestinationEncryptionContext", "DryRun", "DryRunModifiers",
		},
		typed: do(completeReEncrypt, (*call).reEncrypt),
	},
	{
		service: serviceKMS, name: "Sign", bucket: anyCrypto, draws: byKeys, readOnly: true,
		targets: uses("Sign", keyspec.SignVerify),
		records: []string{"KeyId", "SigningAlgorithm", "MessageType", "DryRun"},
		typed:   do(completeSign, (*call).sign),
	},
	{
		service: serviceKMS, name: "TagResource", bucket: "TagResource",
		targets: []target{manages("TagResource", manageable)}, records: []string{"KeyId", "Tags"},
		typed: do(nil, (*call).tagResource),
	},
	{
		service: serviceKMS, name: "UntagResource", bucket: "UntagResource",
		targets: []target{manages("UntagResource", manageable)}, records: []string{"KeyId", "TagKeys"},
		typed: do(nil, (*call).untagResource),
	},
	{
		service: serviceKMS, name: "UpdateAlias", bucket: "UpdateAlias",
		targets: []target{alias("UpdateAlias"), aliasTarget("UpdateAlias"), aliasNewTarget("UpdateAlias")},
		records: []string{"AliasName", "TargetKeyId"},
		typed:   do(completeUpdateAlias, (*call).updateAlias),
	},
	{
		service: serviceKMS, name: "UpdateKeyDescription", bucket: "UpdateKeyDescription",
		targets: []target{manages("UpdateKeyDescription", manageable)}, records: []string{"KeyId", "Description"},
		typed: do(nil, (*call).updateKeyDescription),
	},
	{
		service: serviceKMS, name: "Verify", bucket: anyCrypto, draws: byKeys, readOnly: true,
		targets: uses("Verify", keyspec.SignVerify),
		records: []string{"KeyId", "SigningAlgorithm", "MessageType", "DryRun"},
		typed:   do(completeVerify, (*call).verify),
	},
	{
		service: serviceKMS, name: "VerifyMac", bucket: symmetricCrypto, readOnly: true,
		targets: uses("VerifyMac", keyspec.GenerateVerifyMAC),
		records: []string{"KeyId", "MacAlgorithm", "DryRun"},
		typed:   do(nil, (*call).verifyMac),
	},
}
