package awsjson

import (
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"kmsgate/gateway/kmsapi"
)

// decodeInteger reads a number as AWS does: cut toward minus infinity, clamped
// to int32.
func decodeInteger(dec *jsontext.Decoder, into *int32) error {
	value, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if value.Kind() != jsontext.KindNumber {
		return kmsapi.WrongType(byte(value.Kind()), kmsapi.IntegerShape)
	}
	number, err := strconv.ParseFloat(string(value), 64)
	if err != nil && !math.IsInf(number, 0) { // infinities are clamped like all that is too wide
		return kmsapi.WrongType(byte(value.Kind()), kmsapi.IntegerShape)
	}
	*into = int32(min(max(math.Floor(number), math.MinInt32), math.MaxInt32))
	return nil
}

// decodeStrings reads a list of strings.
func decodeStrings(dec *jsontext.Decoder, into *[]string) error {
	if kind := dec.PeekKind(); kind == jsontext.KindNull {
		*into = nil
		return dec.SkipValue()
	} else if kind != jsontext.KindBeginArray {
		return wrongNext(dec, kmsapi.ListShape)
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	list := []string{}
	for dec.PeekKind() != jsontext.KindEndArray {
		element, err := readString(dec)
		if err != nil {
			return err
		}
		list = append(list, element)
	}
	*into = list
	_, err := dec.ReadToken()
	return err
}

// decodeMap reads a map of strings, such as an encryption context.
func decodeMap(dec *jsontext.Decoder, into *map[string]string) error {
	if kind := dec.PeekKind(); kind == jsontext.KindNull {
		*into = nil
		return dec.SkipValue()
	} else if kind != jsontext.KindBeginObject {
		return wrongNext(dec, kmsapi.MapShape)
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	pairs := map[string]string{}
	for dec.PeekKind() != jsontext.KindEndObject {
		key, err := readString(dec)
		if err != nil {
			return err
		}
		value, err := readString(dec)
		if err != nil {
			return err
		}
		pairs[key] = value
	}
	*into = pairs
	_, err := dec.ReadToken()
	return err
}

func readString(dec *jsontext.Decoder) (string, error) {
	if kind := dec.PeekKind(); kind != jsontext.KindString {
		return "", wrongNext(dec, kmsapi.StringShape)
	}
	token, err := dec.ReadToken()
	if err != nil {
		return "", err
	}
	return token.String(), nil
}

// wrongNext says that the next value is not of the shape, or that there is no
// next value.
func wrongNext(dec *jsontext.Decoder, want kmsapi.Shape) error {
	kind := dec.PeekKind()
	if kind == jsontext.KindInvalid {
		_, err := dec.ReadToken()
		return err
	}
	return kmsapi.WrongType(byte(kind), want)
}
