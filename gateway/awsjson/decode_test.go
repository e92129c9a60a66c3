package awsjson_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/awsjson"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

func TestDecodeReadsEveryKindOfMember(t *testing.T) {
	t.Parallel()
	var got kmsapi.DecryptRequest
	body := ` {"CiphertextBlob":"AAEC","EncryptionContext":{"a":"1","":"ü"},"GrantTokens":["t1","t2"],"KeyId":"alias/a",` +
		`"EncryptionAlgorithm":"SYMMETRIC_DEFAULT","Recipient":{"KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256","AttestationDocument":"AA=="},` +
		`"DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}` + "\n"
	if err := awsjson.Decode([]byte(body), &got); err != nil {
		t.Fatalf("Decode = %v", err)
	}
	want := kmsapi.DecryptRequest{
		CiphertextBlob:      kmsapi.Blob{0, 1, 2},
		EncryptionContext:   map[string]string{"a": "1", "": "ü"},
		GrantTokens:         []string{"t1", "t2"},
		KeyID:               new("alias/a"),
		EncryptionAlgorithm: new(keyspec.AlgorithmSymmetricDefault),
		Recipient:           &kmsapi.RecipientInfo{KeyEncryptionAlgorithm: new(kmsapi.RSAESOAEPSHA256), AttestationDocument: kmsapi.Blob{0}},
		Trial:               kmsapi.Trial{DryRun: new(true)},
		DryRunModifiers:     []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Decode (-want +got):\n%s", diff)
	}
}

func TestDecodeTakesNullForAbsent(t *testing.T) {
	t.Parallel()
	var got kmsapi.DecryptRequest
	body := `{"CiphertextBlob":null,"EncryptionContext":null,"GrantTokens":null,"KeyId":null,"EncryptionAlgorithm":null,"Recipient":null,"DryRun":null,"DryRunModifiers":null}`
	if err := awsjson.Decode([]byte(body), &got); err != nil {
		t.Fatalf("Decode = %v", err)
	}
	if diff := cmp.Diff(kmsapi.DecryptRequest{}, got); diff != "" {
		t.Errorf("Decode (-want +got):\n%s", diff)
	}
	var secret kmsapi.EncryptRequest
	if err := awsjson.Decode([]byte(`{"Plaintext":null}`), &secret); err != nil || secret.Plaintext != nil {
		t.Errorf("Decode = %v, Plaintext nil: %v", err, secret.Plaintext == nil)
	}
	var policy kmsapi.PutKeyPolicyRequest
	if err := awsjson.Decode([]byte(`{"BypassPolicyLockoutSafetyCheck":null,"Policy":null}`), &policy); err != nil || policy.Policy != nil {
		t.Errorf("Decode = %v, Policy nil: %v", err, policy.Policy == nil)
	}
}

func TestDecodeKeepsEmptyFromAbsent(t *testing.T) {
	t.Parallel()
	var got kmsapi.EncryptRequest
	if err := awsjson.Decode([]byte(`{"KeyId":"","Plaintext":"","EncryptionContext":{},"GrantTokens":[]}`), &got); err != nil {
		t.Fatalf("Decode = %v", err)
	}
	if got.KeyID == nil || got.Plaintext == nil || got.EncryptionContext == nil || got.GrantTokens == nil {
		t.Errorf("Decode lost an empty member: %+v", got)
	}
}

func TestDecodeIntegersLikeAWS(t *testing.T) {
	t.Parallel()
	for number, want := range map[string]int32{
		"0": 0, "1": 1, "-1": -1, "1.9": 1, "-1.1": -2, "1e3": 1000, "0.5e1": 5,
		"2147483647": math.MaxInt32, "2147483648": math.MaxInt32, "9223372036854775808": math.MaxInt32, "1e400": math.MaxInt32,
		"-2147483649": math.MinInt32, "-1e400": math.MinInt32, "1e-400": 0,
	} {
		var in kmsapi.GenerateRandomRequest
		if err := awsjson.Decode([]byte(`{"NumberOfBytes":`+number+`}`), &in); err != nil || in.NumberOfBytes == nil || *in.NumberOfBytes != want {
			t.Errorf("Decode of %s = %v, %v, want %d", number, kmsapi.Or(in.NumberOfBytes, -99), err, want)
		}
	}
}

func TestDecodeRefusesWhatIsNotOneObject(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty": "", "space": " \n", "null": "null", "text": `"KeyId"`, "number": "1", "boolean": "true", "list": `[{"KeyId":"k"}]`,
		"not JSON": "KeyId=k", "cut off": `{"KeyId":"k"`, "cut in string": `{"KeyId":"k`, "cut in list": `{"GrantTokens":["a"`,
		"cut in map": `{"EncryptionContext":{"a":"b"`, "cut in map key": `{"EncryptionContext":{"a"`, "no value": `{"KeyId":}`,
		"unquoted name": `{KeyId:"k"}`, "single quotes": `{'KeyId':'k'}`, "trailing comma": `{"KeyId":"k",}`, "comment": `{"KeyId":"k"/**/}`,
		"trailing data": `{"KeyId":"k"}x`, "two objects": `{"KeyId":"k"}{"KeyId":"k"}`, "byte order mark": "\xef\xbb\xbf{}",
		"bad after unknown": `{"Foo":1`, "bad after wrong type": `{"KeyId":1`, "bad escape": `{"KeyId":"\x"}`, "lone brace": "{",
		"NUL": "{\x00}", "control in string": "{\"KeyId\":\"a\nb\"}", "NaN": `{"NumberOfBytes":NaN}`, "hex": `{"NumberOfBytes":0x10}`,
		"UTF-8": "{\"KeyId\":\"\xff\"}", "UTF-8 in name": "{\"\xffKeyId\":\"a\"}", "UTF-8 in map": "{\"EncryptionContext\":{\"\xc3\x28\":\"\"}}",
		"lone surrogate": `{"KeyId":"\ud800"}`, "UTF-16": "{\x00\"\x00}\x00",
		"deep":         `{"EncryptionContext":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}",
		"deep unknown": `{"Foo":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_001),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var in everything
			check(t, awsjson.Decode([]byte(body), &in), "")
		})
	}
}

// everything has a member of every kind.
type everything struct {
	kmsapi.DecryptRequest
	Plaintext     kmsapi.Secret
	NumberOfBytes *int32
	ValidTo       kmsapi.Timestamp
	Tags          []kmsapi.Tag
	Flag          bool
}

func check(t *testing.T, got *kmsapi.Error, want string) {
	t.Helper()
	if got == nil || got.Code != kmsapi.SerializationException || got.Message != want {
		t.Errorf("Decode = %.300v, want SerializationException: %s", got, want)
	}
}

func TestDecodeSaysWhatAWSSays(t *testing.T) {
	t.Parallel()
	const (
		big       = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to "
		boolean   = "class java.lang.Boolean can not be converted to "
		text      = "class java.lang.String can not be converted to "
		list      = "Start of list found where not expected"
		structure = "Start of structure or map found where not expected."
	)
	for body, want := range map[string]string{
		`{"KeyId":1}`:               big + "an String",
		`{"KeyId":-1.5}`:            big + "an String",
		`{"KeyId":true}`:            boolean + "an String",
		`{"KeyId":["k"]}`:           list,
		`{"KeyId":{"k":"v"}}`:       structure,
		`{"EncryptionAlgorithm":1}`: big + "an String",

		`{"NumberOfBytes":"16"}`: text + "an Integer",
		`{"NumberOfBytes":true}`: boolean + "an Integer",
		`{"NumberOfBytes":[16]}`: list,
		`{"NumberOfBytes":{}}`:   structure,

		`{"DryRun":"true"}`: text + "an Boolean",
		`{"DryRun":1}`:      big + "an Boolean",
		`{"DryRun":[true]}`: list,
		`{"Flag":"true"}`:   text + "an Boolean",

		`{"EncryptionContext":"a"}`:              "Expected map or null",
		`{"EncryptionContext":1}`:                "Expected map or null",
		`{"EncryptionContext":["a"]}`:            list,
		`{"EncryptionContext":{"a":1}}`:          big + "an String",
		`{"EncryptionContext":{"a":false}}`:      boolean + "an String",
		`{"EncryptionContext":{"a":{"b":"c"}}}`:  structure,
		`{"EncryptionContext":{"a":["b"]}}`:      list,
		`{"EncryptionContext":{"a":null}}`:       "null can not be converted to an String",
		`{"EncryptionContext":{"a":"","a":"b"}}`: "Member 'a' is given more than once",

		`{"GrantTokens":"t"}`:      "Expected list or null",
		`{"GrantTokens":{"a":""}}`: structure,
		`{"GrantTokens":[1]}`:      big + "an String",
		`{"GrantTokens":[["a"]]}`:  list,
		`{"GrantTokens":[null]}`:   "null can not be converted to an String",
		`{"DryRunModifiers":true}`: "Expected list or null",
		`{"DryRunModifiers":[1]}`:  big + "an String",

		`{"Recipient":"r"}`:                       "Expected null",
		`{"Recipient":true}`:                      "Expected null",
		`{"Recipient":[]}`:                        list,
		`{"Recipient":{"AttestationDocument":1}}`: big + "a Blob",
		`{"Recipient":{"Foo":1}}`:                 "Member 'Foo' is not recognized",
		`{"Tags":"t"}`:                            "Expected list or null",
		`{"Tags":{}}`:                             structure,
		`{"Tags":["t"]}`:                          "Expected null",
		`{"Tags":[{"TagKey":1}]}`:                 big + "an String",
		`{"Tags":[{"Key":"k"}]}`:                  "Member 'Key' is not recognized",

		`{"CiphertextBlob":true}`:       boolean + "a Blob",
		`{"CiphertextBlob":[]}`:         list,
		`{"CiphertextBlob":"abc"}`:      "'abc' can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 3",
		`{"CiphertextBlob":"a_cd"}`:     "'a_cd' can not be converted to a Blob: Invalid Base64 character: '_'",
		`{"CiphertextBlob":"AB=="}`:     "'AB==' can not be converted to a Blob: Invalid last non-pad Base64 character dectected",
		`{"Plaintext":"hush!"}`:         "Value can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 5",
		`{"Plaintext":"hus!"}`:          "Value can not be converted to a Blob: Invalid Base64 character",
		`{"ValidTo":"2026-01-01"}`:      text + "milliseconds since epoch",
		`{"ValidTo":true}`:              boolean + "milliseconds since epoch",
		`{"Foo":1}`:                     "Member 'Foo' is not recognized",
		`{"Foo":null}`:                  "Member 'Foo' is not recognized",
		`{"keyId":"k"}`:                 "Member 'keyId' is not recognized",
		`{"KEYID":"k"}`:                 "Member 'KEYID' is not recognized",
		`{"":1}`:                        "Member '' is not recognized",
		`{"Trial":{"DryRun":true}}`:     "Member 'Trial' is not recognized",
		`{"KeyId":"a","KeyId":"b"}`:     "Member 'KeyId' is given more than once",
		`{"KeyId":"a","Key\u0049d":""}`: "Member 'KeyId' is given more than once",
		`{"KeyId":"a","KeyId":null}`:    "Member 'KeyId' is given more than once",
	} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			var in everything
			check(t, awsjson.Decode([]byte(body), &in), want)
		})
	}
}

func TestDecodeDoesNotKeepTheBody(t *testing.T) {
	t.Parallel()
	body := []byte(`{"KeyId":"alias/a","Plaintext":"AAEC","EncryptionContext":{"a":"b"},"GrantTokens":["t"]}`)
	var in kmsapi.EncryptRequest
	if err := awsjson.Decode(body, &in); err != nil {
		t.Fatalf("Decode = %v", err)
	}
	clear(body)
	if *in.KeyID != "alias/a" || in.EncryptionContext["a"] != "b" || in.GrantTokens[0] != "t" || in.Plaintext[2] != 2 {
		t.Error("the request changed with the body")
	}
}
