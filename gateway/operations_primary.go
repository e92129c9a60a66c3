package gateway

import (
	"kmsgate/gateway/arn"
	"kmsgate/metadata"
)

// primaryOperations say which of several related multi-Region keys is the primary.
var primaryOperations = []operation{
	{
		service: serviceKMS, name: "UpdatePrimaryRegion", bucket: "UpdatePrimaryRegion",
		targets: []target{
			manages("UpdatePrimaryRegion", metadata.Moving.From),
			{kind: onRelated, member: "PrimaryRegion", action: "UpdatePrimaryRegion", forms: arn.KeyForms, states: metadata.Moving.From},
		},
		records: []string{"KeyId", "PrimaryRegion"},
		typed:   do(nil, (*call).updatePrimaryRegion),
	},
}
