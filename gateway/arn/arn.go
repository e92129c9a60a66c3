// Package arn has the names that callers give to keys, aliases and principals:
// it reads and spells them. It knows syntax only; whether the named thing exists
// is for others to say.
//
// KMS Developer Guide, "Key identifiers (KeyId)"; IAM User Guide, "IAM identifiers".
package arn

import (
	"errors"
	"strings"
	"unicode"
)

// Partition is the only partition of the ARNs we print and accept: SDKs,
// Terraform and policy tools match on it.
const Partition = "aws"

// Form is one of the four ways to name a key, or a set of them.
type Form uint8

// The forms, as bits.
const (
	KeyID Form = 1 << iota
	KeyARN
	AliasName
	AliasARN

	KeyForms = KeyID | KeyARN // what management operations take
	AnyForm  = KeyForms | AliasName | AliasARN
)

// Ref is a parsed key identifier in any of the four forms. Fields that the
// form does not have are empty.
type Ref struct {
	Form    Form
	Region  string
	Account string
	ID      string // key id; for the alias forms empty
	Alias   string // "alias/name"; for the key forms empty
}

// Errors of Parse.
var (
	// ErrMalformed: the string is none of the four forms.
	ErrMalformed = errors.New("not a key id, key ARN, alias name or alias ARN")
	// ErrMalformedID: a well-formed key ARN whose key id is not one.
	ErrMalformedID = errors.New("key ARN with a malformed key id")
)

// Parse reads a key identifier. It returns ErrMalformedID together with the
// Ref's Region, Account and ID for an ARN whose resource is "key/" and
// something that is not a key id.
func Parse(s string) (Ref, error) {
	if strings.HasPrefix(s, "arn:") {
		return parseARN(s)
	}
	if IsKeyID(s) {
		return Ref{Form: KeyID, ID: s}, nil
	}
	if isAlias(s) {
		return Ref{Form: AliasName, Alias: s}, nil
	}
	return Ref{}, ErrMalformed
}

func parseARN(s string) (Ref, error) {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 || p[1] != Partition || p[2] != "kms" || p[3] == "" || !IsAccount(p[4]) {
		return Ref{}, ErrMalformed
	}
	ref := Ref{Region: p[3], Account: p[4]}
	if id, ok := strings.CutPrefix(p[5], "key/"); ok && id != "" {
		ref.Form, ref.ID = KeyARN, id
		if !IsKeyID(id) {
			return ref, ErrMalformedID
		}
		return ref, nil
	}
	if isAlias(p[5]) {
		ref.Form, ref.Alias = AliasARN, p[5]
		return ref, nil
	}
	return Ref{}, ErrMalformed
}

// isAlias tells whether s could be an alias: no alias has a control character.
func isAlias(s string) bool {
	name, ok := strings.CutPrefix(s, "alias/")
	return ok && name != "" && !strings.ContainsFunc(name, unicode.IsControl)
}

// KeyARNOf is the ARN of a key.
func KeyARNOf(region, account, id string) string {
	return "arn:" + Partition + ":kms:" + region + ":" + account + ":key/" + id
}

// AliasARNOf is the ARN of an alias; name begins with "alias/".
func AliasARNOf(region, account, name string) string {
	return "arn:" + Partition + ":kms:" + region + ":" + account + ":" + name
}

// IsKeyID tells whether s has the shape of a key id: a UUID, or "mrk-" and 32
// lower-case hexadecimal digits for a multi-Region key. An upper-case UUID has
// the shape too, though no key has such an id.
func IsKeyID(s string) bool {
	if hex, ok := strings.CutPrefix(s, MultiRegionPrefix); ok {
		return len(hex) == 32 && isHex(hex, false)
	}
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:], true)
}

// MultiRegionPrefix is what the ids of multi-Region keys begin with.
const MultiRegionPrefix = "mrk-"

// IsMultiRegion tells whether a key id is that of a multi-Region key.
func IsMultiRegion(id string) bool { return strings.HasPrefix(id, MultiRegionPrefix) }

func isHex(s string, upper bool) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', upper && c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return true
}

// IsAccount tells whether s is an account id: 12 digits.
func IsAccount(s string) bool {
	if len(s) != 12 {
		return false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Root is the ARN of an account's root, which in a policy stands for the account.
func Root(account string) string { return "arn:" + Partition + ":iam::" + account + ":root" }
