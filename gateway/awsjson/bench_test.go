package awsjson_test

import (
	"testing"

	"kmsgate/gateway/awsjson"
	"kmsgate/gateway/kmsapi"
)

var encryptBody = []byte(`{"KeyId":"arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab","Plaintext":"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=","EncryptionContext":{"purpose":"test","tenant":"42"},"EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}`)

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var in kmsapi.EncryptRequest
		if err := awsjson.Decode(encryptBody, &in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeAndValidate(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var in kmsapi.EncryptRequest
		if err := awsjson.Decode(encryptBody, &in); err != nil {
			b.Fatal(err)
		}
		if err := kmsapi.Validate(&in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	out := &kmsapi.EncryptResponse{CiphertextBlob: make([]byte, 150), KeyID: "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", EncryptionAlgorithm: "SYMMETRIC_DEFAULT"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := awsjson.Encode(out); err != nil {
			b.Fatal(err)
		}
	}
}
