package sigv4_test

import (
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/sigv4"
)

const authorization = "Authorization: AWS4-HMAC-SHA256 Credential=" + accessKey + "/" + kmsScope + ", SignedHeaders=" + kmsSigned + ", Signature="

var zeros = strings.Repeat("0", 64)

// authorized is a request of KMS with the Authorization header given.
func authorized(header string) request { return kmsRequest().with("Authorization: " + header) }

// without drops headers by their beginnings.
func (q request) without(prefix string) request {
	var kept []string
	for _, h := range q.headers {
		if !strings.HasPrefix(h, prefix) {
			kept = append(kept, h)
		}
	}
	q.headers = kept
	return q
}

// at is a request signed in the query string over the host alone.
func at(parameters string) request {
	return request{method: "GET", target: "/?" + parameters, host: "kms.example.com"}
}

const presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + accessKey + "/" + kmsScope +
	"&X-Amz-Date=" + amzDate + "&X-Amz-SignedHeaders=host"

var refusals = []struct {
	name    string
	request request
	code    string
	message string
	detail  string
}{
	{
		"nothing signed", kmsRequest(),
		sigv4.Missing, "Missing Authentication Token", "",
	},
	{
		"another scheme", authorized("Basic dXNlcjpwYXNz"),
		sigv4.Missing, "Missing Authentication Token", "",
	},
	{
		"both forms", authorized("AWS4-HMAC-SHA256 x").to("/?X-Amz-Algorithm=x"),
		sigv4.Invalid, "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.", "",
	},
	{
		"SigV4a", authorized("AWS4-ECDSA-P256-SHA256 Credential=a, SignedHeaders=b, Signature=c"),
		sigv4.Incomplete, "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.", "",
	},
	{
		"no equal-sign", authorized("AWS4-HMAC-SHA256 Credential"),
		sigv4.Incomplete, "'Credential' not a valid key=value pair (missing equal-sign) in Authorization header: 'AWS4-HMAC-SHA256 Credential'.", "",
	},
	{
		"empty parameter", authorized("AWS4-HMAC-SHA256 Credential=a,,Signature=b"),
		sigv4.Incomplete, "'' not a valid key=value pair (missing equal-sign) in Authorization header: 'AWS4-HMAC-SHA256 Credential=a,,Signature=b'.", "",
	},
	{
		"parameter twice", authorized("AWS4-HMAC-SHA256 Credential=, SignedHeaders=b, Signature=c, Credential=d"),
		sigv4.Incomplete, "Authorization header has more than one 'Credential' parameter.", "",
	},
	{
		"all parameters missing", authorized("AWS4-HMAC-SHA256").without("X-Amz-Date"),
		sigv4.Incomplete, "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. " +
			"Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. " +
			"Authorization=AWS4-HMAC-SHA256", "",
	},
	{
		"one parameter missing", authorized("AWS4-HMAC-SHA256 Credential=a, Other=o, SignedHeaders=b"),
		sigv4.Incomplete, "Authorization header requires 'Signature' parameter. Authorization=AWS4-HMAC-SHA256 Credential=a, Other=o, SignedHeaders=b", "",
	},
	{
		"date header only", kmsRequest().without("X-Amz-Date").with("Date: Sun, 30 Aug 2015 12:36:00 GMT", authorization+zeros),
		sigv4.Incomplete, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. " +
			"Authorization=" + strings.TrimPrefix(authorization, "Authorization: ") + zeros, "",
	},
	{
		"long echo is cut", authorized("AWS4-HMAC-SHA256 Other=" + strings.Repeat("\xff", 2000)).without("X-Amz-Date"),
		sigv4.Incomplete, "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. " +
			"Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. " +
			"Authorization=AWS4-HMAC-SHA256 Other=" + strings.Repeat("?", 1024-len("AWS4-HMAC-SHA256 Other=")) + "...", "",
	},
	{
		"10 kB of Authorization", authorized("AWS4-HMAC-SHA256 Credential=" + strings.Repeat("a", 10<<10)),
		sigv4.Incomplete, "Authorization header is too long.", "",
	},
	{
		"two Authorization headers", kmsRequest().signed(kmsScope, kmsSigned).with("Authorization: AWS4-HMAC-SHA256 x"),
		sigv4.Invalid, "Header 'Authorization' must not occur more than once.", "",
	},
	{
		"two X-Amz-Date headers", kmsRequest().signed(kmsScope, kmsSigned).with("X-Amz-Date: " + amzDate),
		sigv4.Invalid, "Header 'X-Amz-Date' must not occur more than once.", "",
	},
	{
		"two X-Amz-Target headers", kmsRequest().signed(kmsScope, kmsSigned).with("X-Amz-Target: TrentService.Decrypt"),
		sigv4.Invalid, "Header 'X-Amz-Target' must not occur more than once.", "",
	},
	{
		"two Content-Type headers", kmsRequest().signed(kmsScope, kmsSigned).with("Content-Type: text/plain"),
		sigv4.Invalid, "Header 'Content-Type' must not occur more than once.", "",
	},
	{
		"two tokens", kmsRequest().signed(kmsScope, kmsSigned).with("X-Amz-Security-Token: a", "X-Amz-Security-Token: b"),
		sigv4.Invalid, "Header 'X-Amz-Security-Token' must not occur more than once.", "",
	},
	{
		"host not signed", kmsRequest().signed(kmsScope, "content-type;x-amz-date;x-amz-target"),
		sigv4.Invalid, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"date is no date", kmsRequest().without("X-Amz-Date").with("X-Amz-Date: 20151301T000000Z", authorization+zeros),
		sigv4.Incomplete, "Date must be in ISO-8601 'basic format'. Got '20151301T000000Z'. See http://en.wikipedia.org/wiki/ISO_8601", "",
	},
	{
		"date with a fraction", kmsRequest().without("X-Amz-Date").with("X-Amz-Date: 20150830T123600.5Z", authorization+zeros),
		sigv4.Incomplete, "Date must be in ISO-8601 'basic format'. Got '20150830T123600.5Z'. See http://en.wikipedia.org/wiki/ISO_8601", "",
	},
	{
		"x-amz-date not signed", kmsRequest().signed(kmsScope, "content-type;host;x-amz-target"),
		sigv4.Invalid, "'X-Amz-Date' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"x-amz-target not signed", kmsRequest().signed(kmsScope, "content-type;host;x-amz-date"),
		sigv4.Invalid, "'X-Amz-Target' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"content-type not signed", kmsRequest().signed(kmsScope, "host;x-amz-date;x-amz-target"),
		sigv4.Invalid, "'Content-Type' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"token not signed", kmsRequest().signed(kmsScope, kmsSigned).with("X-Amz-Security-Token: t"),
		sigv4.Invalid, "'X-Amz-Security-Token' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"SignedHeaders not sorted", kmsRequest().signed(kmsScope, "host;content-type;x-amz-date;x-amz-target"),
		sigv4.Invalid, "SignedHeaders must be in lower case, sorted and without repetition.", "",
	},
	{
		"SignedHeaders repeat", kmsRequest().signed(kmsScope, "content-type;host;host;x-amz-date;x-amz-target"),
		sigv4.Invalid, "SignedHeaders must be in lower case, sorted and without repetition.", "",
	},
	{
		"SignedHeaders in upper case", kmsRequest().signed(kmsScope, "Content-Type;host;x-amz-date;x-amz-target"),
		sigv4.Invalid, "SignedHeaders must be in lower case, sorted and without repetition.", "",
	},
	{
		"SignedHeaders end in a semicolon", kmsRequest().signed(kmsScope, kmsSigned+";"),
		sigv4.Invalid, "SignedHeaders must be in lower case, sorted and without repetition.", "",
	},
	{
		"signed header absent", kmsRequest().signed(kmsScope, kmsSigned+";zebra"),
		sigv4.Invalid, mismatchText, "signed header zebra did not arrive",
	},
	{
		"signed header with a long name", kmsRequest().signed(kmsScope, kmsSigned+";z"+strings.Repeat("z", 128)),
		sigv4.Invalid, mismatchText, "signed header z" + strings.Repeat("z", 128) + " did not arrive",
	},
	{
		"content-length signed and absent", request{
			method: "POST", target: "/", host: "kms.example.com", headers: []string{"X-Amz-Date: " + amzDate},
		}.signed(kmsScope, "content-length;host;x-amz-date"),
		sigv4.Invalid, mismatchText,
		"content-length is signed but did not arrive: was the request sent in chunks, or by a proxy that re-chunks?",
	},
	{
		"signature of 63 digits", kmsRequest().with(authorization + zeros[1:]),
		sigv4.Invalid, mismatchText, "the signature is not 64 lower-case hexadecimal digits",
	},
	{
		"signature of 65 digits", kmsRequest().with(authorization + zeros + "0"),
		sigv4.Invalid, mismatchText, "the signature is not 64 lower-case hexadecimal digits",
	},
	{
		"signature in upper case", kmsRequest().with(authorization + strings.Repeat("A", 64)),
		sigv4.Invalid, mismatchText, "the signature is not 64 lower-case hexadecimal digits",
	},
	{
		"unsigned payload",
		kmsRequest().with("X-Amz-Content-Sha256: UNSIGNED-PAYLOAD").
			signed(kmsScope, "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target"),
		sigv4.Invalid, mismatchText, "X-Amz-Content-Sha256 is not the hash of a body: unsigned and streamed payloads are not served",
	},
	{
		"streamed payload",
		kmsRequest().with("X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD").
			signed(kmsScope, "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target"),
		sigv4.Invalid, mismatchText, "X-Amz-Content-Sha256 is not the hash of a body: unsigned and streamed payloads are not served",
	},
	{
		"hash of another body",
		kmsRequest().with("X-Amz-Content-Sha256: "+zeros).
			signed(kmsScope, "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target"),
		sigv4.Invalid, mismatchText, "the body is not the one that X-Amz-Content-Sha256 tells",
	},
	{
		"path above its root", kmsRequest().to("/a/../../b").with(authorization + zeros),
		sigv4.Invalid, mismatchText, "the path climbs above its root",
	},
	{
		"another path", kmsRequest().signed(kmsScope, kmsSigned).to("/a/../b"),
		sigv4.Invalid, mismatchText, "",
	},
	{
		"access key that could not be one", kmsRequest().with(strings.Replace(authorization, accessKey, "A-B", 1) + zeros),
		sigv4.Unrecognized, "The security token included in the request is invalid.", "",
	},
	{
		"no access key", kmsRequest().with(strings.Replace(authorization, accessKey, "", 1) + zeros),
		sigv4.Unrecognized, "The security token included in the request is invalid.", "",
	},
	{
		"token beyond bounds",
		kmsRequest().with("X-Amz-Security-Token: "+strings.Repeat("t", 8193)).
			signed(kmsScope, "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"),
		sigv4.Unrecognized, "The security token included in the request is invalid.", "",
	},
	{
		"credential of four parts", kmsRequest().with(strings.Replace(authorization, "/aws4_request", "", 1) + zeros),
		sigv4.Incomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '" +
			accessKey + "/" + day + "/us-east-1/kms'", "",
	},
	{
		"another region", kmsRequest().signed(day+"/eu-west-1/kms/aws4_request", kmsSigned),
		sigv4.Invalid, "Credential should be scoped to a valid region, not 'eu-west-1'. ", "",
	},
	{
		"another service", kmsRequest().signed(day+"/us-east-1/sts/aws4_request", kmsSigned),
		sigv4.Invalid, "Credential should be scoped to correct service: 'kms'. ", "",
	},
	{
		"another terminator", kmsRequest().signed(day+"/us-east-1/kms/aws5_request", kmsSigned),
		sigv4.Invalid, "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'. ", "",
	},
	{
		"another day", kmsRequest().signed("20150829/us-east-1/kms/aws4_request", kmsSigned),
		sigv4.Invalid, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: " +
			"'20150829' != '20150830', from '20150830T123600Z'.", "",
	},
	{
		"all of the scope", kmsRequest().signed("d/r/s/t", kmsSigned),
		sigv4.Invalid, "Credential should be scoped to a valid region, not 'r'. Credential should be scoped to correct service: 'kms'. " +
			"Credential should be scoped with a valid terminator: 'aws4_request', not 't'. " +
			"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: 'd' != '20150830', from '20150830T123600Z'.", "",
	},
	{
		"scope before the signature's form", kmsRequest().with(strings.Replace(authorization, "us-east-1", "x", 1) + "c"),
		sigv4.Invalid, "Credential should be scoped to a valid region, not 'x'. ", "",
	},
	{
		"query: everything missing", at("X-Amz-Algorithm="),
		sigv4.Incomplete, "AWS query-string parameters must include 'X-Amz-Algorithm'. AWS query-string parameters must include 'X-Amz-Credential'. " +
			"AWS query-string parameters must include 'X-Amz-Signature'. AWS query-string parameters must include 'X-Amz-SignedHeaders'. " +
			"AWS query-string parameters must include 'X-Amz-Date'. Re-examine the query-string parameters.", "",
	},
	{
		"query: signature missing", at(presigned),
		sigv4.Incomplete, "AWS query-string parameters must include 'X-Amz-Signature'. Re-examine the query-string parameters.", "",
	},
	{
		"query: parameter twice", at(presigned + "&X-Amz-Signature=" + zeros + "&%58-Amz-Date=" + amzDate),
		sigv4.Incomplete, "AWS query-string parameters must include 'X-Amz-Date' only once.", "",
	},
	{
		"query: SigV4a", at(strings.Replace(presigned, "HMAC", "ECDSA-P256", 1) + "&X-Amz-Signature=" + zeros),
		sigv4.Incomplete, "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.", "",
	},
	{
		"query: no seconds", at(presigned + "&X-Amz-Signature=" + zeros + "&X-Amz-Expires="),
		sigv4.Incomplete, "X-Amz-Expires must be a number of seconds from 1 to 604800.", "",
	},
	{
		"query: zero seconds", at(presigned + "&X-Amz-Signature=" + zeros + "&X-Amz-Expires=0"),
		sigv4.Incomplete, "X-Amz-Expires must be a number of seconds from 1 to 604800.", "",
	},
	{
		"query: more than a week", at(presigned + "&X-Amz-Signature=" + zeros + "&X-Amz-Expires=604801"),
		sigv4.Incomplete, "X-Amz-Expires must be a number of seconds from 1 to 604800.", "",
	},
	{
		"query: x-amz header not signed", at(presigned + "&X-Amz-Signature=" + zeros).with("X-Amz-Target: TrentService.Decrypt"),
		sigv4.Invalid, "'X-Amz-Target' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"query: a body of unsigned type", at(presigned + "&X-Amz-Signature=" + zeros).with("Content-Type: text/plain").sending("x"),
		sigv4.Invalid, "'Content-Type' must be a 'SignedHeader' in the AWS Authorization.", "",
	},
	{
		"query: wrong signature", at(presigned + "&X-Amz-Signature=" + zeros).with("Content-Type: text/plain"),
		sigv4.Invalid, mismatchText, "",
	},
	{
		"query: broken escape", at("a=%4"), sigv4.Invalid, "The query string is malformed.", "",
	},
	{
		"query: escape of no byte", at("%4x=a"), sigv4.Invalid, "The query string is malformed.", "",
	},
	{
		"query: plus sign", at("a=1+1"), sigv4.Invalid, "The query string is malformed.", "",
	},
	{
		"target beyond bounds", at(strings.Repeat("a", 16<<10)), sigv4.Invalid, "The request target is too long.", "",
	},
	{
		"absolute form", kmsRequest().signed(kmsScope, kmsSigned).to("http://kms.example.com/"),
		sigv4.Invalid, "The request target must be an absolute path.", "",
	},
	{
		"asterisk form", kmsRequest().signed(kmsScope, kmsSigned).to("*"),
		sigv4.Invalid, "The request target must be an absolute path.", "",
	},
}

func (q request) to(target string) request { q.target = target; return q }

func (q request) sending(body string) request { q.body = body; return q }

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, body := c.request.read(t)
			e := refusal(t, verify(r, body, signedAt, "kms"))
			if e.Code != c.code || e.Message != c.message || e.Detail != c.detail {
				t.Errorf("refusal =\n%s: %q (%s), want\n%s: %q (%s)", e.Code, e.Message, e.Detail, c.code, c.message, c.detail)
			}
		})
	}
}

func TestVerifyAcceptsTheRequestThatTheRefusedOnesChange(t *testing.T) {
	t.Parallel()
	r, body := kmsRequest().signed(kmsScope, kmsSigned).read(t)
	if err := verify(r, body, signedAt, "kms"); err != nil {
		t.Errorf("verify = %v, want nil", err)
	}
	r, body = at(presigned + "&X-Amz-Signature=" + presignature(presigned)).with("Content-Type: text/plain").read(t)
	if err := verify(r, body, signedAt, "kms"); err != nil {
		t.Errorf("verify of the query form = %v, want nil", err)
	}
}

// presignature signs at(parameters), whose parameters are in order but not escaped.
func presignature(parameters string) string {
	return hexMAC(kmsScope, amzDate, "GET\n/\n"+strings.ReplaceAll(parameters, "/", "%2F")+
		"\nhost:kms.example.com\n\nhost\n"+hexSum(""))
}

func TestCheckScopeKeepsTheWindow(t *testing.T) {
	t.Parallel()
	const expired, early = "Signature expired: ", "Signature not yet current: "
	expiring := func(seconds string) request {
		p := "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + accessKey + "/" + kmsScope +
			"&X-Amz-Date=" + amzDate + "&X-Amz-Expires=" + seconds + "&X-Amz-SignedHeaders=host"
		return at(p + "&X-Amz-Signature=" + presignature(p))
	}
	inHeader := kmsRequest().signed(kmsScope, kmsSigned)
	for _, c := range []struct {
		name    string
		request request
		after   time.Duration
		message string
	}{
		{"4:59 old", inHeader, 4*time.Minute + 59*time.Second, ""},
		{"5:00 old", inHeader, 5*time.Minute + 999*time.Millisecond, ""},
		{"5:01 old", inHeader, 5*time.Minute + time.Second, expired + "20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)"},
		{"4:59 early", inHeader, -4*time.Minute - 59*time.Second, ""},
		{"5:00 early", inHeader, -5 * time.Minute, ""},
		{"5:01 early", inHeader, -5*time.Minute - time.Second, early + "20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)"},
		{"expires after a minute: in time", expiring("60"), time.Minute, ""},
		{"expires after a minute: late", expiring("60"), 61 * time.Second, expired + "20150830T123600Z is now earlier than 20150830T123601Z (20150830T123701Z - 1 min.)"},
		{"expires after a minute: early", expiring("60"), -5*time.Minute - time.Second, early + "20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)"},
		{"expires after a second", expiring("1"), 2 * time.Second, expired + "20150830T123600Z is now earlier than 20150830T123601Z (20150830T123602Z - 1 sec.)"},
		{"expires after a week: in time", expiring("604800"), 168 * time.Hour, ""},
		{"expires after a week: late", expiring("604800"), 168*time.Hour + time.Second, expired + "20150830T123600Z is now earlier than 20150830T123601Z (20150906T123601Z - 10080 min.)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, body := c.request.read(t)
			err := verify(r, body, signedAt.Add(c.after).In(time.FixedZone("", 3600)), "kms")
			if c.message == "" {
				if err != nil {
					t.Errorf("verify = %v, want nil", err)
				}
				return
			}
			if e := refusal(t, err); e.Message != c.message || e.Code != sigv4.Invalid {
				t.Errorf("refusal = %s %q, want %s %q", e.Code, e.Message, sigv4.Invalid, c.message)
			}
		})
	}
}

func TestErrorSaysEverythingForTheLog(t *testing.T) {
	t.Parallel()
	e := &sigv4.Error{Code: sigv4.Missing, Message: "Missing Authentication Token"}
	if got, want := e.Error(), "MissingAuthenticationTokenException: Missing Authentication Token"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	e.Detail = "why"
	if got, want := e.Error(), "MissingAuthenticationTokenException: Missing Authentication Token (why)"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}
