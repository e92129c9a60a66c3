package kmsapi

import "kmsgate/hsm/keyspec"

// ExternalKeySpec refuses a key of a spec for which no material can be imported.
func ExternalKeySpec(s keyspec.Spec) *Error {
	return &Error{UnsupportedOperationException, "KeySpec " + string(s) + " is not supported for Origin EXTERNAL"}
}

// WrappingNotServed refuses a wrapping algorithm that is not served: what AWS has
// withdrawn, and SM2PKE.
func WrappingNotServed(a keyspec.WrappingAlgorithm) *Error {
	return &Error{UnsupportedOperationException, "WrappingAlgorithm " + string(a) + " is not supported."}
}

// WrappingKeySpecNotServed refuses a wrapping key of a spec that is not served.
func WrappingKeySpecNotServed(s keyspec.Spec) *Error {
	return &Error{UnsupportedOperationException, "WrappingKeySpec " + string(s) + " is not supported."}
}

// WrappingIncompatible refuses a wrapping algorithm under which material of the
// key's spec cannot be sent.
func WrappingIncompatible(a keyspec.WrappingAlgorithm, s keyspec.Spec) *Error {
	return invalid("WrappingAlgorithm " + string(a) + " is incompatible with KeySpec " + string(s) + ".")
}

// WrappingKeyTooSmall refuses a wrapping key that has no room for material of the
// key's spec.
func WrappingKeyTooSmall(wrapping, s keyspec.Spec) *Error {
	return invalid("WrappingKeySpec " + string(wrapping) + " is too small for KeySpec " + string(s) + ".")
}

// ValidToRequired asks for the time at which material expires.
func ValidToRequired() *Error {
	return invalid("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
}

// ValidToOfEverlasting refuses a time at which material that does not expire does.
func ValidToOfEverlasting() *Error {
	return invalid("A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE")
}

// ValidToPast refuses material that has expired.
func ValidToPast() *Error { return invalid("ValidTo must be in the future") }

// ValidToFar refuses material that expires in more than a year.
func ValidToFar() *Error { return invalid("ValidTo must not be more than 365 days in the future") }

// OneMaterialOnly refuses what there is only for symmetric encryption keys, which
// may have several materials.
func OneMaterialOnly(member string, s keyspec.Spec) *Error {
	return invalid(member + " is not supported for KeySpec " + string(s) + ".")
}

// DescribedByPrimary refuses to describe material in a replica.
func DescribedByPrimary() *Error {
	return invalid("KeyMaterialDescription can be specified only for the primary key: its replicas have the same description.")
}

// NewMaterialWithID refuses new material under an id that is not its own yet.
func NewMaterialWithID() *Error {
	return invalid("KeyMaterialId must not be set if the ImportType is NEW_KEY_MATERIAL")
}

// AnotherMaterialPending refuses new material while other waits for the key to be
// rotated to it.
func AnotherMaterialPending(id, arn, pending string) *Error {
	return &Error{
		KMSInvalidStateException,
		"New key material (id: " + id + ") cannot be imported into KMS key " + arn + ", because another key material (id: " + pending + ") is pending rotation.",
	}
}

// InvalidImportToken refuses a token that is not one of the key's, or was used.
func InvalidImportToken() *Error {
	return &Error{InvalidImportTokenException, "The request was rejected because the provided import token is invalid or is associated with a different KMS key."}
}

// ExpiredImportToken refuses a token whose 24 hours are over.
func ExpiredImportToken() *Error {
	return &Error{ExpiredImportTokenException, "The request was rejected because the specified import token is expired."}
}

// IncorrectKeyMaterial refuses material that is not what the key needs: of another
// kind or size than its spec, or other than what it had.
func IncorrectKeyMaterial() *Error {
	return &Error{IncorrectKeyMaterialException, "The key material in the request is not the expected key material for this KMS key."}
}

// NoSuchMaterial refuses an id that none of the key's materials has.
func NoSuchMaterial(id, arn string) *Error {
	return &Error{NotFoundException, "Key material '" + id + "' of key '" + arn + "' does not exist"}
}
