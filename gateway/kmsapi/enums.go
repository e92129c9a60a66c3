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

// Managers of keys. Keys here are the customer's.
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
	// AWS prints the key specs here too, and never the two that it takes.
	"DataKeySpec":            {values: texts([]DataKeySpec{AES256, AES128}), printed: specs(func(keyspec.Spec) bool { return true })},
	"DryRunModifier":         {values: texts([]DryRunModifier{IgnoreCiphertext})},
	"KeyEncryptionMechanism": {values: texts([]KeyEncryptionMechanism{RSAESOAEPSHA256})},
}

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
