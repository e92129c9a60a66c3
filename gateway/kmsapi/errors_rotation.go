package kmsapi

// NotRotated refuses to rotate a key pair or an HMAC key. It has no message.
func NotRotated() *Error { return &Error{Code: UnsupportedOperationException} }

// NotPrimary refuses on a replica what is done to its primary key.
func NotPrimary(arn string) *Error {
	return &Error{UnsupportedOperationException, arn + " is not a multi-region primary key."}
}

// PrimaryAlready refuses to move a primary key to the Region that it is in.
func PrimaryAlready(region string) *Error {
	return invalid("The primary key is in " + region + " already: PrimaryRegion must be the Region of one of its replicas.")
}

// PendingMaterialNotThere refuses to make a key the primary that does not have the
// imported material to which its related keys are to be rotated.
func PendingMaterialNotThere(arn, materialID string) *Error {
	return &Error{
		KMSInvalidStateException,
		arn + " does not have the key material (id: " + materialID + ") that is pending rotation in the primary key. Import it, or delete it from the primary key.",
	}
}

// ResidentNotRotated refuses to rotate a key whose material is an object in the token.
func ResidentNotRotated(arn string) *Error {
	return &Error{UnsupportedOperationException, arn + " is kept in the token itself which is not valid for this operation."}
}

// NothingToRotateTo refuses to rotate an imported key before there is new material.
func NothingToRotateTo(arn string) *Error {
	return &Error{KMSInvalidStateException, "No available key material pending rotation for the key: " + arn + "."}
}

// TooManyRotations refuses a rotation on demand over the key's quota.
func TooManyRotations(arn string) *Error {
	return &Error{
		LimitExceededException,
		"The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: " + arn,
	}
}

// AutomaticRotationNear refuses a rotation on demand shortly before an automatic one.
func AutomaticRotationNear() *Error {
	return &Error{
		ConflictException,
		"The request was rejected because an automatic rotation of this key is currently in progress or scheduled to begin within the next 20 minutes.",
	}
}

// RotationInProgress refuses a rotation on demand while one is under way.
func RotationInProgress(arn string) *Error {
	return &Error{ConflictException, "An on-demand rotation is in progress for the key: " + arn}
}
