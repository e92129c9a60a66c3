package der

// SecretTLV is for tests.
var SecretTLV = secretTLV
