package gateway

import "kmsgate/gateway/kmsapi"

// A refusal is an operation of the KMS API that is known and not served.
type refusal struct {
	operation string
	reason    string
}

// refusals are the operations that answer UnsupportedOperationException, with
// the reason that the caller is told. A test holds operations and refusals
// together against the newest AWS SDK, so that nothing is missing by oversight.
var refusals = []refusal{
	{"CancelKeyDeletion", notDeleted},
	{"ConnectCustomKeyStore", noCustomStores},
	{"CreateCustomKeyStore", noCustomStores},
	{"CreateGrant", noGrants},
	{"Decapsulate", symmetricOnly},
	{"DeleteCustomKeyStore", noCustomStores},
	{"DeleteImportedKeyMaterial", noImport},
	{"DeriveSharedSecret", symmetricOnly},
	{"DescribeCustomKeyStores", noCustomStores},
	{"DisableKeyRotation", noRotation},
	{"DisconnectCustomKeyStore", noCustomStores},
	{"EnableKeyRotation", noRotation},
	{"Encapsulate", symmetricOnly},
	{"GenerateDataKeyPair", symmetricOnly},
	{"GenerateDataKeyPairWithoutPlaintext", symmetricOnly},
	{"GenerateMac", symmetricOnly},
	{"GetKeyLastUsage", "The last use of keys is not served yet."},
	{"GetKeyRotationStatus", noRotation},
	{"GetParametersForImport", noImport},
	{"GetPublicKey", symmetricOnly},
	{"ImportKeyMaterial", noImport},
	{"ListGrants", noGrants},
	{"ListKeyRotations", noRotation},
	{"ListRetirableGrants", noGrants},
	{"ReplicateKey", noReplicas},
	{"RetireGrant", noGrants},
	{"RevokeGrant", noGrants},
	{"RotateKeyOnDemand", noRotation},
	{"ScheduleKeyDeletion", notDeleted},
	{"Sign", symmetricOnly},
	{"UpdateCustomKeyStore", noCustomStores},
	{"UpdatePrimaryRegion", noReplicas},
	{"Verify", symmetricOnly},
	{"VerifyMac", symmetricOnly},
}

const (
	noCustomStores = "Custom key stores are not served yet."
	noGrants       = "Grants are not served yet."
	noImport       = "Imported key material is not served yet."
	noReplicas     = "Multi-Region keys are not served yet."
	noRotation     = "Key rotation is not served yet."
	notDeleted     = "Key deletion is not served yet."
	symmetricOnly  = "Only symmetric encryption keys are served yet."
)

func refused(r refusal) error {
	return &kmsapi.Error{Code: kmsapi.UnsupportedOperationException, Message: r.reason}
}
