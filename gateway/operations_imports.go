package gateway

import (
	"kmsgate/gateway/arn"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
)

// imports is the target of operations on the material of an imported key.
func imports(action string, states metadata.States) []target {
	return []target{{kind: onKey, member: "KeyId", action: action, forms: arn.KeyForms, states: states, origin: keyspec.External, token: true}}
}

// importOperations are the operations on imported material.
var importOperations = []operation{
	{
		service: serviceKMS, name: "DeleteImportedKeyMaterial", bucket: "DeleteImportedKeyMaterial",
		targets: imports("DeleteImportedKeyMaterial", metadata.Droppable),
		records: []string{"KeyId", "KeyMaterialId"},
		typed:   do(nil, (*call).deleteImportedKeyMaterial),
	},
	{
		service: serviceKMS, name: "GetParametersForImport", bucket: "GetParametersForImport", readOnly: true,
		targets: imports("GetParametersForImport", metadata.Importable&^metadata.Updating.Set()),
		records: []string{"KeyId", "WrappingAlgorithm", "WrappingKeySpec"},
		makes:   "WrappingKeySpec",
		typed:   do(completeGetParametersForImport, (*call).getParametersForImport),
	},
	{
		service: serviceKMS, name: "ImportKeyMaterial", bucket: "ImportKeyMaterial",
		targets: imports("ImportKeyMaterial", metadata.Importable),
		records: []string{"KeyId", "ExpirationModel", "ValidTo", "ImportType", "KeyMaterialDescription", "KeyMaterialId"},
		typed:   do(completeImportKeyMaterial, (*call).importKeyMaterial),
	},
}
