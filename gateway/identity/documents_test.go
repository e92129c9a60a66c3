package identity

import (
	"errors"
	"net/url"
	"testing"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

func TestDocumentsAreChecked(t *testing.T) {
	t.Parallel()
	if err := checkDocument(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}`); err != nil {
		t.Errorf("a good document: %v", err)
	}
	err := checkDocument(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*"}}`)
	refusal, ok := errors.AsType[*kmsapi.Error](err)
	if !ok || refusal.Code != awsquery.MalformedPolicyDocument || refusal.Message == "" {
		t.Errorf("a document without Resource: %v, want MalformedPolicyDocument", err)
	}
}

func TestDocumentsAreEncoded(t *testing.T) {
	t.Parallel()
	const document = "{\"a b\" : \"+%/~-_.\u00e4*'\"}"
	got := encodeDocument(document)
	if want := "%7B%22a%20b%22%20%3A%20%22%2B%25%2F~-_.%C3%A4%2A%27%22%7D"; got != want {
		t.Errorf("encodeDocument = %s, want %s", got, want)
	}
	if back, err := url.PathUnescape(got); err != nil || back != document {
		t.Errorf("decoded: %q, %v", back, err)
	}
}

func TestWhiteSpaceDoesNotCount(t *testing.T) {
	t.Parallel()
	if got := documentSize(" {\t\"\u00e4\" :\r\n1 } "); got != 7 {
		t.Errorf("documentSize = %d, want 7", got)
	}
}
