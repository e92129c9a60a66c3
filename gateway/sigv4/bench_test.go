package sigv4_test

import (
	"testing"

	"kmsgate/gateway/sigv4"
)

// The headers of a request of the Go SDK, and a derived key at hand.
func BenchmarkVerify(b *testing.B) {
	q := kmsRequest().with(
		"Amz-Sdk-Invocation-Id: 5c2b1f0a-9a0e-4f3c-8f65-3a2d9a6c1d10",
		"Amz-Sdk-Request: attempt=1; max=3",
		"Accept-Encoding: gzip",
		"User-Agent: aws-sdk-go-v2/1.47.8 ua/2.1 os/linux lang/go#1.26 md/GOOS#linux md/GOARCH#amd64 api/kms#1.62.4",
	).signed(kmsScope, "amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target")
	r, body := q.read(b)
	key := sigv4.DeriveKey([]byte(secret), day, "us-east-1", "kms")
	b.ReportAllocs()
	for b.Loop() {
		s, err := sigv4.ParseHeader(r)
		if err != nil {
			b.Fatal(err)
		}
		s.SetBody(body)
		if err := s.CheckScope(signedAt, isUSEast1, "kms"); err != nil {
			b.Fatal(err)
		}
		if err := s.Verify(key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDeriveKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		sigv4.DeriveKey([]byte(secret), day, "us-east-1", "kms")
	}
}
