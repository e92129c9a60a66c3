package kmsapi

import "kmsgate/hsm/keyspec"

// ReplicaExists refuses a replica in a Region that has a related key, one that is
// pending deletion too.
func ReplicaExists(arn string) *Error {
	return &Error{AlreadyExistsException, "A related multi-Region key already exists: " + arn}
}

// ReplicaRegionNotServed refuses a replica in a Region that is not served here.
func ReplicaRegionNotServed(region string) *Error {
	return &Error{UnsupportedOperationException, "Keys cannot be replicated to the Region " + region + ": it is not served here."}
}

// ReplicaRegionUnable refuses a replica whose materials the key store of its Region
// could never be sent.
func ReplicaRegionUnable(region string, spec keyspec.Spec) *Error {
	return &Error{
		UnsupportedOperationException,
		"Keys of KeySpec " + string(spec) + " cannot be replicated to the Region " + region +
			": its key store takes none from another. kmsgate hsm probe shows what it can do.",
	}
}
