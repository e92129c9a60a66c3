package kmsapi

import (
	"reflect"
	"strings"
	"unicode"
)

// pattern is a constraint of the one kind that KMS has: a string is made of
// certain characters.
type pattern struct {
	regexp     string // as AWS prints it
	admits     func(c rune) bool
	admitsNone bool // the empty string fits
}

func (p pattern) broken(v reflect.Value) string {
	s := v.String()
	if s == "" && !p.admitsNone {
		return p.text()
	}
	for _, c := range s {
		if !p.admits(c) {
			return p.text()
		}
	}
	return ""
}

func (p pattern) text() string { return "Member must satisfy regular expression pattern: " + p.regexp }

// patterns by the name in the constraint tag. KeyId's is not in the public model.
var patterns = map[string]pattern{
	"KeyId":      {regexp: `^\p{ASCII}+$`, admits: func(c rune) bool { return c < 0x80 }},
	"AliasName":  {regexp: `^[a-zA-Z0-9:/_-]+$`, admits: func(c rune) bool { return isWord(c) || c == ':' || c == '/' || c == '-' }},
	"Principal":  {regexp: `^[\w+=,.@:/-]+$`, admits: func(c rune) bool { return isName(c) || c == ':' || c == '/' }},
	"PolicyName": {regexp: `[\w]+`, admits: isWord},
	"XksKeyId":   {regexp: `^[a-zA-Z0-9-_.]+$`, admits: func(c rune) bool { return isWord(c) || c == '-' || c == '.' }},
	"Policy": {
		regexp: `[\u0009\u000A\u000D\u0020-\u00FF]+`,
		admits: func(c rune) bool { return isLatin(c) || c == '\t' || c == '\n' || c == '\r' },
	},
	// AWS takes every character; Postgres has no NUL.
	"Text":          {regexp: `[^\u0000]*`, admits: func(c rune) bool { return c != 0 }, admitsNone: true},
	"IAMName":       {regexp: `[\w+=,.@-]+`, admits: isName},
	"IAMPath":       {regexp: `(\u002F)|(\u002F[\u0021-\u007E]+\u002F)`, admits: func(c rune) bool { return c > 0x20 && c < 0x7F }},
	"IAMTag":        {regexp: `[\p{L}\p{Z}\p{N}_.:/=+\-@]*`, admits: isTagCharacter, admitsNone: true},
	"ExternalId":    {regexp: `[\w+=,.@:\/-]*`, admits: func(c rune) bool { return isName(c) || c == ':' || c == '/' }, admitsNone: true},
	"Marker":        {regexp: `[\u0020-\u00FF]*`, admits: isLatin, admitsNone: true},
	"IAMPathPrefix": {regexp: `\u002F[\u0021-\u007F]*`, admits: func(c rune) bool { return c > 0x20 && c < 0x80 }},
	"KeyMaterialId": {regexp: `^[a-f0-9]+$`, admits: func(c rune) bool { return c >= 'a' && c <= 'f' || c >= '0' && c <= '9' }},
	"KeyMaterialDescription": {
		regexp: `^[a-zA-Z0-9:/_\s.-]+$`, admits: func(c rune) bool { return isWord(c) || strings.ContainsRune(":/.- \t\n\v\f\r", c) },
		admitsNone: true,
	},
	// What a site calls its Regions is its own affair.
	"Region":      {regexp: `^([a-z]+-){2,3}\d+$`, admits: func(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }},
	"AccessKeyId": {regexp: `[\w]+`, admits: isWord},
}

func isWord(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

func isName(c rune) bool { return isWord(c) || strings.ContainsRune("+=,.@-", c) }

func isTagCharacter(c rune) bool {
	return unicode.In(c, unicode.L, unicode.Z, unicode.N) || strings.ContainsRune("_.:/=+-@", c)
}

func isLatin(c rune) bool { return c >= 0x20 && c <= 0xFF }
