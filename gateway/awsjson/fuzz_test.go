package awsjson_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kmsgate/gateway/awsjson"
	"kmsgate/gateway/kmsapi"
)

// FuzzDecode holds that whatever is accepted is JSON in the eyes of another
// parser too, and means the same after it was encoded again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `{"KeyId":"alias/a"}`, `{"KeyId":"\ud83d\ude00"}`, `{"KeyId":"\ud800"}`, "{\"KeyId\":\"\xff\"}",
		string(encryptBody),
		`{"CiphertextBlob":"AAEC","Recipient":{"AttestationDocument":"\/\/8="},"DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}`,
		`{"NumberOfBytes":1.5e3,"ValidTo":1.5E9}`, `{"NumberOfBytes":-1e400}`, `{"ValidTo":1593622000.191}`,
		`{"Tags":[{"TagKey":"k","TagValue":""},null]}`, `{"GrantTokens":[null]}`, `{"EncryptionContext":{"a":null}}`,
		`{"KeyId":"a","KeyId":"b"}`, `{"keyid":"a"}`, `{"KeyId":"a"} {}`, `{"KeyId":[[[[[[]]]]]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var in everything
		if err := awsjson.Decode(body, &in); err != nil {
			if err.Code != kmsapi.SerializationException {
				t.Errorf("Decode = %v, want a SerializationException", err)
			}
			return
		}
		if !json.Valid(body) || !utf8.Valid(body) {
			t.Errorf("Decode accepted what is not JSON in UTF-8")
		}
		kmsapi.Validate(&in)
		again, err := awsjson.Encode(&in)
		if err != nil {
			t.Fatalf("Encode = %v", err)
		}
		var back everything
		if err := awsjson.Decode(again, &back); err != nil {
			t.Fatalf("Decode(%s) = %v", again, err)
		}
		if diff := cmp.Diff(in, back, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("changed by Encode (-before +after):\n%s", diff)
		}
		if third, err := awsjson.Encode(&back); err != nil || !bytes.Equal(again, third) {
			t.Errorf("Encode = %s, %v, want %s", third, err, again)
		}
	})
}
