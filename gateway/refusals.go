package gateway

import "kmsgate/gateway/kmsapi"

// A refusal is an operation of the KMS API that is known and not served.
type refusal struct {
	operation string
	reason    string
	readOnly  bool // as CloudTrail has it
}

// refusals are the operations that answer UnsupportedOperationException, with
// the reason that the caller is told. A test holds operations and refusals
// together against the newest AWS SDK, so that nothing is missing by oversight.
var refusals = []refusal{
	{"ConnectCustomKeyStore", noCustomStores, false},
	{"CreateCustomKeyStore", noCustomStores, false},
	{"DeleteCustomKeyStore", noCustomStores, false},
	{"DescribeCustomKeyStores", noCustomStores, true},
	{"DisconnectCustomKeyStore", noCustomStores, false},
	{"UpdateCustomKeyStore", noCustomStores, false},
}

const noCustomStores = "Custom key stores are not served yet."

func refused(r refusal) error {
	return &kmsapi.Error{Code: kmsapi.UnsupportedOperationException, Message: r.reason}
}
