package gateway

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
)

// A grant token names a grant, and is no secret: who holds it still has to be the
// grant's grantee to use it, or one of those who may retire it. Grants hold as soon
// as they are made, so nobody needs a token to use one; a token of a grant that
// ended is as good as none.
//
// version · nonce · grant id · key ARN · checksum of all that, in base64url
const (
	grantTokenVersion = 1
	grantTokenNonce   = 16 // bytes; makes every token another
	grantTokenSum     = 16 // bytes
	grantIDBytes      = 32
)

// namedGrant is a grant by its names.
type namedGrant struct {
	key arn.Ref
	id  string // 64 hexadecimal digits
}

// newGrantToken makes a token of a grant.
func newGrantToken(keyARN, id string) string {
	raw := make([]byte, 1+grantTokenNonce, 1+grantTokenNonce+grantIDBytes+len(keyARN)+grantTokenSum)
	raw[0] = grantTokenVersion
	_, _ = rand.Read(raw[1:]) // never fails (crypto/rand, since Go 1.24)
	number, _ := hex.DecodeString(id)
	raw = append(append(raw, number...), keyARN...)
	return base64.RawURLEncoding.EncodeToString(append(raw, sumOfGrantToken(raw)...))
}

// parseGrantToken reads a token; InvalidGrantTokenException for everything else.
func parseGrantToken(token string) (namedGrant, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	const fixed = 1 + grantTokenNonce + grantIDBytes
	if err != nil || strings.ContainsAny(token, "\r\n") || len(raw) <= fixed+grantTokenSum || raw[0] != grantTokenVersion {
		return namedGrant{}, kmsapi.InvalidGrantToken()
	}
	content, sum := raw[:len(raw)-grantTokenSum], raw[len(raw)-grantTokenSum:]
	key, err := arn.Parse(string(content[fixed:]))
	if err != nil || key.Form != arn.KeyARN || !bytes.Equal(sum, sumOfGrantToken(content)) {
		return namedGrant{}, kmsapi.InvalidGrantToken()
	}
	return namedGrant{key: key, id: hex.EncodeToString(content[1+grantTokenNonce : fixed])}, nil
}

func sumOfGrantToken(content []byte) []byte {
	sum := sha256.Sum256(append([]byte("kmsgate grant token\x00"), content...))
	return sum[:grantTokenSum]
}

// checkGrantTokens refuses a request with a token that is none, or one of another
// region.
func (c *call) checkGrantTokens(in any) error {
	if _, ok := c.op.fields["GrantTokens"]; !ok {
		return nil
	}
	tokens, _ := c.op.member(in, "GrantTokens").Interface().([]string)
	for _, token := range tokens {
		named, err := parseGrantToken(token)
		if err != nil {
			return err
		}
		if named.key.Region != c.region {
			return kmsapi.InvalidGrantToken()
		}
	}
	return nil
}

// newGrantID makes the id of a grant.
func newGrantID() string {
	id := make([]byte, grantIDBytes)
	_, _ = rand.Read(id) // never fails (crypto/rand, since Go 1.24)
	return hex.EncodeToString(id)
}

// checkGrantID refuses what has not the form of a grant id.
func checkGrantID(id string) error {
	if len(id) != 2*grantIDBytes || strings.Trim(id, "0123456789abcdef") != "" {
		return kmsapi.InvalidGrantID()
	}
	return nil
}
