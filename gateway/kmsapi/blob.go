package kmsapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
)

// Blob is a byte string; on the wire it is standard base64 with padding. Nil
// is an absent member, empty is one that was sent empty.
type Blob []byte

// UnmarshalJSON reads a JSON string in standard base64, with padding and
// without unused bits set. Errors are SerializationExceptions in AWS's words,
// which quote the value.
func (b *Blob) UnmarshalJSON(value []byte) error {
	decoded, problem := decodeBase64(value)
	if problem != nil {
		return problem.quoting()
	}
	*b = decoded
	return nil
}

// Secret is a Blob whose bytes must not be shown: plaintexts and data keys. It
// prints as "[secret]" with every verb and in every log. Its owner clears it
// after use.
type Secret []byte

// UnmarshalJSON reads the same as Blob's; its errors don't quote the value.
func (s *Secret) UnmarshalJSON(value []byte) error {
	decoded, problem := decodeBase64(value)
	if problem != nil {
		return problem.silent()
	}
	*s = decoded
	return nil
}

const redacted = "[secret]"

// Format prints "[secret]", whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) } // fmt reports its own write errors

// LogValue is "[secret]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// badBlob says why a value is not base64.
type badBlob struct {
	wrongType *Error // not a string at all
	value     string
	problem   string
	character string // the first character that is not base64, if that is the problem
}

func (b *badBlob) quoting() *Error {
	if b.wrongType != nil {
		return b.wrongType
	}
	return Serialization("'" + b.value + notBlob + ": " + b.problem + b.character)
}

// notBlob stands between the value and the problem.
const notBlob = "' can not be converted to a Blob"

// Recordable is the message without a blob that it quotes: who sent it may see
// it again, and no log may.
func (e *Error) Recordable() string {
	if i := strings.LastIndex(e.Message, notBlob); i >= 0 && e.Code == SerializationException {
		return "Value" + e.Message[i+1:]
	}
	return e.Message
}

func (b *badBlob) silent() *Error {
	if b.wrongType != nil {
		return b.wrongType
	}
	return Serialization("Value can not be converted to a Blob: " + strings.TrimSuffix(b.problem, ": "))
}

// strict refuses bits set in the padding, so that every blob has one encoding.
var strict = base64.StdEncoding.Strict()

func decodeBase64(value []byte) ([]byte, *badBlob) {
	if len(value) == 0 || value[0] == 'n' {
		return nil, nil
	}
	if value[0] != '"' {
		return nil, &badBlob{wrongType: WrongType(value[0], BlobShape)}
	}
	text := value[1 : len(value)-1]
	if bytes.IndexByte(text, '\\') >= 0 { // some encoders write "/" as "\/"
		var unquoted string
		if err := json.Unmarshal(value, &unquoted); err != nil {
			return nil, &badBlob{wrongType: Serialization("")}
		}
		text = []byte(unquoted)
	}
	if len(text)%4 != 0 {
		return nil, &badBlob{value: string(text), problem: "Base64 encoded length is expected a multiple of 4 bytes but found: " + fmt.Sprint(len(text))}
	}
	decoded := make([]byte, strict.DecodedLen(len(text)))
	n, err := strict.Decode(decoded, text)
	// The decoder of the standard library skips line breaks, which shows in n.
	padding := len(text) - len(bytes.TrimRight(text, "="))
	if err != nil || n != len(decoded)-padding {
		clear(decoded)
		return nil, whyNotBase64(string(text))
	}
	return decoded[:n], nil
}

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

func whyNotBase64(text string) *badBlob {
	for i, c := range text {
		padInside := c == '=' && i+1 < len(text) && text[i+1] != '='
		if padInside || !strings.ContainsRune(base64Alphabet, c) {
			return &badBlob{value: text, problem: "Invalid Base64 character: ", character: "'" + string(c) + "'"}
		}
	}
	return &badBlob{value: text, problem: "Invalid last non-pad Base64 character dectected"} // AWS's spelling
}
