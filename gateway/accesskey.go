package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

const (
	accessKeyPrefix  = "AKIA"
	accessKeyRandom  = 16 // characters after the prefix
	secretKeyBytes   = 30 // base64 makes 40 characters of them
	accessKeyLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// NewRootAccessKey makes an access key for the root of an account, with a
// secret from the token's random generator, sealed in the token. The caller
// stores the key, shows the secret once, and clears it.
func NewRootAccessKey(ctx context.Context, token hsm.Token, store, account string, now time.Time) (metadata.AccessKey, []byte, error) {
	random, err := token.Random(ctx, sealCall(account), secretKeyBytes)
	if err != nil {
		return metadata.AccessKey{}, nil, fmt.Errorf("make a secret access key: %w", err)
	}
	defer clear(random)
	secret := base64.StdEncoding.AppendEncode(nil, random)
	id := newAccessKeyID()
	sealed, err := token.Seal(ctx, sealCall(account), store, secret, secretAAD(account, id))
	if err != nil {
		clear(secret)
		return metadata.AccessKey{}, nil, fmt.Errorf("seal the secret of access key %s: %w", id, err)
	}
	return metadata.AccessKey{
		ID: id, Account: account, Principal: arn.Root(account), SealedSecret: sealed,
		Status: metadata.AccessKeyActive, CreatedAt: now,
	}, secret, nil
}

// OpenSecret opens the secret of an access key. It is the caller's to clear.
func OpenSecret(ctx context.Context, token hsm.Token, key *metadata.AccessKey) ([]byte, error) {
	secret, err := token.Open(ctx, sealCall(key.Account), key.SealedSecret, secretAAD(key.Account, key.ID))
	if errors.Is(err, hsm.ErrInvalidCiphertext) {
		return nil, fmt.Errorf("%w: %s", errSecret, key.ID) // not the caller's ciphertext
	}
	if err != nil {
		return nil, fmt.Errorf("open the secret of access key %s: %w", key.ID, err)
	}
	return secret, nil
}

// isAccessKeyID tells whether a string has the shape of an access key id.
func isAccessKeyID(s string) bool {
	if len(s) < 16 || len(s) > 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// newAccessKeyID is not a secret: it has the shape that AWS's clients know.
func newAccessKeyID() string {
	random := make([]byte, accessKeyRandom)
	_, _ = rand.Read(random) // never fails (crypto/rand, since Go 1.24)
	for i, b := range random {
		random[i] = accessKeyLetters[int(b)%len(accessKeyLetters)]
	}
	return accessKeyPrefix + string(random)
}
