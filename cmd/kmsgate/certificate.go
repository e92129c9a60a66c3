package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"kmsgate/hsm"
)

// certificate is the API's certificate with its private key, which is in a file or
// stays in a token. The two are proved to belong together.
func (i *installation) certificate(ctx context.Context) (tls.Certificate, error) {
	c := i.config.TLS
	if c.Token == "" {
		return tls.LoadX509KeyPair(c.Certificate, c.Key)
	}
	made, err := readChain(c.Certificate)
	if err != nil {
		return tls.Certificate{}, err
	}
	id, err := hex.DecodeString(c.KeyID)
	if err != nil {
		return tls.Certificate{}, err
	}
	made.PrivateKey, err = i.byToken[c.Token].Signer(ctx, id, made.Leaf.PublicKey)
	switch {
	case errors.Is(err, hsm.ErrMissing):
		err = fmt.Errorf("token %s has no private key with the CKA_ID %s; kmsgate hsm inspect lists what it has: %w", c.Token, c.KeyID, err)
	case errors.Is(err, hsm.ErrWrongMaterial):
		err = fmt.Errorf("%s is the certificate of another key than %s in token %s; have the key's own request signed, "+
			"or make another key: kmsgate hsm tls-key: %w", c.Certificate, c.KeyID, c.Token, err)
	case err != nil:
		err = fmt.Errorf("key %s in token %s: %w", c.KeyID, c.Token, err)
	}
	return made, err
}

// readChain reads a certificate and those after it from a PEM file.
func readChain(path string) (chain tls.Certificate, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return chain, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			chain.Certificate = append(chain.Certificate, block.Bytes)
		}
	}
	if len(chain.Certificate) == 0 {
		return chain, fmt.Errorf("%s has no certificate in PEM", path)
	}
	if chain.Leaf, err = x509.ParseCertificate(chain.Certificate[0]); err != nil {
		return chain, fmt.Errorf("%s: %w", path, err)
	}
	return chain, nil
}
