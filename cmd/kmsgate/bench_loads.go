package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
)

// namedLoad is a kind of request that is measured.
type namedLoad struct {
	name  string
	raw   rawAlgorithm
	calls []benchCall
}

// benchKind is a kind of request, the raw loop that it is held against, and how
// its calls are made: on as many keys as there are connections, or on one of
// its own.
type benchKind struct {
	name  string
	raw   rawAlgorithm
	calls func(ctx context.Context, e *benchEnvironment, keys []string) ([]benchCall, error)
}

// callerCall is the least that a signed request can ask for.
var callerCall = benchCall{Service: "sts", Body: []byte("Action=GetCallerIdentity&Version=2011-06-15")}

// symmetricKinds are the kinds of requests that are held against AES-GCM. The
// first two are what HTTP costs, and what HTTP with a signature and the audit
// log costs.
var symmetricKinds = []benchKind{
	{"healthz", rawGCM, same(benchCall{Path: "/healthz"})},
	{"GetCallerIdentity", rawGCM, same(callerCall)},
	{"Encrypt", rawGCM, func(_ context.Context, _ *benchEnvironment, keys []string) ([]benchCall, error) {
		return callsOn(keys, encryptCall)
	}},
	{"Decrypt", rawGCM, decryptCalls},
	{"GenerateDataKey", rawGCM, func(_ context.Context, _ *benchEnvironment, keys []string) ([]benchCall, error) {
		return callsOn(keys, dataKeyCall)
	}},
}

// benchKinds are all kinds, in the order in which they are measured and printed.
func benchKinds() []benchKind {
	kinds := slices.Concat(symmetricKinds, callerKinds)
	for _, a := range benchedAlgorithms {
		kinds = append(kinds, kindOf(a))
	}
	return kinds
}

// kindsNamed are the kinds whose names match an expression.
func kindsNamed(expression string) ([]benchKind, error) {
	wanted, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	kinds := slices.DeleteFunc(benchKinds(), func(k benchKind) bool { return !wanted.MatchString(k.name) })
	if len(kinds) == 0 {
		return nil, fmt.Errorf("no kind's name matches %q", expression)
	}
	return kinds, nil
}

// loads are the loads of the kinds that were asked for.
func (b *bench) loads(ctx context.Context) ([]namedLoad, error) {
	keys := b.keys[:b.options.connections]
	var loads []namedLoad
	for _, k := range b.options.kinds {
		calls, err := k.calls(ctx, b.benchEnvironment, keys)
		if err != nil {
			return nil, err
		}
		loads = append(loads, namedLoad{k.name, k.raw, calls})
	}
	return loads, nil
}

func same(c benchCall) func(context.Context, *benchEnvironment, []string) ([]benchCall, error) {
	return func(context.Context, *benchEnvironment, []string) ([]benchCall, error) { return []benchCall{c}, nil }
}

// callsOn makes a call on each key.
func callsOn(keys []string, make func(key string) (benchCall, error)) ([]benchCall, error) {
	var calls []benchCall
	for _, key := range keys {
		c, err := make(key)
		if err != nil {
			return nil, err
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// Requests on a key, by the names that they have on the wire.
type (
	encryptBody struct {
		KeyID             string `json:"KeyId"`
		Plaintext         []byte
		EncryptionContext map[string]string
	}
	decryptBody struct {
		KeyID             string `json:"KeyId"`
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}
	dataKeyBody struct {
		KeyID             string `json:"KeyId"`
		KeySpec           string
		EncryptionContext map[string]string
	}
)

// benchContext is the encryption context of all calls.
var benchContext = map[string]string{"purpose": "bench"}

// encryptOf is a request to encrypt 32 bytes.
func encryptOf(key string) encryptBody {
	return encryptBody{KeyID: key, Plaintext: benchMessage, EncryptionContext: benchContext}
}

func encryptCall(key string) (benchCall, error) { return kmsCall("Encrypt", encryptOf(key)) }

func dataKeyCall(key string) (benchCall, error) {
	return kmsCall("GenerateDataKey", dataKeyBody{KeyID: key, KeySpec: "AES_256", EncryptionContext: benchContext})
}

// decryptCalls decrypt what was encrypted for them.
func decryptCalls(ctx context.Context, e *benchEnvironment, keys []string) ([]benchCall, error) {
	return callsOn(keys, func(key string) (benchCall, error) {
		var made struct{ CiphertextBlob []byte }
		if err := e.api(ctx, "Encrypt", encryptOf(key), &made); err != nil {
			return benchCall{}, err
		}
		return kmsCall("Decrypt", decryptBody{KeyID: key, CiphertextBlob: made.CiphertextBlob, EncryptionContext: benchContext})
	})
}
