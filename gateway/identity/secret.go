package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

// secretKeyBytes of random make a secret of 40 characters in base64.
const secretKeyBytes = 30

// ErrSecret: the sealed secret of an access key does not open. Its row was
// changed, or no token here has the key that it was sealed with.
var ErrSecret = errors.New("secret of an access key does not open")

// NewRootAccessKey makes an access key for the root of an account, as NewAccessKey.
func NewRootAccessKey(ctx context.Context, token hsm.Token, store, account string, now time.Time) (metadata.AccessKey, []byte, error) {
	return NewAccessKey(ctx, token, store, metadata.AccessKey{Account: account, Principal: arn.Root(account), CreatedAt: now})
}

// NewAccessKey makes an active access key of which Account, User, Principal and
// CreatedAt are given, with a secret from the token's random generator, sealed in
// the token under the store's sealing key. The caller stores the key, shows the
// secret once, and clears it.
func NewAccessKey(ctx context.Context, token hsm.Token, store string, key metadata.AccessKey) (metadata.AccessKey, []byte, error) {
	random, err := token.Random(ctx, sealCall(key.Account), secretKeyBytes)
	if err != nil {
		return metadata.AccessKey{}, nil, fmt.Errorf("make a secret access key: %w", err)
	}
	defer clear(random)
	secret := base64.StdEncoding.AppendEncode(nil, random)
	key.ID, key.Status = newAccessKeyID(), metadata.AccessKeyActive
	if key.SealedSecret, err = token.Seal(ctx, sealCall(key.Account), store, secret, secretAAD(&key)); err != nil {
		clear(secret)
		return metadata.AccessKey{}, nil, fmt.Errorf("seal the secret of access key %s: %w", key.ID, err)
	}
	return key, secret, nil
}

// OpenSecret opens the secret of an access key, which is sealed by a key store of
// one of the tokens. It is the caller's to clear. ErrSecret if none of them opens it.
func OpenSecret(ctx context.Context, tokens []hsm.Token, key *metadata.AccessKey) ([]byte, error) {
	failed := fmt.Errorf("%w: %s", ErrSecret, key.ID)
	for _, token := range tokens {
		secret, err := token.Open(ctx, sealCall(key.Account), key.SealedSecret, secretAAD(key))
		if err == nil {
			return secret, nil
		}
		if !errors.Is(err, hsm.ErrInvalidCiphertext) { // it might be the one that opens it
			failed = fmt.Errorf("open the secret of access key %s: %w", key.ID, err)
		}
	}
	return nil, failed
}

// Reseal opens the secret of an access key and seals it again under the store's newest
// sealing key, in one token and the same process, and returns it so. ErrSecret if it
// does not open.
func Reseal(ctx context.Context, token hsm.Token, store string, key *metadata.AccessKey) ([]byte, error) {
	secret, err := OpenSecret(ctx, []hsm.Token{token}, key)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return token.Seal(ctx, sealCall(key.Account), store, secret, secretAAD(key))
}

// secretAAD binds a sealed secret to the access key that it belongs to, and to whose
// that is.
func secretAAD(key *metadata.AccessKey) []byte {
	aad := "kmsgate access key\x00" + key.Account + "\x00" + key.ID
	if key.User != "" {
		aad += "\x00" + key.User
	}
	return []byte(aad)
}

// newAccessKeyID is not a secret: it has the shape that AWS's clients know.
func newAccessKeyID() string { return newID("AKIA")[:accessKeyIDLength] }

const accessKeyIDLength = 20

// sealCall is on whose behalf access keys are sealed and opened.
func sealCall(account string) hsm.Call { return hsm.Call{Account: account} }
