package kmsapi

import (
	"strconv"

	"kmsgate/hsm/keyspec"
)

// Error is the only error that goes on the wire. Its texts are made by the
// functions of this package and nowhere else, so that they can be held against
// what AWS says: those of KMS itself where they are known, and otherwise the
// descriptions of the API Reference or our own words in the same manner.
type Error struct {
	Code Code
	// Message is empty for the errors that AWS sends without one; the body
	// then has no message member.
	Message string
}

// Error is the code and the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Message
}

// Faults of ours, and load.

// Internal is the one answer to every fault of ours; causes are logged, not told.
func Internal() *Error {
	return &Error{KMSInternalException, "The request was rejected because an internal exception occurred. The request can be retried."}
}

// DependencyTimeout says that token or database did not answer in time.
func DependencyTimeout() *Error {
	return &Error{DependencyTimeoutException, "The system timed out while trying to fulfill the request. You can retry the request."}
}

// Throttled refuses for load or rate.
func Throttled() *Error {
	return &Error{ThrottlingException, "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."}
}

// Requests that are not understood.

// Serialization refuses a body; message is empty for one that is not a JSON object.
func Serialization(message string) *Error { return &Error{SerializationException, message} }

// UnknownOperation refuses a target that names no operation.
func UnknownOperation() *Error { return &Error{Code: UnknownOperationException} }

// BodyTooLarge refuses a body over the limit, in bytes.
func BodyTooLarge(limit int) *Error {
	return &Error{RequestEntityTooLargeException, "Request body must not be larger than " + strconv.Itoa(limit) + " bytes."}
}

// UnrecognizedClient refuses an access key that does not exist or is inactive.
func UnrecognizedClient() *Error {
	return &Error{UnrecognizedClientException, "The security token included in the request is invalid."}
}

// ExpiredToken refuses temporary credentials whose session is over.
func ExpiredToken() *Error {
	return &Error{ExpiredTokenException, "The security token included in the request is expired"}
}

// Key identifiers (kinds of KeyId, alias, ARN).

// NotFoundKey says that no such key exists; arn is its full ARN also if only
// the id was sent.
func NotFoundKey(arn string) *Error {
	return &Error{NotFoundException, "Key '" + arn + "' does not exist"}
}

// InvalidKeyID refuses an identifier that has none of the four forms.
func InvalidKeyID(input string) *Error {
	return &Error{NotFoundException, "Invalid keyId '" + input + "'"}
}

// InvalidKeyIDInARN refuses a key ARN whose key id is not one; id is that part.
func InvalidKeyIDInARN(id string) *Error { return &Error{NotFoundException, "Invalid keyId " + id} }

// InvalidARNRegion refuses an ARN of another region.
func InvalidARNRegion(region string) *Error {
	return &Error{NotFoundException, "Invalid arn " + region}
}

// AliasNotFound says that no such alias exists.
func AliasNotFound(aliasARN string) *Error {
	return &Error{NotFoundException, "Alias " + aliasARN + " is not found."}
}

// AliasNotSupported refuses an alias where a key id or key ARN must stand.
func AliasNotSupported() *Error {
	return &Error{InvalidArnException, "Key Aliases are not supported for this operation."}
}

// Keys that can't do what is asked.

// stateTexts say what is wrong with a key's state. All but Disabled are
// KMSInvalidStateException.
var stateTexts = map[KeyState]string{
	Creating:               " is creating.",
	Enabled:                " is enabled.",
	Disabled:               " is disabled.",
	PendingDeletion:        " is pending deletion.",
	PendingImport:          " is pending import.",
	PendingReplicaDeletion: " is pending replica deletion.",
	Unavailable:            " is unavailable.",
	Updating:               " is updating.",
}

// OriginInvalid refuses an operation that keys of the origin do not have.
func OriginInvalid(arn string, o keyspec.Origin) *Error {
	return &Error{UnsupportedOperationException, arn + " origin is " + string(o) + " which is not valid for this operation."}
}

// WrongState refuses an operation that the key's state does not allow:
// DisabledException for Disabled, KMSInvalidStateException for the others.
func WrongState(arn string, state KeyState) *Error {
	if state == Disabled {
		return &Error{DisabledException, arn + stateTexts[state]}
	}
	return &Error{KMSInvalidStateException, arn + stateTexts[state]}
}

// NotPendingDeletion refuses to cancel a deletion that nobody has scheduled.
func NotPendingDeletion(arn string, _ KeyState) *Error {
	return &Error{KMSInvalidStateException, arn + " is not pending deletion."}
}

// KeyUsageInvalid refuses an operation that is not of the key's usage.
func KeyUsageInvalid(arn string, usage keyspec.Usage, operation string) *Error {
	return &Error{InvalidKeyUsageException, arn + " key usage is " + string(usage) + " which is not valid for " + operation + "."}
}

// AlgorithmIncompatible refuses an algorithm that the key's spec does not have.
func AlgorithmIncompatible(a keyspec.Algorithm, s keyspec.Spec) *Error {
	return &Error{InvalidKeyUsageException, "Algorithm " + string(a) + " is incompatible with key spec " + string(s) + "."}
}

// DataKeyUnderKeyPair refuses to generate a data key under an asymmetric key.
func DataKeyUnderKeyPair() *Error {
	return &Error{InvalidKeyUsageException, "You cannot generate a data key with an asymmetric CMK"}
}

// IncorrectKey says that the key in the request is not the ciphertext's.
func IncorrectKey() *Error {
	return &Error{IncorrectKeyException, "The key ID in the request does not identify a CMK that can perform this operation."}
}

// InvalidCiphertext is the one answer to a ciphertext that does not open,
// whatever the reason. It has no message.
func InvalidCiphertext() *Error { return &Error{Code: InvalidCiphertextException} }

// DryRunSucceeded is the answer to a trial that found nothing wrong.
func DryRunSucceeded() *Error {
	return &Error{DryRunOperationException, "The request would have succeeded, but the DryRun option is set."}
}

// Parameters whose rules no constraint says.

func invalid(message string) *Error { return &Error{ValidationException, message} }

// MissingMember refuses the absence of a member that is required in this case
// only; path is its name in lowerCamel, for example "keyId".
func MissingMember(path string) *Error { return violations([]string{nullText(path)}) }

// KeySpecOrNumberOfBytes refuses a data key with both sizes or none.
func KeySpecOrNumberOfBytes() *Error {
	return invalid("Please specify either number of bytes or key spec.")
}

// NumberOfBytesRequired refuses GenerateRandom without a size.
func NumberOfBytesRequired() *Error { return invalid("NumberOfBytes is required.") }

// EncryptionContextTooLarge refuses a context over the limit, in bytes.
func EncryptionContextTooLarge(limit int) *Error {
	return invalid("EncryptionContext must not be larger than " + strconv.Itoa(limit) + " bytes.")
}

// ModifiersWithoutDryRun refuses DryRunModifiers in a request that is no trial.
func ModifiersWithoutDryRun() *Error {
	return invalid("DryRunModifiers can be specified only if DryRun is true.")
}

// Creating keys.

// KeyUsageRequired refuses a key spec without a usage.
func KeyUsageRequired() *Error {
	return invalid("You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
}

// KeyUsageIncompatible refuses a usage that the spec does not have.
func KeyUsageIncompatible(u keyspec.Usage, s keyspec.Spec) *Error {
	return invalid("KeyUsage " + string(u) + " is not compatible with KeySpec " + string(s))
}

// BothKeySpecs refuses a spec under its new name and its old one.
func BothKeySpecs() *Error {
	return invalid("You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.")
}

// KeySpecNotServed refuses a spec of which no keys are made here.
func KeySpecNotServed(s keyspec.Spec) *Error {
	return &Error{UnsupportedOperationException, "KeySpec " + string(s) + " is not supported in this Region"}
}

// OriginNotServed refuses an origin of which no keys are made here.
func OriginNotServed(o keyspec.Origin) *Error {
	return &Error{UnsupportedOperationException, "Origin " + string(o) + " is not supported in this Region"}
}

// ResidentNotMultiRegion refuses a multi-Region key whose material could not leave the
// token that makes it.
func ResidentNotMultiRegion(s keyspec.Spec) *Error {
	return &Error{
		UnsupportedOperationException,
		"Multi-Region keys of KeySpec " + string(s) + " are not supported in this Region: their material is kept in the token itself and cannot be replicated.",
	}
}

// CustomKeyStoreNotFound refuses the id of a custom key store that does not exist.
func CustomKeyStoreNotFound() *Error {
	return &Error{CustomKeyStoreNotFoundException, "The request was rejected because KMS cannot find a custom key store with the specified key store name or ID."}
}

// XksKeyIDUnsupported refuses an XksKeyId for a key outside an external key store.
func XksKeyIDUnsupported() *Error {
	return invalid("XksKeyId can be specified only if Origin is EXTERNAL_KEY_STORE.")
}
