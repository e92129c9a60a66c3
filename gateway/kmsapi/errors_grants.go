package kmsapi

import (
	"strconv"

	"kmsgate/hsm/keyspec"
)

// Grants.

// PrincipalNotFound refuses the ARN of a principal that does not exist.
func PrincipalNotFound(arn string) *Error {
	return &Error{InvalidArnException, "ARN does not refer to a valid principal: " + arn}
}

// BothGrantees refuses a grant, or a list of grants, to a principal and to a service.
func BothGrantees() *Error {
	return invalid("You cannot specify both GranteePrincipal and GranteeServicePrincipal.")
}

// BothRetiring refuses a principal and a service as those who may retire a grant.
func BothRetiring() *Error {
	return invalid("You cannot specify both RetiringPrincipal and RetiringServicePrincipal.")
}

// ServiceGrantIncomplete refuses a grant to a service that any resource of it could
// use or that nobody could retire.
func ServiceGrantIncomplete() *Error {
	return invalid("A grant to a GranteeServicePrincipal must have a SourceArn constraint and a RetiringPrincipal or RetiringServicePrincipal.")
}

// ServiceCallersOnly refuses a member that only a service can use.
func ServiceCallersOnly(member string) *Error {
	return invalid(member + " can be specified only by a service principal.")
}

// MoreThanOneConstraint refuses both constraints on the encryption context.
func MoreThanOneConstraint() *Error { return invalid("More than one constraint supplied") }

// ConstraintWithoutPairs refuses a constraint that names no pair.
func ConstraintWithoutPairs() *Error {
	return invalid("A grant constraint must have at least one encryption context pair.")
}

// ConstraintTooManyPairs refuses a constraint on more pairs than the limit.
func ConstraintTooManyPairs(limit int) *Error {
	return invalid("A grant constraint must not have more than " + strconv.Itoa(limit) + " encryption context pairs.")
}

// ConstraintTooLong refuses a constraint with a value longer than the
// limit, in characters.
func ConstraintTooLong(limit int) *Error {
	return invalid("An encryption context value in a grant constraint must not be longer than " + strconv.Itoa(limit) + " characters.")
}

// ConstraintOfKey refuses a constraint on the encryption context of a key whose
// operations have none.
func ConstraintOfKey(s keyspec.Spec) *Error {
	return invalid("Encryption context grant constraints are not supported for key spec " + string(s) + ".")
}

// GrantOperationOfKey refuses an operation that a grant on such a key cannot allow.
func GrantOperationOfKey(operation GrantOperation, s keyspec.Spec, u keyspec.Usage) *Error {
	return invalid("Grant operation " + string(operation) + " is not supported for key spec " + string(s) + " and key usage " + string(u) + ".")
}

// TooManyGrants refuses a grant over the quota of its key.
func TooManyGrants(arn string) *Error {
	return &Error{LimitExceededException, "The quota of grants has been reached for the key: " + arn}
}

// GrantNotFound says that there is no such grant.
func GrantNotFound(id string) *Error {
	return &Error{NotFoundException, "Grant ID " + id + " not found"}
}

// InvalidGrantID refuses what is no grant id.
func InvalidGrantID() *Error {
	return &Error{InvalidGrantIdException, "The request was rejected because the specified GrantId is not valid."}
}

// GrantNamedTwice refuses to retire a grant by anything but a token alone, or key
// and id.
func GrantNamedTwice() *Error {
	return invalid("You must specify either a grant token, or a KMS key and a grant ID.")
}
