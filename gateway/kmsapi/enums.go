package kmsapi

import (
	"slices"

	"kmsgate/hsm/keyspec"
)

// KeyState is the state of a key (KMS Developer Guide, "Key states").
type KeyState string

// States of keys.
const (
	Creating               KeyState = "Creating"
	Enabled                KeyState = "Enabled"
	Disabled               KeyState = "Disabled"
	PendingDeletion        KeyState = "PendingDeletion"
	PendingImport          KeyState = "PendingImport"
	PendingReplicaDeletion KeyState = "PendingReplicaDeletion"
	Unavailable            KeyState = "Unavailable"
	Updating               KeyState = "Updating"
)

// KeyManager says whose a key is.
type KeyManager string

// Managers of keys. Keys that belong to a service of the site are AWS's.
const (
	ManagedByAWS      KeyManager = "AWS"
	ManagedByCustomer KeyManager = "CUSTOMER"
)

// ExpirationModel says whether imported material expires.
type ExpirationModel string

// Expiration models of imported material.
const (
	KeyMaterialExpires       ExpirationModel = "KEY_MATERIAL_EXPIRES"
	KeyMaterialDoesNotExpire ExpirationModel = "KEY_MATERIAL_DOES_NOT_EXPIRE"
)

// MultiRegionKeyType is the part that a multi-Region key plays among its relatives.
type MultiRegionKeyType string

// Types of multi-Region keys.
const (
	Primary MultiRegionKeyType = "PRIMARY"
	Replica MultiRegionKeyType = "REPLICA"
)

// KeyType is a key's class as UpdateAlias tells them apart.
type KeyType string

// Types of keys with the usage ENCRYPT_DECRYPT.
const (
	Symmetric  KeyType = "SYMMETRIC"
	Asymmetric KeyType = "ASYMMETRIC"
)

// DataKeySpec is the size of a data key by name.
type DataKeySpec string

// Data key specs: 32 and 16 bytes.
const (
	AES256 DataKeySpec = "AES_256"
	AES128 DataKeySpec = "AES_128"
)

// DryRunModifier changes what a trial looks at.
type DryRunModifier string

// IgnoreCiphertext tries the authorisation alone; the ciphertext may be absent.
const IgnoreCiphertext DryRunModifier = "IGNORE_CIPHERTEXT"

// KeyEncryptionMechanism is how a result is encrypted to a recipient.
type KeyEncryptionMechanism string

// RSAESOAEPSHA256 is the only mechanism.
const RSAESOAEPSHA256 KeyEncryptionMechanism = "RSAES_OAEP_SHA_256"

// enumSet is an enum as AWS checks and prints it.
type enumSet struct {
	values  []string
	printed []string // in AWS's order; nil if the same as values
}

// enums are the enums of request members, by the name in the constraint tag.
var enums = map[string]enumSet{
	"KeySpec": {values: specs(func(keyspec.Spec) bool { return true })},
	"CustomerMasterKeySpec": {values: specs(func(s keyspec.Spec) bool {
		return !slices.Contains(newerThanCustomerMasterKeySpec, s)
	})},
	"KeyUsage":            {values: texts(keyspec.Usages)},
	"Origin":              {values: texts(keyspec.Origins)},
	"EncryptionAlgorithm": {values: []string{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE", "SYMMETRIC_DEFAULT"}},
	// AWS takes SYMMETRIC_DEFAULT here and refuses it as no algorithm of the key.
	"SigningAlgorithm":       {values: append(texts(signingAlgorithms), "SYMMETRIC_DEFAULT"), printed: texts(signingAlgorithms)},
	"MessageType":            {values: texts([]keyspec.MessageType{keyspec.Raw, keyspec.Digest, keyspec.ExternalMu})},
	"MacAlgorithm":           {values: []string{"HMAC_SHA_384", "HMAC_SHA_256", "HMAC_SHA_224", "HMAC_SHA_512"}}, // AWS's order
	"KeyAgreementAlgorithm":  {values: texts([]keyspec.Algorithm{keyspec.ECDH})},
	"EncapsulationAlgorithm": {values: texts([]keyspec.Algorithm{keyspec.MLKEM})},
	// AWS prints the key specs here too, and never the two that it takes.
	"DataKeySpec":            {values: texts([]DataKeySpec{AES256, AES128}), printed: specs(func(keyspec.Spec) bool { return true })},
	"DataKeyPairSpec":        {values: specs(isDataKeyPairSpec)},
	"DryRunModifier":         {values: texts([]DryRunModifier{IgnoreCiphertext})},
	"WrappingAlgorithm":      {values: texts(wrappingAlgorithms)},
	"WrappingKeySpec":        {values: texts([]keyspec.Spec{keyspec.RSA2048, keyspec.RSA3072, keyspec.RSA4096, keyspec.SM2})},
	"ExpirationModel":        {values: texts([]ExpirationModel{KeyMaterialExpires, KeyMaterialDoesNotExpire})},
	"ImportType":             {values: texts([]ImportType{NewKeyMaterial, ExistingKeyMaterial})},
	"GrantOperation":         {values: texts(grantOperations)},
	"KeyEncryptionMechanism": {values: texts([]KeyEncryptionMechanism{RSAESOAEPSHA256})},
	"IncludeKeyMaterial":     {values: texts([]IncludeKeyMaterial{AllKeyMaterial, RotationsOnly})},
	"IAMPolicyScope":         {values: []string{"All", "AWS", "Local"}},
	"IAMPolicyUsage":         {values: []string{"PermissionsPolicy", "PermissionsBoundary"}},
	"IAMEntityType":          {values: []string{"User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy"}},
	"AccessKeyStatus":        {values: []string{"Active", "Inactive"}},
}

// signingAlgorithms is the enum of Sign and Verify.
var signingAlgorithms = []keyspec.Algorithm{
	keyspec.RSASSAPSSSHA256, keyspec.RSASSAPSSSHA384, keyspec.RSASSAPSSSHA512,
	keyspec.RSASSAPKCS1V15SHA256, keyspec.RSASSAPKCS1V15SHA384, keyspec.RSASSAPKCS1V15SHA512,
	keyspec.ECDSASHA256, keyspec.ECDSASHA384, keyspec.ECDSASHA512,
	keyspec.Ed25519SHA512, keyspec.Ed25519PHSHA512, keyspec.SM2DSA, keyspec.MLDSASHAKE256,
}

// notDataKeyPairs are the specs of which there are no data key pairs: those of
// secret keys, and ML-DSA's.
var notDataKeyPairs = []keyspec.Spec{
	keyspec.SymmetricDefault, keyspec.HMAC224, keyspec.HMAC256, keyspec.HMAC384, keyspec.HMAC512,
	keyspec.MLDSA44, keyspec.MLDSA65, keyspec.MLDSA87,
}

func isDataKeyPairSpec(s keyspec.Spec) bool { return !slices.Contains(notDataKeyPairs, s) }

// newerThanCustomerMasterKeySpec are the specs that came after that member was
// deprecated and that its enum does not have.
var newerThanCustomerMasterKeySpec = []keyspec.Spec{
	keyspec.ECCNISTEdwards25519,
	keyspec.MLDSA44, keyspec.MLDSA65, keyspec.MLDSA87,
	keyspec.MLKEM512, keyspec.MLKEM768, keyspec.MLKEM1024,
}

func specs(wanted func(keyspec.Spec) bool) []string {
	var names []string
	for _, row := range keyspec.Specs {
		if wanted(row.Spec) {
			names = append(names, string(row.Spec))
		}
	}
	return names
}

func texts[T ~string](values []T) []string {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = string(v)
	}
	return names
}
