package awsquery_test

import (
	"net/http"
	"testing"
	"time"

	"kmsgate/gateway/awsquery"
	"kmsgate/gateway/kmsapi"
)

const sts = "https://sts.amazonaws.com/doc/2011-06-15/"

func TestEncode(t *testing.T) {
	t.Parallel()
	type identity struct {
		Arn     string
		UserID  string `xml:"UserId"`
		Account string
	}
	type credentials struct {
		AccessKeyID string           `xml:"AccessKeyId"`
		Expiration  kmsapi.Timestamp `xml:"Expiration"`
	}
	type assumed struct {
		Credentials credentials
		Tags        []tag    `xml:"Tags>member"`
		Names       []string `xml:"Names>member"`
		Absent      *string
	}
	for name, test := range map[string]struct {
		action string
		out    any
		want   string
	}{
		"flat": {
			"GetCallerIdentity", &identity{"arn:aws:iam::1:root", "1", "<&>\x00"},
			`<GetCallerIdentityResponse xmlns="` + sts + `"><GetCallerIdentityResult><Arn>arn:aws:iam::1:root</Arn><UserId>1</UserId>` +
				`<Account>&lt;&amp;&gt;�</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></GetCallerIdentityResponse>`,
		},
		"nested": {
			"AssumeRole",
			assumed{credentials{"ASIA", kmsapi.Timestamp{Time: time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)}}, []tag{{Key: "a", Value: "b"}, {Key: "c"}}, nil, nil},
			`<AssumeRoleResponse xmlns="` + sts + `"><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId><Expiration>2026-11-21T22:00:00Z</Expiration></Credentials>` +
				`<Tags><member><Key>a</Key><Value>b</Value></member><member><Key>c</Key><Value></Value></member></Tags><Names></Names></AssumeRoleResult>` +
				`<ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></AssumeRoleResponse>`,
		},
		"no result": {
			"DeleteUser", nil,
			`<DeleteUserResponse xmlns="` + sts + `"><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></DeleteUserResponse>`,
		},
		"empty result": {
			"DeleteUser", &kmsapi.Empty{},
			`<DeleteUserResponse xmlns="` + sts + `"><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></DeleteUserResponse>`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := awsquery.Encode(test.action, sts, "id", test.out)
			if err != nil || string(got) != test.want {
				t.Errorf("Encode = %s, %v\nwant %s", got, err, test.want)
			}
		})
	}
	if got, err := awsquery.Encode("A", sts, "id", struct{ F func() }{func() {}}); err == nil {
		t.Errorf("Encode of a function = %s, want an error", got)
	}
}

func TestEncodeError(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    *kmsapi.Error
		code   string
		status int
		whose  string
	}{
		"signature":     {&kmsapi.Error{Code: kmsapi.InvalidSignatureException}, "SignatureDoesNotMatch", http.StatusForbidden, "Sender"},
		"access key":    {kmsapi.UnrecognizedClient(), "InvalidClientTokenId", http.StatusForbidden, "Sender"},
		"incomplete":    {&kmsapi.Error{Code: kmsapi.IncompleteSignatureException}, "IncompleteSignature", http.StatusForbidden, "Sender"},
		"unsigned":      {&kmsapi.Error{Code: kmsapi.MissingAuthenticationTokenException}, "MissingAuthenticationToken", http.StatusForbidden, "Sender"},
		"expired":       {&kmsapi.Error{Code: kmsapi.ExpiredTokenException}, "ExpiredToken", http.StatusForbidden, "Sender"},
		"denied":        {&kmsapi.Error{Code: kmsapi.AccessDeniedException}, "AccessDenied", http.StatusForbidden, "Sender"},
		"action":        {kmsapi.UnknownOperation(), "InvalidAction", http.StatusBadRequest, "Sender"},
		"other action":  {awsquery.UnknownAction(awsquery.Form{}), "InvalidAction", http.StatusBadRequest, "Sender"},
		"no action":     {&kmsapi.Error{Code: awsquery.MissingAction}, "MissingAction", http.StatusBadRequest, "Sender"},
		"throttled":     {kmsapi.Throttled(), "Throttling", http.StatusBadRequest, "Sender"},
		"validation":    {&kmsapi.Error{Code: kmsapi.ValidationException}, "ValidationError", http.StatusBadRequest, "Sender"},
		"parameter":     {&kmsapi.Error{Code: awsquery.ValidationError}, "ValidationError", http.StatusBadRequest, "Sender"},
		"syntax":        {&kmsapi.Error{Code: awsquery.MalformedQueryString}, "MalformedQueryString", http.StatusBadRequest, "Sender"},
		"serialization": {kmsapi.Serialization(""), "MalformedQueryString", http.StatusBadRequest, "Sender"},
		"large":         {kmsapi.BodyTooLarge(1), "RequestEntityTooLarge", http.StatusRequestEntityTooLarge, "Sender"},
		"ours":          {kmsapi.Internal(), "InternalFailure", http.StatusInternalServerError, "Receiver"},
		"timeout":       {kmsapi.DependencyTimeout(), "InternalFailure", http.StatusInternalServerError, "Receiver"},
		"another":       {&kmsapi.Error{Code: kmsapi.LimitExceededException}, "LimitExceeded", http.StatusBadRequest, "Sender"},
		"unheard of":    {&kmsapi.Error{Code: "Foo"}, "Foo", http.StatusInternalServerError, "Receiver"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.err.Message = "a <b>"
			status, body := awsquery.EncodeError(test.err, sts, "id")
			want := `<ErrorResponse xmlns="` + sts + `"><Error><Type>` + test.whose + `</Type><Code>` + test.code +
				`</Code><Message>a &lt;b&gt;</Message></Error><RequestId>id</RequestId></ErrorResponse>`
			if status != test.status || string(body) != want {
				t.Errorf("EncodeError = %d %s\nwant %d %s", status, body, test.status, want)
			}
		})
	}
}
