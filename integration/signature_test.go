package integration_test

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const mismatchText = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."

// presign moves a signature into the query string; signed are further headers that
// are to be signed.
func (i *instance) presign(t testing.TB, r *http.Request, body []byte, service string, seconds int, signed ...string) *http.Request {
	t.Helper()
	if seconds > 0 {
		q := r.URL.Query()
		q.Set("X-Amz-Expires", strconv.Itoa(seconds))
		r.URL.RawQuery = q.Encode()
	}
	target, _, err := v4.NewSigner().PresignHTTP(t.Context(), i.keys[own].aws(), r, hashOf(body), service, region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	presigned, err := http.NewRequest(r.Method, target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(signed, "Content-Type") {
		if value := r.Header.Get(name); value != "" {
			presigned.Header.Set(name, value)
		}
	}
	return presigned
}

// edits of a signed request, all of which make it worthless.
func setHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func addHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

// authorization replaces text in the Authorization header.
func authorization(from, to string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), from, to, 1))
	}
}

// signature changes the signature itself.
func signature(change func(string) string) func(*http.Request) {
	return func(r *http.Request) {
		head, sum, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
		r.Header.Set("Authorization", head+"Signature="+change(sum))
	}
}

// parts removes parameters of the Authorization header.
func withoutParts(names ...string) func(*http.Request) {
	return func(r *http.Request) {
		algorithm, list, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		var kept []string
		for _, part := range strings.Split(list, ", ") {
			name, _, _ := strings.Cut(part, "=")
			keep := true
			for _, n := range names {
				keep = keep && n != name
			}
			if keep {
				kept = append(kept, part)
			}
		}
		r.Header.Set("Authorization", algorithm+" "+strings.Join(kept, ", "))
	}
}

// TestSignatures sends requests whose signatures do not hold. All of them would
// disable a key.
func TestSignatures(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	body := []byte(`{"KeyId":"` + key + `"}`)
	accessKey := g.keys[own].accessKey
	today := time.Now().UTC().Format("20060102")
	const missing, incomplete, invalid, unrecognized = "MissingAuthenticationTokenException", "IncompleteSignatureException", "InvalidSignatureException", "UnrecognizedClientException"
	const invalidToken = "The security token included in the request is invalid."
	var shots []shot
	for _, tc := range []struct {
		name    string
		edit    func(*http.Request)
		code    string
		message string // empty: begins with nothing in particular
	}{
		{"no signature", func(r *http.Request) { r.Header.Del("Authorization") }, missing, "Missing Authentication Token"},
		{"another scheme", setHeader("Authorization", "Basic YTpi"), missing, "Missing Authentication Token"},
		{"another algorithm", authorization("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"), incomplete, "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512'."},
		{"no credential", withoutParts("Credential"), incomplete, "Authorization header requires 'Credential' parameter. Authorization=*"},
		{"nothing but the algorithm", withoutParts("Credential", "Signature", "SignedHeaders"), incomplete, "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter. Authorization=*"},
		{"nothing at all", func(r *http.Request) {
			withoutParts("Credential", "Signature", "SignedHeaders")(r)
			r.Header.Del("X-Amz-Date")
		}, incomplete, "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. Authorization=*"},
		{"no date", func(r *http.Request) { r.Header.Del("X-Amz-Date") }, incomplete, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. Authorization=*"},
		{"a part that is none", authorization("Credential=", "Credential"), incomplete, ""},
		{"broken date", setHeader("X-Amz-Date", "yesterday"), incomplete, "Date must be in ISO-8601 'basic format'. Got 'yesterday'. See http://en.wikipedia.org/wiki/ISO_8601"},
		{"credential of four parts", authorization("/aws4_request", ""), incomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '" + accessKey + "/" + today + "/us-east-1/kms'"},
		{"another region", authorization("/us-east-1/", "/eu-west-1/"), invalid, "Credential should be scoped to a valid region, not 'eu-west-1'. "},
		{"another service", authorization("/kms/", "/s3/"), invalid, "Credential should be scoped to correct service: 'kms'. "},
		{"another terminator", authorization("aws4_request", "aws5_request"), invalid, "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'. "},
		{"another day", authorization("/"+today+"/", "/20200101/"), invalid, "*Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20200101' != '" + today + "', from '"},
		{"all of the scope", authorization(today+"/us-east-1/kms/aws4_request", "20200101/a/b/c"), invalid, "Credential should be scoped to a valid region, not 'a'. Credential should be scoped to correct service: 'kms'. Credential should be scoped with a valid terminator: 'aws4_request', not 'c'. Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20200101' != '" + today + "', from '*"},
		{"host not signed", authorization(";host;", ";"), invalid, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."},
		{"target not signed", authorization(";x-amz-target", ""), invalid, ""},
		{"signed headers out of order", authorization("SignedHeaders=", "SignedHeaders=x-amz-target;"), invalid, ""},
		{"a signed header that is not there", authorization("SignedHeaders=", "SignedHeaders=a-header;"), invalid, ""},
		{"upper case in signed headers", authorization(";host;", ";Host;"), invalid, ""},
		{"a target of another operation", setHeader("X-Amz-Target", "TrentService.EnableKey"), invalid, mismatchText},
		{"two targets", addHeader("X-Amz-Target", "TrentService.EnableKey"), invalid, ""},
		{"two authorizations", addHeader("Authorization", "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=00"), invalid, ""},
		{"two content types", addHeader("Content-Type", mediaJSON), invalid, ""},
		{"a token that was not signed", setHeader("X-Amz-Security-Token", "token"), invalid, ""},
		{"another amz header that was not signed", setHeader("X-Amz-Other", "1"), invalid, ""},
		{"the other form too", func(r *http.Request) { r.URL.RawQuery = "X-Amz-Algorithm=AWS4-HMAC-SHA256" }, invalid, "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."},
		{"a query that was not signed", func(r *http.Request) { r.URL.RawQuery = "a=b" }, invalid, mismatchText},
		{"a path that was not signed", func(r *http.Request) { r.URL.Path = "/a" }, invalid, mismatchText},
		{"upper-case signature", signature(strings.ToUpper), invalid, mismatchText},
		{"short signature", signature(func(s string) string { return s[1:] }), invalid, mismatchText},
		{"long signature", signature(func(s string) string { return s + "0" }), invalid, mismatchText},
		{"no signature text", signature(func(string) string { return "" }), incomplete, "Authorization header requires 'Signature' parameter. Authorization=*"},
		{"other signature", signature(func(string) string { return strings.Repeat("0", 64) }), invalid, mismatchText},
		{"other body", func(r *http.Request) { r.Body = http.NoBody; r.ContentLength = 0; r.GetBody = nil }, invalid, mismatchText},
		{"unsigned payload", setHeader("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), invalid, ""},
		{"an endless authorization", authorization("Credential=", "Padding="+strings.Repeat("x", 10_000)+", Credential="), incomplete, ""},
		{"unknown access key", authorization(accessKey, "AKIA0000000000000000"), unrecognized, invalidToken},
		{"another's access key", authorization(accessKey, g.keys[other].accessKey), invalid, mismatchText},
		{"an access key that could be none", authorization(accessKey, "'; DROP TABLE keys"), unrecognized, invalidToken},
	} {
		r := g.sign(t, own, "DisableKey", body)
		tc.edit(r)
		a := stranger(t, r)
		t.Run(tc.name, func(t *testing.T) { wantRefusal(t, a, tc.code, tc.message) })
		shots = append(shots, shot{tc.name, a, strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService."), tc.code, ""})
	}
	shots = append(shots, g.skewed(t, body)...)
	shots = append(shots, g.otherSecrets(t, body)...)
	g.wantRecorded(t, shots)
	if got := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)["KeyState"]; got != "Enabled" {
		t.Errorf("KeyState %v: a request that was refused has changed it", got)
	}
}

// wantRefusal checks a refusal with HTTP status 400, whose message is as given, or
// begins or ends as given where an asterisk stands.
func wantRefusal(t testing.TB, a answer, code, message string) {
	t.Helper()
	body := a.object(t)
	got, _ := body["message"].(string)
	fits := got == message || message == "" && got != ""
	if head, ok := strings.CutSuffix(message, "*"); ok {
		fits = strings.HasPrefix(got, head)
	}
	if tail, ok := strings.CutPrefix(message, "*"); ok {
		fits = strings.Contains(got, tail)
	}
	if a.status != http.StatusBadRequest || body["__type"] != code || !fits || len(body) != 2 {
		t.Errorf("got  %d %s\nwant 400 %s: %s", a.status, a.body, code, message)
	}
}

// skewed sends requests from the edges of the window of five minutes.
func (i *instance) skewed(t *testing.T, body []byte) (shots []shot) {
	for _, tc := range []struct {
		by    time.Duration
		begin string // of the message; empty for success
	}{
		{-4*time.Minute - 45*time.Second, ""},
		{4*time.Minute + 45*time.Second, ""},
		{-5*time.Minute - 10*time.Second, "Signature expired: "},
		{5*time.Minute + 30*time.Second, "Signature not yet current: "},
		{-time.Hour, "Signature expired: "},
	} {
		at := time.Now().Add(tc.by)
		operation, code := "DescribeKey", ""
		r, err := http.NewRequest(http.MethodPost, i.endpoint+"/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", mediaJSON)
		r.Header.Set("X-Amz-Target", "TrentService."+operation)
		i.signAs(t, r, i.keys[own], body, "kms", region, at)
		a := stranger(t, r)
		account := own
		if tc.begin == "" && a.status != http.StatusOK {
			t.Errorf("signed %v from now: %d %s, want success", tc.by, a.status, a.body)
		}
		if tc.begin != "" {
			code, account = "InvalidSignatureException", ""
			wantRefusal(t, a, code, tc.begin+at.UTC().Format("20060102T150405Z")+" is *")
			if end := string(a.body); !strings.HasSuffix(end, ` 5 min.)"}`) {
				t.Errorf("signed %v from now: %s, want the window named", tc.by, end)
			}
		}
		shots = append(shots, shot{"signed " + tc.by.String() + " from now", a, operation, code, account})
	}
	return shots
}

// otherSecrets sends requests that are signed well with what is not the secret.
func (i *instance) otherSecrets(t *testing.T, body []byte) (shots []shot) {
	key := i.keys[own]
	for name, wrong := range map[string]credentials{
		"another's secret": {key.accessKey, i.keys[other].secret}, "a secret of one more letter": {key.accessKey, key.secret + "A"}, "an empty secret": {key.accessKey, " "},
	} {
		r, err := http.NewRequest(http.MethodPost, i.endpoint+"/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", mediaJSON)
		r.Header.Set("X-Amz-Target", "TrentService.DisableKey")
		i.signAs(t, r, wrong, body, "kms", region, time.Now())
		a := stranger(t, r)
		wantRefusal(t, a, "InvalidSignatureException", mismatchText)
		shots = append(shots, shot{name, a, "DisableKey", "InvalidSignatureException", ""})
	}
	// A session token, signed with the rest, belongs to another kind of key.
	a := stranger(t, i.sign(t, own, "DisableKey", body, setHeader("X-Amz-Security-Token", hideText("a session token of another key"))))
	wantRefusal(t, a, "UnrecognizedClientException", "The security token included in the request is invalid.")
	return append(shots, shot{"a token of another key", a, "DisableKey", "UnrecognizedClientException", ""})
}

func TestPresignedRequests(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	body := []byte(`{"KeyId":"` + key + `"}`)
	fresh := func(operation string, seconds int) *http.Request {
		r, err := http.NewRequest(http.MethodPost, g.endpoint+"/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", mediaJSON)
		if operation != "" {
			r.Header.Set("X-Amz-Target", "TrentService."+operation)
		}
		return g.presign(t, r, body, "kms", seconds)
	}
	moved := fresh("DescribeKey", 0)
	if !moved.URL.Query().Has("X-Amz-Target") {
		t.Fatalf("the signer has left the target in its header: %v", moved.URL)
	}
	good := send(t, moved)
	if good.status != http.StatusOK {
		t.Errorf("presigned: %d %s, want success", good.status, good.body)
	}
	shots := []shot{{"presigned", good, "DescribeKey", "", own}}
	query := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			q := r.URL.Query()
			if q.Del(name); value != "" {
				q.Set(name, value)
			}
			r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
		}
	}
	twice := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.URL.RawQuery += "&" + name + "=" + r.URL.Query().Get(name) }
	}
	const incomplete, invalid = "IncompleteSignatureException", "InvalidSignatureException"
	for _, tc := range []struct {
		name, event   string
		edit          func(*http.Request)
		code, message string
	}{
		{"another target", "EnableKey", query("X-Amz-Target", "TrentService.EnableKey"), invalid, mismatchText},
		{"no signature", "DisableKey", query("X-Amz-Signature", ""), incomplete, "AWS query-string parameters must include 'X-Amz-Signature'. Re-examine the query-string parameters."},
		{"no date, no credential", "DisableKey", func(r *http.Request) { query("X-Amz-Date", "")(r); query("X-Amz-Credential", "")(r) }, incomplete, "AWS query-string parameters must include 'X-Amz-Credential'. AWS query-string parameters must include 'X-Amz-Date'. Re-examine the query-string parameters."},
		{"a parameter twice", "DisableKey", twice("X-Amz-Date"), incomplete, ""},
		{"a longer validity", "DisableKey", query("X-Amz-Expires", "604800"), invalid, mismatchText},
		{"an endless validity", "DisableKey", query("X-Amz-Expires", "604801"), incomplete, ""},
		{"an unsigned token", "DisableKey", query("X-Amz-Security-Token", "token"), "UnrecognizedClientException", "The security token included in the request is invalid."},
		{"another body", "DisableKey", func(r *http.Request) { r.Body = http.NoBody; r.ContentLength = 0; r.GetBody = nil }, invalid, mismatchText},
		{"both forms", "DisableKey", setHeader("Authorization", "AWS4-HMAC-SHA256 Credential=a"), invalid, "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."},
	} {
		r := fresh("DisableKey", 60)
		tc.edit(r)
		a := stranger(t, r)
		t.Run(tc.name, func(t *testing.T) { wantRefusal(t, a, tc.code, tc.message) })
		shots = append(shots, shot{tc.name, a, tc.event, tc.code, ""})
	}
	// A target in both places is none, and one that was not signed counts for nothing.
	both := fresh("DisableKey", 60)
	both.Header.Set("X-Amz-Target", "TrentService.EnableKey")
	a := stranger(t, both)
	a.want(t, http.StatusBadRequest, "UnknownOperationException", "")
	shots = append(shots, shot{"two targets", a, "", "UnknownOperationException", ""})
	without := fresh("", 60)
	without.Header.Set("X-Amz-Target", "TrentService.DisableKey")
	a = stranger(t, without)
	wantRefusal(t, a, invalid, "")
	shots = append(shots, shot{"a target beside the signature", a, "DisableKey", invalid, ""})
	g.wantRecorded(t, shots)
	if got := g.mustCall(t, own, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)["KeyState"]; got != "Enabled" {
		t.Errorf("KeyState %v: a request that was refused has changed it", got)
	}
}
