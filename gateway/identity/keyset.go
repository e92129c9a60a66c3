package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const maxKeySetBytes = 64 << 10

// KeySet is a checked JWK set (RFC 7517) with which tokens of an OIDC provider are
// verified instead of asking its issuer.
type KeySet struct {
	// Text is the set, with nothing in it but the keys.
	Text string
	Keys []KeySetKey
}

// KeySetKey tells a key of a set from the others.
type KeySetKey struct {
	ID          string // kid; empty for none
	Algorithm   string // empty for any that its type has
	Fingerprint string // SHA-256 of the public key, RFC 7638, hexadecimal
}

// ParseKeySet reads a JWK set that an administrator uploads. Unlike what an issuer
// serves it must be right as a whole: at least one key and at most 64 KiB, and all of
// them public keys for signatures, RSA ones of 2048 bits at least, with a kid each if
// there are several. The error says what is wrong, and shows no key.
func ParseKeySet(text []byte) (KeySet, error) {
	if len(text) > maxKeySetBytes {
		return KeySet{}, fmt.Errorf("more than %d bytes", maxKeySetBytes)
	}
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &raw) != nil {
		return KeySet{}, errors.New(`not a JWK set: it must be a JSON object with a list named "keys"`)
	}
	if len(raw.Keys) == 0 || len(raw.Keys) > maxIssuerKeys {
		return KeySet{}, fmt.Errorf("%d keys: there must be between 1 and %d", len(raw.Keys), maxIssuerKeys)
	}
	set := KeySet{}
	var keys jose.JSONWebKeySet
	for i, one := range raw.Keys {
		key, err := parseUploaded(one)
		if err == nil {
			err = set.add(key, len(raw.Keys) > 1)
		}
		if err != nil {
			return KeySet{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		keys.Keys = append(keys.Keys, key)
	}
	encoded, err := json.Marshal(keys)
	set.Text = string(encoded)
	return set, err
}

// add notes a key. named: it needs a kid.
func (s *KeySet) add(key jose.JSONWebKey, named bool) error {
	if named && key.KeyID == "" {
		return errors.New("no kid tells it from the others")
	}
	if slices.ContainsFunc(s.Keys, func(k KeySetKey) bool { return k.ID == key.KeyID }) {
		return errors.New("its kid is that of an earlier one")
	}
	fingerprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	s.Keys = append(s.Keys, KeySetKey{key.KeyID, key.Algorithm, hex.EncodeToString(fingerprint)})
	return nil
}

// parseUploaded reads a key. Of what stands beside it only kid and alg are kept.
func parseUploaded(raw []byte) (jose.JSONWebKey, error) {
	var key jose.JSONWebKey
	if json.Unmarshal(raw, &key) != nil { // its text might have the key
		return key, errors.New("not a JWK of a kind that is known here: RSA, P-256, P-384, P-521, Ed25519")
	}
	algorithms, err := algorithmsOf(key.Key)
	switch {
	case err != nil:
		return key, err
	case key.Use != "" && key.Use != "sig":
		return key, fmt.Errorf("its use is %q: it must be sig", key.Use)
	case key.Algorithm != "" && !slices.Contains(algorithms, key.Algorithm):
		return key, fmt.Errorf("its alg is %q: it must be one of %s, or absent", key.Algorithm, strings.Join(algorithms, ", "))
	}
	return jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID, Algorithm: key.Algorithm, Use: "sig"}, nil
}

// algorithmsOf are the signature algorithms of a key that has no secret.
func algorithmsOf(key any) ([]string, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < leastRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits: it must have %d at least", k.N.BitLen(), leastRSABits)
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		return ecdsaAlgorithms[k.Params().BitSize], nil
	case ed25519.PublicKey:
		return []string{"EdDSA"}, nil
	case []byte:
		return nil, errors.New("a symmetric key: who can verify with it can sign too")
	default:
		return nil, errors.New("a private key: only public keys may leave the issuer")
	}
}

// ecdsaAlgorithms is the algorithm of each curve, by its bits (RFC 7518, section 3.4).
var ecdsaAlgorithms = map[int][]string{256: {"ES256"}, 384: {"ES384"}, 521: {"ES512"}}
