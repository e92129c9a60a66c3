package gateway

// useOperations are the operations on what is known of the uses of keys.
var useOperations = []operation{
	{
		service: serviceKMS, name: "GetKeyLastUsage", bucket: "GetKeyLastUsage", readOnly: true,
		targets: []target{manages("GetKeyLastUsage", 0)}, records: []string{"KeyId"},
		typed: do(nil, (*call).getKeyLastUsage),
	},
}
