package integration_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// notOurs is the answer to what is no request of the protocol.
const notOurs = "<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"

// A shot is a request that was sent and what the log must have of it.
type shot struct {
	name  string
	got   answer
	event string // eventName; empty for Unknown
	code  string // errorCode; empty for a success
	// account that the record must be of; empty for a caller who is not known.
	account string
}

// wantRecorded checks that each shot has exactly one record.
func (i *instance) wantRecorded(t testing.TB, shots []shot) {
	t.Helper()
	events := i.audit(t)
	for _, s := range shots {
		found := eventsOf(events, s.got.requestID())
		if s.got.requestID() == "" || len(found) != 1 {
			t.Errorf("%s: %d records of request %q, want one", s.name, len(found), s.got.requestID())
			continue
		}
		name := s.event
		if name == "" {
			name = "Unknown"
		}
		e := found[0]
		if e.EventName != name || e.ErrorCode != s.code || e.UserIdentity.AccountID != s.account || e.RecipientAccountID != s.account {
			t.Errorf("%s: record %s\nwant %s, code %q, account %q", s.name, e.text, name, s.code, s.account)
		}
		if s.account == "" && (e.UserIdentity.Type != "Unknown" || e.UserIdentity.ARN != "" || e.RequestParameters != nil) {
			t.Errorf("%s: record %s tells of a caller who is not known", s.name, e.text)
		}
		if e.ResponseElements != nil {
			t.Errorf("%s: record %s has responseElements", s.name, e.text)
		}
	}
}

func TestResponseHeaders(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for name, a := range map[string]answer{
		"success": g.call(t, own, "ListKeys", m{"Limit": 1}),
		"refusal": g.call(t, own, "Encrypt", m{}),
		"no body": g.call(t, own, "UpdateKeyDescription", m{"KeyId": g.createKey(t, own), "Description": ""}),
	} {
		for header, want := range map[string]string{
			"Content-Type": mediaJSON, "Cache-Control": "no-cache, no-store, must-revalidate, private", "Expires": "0", "Pragma": "no-cache",
		} {
			if got := a.header.Values(header); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if !uuidPattern.MatchString(a.requestID()) || a.header.Get("Date") == "" || a.header.Get("Content-Length") == "" {
			t.Errorf("%s: headers %v, want a request id, a date and a length", name, a.header)
		}
	}
}

// TestBodies sends every bad body there is to an operation that would change
// something, properly signed.
func TestBodies(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	id := `"KeyId":"` + key + `"`
	const fine = `,"Description":"changed"}`
	secret := base64.StdEncoding.EncodeToString(hide([]byte("a plaintext in a bad body")))
	const serialization = "SerializationException"
	number := "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to an "
	var shots []shot
	for _, tc := range []struct {
		name, operation, body string
		code, message         string
	}{
		{"empty", "", "", serialization, ""},
		{"spaces", "", "  \n", serialization, ""},
		{"not JSON", "", "nonsense", serialization, ""},
		{"a list", "", "[{" + id + fine + "]", serialization, ""},
		{"a string", "", `"` + key + `"`, serialization, ""},
		{"a number", "", "1", serialization, ""},
		{"null", "", "null", serialization, ""},
		{"cut off", "", "{" + id + `,"Description":"changed"`, serialization, ""},
		{"cut off in a string", "", "{" + id + `,"Description":"chan`, serialization, ""},
		{"two objects", "", "{" + id + fine + "{}", serialization, ""},
		{"more behind it", "", "{" + id + fine + "x", serialization, ""},
		{"a comma too many", "", "{" + id + `,"Description":"changed",}`, serialization, ""},
		{"a comment", "", "{" + id + `/**/,"Description":"changed"}`, serialization, ""},
		{"single quotes", "", strings.ReplaceAll("{"+id+fine, `"`, "'"), serialization, ""},
		{"byte order mark", "", "\uFEFF{" + id + fine, serialization, ""},
		{"UTF-16", "", "{\x00}\x00", serialization, ""},
		{"not UTF-8", "", "{" + id + ",\"Description\":\"chang\xff\"}", serialization, ""},
		{"half a surrogate", "", "{" + id + `,"Description":"\ud800"}`, serialization, ""},
		{"a raw line break in a string", "", "{" + id + ",\"Description\":\"chan\nged\"}", serialization, ""},
		{"a member twice", "", "{" + id + "," + id + fine, serialization, "Member 'KeyId' is given more than once"},
		{"a member twice, escaped", "", "{" + id + `,"\u004beyId":"` + key + `"` + fine, serialization, "Member 'KeyId' is given more than once"},
		{"an unknown member", "", "{" + id + `,"Other":1` + fine, serialization, "Member 'Other' is not recognized"},
		{"a member in another case", "", `{"keyId":"` + key + `"` + fine, serialization, "Member 'keyId' is not recognized"},
		{"a boolean for a string", "", "{" + id + `,"Description":true}`, serialization, "class java.lang.Boolean can not be converted to an String"},
		{"a number for a string", "", "{" + id + `,"Description":1}`, serialization, number + "String"},
		{"a list for a string", "", "{" + id + `,"Description":["changed"]}`, serialization, "Start of list found where not expected"},
		{"an object for a string", "", "{" + id + `,"Description":{"a":"changed"}}`, serialization, "Start of structure or map found where not expected."},
		{"a thousand levels", "", "{" + id + `,"Description":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}", serialization, "Start of list found where not expected"},
		{"a million levels", "", strings.Repeat("[", 1_000_000), serialization, ""},

		{"a string for an integer", "ListKeys", `{"Limit":"1"}`, serialization, "class java.lang.String can not be converted to an Integer"},
		{"a string for a boolean", "Encrypt", `{"DryRun":"true"}`, serialization, "class java.lang.String can not be converted to an Boolean"},
		{"a number for a blob", "Encrypt", `{"Plaintext":1}`, serialization, number[:len(number)-len("an ")] + "a Blob"},
		{"a string for a list", "UntagResource", `{"TagKeys":"a"}`, serialization, "Expected list or null"},
		{"a string for a map", "Encrypt", `{"EncryptionContext":"a"}`, serialization, "Expected map or null"},
		{"a number in a map", "Encrypt", `{"EncryptionContext":{"a":1}}`, serialization, number + "String"},
		{"a key twice in a map", "Encrypt", `{"EncryptionContext":{"a":"1","a":"2"}}`, serialization, "Member 'a' is given more than once"},
		{"a string for a structure", "TagResource", `{"Tags":["a"]}`, serialization, "Expected null"},
		{"a secret that is no base64", "Encrypt", `{"Plaintext":"` + secret[:len(secret)-1] + `!"}`, serialization, "Value can not be converted to a Blob: Invalid Base64 character"},
		{"a secret that is cut", "Encrypt", `{"Plaintext":"` + secret[:len(secret)-1] + `"}`, serialization, "Value can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 35"},
		{"a secret in base64 for addresses", "Encrypt", `{"Plaintext":"_-_-"}`, serialization, "Value can not be converted to a Blob: Invalid Base64 character"},
		{"a secret in the wrong member", "Decrypt", `{"CiphertextBlob":"` + hideText("a plaintext, as it is") + `"}`, serialization, "'a plaintext, as it is' can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 21"},
		{"a member of the answer", "Encrypt", `{"CiphertextBlob":"` + secret + `"}`, serialization, "Member 'CiphertextBlob' is not recognized"},
	} {
		operation := tc.operation
		if operation == "" {
			operation = "UpdateKeyDescription"
		}
		a := send(t, g.sign(t, own, operation, []byte(tc.body)))
		t.Run(tc.name, func(t *testing.T) { a.want(t, http.StatusBadRequest, tc.code, tc.message) })
		shots = append(shots, shot{tc.name, a, operation, tc.code, own})
	}
	shots = append(shots, g.sizes(t, key)...)
	g.wantRecorded(t, shots)
	if got := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)["Description"]; got != "" {
		t.Errorf("Description %q: a request that was refused has changed it", got)
	}
	// What is unusual and right.
	for _, body := range []string{
		" \r\n\t{" + id + ` , "Description" : "changed" } ` + "\n", "{" + strings.Replace(id, "/", `\/`, 1) + fine, `{"\u004beyId":"` + key + `"` + fine,
	} {
		if a := send(t, g.sign(t, own, "UpdateKeyDescription", []byte(body))); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}

// sizes sends bodies that are large, packed, or of other content types.
func (i *instance) sizes(t *testing.T, key string) (shots []shot) {
	const limit = 1 << 20
	text, err := json.Marshal(m{"KeyId": key, "Description": "changed"})
	if err != nil {
		t.Fatal(err)
	}
	pad := func(size int) []byte {
		return append(text[:len(text):len(text)], bytes.Repeat([]byte(" "), size-len(text))...)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(text); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	a := send(t, i.sign(t, own, "UpdateKeyDescription", pad(limit+1)))
	a.want(t, http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", "Request body must not be larger than 1048576 bytes.")
	shots = append(shots, shot{"too large", a, "UpdateKeyDescription", "RequestEntityTooLargeException", ""})

	chunked := i.sign(t, own, "UpdateKeyDescription", pad(limit+1), func(r *http.Request) { r.ContentLength = -1 })
	a = send(t, chunked)
	a.want(t, http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", "Request body must not be larger than 1048576 bytes.")
	shots = append(shots, shot{"too large in chunks", a, "UpdateKeyDescription", "RequestEntityTooLargeException", ""})

	a = send(t, i.sign(t, own, "UpdateKeyDescription", packed.Bytes()))
	a.want(t, http.StatusBadRequest, "SerializationException", "")
	shots = append(shots, shot{"packed", a, "UpdateKeyDescription", "SerializationException", own})

	a = send(t, i.sign(t, own, "UpdateKeyDescription", packed.Bytes(), func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }))
	a.want(t, http.StatusBadRequest, "SerializationException", "")
	shots = append(shots, shot{"packed and said so", a, "UpdateKeyDescription", "SerializationException", ""})

	// The largest body there is, and one in chunks, are read.
	for _, size := range []int{len(text), limit} {
		in := i.sign(t, own, "DescribeKey", append([]byte(`{"KeyId":"`+key+`"}`), bytes.Repeat([]byte(" "), size)...)[:size-2], func(r *http.Request) { r.ContentLength = -1 })
		if a := send(t, in); a.status != http.StatusOK {
			t.Errorf("a body of %d bytes in chunks: %d %s", size, a.status, a.body)
		}
	}
	return shots
}

func TestMethodsAndMedia(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	var shots []shot
	key := g.createKey(t, own)
	body := []byte(`{"KeyId":"` + key + `"}`)
	media := func(value string) func(*http.Request) {
		return func(r *http.Request) {
			if r.Header.Set("Content-Type", value); value == "" {
				r.Header.Del("Content-Type")
			}
		}
	}
	method := func(name string) func(*http.Request) { return func(r *http.Request) { r.Method = name } }
	const unknown = "<UnknownOperationException/>\n" // of a request with a target whose media type is another
	noTarget := func(r *http.Request) { media("text/plain")(r); r.Header.Del("X-Amz-Target") }
	for _, tc := range []struct {
		name   string
		edit   func(*http.Request)
		status int
		body   string
	}{
		{"GET", method(http.MethodGet), 403, notOurs},
		{"PUT", method(http.MethodPut), 403, notOurs},
		{"DELETE", method(http.MethodDelete), 403, notOurs},
		{"PATCH", method(http.MethodPatch), 403, notOurs},
		{"HEAD", method(http.MethodHead), 403, ""},
		{"OPTIONS", method(http.MethodOptions), 403, notOurs},
		{"an unknown method", method("BREW"), 403, notOurs},
		{"text without a target", noTarget, 403, notOurs},
		{"text", media("text/plain"), 404, unknown},
		{"no media type", media(""), 404, unknown},
		{"JSON", media("application/json"), 404, unknown},
		{"JSON 1.0", media("application/x-amz-json-1.0"), 404, unknown},
		{"CBOR", media("application/x-amz-cbor-1.1"), 404, unknown},
		{"broken media type", media(mediaJSON + "; ="), 404, unknown},
	} {
		a := stranger(t, g.sign(t, own, "DisableKey", body, tc.edit))
		if a.status != tc.status || string(a.body) != tc.body || a.header.Get("Content-Type") != "" {
			t.Errorf("%s: %d %q %q, want %d, no content type and %q", tc.name, a.status, a.header.Get("Content-Type"), a.body, tc.status, tc.body)
		}
		shots = append(shots, shot{tc.name, a, "", "UnknownOperationException", ""})
	}
	for _, value := range []string{mediaJSON + "; charset=utf-8", mediaJSON + ";charset=UTF-8", "Application/X-AMZ-json-1.1"} {
		if a := send(t, g.sign(t, own, "DescribeKey", body, media(value))); a.status != http.StatusOK {
			t.Errorf("%s: %d %s, want success", value, a.status, a.body)
		}
	}
	for _, path := range []string{"/", "/some/path", "/?query=x", "/healthz"} {
		r := g.sign(t, own, "DescribeKey", body, func(r *http.Request) {
			r.URL.Path, r.URL.RawQuery, _ = strings.Cut(path, "?")
		})
		if a := send(t, r); a.status != http.StatusOK {
			t.Errorf("POST %s: %d %s, want success whatever the path", path, a.status, a.body)
		}
	}
	// Targets of nobody, before anybody is asked who calls.
	for _, target := range []string{"", "TrentService", "TrentService.", "trentservice.DisableKey", "DisableKey", "DynamoDB_20120810.ListTables"} {
		a := stranger(t, g.sign(t, own, "", body, func(r *http.Request) { r.Header.Set("X-Amz-Target", target) }))
		a.want(t, http.StatusBadRequest, "UnknownOperationException", "")
		shots = append(shots, shot{"target " + target, a, "", "UnknownOperationException", ""})
	}
	g.wantRecorded(t, shots)
}

// TestSTS speaks to STS, which has a protocol of its own.
func TestSTS(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	const form = "Action=GetCallerIdentity&Version=2011-06-15"
	post := func(body, media string) *http.Request {
		r, err := http.NewRequest(http.MethodPost, g.endpoint+"/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", media)
		g.signAs(t, r, g.keys[own], []byte(body), "sts", region, time.Now())
		return r
	}
	var shots []shot
	for _, media := range []string{"application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-8"} {
		a := send(t, post(form, media))
		wantIdentity(t, a, own)
		shots = append(shots, shot{"form", a, "GetCallerIdentity", "", own})
	}
	get, err := http.NewRequest(http.MethodGet, g.endpoint+"/?"+form, nil)
	if err != nil {
		t.Fatal(err)
	}
	get.Header.Set("X-K8s-Aws-Id", "cluster")
	a := send(t, g.presign(t, get, nil, "sts", 60, "X-K8s-Aws-Id"))
	wantIdentity(t, a, own)
	shots = append(shots, shot{"presigned", a, "GetCallerIdentity", "", own})

	for _, tc := range []struct {
		name, body, event string
		status            int
		code, account     string
	}{
		{"unknown action", "Action=Nothing&Version=2011-06-15", "", 400, "InvalidAction", ""},
		{"no action", "Version=2011-06-15", "", 400, "MissingAction", ""},
		{"empty", "", "", 400, "MissingAction", ""},
		{"action twice", form + "&Action=GetCallerIdentity", "", 400, "MalformedQueryString", ""},
		{"broken escape", form + "&a=%zz", "", 400, "MalformedQueryString", ""},
		{"unknown parameter", form + "&Other=1", "GetCallerIdentity", 400, "ValidationError", own},
	} {
		a := stranger(t, post(tc.body, "application/x-www-form-urlencoded"))
		if a.status != tc.status || !strings.Contains(string(a.body), "<Code>"+tc.code+"</Code>") {
			t.Errorf("%s: %d %s, want %d %s", tc.name, a.status, a.body, tc.status, tc.code)
		}
		if len(eventsOf(g.audit(t), a.requestID())) != 1 {
			t.Errorf("%s: no record, or more than one", tc.name)
		}
	}
	unsigned := post(form, "application/x-www-form-urlencoded")
	unsigned.Header.Del("Authorization")
	wrong := post(form, "application/x-www-form-urlencoded")
	wrong.Header.Set("Authorization", strings.Replace(wrong.Header.Get("Authorization"), "Signature=", "Signature=0", 1)[:len(wrong.Header.Get("Authorization"))])
	kms := post(form, "application/x-www-form-urlencoded")
	g.signAs(t, kms, g.keys[own], []byte(form), "kms", region, time.Now())
	for code, r := range map[string]*http.Request{"MissingAuthenticationToken": unsigned, "SignatureDoesNotMatch": wrong} {
		a := stranger(t, r)
		if a.status != http.StatusForbidden || !strings.Contains(string(a.body), "<Code>"+code+"</Code>") {
			t.Errorf("%d %s, want 403 %s", a.status, a.body, code)
		}
	}
	if a := stranger(t, kms); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "Credential should be scoped to correct service: &#39;sts&#39;. ") {
		t.Errorf("signed for kms: %d %s", a.status, a.body)
	}
	g.wantRecorded(t, shots)
	for _, e := range eventsOf(g.audit(t), a.requestID()) {
		if e.EventSource != "sts.amazonaws.com" || !e.ReadOnly {
			t.Errorf("record %s, want one of STS that is read-only", e.text)
		}
	}
}

// wantIdentity checks an answer of GetCallerIdentity.
func wantIdentity(t testing.TB, a answer, account string) {
	t.Helper()
	want := `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>` + rootOf(account) + `</Arn><UserId>` + account +
		`</UserId><Account>` + account + `</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>` + a.requestID() + `</RequestId></ResponseMetadata></GetCallerIdentityResponse>`
	if got := strings.ReplaceAll(strings.ReplaceAll(string(a.body), "\n", ""), "  ", ""); a.status != http.StatusOK || got != want || a.header.Get("Content-Type") != "text/xml" {
		t.Errorf("%d %s %s\nwant 200 text/xml %s", a.status, a.header.Get("Content-Type"), a.body, want)
	}
}
