package gateway

import (
	"strconv"

	"kmsgate/gateway/kmsapi"
)

// importFacts are about imported material. ExpirationModel is absent where the
// request leaves it out.
var importFacts = map[string]func(*facts) []string{
	"kms:expirationmodel":   func(f *facts) []string { return f.text("ExpirationModel") },
	"kms:validto":           (*facts).validTo,
	"kms:wrappingalgorithm": func(f *facts) []string { return f.text("WrappingAlgorithm") },
	"kms:wrappingkeyspec":   func(f *facts) []string { return f.text("WrappingKeySpec") },
}

// validTo is the second at which the material expires.
func (f *facts) validTo() []string {
	v, ok := f.value("ValidTo")
	if !ok {
		return nil
	}
	at, ok := v.Interface().(kmsapi.Timestamp)
	if !ok {
		return nil
	}
	return one(strconv.FormatInt(at.Unix(), 10))
}
