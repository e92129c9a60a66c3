package kmsapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
)

func TestBlobSaysWhatAWSSays(t *testing.T) {
	t.Parallel()
	const conversion = " can not be converted to a Blob: "
	for name, test := range map[string]struct {
		value        string
		want, secret string // messages for Blob and Secret; the same if secret is empty
	}{
		"length":          {`"abcde"`, "'abcde'" + conversion + "Base64 encoded length is expected a multiple of 4 bytes but found: 5", "Value" + conversion + "Base64 encoded length is expected a multiple of 4 bytes but found: 5"},
		"no padding":      {`"YQ"`, "'YQ'" + conversion + "Base64 encoded length is expected a multiple of 4 bytes but found: 2", "Value" + conversion + "Base64 encoded length is expected a multiple of 4 bytes but found: 2"},
		"character":       {`"ab!d"`, "'ab!d'" + conversion + "Invalid Base64 character: '!'", "Value" + conversion + "Invalid Base64 character"},
		"URL alphabet":    {`"ab-_"`, "'ab-_'" + conversion + "Invalid Base64 character: '-'", "Value" + conversion + "Invalid Base64 character"},
		"beyond ASCII":    {`"abéab"`, "'abéab'" + conversion + "Base64 encoded length is expected a multiple of 4 bytes but found: 6", "Value" + conversion + "Base64 encoded length is expected a multiple of 4 bytes but found: 6"},
		"padding inside":  {`"YQ==YQ=="`, "'YQ==YQ=='" + conversion + "Invalid Base64 character: '='", "Value" + conversion + "Invalid Base64 character"},
		"line breaks":     {`"YWJj\r\n\r\n"`, "'YWJj\r\n\r\n'" + conversion + "Invalid Base64 character: '\r'", "Value" + conversion + "Invalid Base64 character"},
		"bits in padding": {`"YR=="`, "'YR=='" + conversion + "Invalid last non-pad Base64 character dectected", "Value" + conversion + "Invalid last non-pad Base64 character dectected"},
		"only padding":    {`"===="`, "'===='" + conversion + "Invalid last non-pad Base64 character dectected", "Value" + conversion + "Invalid last non-pad Base64 character dectected"},
		"boolean":         {`true`, "class java.lang.Boolean can not be converted to a Blob", ""},
		"number":          {`12`, "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to a Blob", ""},
		"list":            {`[1]`, "Start of list found where not expected", ""},
		"structure":       {`{"a":1}`, "Start of structure or map found where not expected.", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var blob kmsapi.Blob
			checkMessage(t, blob.UnmarshalJSON([]byte(test.value)), test.want)
			if test.secret == "" {
				test.secret = test.want
			}
			var secret kmsapi.Secret
			checkMessage(t, secret.UnmarshalJSON([]byte(test.value)), test.secret)
		})
	}
}

func checkMessage(t *testing.T, err error, want string) {
	t.Helper()
	e, ok := errors.AsType[*kmsapi.Error](err)
	if !ok || e.Code != kmsapi.SerializationException || e.Message != want {
		t.Errorf("UnmarshalJSON = %v, want SerializationException: %s", err, want)
	}
}

func TestBlobReads(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][]byte{
		`""`:          {},
		`null`:        nil,
		`"AA=="`:      {0},
		`"\u0041A=="`: {0},
		`"\/\/8="`:    {0xff, 0xff},
		`"YWJj"`:      []byte("abc"),
	} {
		var b kmsapi.Blob
		if err := b.UnmarshalJSON([]byte(value)); err != nil || !bytes.Equal(b, want) || (b == nil) != (want == nil) {
			t.Errorf("UnmarshalJSON(%s) = %v, %v, want %v", value, b, err, want)
		}
	}
}

func TestSecretPrintsNothing(t *testing.T) {
	t.Parallel()
	secret := kmsapi.Secret("hush")
	in := kmsapi.EncryptRequest{Plaintext: secret}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, text := range []string{fmt.Sprintf(format, secret), fmt.Sprintf(format, in)} {
			if strings.Contains(text, "hush") || strings.Contains(text, "68757368") || strings.Contains(text, "104") || strings.Contains(text, "0x68") {
				t.Errorf("Sprintf(%q) = %s, shows the secret", format, text)
			}
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "plaintext", secret)
	if !strings.Contains(log.String(), `"plaintext":"[secret]"`) {
		t.Errorf("logged %s, want [secret]", log.String())
	}
}

func TestTimestampOnTheWire(t *testing.T) {
	t.Parallel()
	for want, at := range map[string]time.Time{
		"1593622000.191": time.UnixMilli(1593622000191),
		"1593622000":     time.Unix(1593622000, 0),
		"1593622000.5":   time.Unix(1593622000, 500_999_999),
		"0":              time.Unix(0, 0),
		"-0.001":         time.UnixMilli(-1),
		"253402300799":   time.Unix(253402300799, 0),
	} {
		got, err := json.Marshal(kmsapi.Timestamp{Time: at})
		if err != nil || string(got) != want {
			t.Errorf("Marshal(%v) = %s, %v, want %s", at, got, err, want)
		}
		var back kmsapi.Timestamp
		if err := back.UnmarshalJSON([]byte(want)); err != nil || back.UnixMilli() != at.UnixMilli() {
			t.Errorf("UnmarshalJSON(%s) = %v, %v, want %v", want, back, err, at)
		}
	}
	var exponent kmsapi.Timestamp
	if err := exponent.UnmarshalJSON([]byte("1.5936220E9")); err != nil || exponent.Unix() != 1593622000 {
		t.Errorf("UnmarshalJSON(1.5936220E9) = %v, %v", exponent, err)
	}
}

func TestTimestampRefuses(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`"2026-01-01"`: "class java.lang.String can not be converted to milliseconds since epoch",
		`true`:         "class java.lang.Boolean can not be converted to milliseconds since epoch",
		`[]`:           "Start of list found where not expected",
		`1e300`:        "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to milliseconds since epoch",
		`1e400`:        "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to milliseconds since epoch",
	} {
		var ts kmsapi.Timestamp
		checkMessage(t, ts.UnmarshalJSON([]byte(value)), want)
	}
}

func TestOr(t *testing.T) {
	t.Parallel()
	if got := kmsapi.Or(nil, 50); got != 50 {
		t.Errorf("Or(nil, 50) = %d, want 50", got)
	}
	if got := kmsapi.Or(new(0), 50); got != 0 {
		t.Errorf("Or(&0, 50) = %d, want 0", got)
	}
}
