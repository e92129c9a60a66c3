package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

// importTokenLabel is what import tokens are sealed with, before the key's ARN: one of
// another key does not open.
const importTokenLabel = "kmsgate/import-token/v1\x00"

// importTokenBytes is the length of what is sealed: the id of the parameters, and the
// second at which they expire, big-endian.
const importTokenBytes = 16 + 8

// importToken seals the token that goes with import parameters.
func (c *call) importToken(ctx context.Context, key *metadata.KeyEntry, p *metadata.ImportParameters) (kmsapi.Blob, error) {
	text := make([]byte, 0, importTokenBytes)
	text = append(text, p.ID[:]...)
	text = binary.BigEndian.AppendUint64(text, uint64(p.ExpiresAt.Unix()))
	return c.token(key).Seal(ctx, c.onBehalf(key), key.Store, text, importTokenAAD(key))
}

func importTokenAAD(key *metadata.KeyEntry) []byte { return []byte(importTokenLabel + key.ARN()) }

// importParameters are those that a token of the key's stands for.
func (c *call) importParameters(ctx context.Context, key *metadata.KeyEntry, token []byte) (metadata.ImportParameters, error) {
	text, err := c.token(key).Open(ctx, c.onBehalf(key), token, importTokenAAD(key))
	if errors.Is(err, hsm.ErrInvalidCiphertext) || err == nil && len(text) != importTokenBytes {
		return metadata.ImportParameters{}, kmsapi.InvalidImportToken()
	}
	if err != nil {
		return metadata.ImportParameters{}, err
	}
	if expires := time.Unix(int64(binary.BigEndian.Uint64(text[16:])), 0); !c.now.Before(expires) {
		return metadata.ImportParameters{}, kmsapi.ExpiredImportToken()
	}
	p, err := c.gateway.store.ImportParameters(ctx, key.Region, key.Account, key.ID, uuid.UUID(text[:16]))
	if errors.Is(err, metadata.ErrNotFound) { // used, most likely
		return p, kmsapi.InvalidImportToken()
	}
	return p, err
}
