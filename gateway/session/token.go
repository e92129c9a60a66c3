package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"
)

// MaxToken is how long a token may be, in characters: some proxies cut header
// lines at twice as much.
const MaxToken = 4096

// KeyBytes is the length of a key.
const KeyBytes = 32

// A token is the base64 of
//
//	version (1) | key id (4) | nonce (12) | claims and zeros under AES-256-GCM | tag (16)
//
// with version, key id, "sts" and the access key id as additional data.
const (
	version     = 1
	headerBytes = 1 + 4
	nonceBytes  = 12
	tagBytes    = 16

	maxClaims = MaxToken/4*3 - headerBytes - nonceBytes - tagBytes
)

// Key seals and opens tokens. It never changes and is safe for concurrent use.
type Key struct {
	id   uint32
	aead cipher.AEAD
}

// NewKey makes a key of its id and of KeyBytes random bytes, which the caller may
// clear afterwards.
func NewKey(id uint32, secret []byte) (*Key, error) {
	block, err := aes.NewCipher(secret)
	if err != nil || len(secret) != KeyBytes {
		return nil, aes.KeySizeError(len(secret))
	}
	aead, err := cipher.NewGCM(block)
	return &Key{id: id, aead: aead}, err
}

// ID is the key's id.
func (k *Key) ID() uint32 { return k.id }

// Seal makes the token of a session, of at least as many characters as least says, up
// to MaxToken. ErrTooLarge if it would be longer than MaxToken.
func Seal(k *Key, c *Claims, least int) (string, error) {
	claims := c.append(make([]byte, 0, maxClaims)) // grows only if it is too large
	defer func() { clear(claims) }()
	if len(claims) > maxClaims {
		return "", ErrTooLarge
	}
	if more := (min(least, MaxToken)*3+3)/4 - headerBytes - nonceBytes - tagBytes - len(claims); more > 0 {
		claims = append(claims, make([]byte, more)...)
	}
	token := make([]byte, headerBytes+nonceBytes, headerBytes+nonceBytes+len(claims)+tagBytes)
	token[0] = version
	binary.BigEndian.PutUint32(token[1:], k.id)
	nonce := token[headerBytes:]
	_, _ = rand.Read(nonce) // never fails (crypto/rand, since Go 1.24)
	token = k.aead.Seal(token, nonce, claims, additional(token[:headerBytes], c.AccessKeyID))
	return base64.StdEncoding.EncodeToString(token), nil
}

// PackedPercent says how much of the room for policies and tags a session takes,
// in per cent and rounded up: PackedPolicySize in answers of STS.
func PackedPercent(c *Claims) int {
	empty := *c
	empty.Policies, empty.PolicyARNs, empty.Tags, empty.TransitiveTags = nil, nil, nil, nil
	bare := empty.size()
	room := max(maxClaims-bare, 1)
	return ((c.size()-bare)*100 + room - 1) / room
}

// size is how many bytes the claims take in a token.
func (c *Claims) size() int {
	b := c.append(make([]byte, 0, maxClaims))
	defer clear(b)
	return len(b)
}

// Token is a token that somebody sent; nothing of it is known to be true.
type Token struct{ raw []byte }

// Parse reads a token. ErrInvalid if it cannot be one of ours.
func Parse(token string) (Token, error) {
	if len(token) > MaxToken || strings.ContainsAny(token, "\r\n") { // which base64 skips
		return Token{}, ErrInvalid
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < headerBytes+nonceBytes+tagBytes || raw[0] != version {
		return Token{}, ErrInvalid
	}
	return Token{raw}, nil
}

// KeyID is the id of the key that the token claims to be sealed under.
func (t Token) KeyID() uint32 { return binary.BigEndian.Uint32(t.raw[1:]) }

// Open opens the token with the key of its KeyID, for the access key that came
// with it. ErrInvalid for everything that k did not seal for that access key,
// ErrExpired from the end of the session on. The caller clears the claims' Secret.
func (t Token) Open(k *Key, accessKeyID string, now time.Time) (*Claims, error) {
	nonce, sealed := t.raw[headerBytes:headerBytes+nonceBytes], t.raw[headerBytes+nonceBytes:]
	claims, err := k.aead.Open(nil, nonce, sealed, additional(t.raw[:headerBytes], accessKeyID))
	if err != nil {
		return nil, ErrInvalid
	}
	defer clear(claims)
	c, err := decode(claims)
	if err != nil {
		return nil, err
	}
	if !now.Before(c.ExpiresAt) {
		clear(c.Secret)
		return nil, ErrExpired
	}
	return c, nil
}

func additional(header []byte, accessKeyID string) []byte {
	b := make([]byte, 0, 64)
	b = append(b, header...)
	b = append(b, "sts"...)
	return append(b, accessKeyID...)
}
