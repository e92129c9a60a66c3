package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

// A formAnswer is an answer to a form.
type formAnswer struct {
	status          int
	requestID, body string
}

// has tells whether the answer has a status and a text.
func (a formAnswer) has(status int, text string) bool {
	return a.status == status && strings.Contains(a.body, text)
}

// form sends a form that a caller has signed for a service and a region; without a
// caller it is not signed.
func (f *fixture) form(t *testing.T, caller, service, region, form string) formAnswer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.server.URL+"/", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", formMedia+"; charset=utf-8")
	if caller != "" {
		hash := sha256.Sum256([]byte(form))
		if err := v4.NewSigner().SignHTTP(t.Context(), f.keys[caller], r, hex.EncodeToString(hash[:]), service, region, f.now()); err != nil {
			t.Fatal(err)
		}
	}
	return f.answered(t, r)
}

func (f *fixture) answered(t *testing.T, r *http.Request) formAnswer {
	t.Helper()
	response, err := f.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing is written
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return formAnswer{response.StatusCode, response.Header.Get("x-amzn-RequestId"), string(body)}
}

const (
	iamForm = "Version=2010-05-08&Action="
	stsForm = "Version=2011-06-15&Action="
)

// TestFormsAreForTheServiceThatTheyAreSignedFor, in any served region and in the one
// that global services are signed for.
func TestFormsAreForTheServiceThatTheyAreSignedFor(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Regions[0].Name = "site-1" })
	const who = "GetCallerIdentity"
	for _, tc := range []struct {
		service, region, form string
		status                int
		text                  string
	}{
		{"sts", "site-1", stsForm + who, 200, "<Account>" + account1},
		{"sts", globalRegion, stsForm + who, 200, "<Account>" + account1},
		{"sts", "site-2", stsForm + who, 403, "<Code>SignatureDoesNotMatch"},
		{"sts", "site-1", iamForm + "ListUsers", 400, "<Code>InvalidAction"},
		{"iam", "site-1", iamForm + "ListUsers", 200, "<ListUsersResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">"},
		{"iam", globalRegion, iamForm + "ListUsers", 200, "<ListUsersResult>"},
		{"iam", "site-2", iamForm + "ListUsers", 403, "<Code>SignatureDoesNotMatch"},
		{"iam", "site-1", stsForm + who, 400, "<Code>InvalidAction"},
		{"iam", "site-1", iamForm + who, 400, "<Code>InvalidAction"},
		{"kms", "site-1", iamForm + "ListUsers", 403, "<Code>SignatureDoesNotMatch"},
	} {
		a := f.form(t, account1, tc.service, tc.region, tc.form)
		if !a.has(tc.status, tc.text) {
			t.Errorf("%s for %s in %s: %d %s, want %d %s", tc.form, tc.service, tc.region, a.status, a.body, tc.status, tc.text)
		}
	}
}

// TestPresignedGetCallerIdentity is how clusters prove who a node or a user is: with
// a signed header besides, and in the header form too.
func TestPresignedGetCallerIdentity(t *testing.T) {
	f := newFixture(t, nil)
	user := f.addUser(t, account1, "user", "")
	request := func(header string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL+"/?"+stsForm+"GetCallerIdentity&X-Amz-Expires=60", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("x-k8s-aws-id", header)
		return r
	}
	empty := sha256.Sum256(nil)
	sum := hex.EncodeToString(empty[:])
	presigned := func(caller string) *http.Request {
		r := request("cluster")
		address, header, err := v4.NewSigner().PresignHTTP(t.Context(), f.keys[caller], r, sum, "sts", testRegion, f.now())
		if err != nil {
			t.Fatal(err)
		}
		r.URL, err = url.Parse(address)
		if err != nil || !strings.Contains(address, "x-k8s-aws-id") {
			t.Fatalf("%s does not sign the header: %v", address, err)
		}
		r.Header = header
		return r
	}
	good := "<Arn>" + user + "</Arn>"
	if a := f.answered(t, presigned("user")); !a.has(200, good) {
		t.Errorf("presigned: %d %s, want %s", a.status, a.body, good)
	}
	signed := request("cluster")
	signed.URL.RawQuery = stsForm + "GetCallerIdentity"
	if err := v4.NewSigner().SignHTTP(t.Context(), f.keys["user"], signed, sum, "sts", testRegion, f.now()); err != nil {
		t.Fatal(err)
	}
	if a := f.answered(t, signed); !a.has(200, good) {
		t.Errorf("signed in the header: %d %s, want %s", a.status, a.body, good)
	}
	for name, edit := range map[string]func(*http.Request){
		"another cluster": func(r *http.Request) { r.Header.Set("x-k8s-aws-id", "other") },
		"no cluster":      func(r *http.Request) { r.Header.Del("x-k8s-aws-id") },
		"another action":  func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "GetCaller", "GetOther", 1) },
	} {
		r := presigned("user")
		edit(r)
		if a := f.answered(t, r); !a.has(403, "<Code>SignatureDoesNotMatch") {
			t.Errorf("%s: %d %s, want a refusal", name, a.status, a.body)
		}
	}
	late := presigned("user")
	f.skew.Add(int64(2 * time.Minute))
	if a := f.answered(t, late); !a.has(403, "Signature expired") {
		t.Errorf("too late: %d %s, want a refusal", a.status, a.body)
	}
	unsigned := request("cluster")
	if a := f.answered(t, unsigned); !a.has(403, "<Code>MissingAuthenticationToken") {
		t.Errorf("unsigned: %d %s, want a refusal", a.status, a.body)
	}
}

// introduction is the request of an operation that nobody signs.
type introduction struct {
	Name *string `kms:"required,len=1..8"`
}

// TestUnsignedOperations prove in their own way who calls. All other forms that
// nobody signed are refused alike.
func TestUnsignedOperations(t *testing.T) {
	f := newFixture(t, nil)
	f.routes[route{serviceSTS, "Introduce"}] = &operation{
		service: serviceSTS, name: "Introduce", bucket: "Introduce", anonymous: true, records: []string{"Name"},
		identify: func(c *call, in any) error {
			name := *in.(*introduction).Name
			if name == "nobody" {
				return kmsapi.UnrecognizedClient()
			}
			c.claims = map[string][]string{"issuer:sub": {name}}
			c.setCaller(identity.Caller{Kind: policy.WebIdentity, Account: account1, ARN: "provider", UserID: name},
				audit.UserIdentity{Type: audit.Unknown, UserName: name})
			return nil
		},
		typed: do(nil, func(c *call, _ *introduction) (work[identity.GetCallerIdentityResponse], error) {
			subject := (&facts{call: c}).values("issuer:sub")
			return work[identity.GetCallerIdentityResponse]{do: func(context.Context) (*identity.GetCallerIdentityResponse, error) {
				return &identity.GetCallerIdentityResponse{UserID: strings.Join(subject, " ")}, nil
			}}, nil
		}),
	}
	for _, tc := range []struct {
		form, text string
		status     int
		account    string
	}{
		{stsForm + "Introduce&Name=me", "<UserId>me</UserId>", 200, account1},
		{stsForm + "Introduce&Name=nobody", "<Code>InvalidClientTokenId", 403, ""},
		{stsForm + "Introduce", "<Code>ValidationError", 400, ""},
		{stsForm + "Introduce&Name=me&More=1", "<Code>ValidationError", 400, ""},
		{stsForm + "GetCallerIdentity", "<Code>MissingAuthenticationToken", 403, ""},
		{stsForm + "Nothing", "<Code>MissingAuthenticationToken", 403, ""},
		{iamForm + "ListUsers", "<Code>MissingAuthenticationToken", 403, ""},
		{iamForm + "Introduce&Name=me", "<Code>MissingAuthenticationToken", 403, ""},
		{"a=%zz", "<Code>MissingAuthenticationToken", 403, ""},
		{"", "<Code>MissingAuthenticationToken", 403, ""},
		{strings.Repeat("a", 200<<10), "<Code>RequestEntityTooLarge", 413, ""},
	} {
		a := f.form(t, "", "", "", tc.form)
		if !a.has(tc.status, tc.text) {
			t.Errorf("%.40s: %d %s, want %d %s", tc.form, a.status, a.body, tc.status, tc.text)
		}
		for _, e := range f.events(t) {
			if e.RequestID == a.requestID && e.RecipientAccountID != tc.account {
				t.Errorf("%.40s is recorded for %q, want %q", tc.form, e.RecipientAccountID, tc.account)
			}
		}
	}
	f.wantIdle(t)
}

// TestIAMTargets: who may not act on a user cannot tell whether there is one; who may
// is told.
func TestIAMTargets(t *testing.T) {
	f := newFixture(t, nil)
	in := "arn:aws:iam::" + account1
	f.addUser(t, account1, "nobody", "")
	f.addUser(t, account1, "admin", identityPolicy("Allow", "iam:*", "*"))
	f.addUser(t, account1, "limited", identityPolicy("Allow", "iam:*", in+":user/team/*"))
	f.addUser(t, account1, "selfish", identityPolicy("Allow", "iam:*", in+":user/${aws:username}"))
	f.addUser(t, account1, "careful", conditionalPolicy("iam:*", `{"StringEquals":{"iam:PolicyARN":"`+in+`:policy/fine"}}`))
	f.addUser(t, account2, "stranger", identityPolicy("Allow", "iam:*", "*"))
	f.addPrincipals(t, account1, metadata.Role, map[string]string{"role": ""})
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		return tx.InsertManagedPolicy(ctx, metadata.ManagedPolicy{
			Account: account1, Name: "fine", Path: "/", ID: "ANPA1", Document: identityPolicy("Allow", "kms:*", "*"), CreatedAt: f.now(),
		})
	})
	denial := func(caller, action, resource string) string {
		return "User: " + in + ":user/" + caller + " is not authorized to perform: iam:" + action + " on resource: " + resource +
			" because no identity-based policy allows the iam:" + action + " action"
	}
	policyARN, noKey := "&PolicyArn="+in+":policy/", "&AccessKeyId=AKIAMISSINGMISSING22"
	for _, tc := range []struct {
		caller, form string
		status       int
		text         string
	}{
		{"nobody", "GetUser&UserName=admin", 403, denial("nobody", "GetUser", "user admin")},
		{"nobody", "GetUser&UserName=missing", 403, denial("nobody", "GetUser", "user missing")},
		{"nobody", "GetUser", 403, denial("nobody", "GetUser", "user nobody")},
		{"nobody", "ListUsers", 403, denial("nobody", "ListUsers", "*")},
		{"nobody", "GetRole&RoleName=missing", 403, denial("nobody", "GetRole", "role missing")},
		{"nobody", "GetPolicy" + policyARN + "missing", 403, denial("nobody", "GetPolicy", "policy "+in+":policy/missing")},
		{"nobody", "GetAccessKeyLastUsed" + noKey, 403, denial("nobody", "GetAccessKeyLastUsed", strings.Replace(noKey, "&AccessKeyId=", "access key ", 1))},
		{"nobody", "GetAccessKeyLastUsed&AccessKeyId=" + f.keys["limited"].AccessKeyID, 403, denial("nobody", "GetAccessKeyLastUsed", "access key "+f.keys["limited"].AccessKeyID)},
		{"admin", "GetUser&UserName=nobody", 200, "<Arn>" + in + ":user/nobody</Arn>"},
		{"admin", "GetUser&UserName=missing", 404, "The user with name missing cannot be found."},
		{"admin", "GetUser&UserName=stranger", 404, "The user with name stranger cannot be found."},
		{"admin", "GetGroup&GroupName=missing", 404, "The group with name missing cannot be found."},
		{"admin", "GetRole&RoleName=missing", 404, "The role with name missing cannot be found."},
		{"admin", "GetRole&RoleName=role", 200, "<Arn>" + in + ":role/role</Arn>"},
		{"admin", "GetPolicy" + policyARN + "missing", 404, "Policy " + in + ":policy/missing was not found."},
		{"admin", "GetPolicy" + policyARN + "path/fine", 404, "was not found."},
		{"admin", "GetPolicy" + policyARN + "fine", 200, "<PolicyName>fine</PolicyName>"},
		{"admin", "GetPolicy&PolicyArn=arn:aws:iam::aws:policy/AdministratorAccess", 404, "was not found."},
		{"admin", "GetOpenIDConnectProvider&OpenIDConnectProviderArn=" + in + ":oidc-provider/none.example", 404, "<Code>NoSuchEntity"},
		{"limited", "CreateUser&UserName=u&Path=/team/", 200, "<Arn>" + in + ":user/team/u</Arn>"},
		{"limited", "CreateUser&UserName=u2&Path=/other/", 403, denial("limited", "CreateUser", in+":user/other/u2")},
		{"limited", "CreateUser&UserName=u2", 403, denial("limited", "CreateUser", in+":user/u2")},
		{"limited", "GetUser&UserName=u", 200, "<Path>/team/</Path>"},
		{"limited", "GetUser&UserName=nobody", 403, "<Code>AccessDenied"},
		{"selfish", "GetUser", 200, "<UserName>selfish</UserName>"},
		{"selfish", "GetUser&UserName=selfish", 200, "<UserName>selfish</UserName>"},
		{"selfish", "GetUser&UserName=nobody", 403, "<Code>AccessDenied"},
		{"careful", "AttachUserPolicy&UserName=nobody" + policyARN + "fine", 200, "<AttachUserPolicyResponse"},
		{"careful", "AttachUserPolicy&UserName=nobody" + policyARN + "other", 403, "<Code>AccessDenied"},
		{"careful", "GetUser&UserName=nobody", 403, "<Code>AccessDenied"},
		{account1, "GetUser", 200, "<UserId>" + account1 + "</UserId>"},
		{account1, "GetUser&UserName=missing", 404, "<Code>NoSuchEntity"},
	} {
		if a := f.form(t, tc.caller, "iam", globalRegion, iamForm+tc.form); !a.has(tc.status, tc.text) {
			t.Errorf("%s by %s: %d %s, want %d %s", tc.form, tc.caller, a.status, a.body, tc.status, tc.text)
		}
	}
}

// TestPagesOfRolesAreBounded: however many are asked for, for each has a document.
func TestPagesOfRolesAreBounded(t *testing.T) {
	f := newFixture(t, nil)
	roles := map[string]string{}
	for i := range 101 {
		roles[fmt.Sprintf("role-%03d", i)] = ""
	}
	f.addPrincipals(t, account1, metadata.Role, roles)
	list := iamForm + "ListRoles&MaxItems=1000"
	first := f.form(t, account1, "iam", globalRegion, list)
	_, rest, _ := strings.Cut(first.body, "<Marker>")
	marker, _, _ := strings.Cut(rest, "</Marker>")
	if n := strings.Count(first.body, "<RoleName>"); n != 100 || !first.has(200, "<IsTruncated>true") {
		t.Fatalf("%d of 101 roles: %d %.200s, want 100 and that there are more", n, first.status, first.body)
	}
	second := f.form(t, account1, "iam", globalRegion, list+"&Marker="+url.QueryEscape(marker))
	if n := strings.Count(second.body, "<RoleName>"); n != 1 || !second.has(200, "<IsTruncated>false") {
		t.Errorf("then %d: %d %.200s, want the last one", n, second.status, second.body)
	}
}

// TestStrangersWithoutSignaturesAreNoise: beyond a rate they are counted.
func TestStrangersWithoutSignaturesAreNoise(t *testing.T) {
	var f *fixture
	f = newFixture(t, func(c *Config) { c.Clock = func() time.Time { return f.standstill() } })
	f.routes[route{serviceSTS, "Introduce"}] = &operation{
		service: serviceSTS, name: "Introduce", bucket: "Introduce", anonymous: true,
		identify: func(*call, any) error { return kmsapi.UnrecognizedClient() },
		typed:    do(nil, func(*call, *introduction) (work[kmsapi.Empty], error) { return work[kmsapi.Empty]{}, nil }),
	}
	const sent = noiseRate + 30
	for range sent {
		if a := f.form(t, "", "", "", stsForm+"Introduce&Name=me"); !a.has(403, "<Code>InvalidClientTokenId") {
			t.Fatalf("%d %s, want a refusal", a.status, a.body)
		}
	}
	f.flushNoise(t.Context(), f.standstill().Add(time.Second))
	recorded, counted := 0, int64(0)
	for _, e := range f.events(t) {
		switch {
		case e.EventName != "Introduce":
		case e.AdditionalEventData.Count > 0:
			counted += e.AdditionalEventData.Count
		default:
			recorded++
		}
	}
	if recorded != noiseRate || counted != sent-noiseRate {
		t.Errorf("%d are recorded and %d counted, want %d and %d", recorded, counted, noiseRate, sent-noiseRate)
	}
}
