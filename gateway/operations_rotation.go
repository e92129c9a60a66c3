package gateway

import (
	"kmsgate/gateway/arn"
	"kmsgate/metadata"
)

// schedulable: keys that are rotated by themselves, or not; those that wait for their
// material are refused for their origin.
var schedulable = metadata.Rotatable | metadata.PendingImport.Set()

// rotationOperations are the operations on the rotation of keys.
var rotationOperations = []operation{
	{
		service: serviceKMS, name: "DisableKeyRotation", bucket: "DisableKeyRotation",
		targets: []target{manages("DisableKeyRotation", schedulable)}, records: []string{"KeyId"},
		typed: do(nil, (*call).disableKeyRotation),
	},
	{
		service: serviceKMS, name: "EnableKeyRotation", bucket: "EnableKeyRotation",
		targets: []target{manages("EnableKeyRotation", schedulable)}, records: []string{"KeyId", "RotationPeriodInDays"},
		typed: do(completeEnableKeyRotation, (*call).enableKeyRotation),
	},
	{
		service: serviceKMS, name: "GetKeyRotationStatus", bucket: "GetKeyRotationStatus", readOnly: true,
		targets: []target{{kind: onKey, member: "KeyId", action: "GetKeyRotationStatus", forms: arn.KeyForms, foreign: true}},
		records: []string{"KeyId"},
		typed:   do(nil, (*call).getKeyRotationStatus),
	},
	{
		service: serviceKMS, name: "ListKeyRotations", bucket: "ListKeyRotations", readOnly: true,
		targets: []target{manages("ListKeyRotations", 0)}, records: []string{"KeyId", "IncludeKeyMaterial", "Limit", "Marker"},
		typed: do(nil, (*call).listKeyRotations),
	},
	{
		service: serviceKMS, name: "RotateKeyOnDemand", bucket: "RotateKeyOnDemand",
		targets: []target{manages("RotateKeyOnDemand", metadata.Rotatable)}, records: []string{"KeyId"},
		typed: do(nil, (*call).rotateKeyOnDemand),
	},
}
