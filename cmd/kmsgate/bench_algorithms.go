package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"fmt"

	"kmsgate/hsm/keyspec"
)

// rawAlgorithm says what the token does in a request of a kind: what the raw
// loop does alone.
type rawAlgorithm struct {
	Spec      keyspec.Spec      `json:"spec"`
	Usage     keyspec.Usage     `json:"usage"`
	Algorithm keyspec.Algorithm `json:"algorithm"`
}

// rawGCM is the raw loop that everything without one of its own is held against.
var rawGCM = rawAlgorithm{keyspec.SymmetricDefault, keyspec.EncryptDecrypt, keyspec.AlgorithmSymmetricDefault}

// benchedAlgorithms are measured with a key of their own each, in this order.
// RSA costs the same with every hash, so that its larger keys stand with one.
var benchedAlgorithms = []rawAlgorithm{
	{keyspec.HMAC224, keyspec.GenerateVerifyMAC, keyspec.HMACSHA224},
	{keyspec.HMAC256, keyspec.GenerateVerifyMAC, keyspec.HMACSHA256},
	{keyspec.HMAC384, keyspec.GenerateVerifyMAC, keyspec.HMACSHA384},
	{keyspec.HMAC512, keyspec.GenerateVerifyMAC, keyspec.HMACSHA512},
	{keyspec.ECCNISTP256, keyspec.SignVerify, keyspec.ECDSASHA256},
	{keyspec.ECCNISTP384, keyspec.SignVerify, keyspec.ECDSASHA384},
	{keyspec.ECCNISTP521, keyspec.SignVerify, keyspec.ECDSASHA512},
	{keyspec.ECCSECGP256K1, keyspec.SignVerify, keyspec.ECDSASHA256},
	{keyspec.ECCNISTEdwards25519, keyspec.SignVerify, keyspec.Ed25519SHA512},
	{keyspec.ECCNISTP256, keyspec.KeyAgreement, keyspec.ECDH},
	{keyspec.ECCNISTP384, keyspec.KeyAgreement, keyspec.ECDH},
	{keyspec.ECCNISTP521, keyspec.KeyAgreement, keyspec.ECDH},
	{keyspec.RSA2048, keyspec.SignVerify, keyspec.RSASSAPKCS1V15SHA256},
	{keyspec.RSA2048, keyspec.SignVerify, keyspec.RSASSAPKCS1V15SHA384},
	{keyspec.RSA2048, keyspec.SignVerify, keyspec.RSASSAPKCS1V15SHA512},
	{keyspec.RSA2048, keyspec.SignVerify, keyspec.RSASSAPSSSHA256},
	{keyspec.RSA2048, keyspec.SignVerify, keyspec.RSASSAPSSSHA384},
	{keyspec.RSA2048, keyspec.SignVerify, keyspec.RSASSAPSSSHA512},
	{keyspec.RSA3072, keyspec.SignVerify, keyspec.RSASSAPKCS1V15SHA256},
	{keyspec.RSA4096, keyspec.SignVerify, keyspec.RSASSAPSSSHA256},
	{keyspec.RSA2048, keyspec.EncryptDecrypt, keyspec.RSAESOAEPSHA1},
	{keyspec.RSA2048, keyspec.EncryptDecrypt, keyspec.RSAESOAEPSHA256},
	{keyspec.RSA4096, keyspec.EncryptDecrypt, keyspec.RSAESOAEPSHA256},
}

// kindOf is the kind of request that has the token do one thing with a key.
func kindOf(a rawAlgorithm) benchKind {
	name := fmt.Sprintf("%s %s", a.Spec, a.Algorithm)
	return benchKind{name: name, raw: a, calls: func(ctx context.Context, e *benchEnvironment, _ []string) ([]benchCall, error) {
		key, err := e.createKey(ctx, a)
		if err != nil {
			return nil, err
		}
		call, err := usageCalls[a.Usage](ctx, e, key, a)
		return []benchCall{call}, err
	}}
}

// createKey makes a key for an algorithm and returns its id.
func (e *benchEnvironment) createKey(ctx context.Context, a rawAlgorithm) (string, error) {
	return e.keyOf(ctx, struct {
		KeySpec  keyspec.Spec
		KeyUsage keyspec.Usage
	}{a.Spec, a.Usage})
}

// usageCalls make the request of a usage that needs the secret or private key.
var usageCalls = map[keyspec.Usage]func(ctx context.Context, e *benchEnvironment, key string, a rawAlgorithm) (benchCall, error){
	keyspec.GenerateVerifyMAC: macCall,
	keyspec.SignVerify:        signCall,
	keyspec.KeyAgreement:      deriveCall,
	keyspec.EncryptDecrypt:    decryptRSACall,
}

// benchMessage is what is signed and what is encrypted.
var benchMessage = bytes.Repeat([]byte{0x5a}, 32)

func macCall(_ context.Context, _ *benchEnvironment, key string, a rawAlgorithm) (benchCall, error) {
	return kmsCall("GenerateMac", struct {
		KeyID        string `json:"KeyId"`
		MacAlgorithm keyspec.Algorithm
		Message      []byte
	}{key, a.Algorithm, benchMessage})
}

func signCall(_ context.Context, _ *benchEnvironment, key string, a rawAlgorithm) (benchCall, error) {
	return kmsCall("Sign", struct {
		KeyID            string `json:"KeyId"`
		SigningAlgorithm keyspec.Algorithm
		Message          []byte
	}{key, a.Algorithm, benchMessage})
}

// benchCurves are the curves of the peers of key agreement.
var benchCurves = map[keyspec.Spec]ecdh.Curve{
	keyspec.ECCNISTP256: ecdh.P256(), keyspec.ECCNISTP384: ecdh.P384(), keyspec.ECCNISTP521: ecdh.P521(),
}

func deriveCall(_ context.Context, _ *benchEnvironment, key string, a rawAlgorithm) (benchCall, error) {
	peer, err := benchCurves[a.Spec].GenerateKey(rand.Reader)
	if err != nil {
		return benchCall{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
	if err != nil {
		return benchCall{}, err
	}
	return kmsCall("DeriveSharedSecret", struct {
		KeyID                 string `json:"KeyId"`
		KeyAgreementAlgorithm keyspec.Algorithm
		PublicKey             []byte
	}{key, a.Algorithm, public})
}

// rsaBody is a request to encrypt or decrypt with an RSA key.
type rsaBody struct {
	KeyID               string `json:"KeyId"`
	EncryptionAlgorithm keyspec.Algorithm
	Plaintext           []byte `json:",omitempty"`
	CiphertextBlob      []byte `json:",omitempty"`
}

func decryptRSACall(ctx context.Context, e *benchEnvironment, key string, a rawAlgorithm) (benchCall, error) {
	var made struct{ CiphertextBlob []byte }
	if err := e.api(ctx, "Encrypt", rsaBody{KeyID: key, EncryptionAlgorithm: a.Algorithm, Plaintext: benchMessage}, &made); err != nil {
		return benchCall{}, err
	}
	return kmsCall("Decrypt", rsaBody{KeyID: key, EncryptionAlgorithm: a.Algorithm, CiphertextBlob: made.CiphertextBlob})
}
