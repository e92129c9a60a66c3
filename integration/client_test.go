package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// mediaJSON is the media type of the KMS protocol.
const mediaJSON = "application/x-amz-json-1.1"

func (c credentials) Retrieve(context.Context) (aws.Credentials, error) { return c.aws(), nil }

func (c credentials) aws() aws.Credentials {
	return aws.Credentials{AccessKeyID: c.accessKey, SecretAccessKey: c.secret}
}

// A client is the AWS SDK in the hands of one account, and what came over the
// wire. One goroutine at a time.
type client struct {
	*kms.Client
	sts  *sts.Client
	last answer
}

// newClient makes an SDK client of an account's root that does not retry.
func (i *instance) newClient(account string) *client { return i.clientWith(i.keys[account]) }

// clientWith makes an SDK client with credentials.
func (i *instance) clientWith(key credentials) *client { return i.clientIn(region, key) }

// clientIn makes an SDK client of a region.
func (i *instance) clientIn(region string, key credentials) *client {
	c := &client{}
	config := aws.Config{
		Region: region, Credentials: key, HTTPClient: &http.Client{Transport: c},
		BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1,
	}
	c.Client, c.sts = kms.NewFromConfig(config), sts.NewFromConfig(config)
	return c
}

// RoundTrip keeps the answer that the SDK is about to read.
func (c *client) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	c.last, err = read(response)
	response.Body = io.NopCloser(bytes.NewReader(c.last.body))
	return response, err
}

// An answer is an HTTP response as it came.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func read(response *http.Response) (answer, error) {
	defer response.Body.Close() //nolint:errcheck // nothing is written
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, body}, err
}

func (a answer) requestID() string { return a.header.Get("x-amzn-RequestId") }

// object is the body as a JSON object.
func (a answer) object(t testing.TB) map[string]any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal(a.body, &object); err != nil {
		t.Fatalf("the body %q is not a JSON object: %v", a.body, err)
	}
	return object
}

// wantMembers checks that an object has exactly the members.
func wantMembers(t testing.TB, what string, object map[string]any, members ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(object))
	slices.Sort(members)
	if !slices.Equal(got, members) {
		t.Errorf("%s has the members %q, want %q", what, got, members)
	}
}

// wantMembers checks that the last answer has exactly the members.
func (c *client) wantMembers(t testing.TB, members ...string) {
	t.Helper()
	wantMembers(t, "the answer", c.last.object(t), members...)
}

// wantEmpty checks that the last answer was a success without a body.
func (c *client) wantEmpty(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if c.last.status != http.StatusOK || len(c.last.body) != 0 {
		t.Errorf("answer %d %q, want 200 and no body", c.last.status, c.last.body)
	}
}

// wantError checks an error of the SDK, its code and its exact message.
func wantError(t testing.TB, err error, code, message string) {
	t.Helper()
	apiError, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Errorf("error %v, want %s: %s", err, code, message)
		return
	}
	if apiError.ErrorCode() != code || apiError.ErrorMessage() != message {
		t.Errorf("got  %s: %s\nwant %s: %s", apiError.ErrorCode(), apiError.ErrorMessage(), code, message)
	}
}

// sign makes a request to KMS that is signed as SDKs sign; edit changes it before.
func (i *instance) sign(t testing.TB, account, operation string, body []byte, edit ...func(*http.Request)) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, i.endpoint+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", mediaJSON)
	r.Header.Set("X-Amz-Target", "TrentService."+operation)
	for _, e := range edit {
		e(r)
	}
	i.signAs(t, r, i.keys[account], body, "kms", region, time.Now())
	return r
}

// signAs signs a request with the SDK's signer.
func (i *instance) signAs(t testing.TB, r *http.Request, key credentials, body []byte, service, region string, at time.Time) {
	t.Helper()
	if err := v4.NewSigner().SignHTTP(context.Background(), key.aws(), r, hashOf(body), service, region, at); err != nil {
		t.Fatal(err)
	}
}

func hashOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// wire is how raw requests go out: over few connections that stay.
var wire = &http.Client{
	Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true},
	Timeout:   30 * time.Second,
}

// attempt sends a request and reads the answer.
func attempt(r *http.Request) (answer, error) {
	response, err := wire.Do(r)
	if err != nil {
		return answer{}, err
	}
	return read(response)
}

// send is attempt for the goroutine of a test.
func send(t testing.TB, r *http.Request) answer {
	t.Helper()
	a, err := attempt(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// call sends a signed request with a JSON body.
func (i *instance) call(t testing.TB, account, operation string, in any) answer {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, i.sign(t, account, operation, body))
}

// m is a JSON object.
type m = map[string]any

// mustCall is call for a success; it returns the answer's object, nil if it has none.
func (i *instance) mustCall(t testing.TB, account, operation string, in any) m {
	t.Helper()
	a := i.call(t, account, operation, in)
	if a.status != http.StatusOK {
		t.Fatalf("%s %v: %d %s", operation, in, a.status, a.body)
	}
	if len(a.body) == 0 {
		return nil
	}
	return a.object(t)
}

// refused checks that a call is refused with an HTTP status of 400, a code, and
// exactly a message; no message member at all if that is empty.
func (i *instance) refused(t testing.TB, account, operation string, in any, code, message string) answer {
	t.Helper()
	a := i.call(t, account, operation, in)
	a.want(t, http.StatusBadRequest, code, message)
	return a
}

// capitals are the codes whose text is in a member "Message".
var capitals = []string{"AccessDeniedException", "SerializationException"}

// want checks an error's status and its exact body.
func (a answer) want(t testing.TB, status int, code, message string) {
	t.Helper()
	want := m{"__type": code}
	switch {
	case message == "":
	case slices.Contains(capitals, code):
		want["Message"] = message
	default:
		want["message"] = message
	}
	var got m
	if err := json.Unmarshal(a.body, &got); err != nil || a.status != status || !maps.Equal(got, want) {
		t.Errorf("got  %d %s\nwant %d %v", a.status, a.body, status, want)
	}
}

// createKey makes a key and returns its ARN.
func (i *instance) createKey(t testing.TB, account string) string {
	t.Helper()
	return i.mustCall(t, account, "CreateKey", m{})["KeyMetadata"].(m)["Arn"].(string)
}

// idOf is the key id in a key ARN.
func idOf(keyARN string) string {
	const tail = len("1234abcd-12ab-34cd-56ef-1234567890ab")
	return keyARN[len(keyARN)-tail:]
}

func keyARN(account, id string) string { return "arn:aws:kms:" + region + ":" + account + ":key/" + id }

func aliasARN(account, name string) string {
	return "arn:aws:kms:" + region + ":" + account + ":" + name
}

func rootOf(account string) string { return "arn:aws:iam::" + account + ":root" }

// pace keeps requests without a good signature below the rate at which they are
// recorded one by one, whichever tests send them.
var pace = sync.OnceValue(func() *time.Ticker { return time.NewTicker(30 * time.Millisecond) })

// stranger sends a request that will not be authenticated.
func stranger(t testing.TB, r *http.Request) answer {
	t.Helper()
	<-pace().C
	return send(t, r)
}

// unhex reads the bytes of a UUID.
func unhex(t testing.TB, uuid string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
