package audit

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var testTime = time.Date(2026, 11, 2, 23, 25, 25, 987654321, time.FixedZone("CET", 3600))

const (
	testKeyARN   = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	testOtherARN = "arn:aws:kms:eu-west-1:444455556666:key/mrk-1234abcd12ab34cd56ef1234567890ab"
	testEventID  = "f1d2a3b4-0000-4000-8000-00000000000e"
)

var (
	testMaterial  = strings.Repeat("ab", 32)
	otherMaterial = strings.Repeat("0c", 32)
)

func encryptEvent() *Event {
	return &Event{
		Identity: UserIdentity{
			Type: Root, PrincipalID: "111122223333", ARN: "arn:aws:iam::111122223333:root",
			Account: "111122223333", AccessKeyID: "AKIAIOSFODNN7EXAMPLE",
		},
		Time: testTime, Source: "kms.amazonaws.com", Name: "Encrypt", Region: "us-east-1",
		SourceIP: "10.1.2.3", UserAgent: "aws-cli/2.9.19",
		RequestParameters: Members{
			String("keyId", "alias/payments"),
			String("encryptionAlgorithm", "SYMMETRIC_DEFAULT"),
			Map("encryptionContext", map[string]string{"tenant": "42", "Purpose": "te\"st"}),
		},
		AdditionalEventData: Members{String(KeyMaterialID, testMaterial)},
		RequestID:           "f1d2a3b4-0000-4000-8000-00000000000a",
		EventID:             testEventID,
		ReadOnly:            true,
		Resources:           []Resource{KeyResource("111122223333", testKeyARN)},
		Type:                APICall,
		RecipientAccount:    "111122223333",
		TLS:                 TLSDetails{"TLSv1.3", "TLS_AES_128_GCM_SHA256", "kms.example.com"},
	}
}

func TestEventIsWrittenInStableOrder(t *testing.T) {
	t.Parallel()
	want := `{"eventVersion":"1.08","userIdentity":{"type":"Root","principalId":"111122223333",` +
		`"arn":"arn:aws:iam::111122223333:root","accountId":"111122223333","accessKeyId":"AKIAIOSFODNN7EXAMPLE"},` +
		`"eventTime":"2026-11-02T22:25:25Z","eventSource":"kms.amazonaws.com","eventName":"Encrypt",` +
		`"awsRegion":"us-east-1","sourceIPAddress":"10.1.2.3","userAgent":"aws-cli/2.9.19",` +
		`"requestParameters":{"keyId":"alias/payments","encryptionAlgorithm":"SYMMETRIC_DEFAULT",` +
		`"encryptionContext":{"Purpose":"te\"st","tenant":"42"}},"responseElements":null,` +
		`"additionalEventData":{"keyMaterialId":"` + testMaterial + `"},` +
		`"requestID":"f1d2a3b4-0000-4000-8000-00000000000a","eventID":"` + testEventID + `","readOnly":true,` +
		`"resources":[{"accountId":"111122223333","type":"AWS::KMS::Key","ARN":"` + testKeyARN + `"}],` +
		`"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333",` +
		`"eventCategory":"Management","tlsDetails":{"tlsVersion":"TLSv1.3",` +
		`"cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"kms.example.com"}}`
	if got := string(encryptEvent().AppendJSON(nil)); got != want {
		t.Errorf("AppendJSON: %s", cmp.Diff(want, got))
	}
}

func decode(t *testing.T, record []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(record, &m); err != nil {
		t.Fatalf("record %s: %v", record, err)
	}
	return m
}

func TestRefusedEventKeepsItsError(t *testing.T) {
	t.Parallel()
	e := &Event{
		Identity: UserIdentity{Type: Unknown, AccessKeyID: "AKIA" + strings.Repeat("x", 5000)},
		Time:     testTime, Source: "kms.amazonaws.com", Name: "Decrypt", Region: "us-east-1", SourceIP: "::1",
		UserAgent: strings.Repeat("é", 1000), ErrorCode: "AccessDenied", ErrorMessage: "no\x00\xff\t<b>\u2028",
		EventID: testEventID, Type: APICall, SharedEventID: "shared",
		RequestParameters: Members{},
	}
	m := decode(t, e.AppendJSON(nil))
	want := map[string]any{
		"eventVersion": "1.08", "eventTime": "2026-11-02T22:25:25Z", "eventSource": "kms.amazonaws.com",
		"userIdentity": map[string]any{"type": "Unknown", "accessKeyId": "AKIA" + strings.Repeat("x", 252)},
		"eventName":    "Decrypt", "awsRegion": "us-east-1", "sourceIPAddress": "::1",
		"userAgent": strings.Repeat("é", 512), "errorCode": "AccessDenied", "errorMessage": "no\x00\ufffd\t<b>\u2028",
		"requestParameters": map[string]any{}, "responseElements": nil, "eventID": testEventID, "readOnly": false,
		"eventType": "AwsApiCall", "managementEvent": true, "sharedEventID": "shared", "eventCategory": "Management",
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestIdentityOfAnAssumedRole(t *testing.T) {
	t.Parallel()
	u := UserIdentity{
		Type: AssumedRole, PrincipalID: "AROA:s", ARN: "arn:aws:sts::111122223333:assumed-role/r/s",
		Account: "111122223333", AccessKeyID: "ASIA", UserName: "",
		Session: &Session{
			Created: testTime, MFA: true, FederatedProvider: "https://issuer",
			Issuer: Issuer{"AROA", "arn:aws:iam::111122223333:role/r", "111122223333", "r"},
		},
	}
	want := map[string]any{
		"type": "AssumedRole", "principalId": "AROA:s", "arn": "arn:aws:sts::111122223333:assumed-role/r/s",
		"accountId": "111122223333", "accessKeyId": "ASIA",
		"sessionContext": map[string]any{
			"sessionIssuer": map[string]any{
				"type": "Role", "principalId": "AROA", "arn": "arn:aws:iam::111122223333:role/r",
				"accountId": "111122223333", "userName": "r",
			},
			"webIdFederationData": map[string]any{"federatedProvider": "https://issuer", "attributes": map[string]any{}},
			"attributes":          map[string]any{"creationDate": "2026-11-02T22:25:25Z", "mfaAuthenticated": "true"},
		},
	}
	if diff := cmp.Diff(want, decode(t, u.appendJSON(nil))); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	u = Internal("111122223333")
	want = map[string]any{"type": "AWSService", "accountId": "111122223333", "invokedBy": "AWS Internal"}
	if diff := cmp.Diff(want, decode(t, u.appendJSON(nil))); diff != "" {
		t.Errorf("internal identity (-want +got):\n%s", diff)
	}
}

func TestMembersOfAllKinds(t *testing.T) {
	t.Parallel()
	ms := Members{
		String("s", "x"), Int("i", -9007199254740991), Bool("t", true), Bool("f", false),
		Map("m", map[string]string{"b": "2", "a": "1"}), Map("none", nil),
		Object("o", String("in", "side"), Object("empty")),
		List("l", Int("", 1), Object("", String("tagKey", "k"), String("tagValue", "v"))),
		Strings("strings", []string{"a", "\\\"\n\r\x7f"}), Date("d", testTime),
	}
	want := `{"s":"x","i":-9007199254740991,"t":true,"f":false,"m":{"a":"1","b":"2"},"none":{},` +
		`"o":{"in":"side","empty":{}},"l":[1,{"tagKey":"k","tagValue":"v"}],` +
		`"strings":["a","\\\"\n\u000d\u007f"],"d":"Nov 2, 2026, 10:25:25 PM"}`
	if got := string(ms.appendJSON(nil)); got != want {
		t.Errorf("appendJSON = %s, want %s", got, want)
	}
}

func TestEventNeverExceedsMaxRecordBytes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\x01", 1<<20)
	ms := Members{String("policy", long)}
	e := &Event{
		Identity: UserIdentity{
			Type: Root, PrincipalID: long, ARN: long, Account: long, AccessKeyID: long, UserName: long, InvokedBy: long,
			Session: &Session{FederatedProvider: long, Issuer: Issuer{long, long, long, long}},
		},
		Name: long, Region: long, UserAgent: long, ErrorMessage: long,
		RequestParameters: ms, ResponseElements: ms, AdditionalEventData: ms, ServiceEventDetails: ms,
		TLS: TLSDetails{Host: long},
	}
	for range 100 {
		e.Resources = append(e.Resources, KeyResource("111122223333", long))
	}
	b := e.AppendJSON(nil)
	if len(b) > MaxRecordBytes {
		t.Errorf("record of %d bytes, want at most %d", len(b), MaxRecordBytes)
	}
	m := decode(t, b)
	want := map[string]any{"contentOmittedBytes": float64(6<<20 + len(`{"policy":""}`))}
	if diff := cmp.Diff(want, m["requestParameters"]); diff != "" {
		t.Errorf("requestParameters (-want +got):\n%s", diff)
	}
	if n := len(m["resources"].([]any)); n != maxResources {
		t.Errorf("%d resources, want %d", n, maxResources)
	}
}

func TestCountedRefusals(t *testing.T) {
	t.Parallel()
	r := Refusals{
		Identity: UserIdentity{Type: Unknown}, Second: testTime, Source: "kms.amazonaws.com", Operation: "Encrypt",
		Region: "us-east-1", SourceIP: "10.0.0.1", ErrorCode: "ThrottlingException", Count: 321, EventID: testEventID,
		RecipientAccount: "111122223333",
	}
	e := r.Event()
	want := map[string]any{
		"eventVersion": "1.08", "userIdentity": map[string]any{"type": "Unknown"}, "eventTime": "2026-11-02T22:25:25Z",
		"eventSource": "kms.amazonaws.com", "eventName": "Encrypt", "awsRegion": "us-east-1",
		"sourceIPAddress": "10.0.0.1", "errorCode": "ThrottlingException", "requestParameters": nil, "responseElements": nil,
		"additionalEventData": map[string]any{"count": 321.0, "second": "2026-11-02T22:25:25Z"},
		"eventID":             testEventID, "readOnly": false, "eventType": "AwsServiceEvent", "managementEvent": true,
		"recipientAccountId": "111122223333", "eventCategory": "Management",
	}
	if diff := cmp.Diff(want, decode(t, e.AppendJSON(nil))); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestAppendJSONNeedsOneAllocation(t *testing.T) {
	e := encryptEvent()
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = e.AppendJSON(buf[:0]) }); n > 1 {
		t.Errorf("AppendJSON makes %v allocations, want at most 1", n)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := encryptEvent()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}

func FuzzStringsSurviveJSON(f *testing.F) {
	for _, s := range []string{"", "plain", "quo\"te\\", "\x00\x1f\x7f\n\t\r", "é\u2028😀", "\xff\xc3", "\xed\xa0\x80", "\ufffd"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		b := appendString(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("appendString(%q) = %q: %v", s, b, err)
		}
		reference, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want string
		if err := json.Unmarshal(reference, &want); err != nil {
			t.Fatal(err)
		}
		if got != want || !utf8.Valid(b) {
			t.Errorf("appendString(%q) reads back as %q, want %q", s, got, want)
		}
		if limit < 0 {
			return
		}
		c := cut(s, limit)
		if len(c) > limit || !strings.HasPrefix(s, c) || (utf8.ValidString(s) && !utf8.ValidString(c)) {
			t.Errorf("cut(%q, %d) = %q", s, limit, c)
		}
		if len(s) > limit && len(c) < limit-utf8.UTFMax {
			t.Errorf("cut(%q, %d) = %q: too short", s, limit, c)
		}
	})
}
