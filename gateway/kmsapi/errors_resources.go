package kmsapi

import "kmsgate/hsm/keyspec"

// Aliases.

// AliasPrefix refuses an alias without its prefix.
func AliasPrefix() *Error {
	return invalid(`Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)
}

// AliasReserved refuses an alias that begins with "alias/aws/". It has no message.
func AliasReserved() *Error { return &Error{Code: NotAuthorizedException} }

// AliasCharacters refuses an alias with characters that the constraint lets pass.
func AliasCharacters(alias string) *Error {
	return invalid(alias + " contains invalid characters for an alias")
}

// AliasWithoutName refuses a bare "alias/".
func AliasWithoutName() *Error { return invalid("Invalid identifier") }

// AliasExists refuses to make an alias a second time.
func AliasExists(aliasARN string) *Error {
	return &Error{AlreadyExistsException, "An alias with the name " + aliasARN + " already exists"}
}

// AliasOfAlias refuses an alias as an alias's target.
func AliasOfAlias() *Error { return invalid("Aliases must refer to keys. Not aliases") }

// AliasUsageChange refuses to point an alias to a key of another usage.
func AliasUsageChange(alias string, from, to keyspec.Usage) *Error {
	return invalid("Alias " + alias + " cannot be changed from a CMK with key usage " + string(from) + " to a CMK with key usage " + string(to) +
		". The key usage of the current CMK and the new CMK must be the same.")
}

// AliasTypeChange refuses to point an alias from a symmetric key to a pair or
// back; both have the same usage.
func AliasTypeChange(alias string, from, to KeyType) *Error {
	return invalid("Alias " + alias + " cannot be changed from a CMK with key type " + string(from) + " to a CMK with key type " + string(to) +
		". The key type of the current CMK and the new CMK must be the same.")
}

// Tags.

// DuplicateTagKeys refuses a tag key that stands twice.
func DuplicateTagKeys() *Error { return &Error{TagException, "Duplicate tag keys"} }

// TooManyTags refuses more than 50 tags on a key.
func TooManyTags() *Error { return &Error{TagException, "Too many tags"} }

// ReservedTag refuses a tag key that begins with "aws:" in any casing.
func ReservedTag() *Error { return &Error{TagException, "Tags beginning with aws: are reserved"} }

// TooManyKeys refuses a key over the quota of its account.
func TooManyKeys(account string) *Error {
	return &Error{LimitExceededException, "The quota of keys has been reached for the account: " + account}
}

// Policies.

// NoSuchPolicy refuses a policy name other than "default".
func NoSuchPolicy() *Error { return &Error{NotFoundException, "No such policy exists"} }

// PolicyLockout refuses a policy that the caller could not change again.
func PolicyLockout() *Error {
	return malformedPolicy("The new key policy will not allow you to update the key policy in the future.")
}

// PolicyPrincipals refuses a policy with a principal that does not exist.
func PolicyPrincipals() *Error {
	return malformedPolicy("Policy contains a statement with one or more invalid principals.")
}

// PolicyOverlyPermissive refuses ForAllValues with a key of a single value.
func PolicyOverlyPermissive() *Error {
	return malformedPolicy("OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key matches requests without the specified [encryption context or tag] or with an unspecified [encryption context or tag]. To fix, remove ForAllValues.")
}

// PolicyMalformed refuses a policy for a problem of its syntax, which names the
// place and quotes nothing else of the document.
func PolicyMalformed(problem string) *Error { return malformedPolicy(problem) }

func malformedPolicy(message string) *Error { return &Error{MalformedPolicyDocumentException, message} }

// Quotas and pages.

// PolicyTooLarge refuses a policy of more than 32,768 bytes.
func PolicyTooLarge() *Error {
	return &Error{LimitExceededException, "The key policy must not be larger than 32768 bytes."}
}

// TooManyAliases refuses an alias over the quota of its key.
func TooManyAliases(arn string) *Error {
	return &Error{LimitExceededException, "The quota of aliases has been reached for the key: " + arn}
}

// InvalidMarker refuses a marker that is not of this list.
func InvalidMarker() *Error {
	return &Error{InvalidMarkerException, "The request was rejected because the marker that specifies where pagination should next begin is not valid."}
}

// InvalidGrantToken refuses a grant token that stands for no grant.
func InvalidGrantToken() *Error {
	return &Error{InvalidGrantTokenException, "The request was rejected because the specified grant token is not valid."}
}

// Authorisation.

// PolicyKind is a kind of policy as AccessDeniedException names it, with its article.
type PolicyKind struct{ article, name string }

// Kinds of policies.
var (
	IdentityBasedPolicy   = PolicyKind{"an", "identity-based policy"}
	ResourceBasedPolicy   = PolicyKind{"a", "resource-based policy"}
	SessionPolicy         = PolicyKind{"a", "session policy"}
	PermissionsBoundary   = PolicyKind{"a", "permissions boundary"}
	VPCEndpointPolicy     = PolicyKind{"a", "VPC endpoint policy"}
	ServiceControlPolicy  = PolicyKind{"a", "service control policy"}
	ResourceControlPolicy = PolicyKind{"a", "resource control policy"}
)

// Target is what a refused call was for, as AccessDeniedException names it.
type Target struct{ text string }

// ResourceTarget is the resource of an ARN, or "*" for calls that have none.
func ResourceTarget(arn string) Target { return Target{"resource: " + arn} }

// Targets whose names the caller must not learn.
var (
	// HiddenTarget is a key of another account, or one that the caller can't see.
	HiddenTarget = Target{"this resource"}
	// CiphertextTarget is the key of a ciphertext that came without a KeyId.
	CiphertextTarget = Target{"the resource associated with this ciphertext"}
)

// Denied says that no policy of a kind allows the call. principal is the
// caller's ARN, action for example "kms:Decrypt".
func Denied(principal, action string, t Target, by PolicyKind) *Error {
	return denied(principal, action, t, "because no "+by.name+" allows the "+action+" action")
}

// DeniedExplicitly says that a policy of a kind forbids the call.
func DeniedExplicitly(principal, action string, t Target, by PolicyKind) *Error {
	return denied(principal, action, t, "with an explicit deny in "+by.article+" "+by.name)
}

// DeniedBlindly is the answer that does not tell whether the resource exists;
// t is HiddenTarget or CiphertextTarget.
func DeniedBlindly(principal, action string, t Target) *Error {
	return denied(principal, action, t,
		"because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access")
}

func denied(principal, action string, t Target, why string) *Error {
	return &Error{AccessDeniedException, "User: " + principal + " is not authorized to perform: " + action + " on " + t.text + " " + why}
}
