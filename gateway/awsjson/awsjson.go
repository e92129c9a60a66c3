// Package awsjson is the AWS JSON 1.1 protocol between bytes and the types of
// gateway/kmsapi: request bodies in, response and error bodies out. It knows
// no HTTP beyond the status of an error, and trusts nothing about a body but
// that its size is bounded already.
//
// Decoding is strict where AWS is lenient, since whatever a parser drops or
// chooses is something that the policy engine and the audit log did not see:
// member names are exact, none is unknown, none stands twice, strings are
// UTF-8, and nothing follows the object. JSON null is an absent member.
package awsjson

import (
	"errors"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"kmsgate/gateway/kmsapi"
)

// Decode reads a request body into a pointer to a request type. The error is a
// SerializationException: without message for what is not one JSON object, in
// AWS's words for a value of the wrong type, and naming the member for one that
// is unknown or stands twice. After an error, into is half filled and useless,
// and may hold parts of secrets.
//
// Integers follow AWS: fractions are cut toward minus infinity and values
// outside int32 are clamped to it. Nulls in lists of strings and in maps are
// refused, for what they mean is open. Nesting is bounded by the types: no
// value deeper than its member's type is read.
//
// It is safe for concurrent use. It does not keep body.
func Decode(body []byte, into any) *kmsapi.Error {
	if jsontext.Value(body).Kind() != jsontext.KindBeginObject {
		return kmsapi.Serialization("")
	}
	if err := json.Unmarshal(body, into, decoding); err != nil {
		return refuse(body, err)
	}
	return nil
}

// decoding are the options of Decode. The library's own defaults do the rest:
// exact names, no duplicates, UTF-8, no trailing data.
var decoding = json.JoinOptions(
	json.RejectUnknownMembers(true),
	json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFromFunc(decodeInteger),
		json.UnmarshalFromFunc(decodeStrings),
		json.UnmarshalFromFunc(decodeMap),
	)),
)

// refuse turns what the library says into what AWS would say.
func refuse(body []byte, err error) *kmsapi.Error {
	if !isJSON(body) {
		return kmsapi.Serialization("")
	}
	if said, ok := errors.AsType[*kmsapi.Error](err); ok {
		return said
	}
	if bad, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(bad, jsontext.ErrDuplicateName) {
			return kmsapi.DuplicateMember(bad.JSONPointer.LastToken())
		}
		return kmsapi.Serialization("")
	}
	bad, ok := errors.AsType[*json.SemanticError](err)
	if !ok || bad.GoType == nil {
		return kmsapi.Serialization("")
	}
	if errors.Is(bad, json.ErrUnknownName) {
		return kmsapi.UnknownMember(bad.JSONPointer.LastToken())
	}
	return kmsapi.WrongType(byte(bad.JSONKind), shapeOf(bad.GoType))
}

// isJSON tells whether a body is JSON at all, apart from what Decode asks
// beyond that: a body that breaks off is told so, whatever stands before.
func isJSON(body []byte) bool {
	return jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// shapes are AWS's names of Go's kinds.
var shapes = map[reflect.Kind]kmsapi.Shape{
	reflect.String: kmsapi.StringShape,
	reflect.Bool:   kmsapi.BooleanShape,
	reflect.Int32:  kmsapi.IntegerShape,
	reflect.Slice:  kmsapi.ListShape,
	reflect.Map:    kmsapi.MapShape,
	reflect.Struct: kmsapi.StructureShape,
}

func shapeOf(t reflect.Type) kmsapi.Shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return shapes[t.Kind()]
}

// Encode is a response body: compact, in the order of the type's fields, with
// map keys sorted and no HTML escapes. An operation without an output shape
// ([kmsapi.Empty]) has an empty body. It fails on a string that is not UTF-8,
// which no response may have.
func Encode(out any) ([]byte, error) {
	switch out.(type) {
	case kmsapi.Empty, *kmsapi.Empty:
		return nil, nil
	}
	return json.Marshal(out, json.Deterministic(true))
}

// EncodeError is the status and the body of an error. An empty message is
// left out.
func EncodeError(e *kmsapi.Error) (status int, body []byte) {
	row := e.Code.Row()
	body = appendMember([]byte{'{'}, "__type", string(e.Code))
	if e.Message != "" {
		name := "message"
		if row.CapitalMessage {
			name = "Message"
		}
		body = appendMember(append(body, ','), name, e.Message)
	}
	return row.HTTPStatus, append(body, '}')
}

// appendMember appends a member whose value may hold bytes of a caller that
// are not UTF-8; they are replaced.
func appendMember(dst []byte, name, value string) []byte {
	dst, _ = jsontext.AppendQuote(dst, name) // names here are ASCII
	dst = append(dst, ':')
	dst, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(value, "\uFFFD")) // valid by now
	return dst
}
