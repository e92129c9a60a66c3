package gateway

import "kmsgate/gateway/identity"

// stsOperations are the operations of STS.
var stsOperations = []operation{
	{
		service: serviceSTS, name: "GetCallerIdentity", bucket: "GetCallerIdentity", readOnly: true,
		typed: do(nil, sts(identity.GetCallerIdentity)),
	},
}
