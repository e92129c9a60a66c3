package integration_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmsgateway "kmsgate/gateway"
)

// noRequest is an id that no request has had, nor any key.
const noRequest = "1234abcd-12ab-34cd-56ef-1234567890ab"

// userClient makes a user with policies of one statement each, and returns its ARN
// and a client in its hands.
func (i *instance) userClient(t *testing.T, account, name string, statements ...m) (userARN string, c *client) {
	t.Helper()
	key, userARN := i.newUser(t, account, name, statements...)
	return userARN, i.clientWith(credentials{key.AccessKeyID, key.SecretAccessKey})
}

// explain is what kmsgate explain says of the newest request of a client.
func (i *instance) explain(t *testing.T, c *client) (refused kmsgateway.Refused, text string) {
	t.Helper()
	r := run(t, i.binary, "explain", c.last.requestID(), "-config", i.config())
	r.wantSuccess(t, "explain")
	document := run(t, i.binary, "explain", "-json", "-config", i.config(), c.last.requestID())
	document.wantSuccess(t, "explain -json")
	if err := json.Unmarshal([]byte(document.stdout), &refused); err != nil {
		t.Fatalf("explain -json prints %q: %v", document.stdout, err)
	}
	return refused, r.stdout
}

// TestRefusalIsExplained has a user refused for a condition, and goes every way that
// explain names to be allowed.
func TestRefusalIsExplained(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	alice, c := g.userClient(t, own, "explained")
	key := g.createKey(t, own)
	guarded := m{
		"Sid": "reds", "Effect": "Allow", "Principal": m{"AWS": alice}, "Action": "kms:Encrypt", "Resource": "*",
		"Condition": m{"StringEquals": m{"kms:EncryptionContext:team": "red"}},
	}
	policies := []m{statement("Allow", own, "kms:*"), guarded}
	g.putPolicy(t, own, key, policies...)
	encrypt := func(team string) error {
		_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("p"), EncryptionContext: map[string]string{"team": team}})
		return err
	}
	mayNot := func() {
		t.Helper()
		wantError(t, encrypt("blue"), "AccessDeniedException",
			"User: "+alice+" is not authorized to perform: kms:Encrypt on resource: "+key+" because no identity-based policy allows the kms:Encrypt action")
	}
	mayNot()
	refused, text := g.explain(t, c)
	for _, want := range []string{
		"Request " + c.last.requestID() + " was refused", "user " + alice, "kms:Encrypt, by Encrypt", key,
		`statement 2 "reds", Allow: does not apply, for its condition StringEquals on kms:EncryptionContext:team wants "red" and the request has "blue"`,
		"What would allow it", `"GranteePrincipal": "` + alice + `"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in what explain prints:\n%s", want, text)
		}
	}
	g.wantExplained(t, c.last.requestID(), 2)
	kinds := map[string]bool{}
	for _, way := range refused.Alternatives {
		if len(way) != 1 {
			t.Errorf("a way has the changes %+v, want one", way)
			continue
		}
		kinds[way[0].Kind+" "+way[0].Document] = true
		switch way[0].Kind {
		case "MeetConditions":
			if err := encrypt(way[0].Conditions[0].Wanted[0]); err != nil {
				t.Errorf("with the condition met: %v", err)
			}
		case "AddStatement":
			g.withStatement(t, key, alice, policies, way[0], func() {
				if err := encrypt("blue"); err != nil {
					t.Errorf("with %s added to %s: %v", way[0].Add, way[0].Document, err)
				}
			})
		case "AddGrant":
			grant := g.mustCall(t, own, "CreateGrant", way[0].Add)
			if err := encrypt("blue"); err != nil {
				t.Errorf("with the grant %s: %v", way[0].Add, err)
			}
			g.mustCall(t, own, "RevokeGrant", m{"KeyId": key, "GrantId": grant["GrantId"]})
		}
		mayNot()
	}
	for _, want := range []string{"MeetConditions policy of " + key, "AddStatement policy of " + key, "AddStatement a policy of " + alice, "AddGrant "} {
		if !kinds[want] {
			t.Errorf("ways %v, want %s among them", kinds, want)
		}
	}
}

// wantExplained wants the audit log to have that somebody had a request explained.
func (i *instance) wantExplained(t *testing.T, request string, times int) {
	t.Helper()
	got := 0
	for _, e := range i.audit(t) {
		if e.EventName == "ExplainRefusal" && e.RequestParameters["requestId"] == request && e.RecipientAccountID == own {
			got++
		}
	}
	if got != times {
		t.Errorf("request %s was explained %d times by the audit log, want %d", request, got, times)
	}
}

// withStatement does something while a statement is added to the policy that a
// change is about: the key's, or one of the user.
func (i *instance) withStatement(t *testing.T, key, user string, policies []m, change kmsgateway.RefusedChange, do func()) {
	t.Helper()
	var added m
	if err := json.Unmarshal(change.Add, &added); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(change.Document, "policy of arn:aws:kms:") {
		i.putPolicy(t, own, key, append(slices.Clone(policies), added)...)
		do()
		i.putPolicy(t, own, key, policies...)
		return
	}
	name, policyName := aws.String(user[strings.LastIndexByte(user, '/')+1:]), aws.String("added")
	root := i.roleClient(own)
	if _, err := root.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: name, PolicyName: policyName, PolicyDocument: aws.String(document(t, added))}); err != nil {
		t.Fatal(err)
	}
	do()
	if _, err := root.DeleteUserPolicy(t.Context(), &iam.DeleteUserPolicyInput{UserName: name, PolicyName: policyName}); err != nil {
		t.Fatal(err)
	}
}

// TestExplainOfWhatWasNotRefused asks about requests of which nothing is kept.
func TestExplainOfWhatWasNotRefused(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	if _, err := c.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{c.last.requestID(), noRequest} {
		run(t, g.binary, "explain", request, "-config", g.config()).wantFailure(t, "explain", 1, "nothing is known of request "+request, "refused", "30 days")
	}
	for what, arguments := range map[string][]string{
		"explain without a request": {"explain", "-config", g.config()},
		"explain of no request id":  {"explain", "AKIA", "-config", g.config()},
		"explain of two requests":   {"explain", noRequest, noRequest, "-config", g.config()},
		"explain of what":           {"explain", noRequest, "-why"},
		"access without a key":      {"access", "-config", g.config()},
		"access of no account":      {"access", "alias/a", "-account", "1", "-config", g.config()},
	} {
		run(t, g.binary, arguments...).wantFailure(t, what, 2)
	}
}

// TestAccessOfAKey lists who can do what with a key, on the command line and by the
// admin listener, and finds both in the audit log.
func TestAccessOfAKey(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	_, reader := g.newUser(t, own, "access-reader", m{"Sid": "r", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"})
	_, granted := g.newUser(t, own, "access-granted")
	_, nobody := g.newUser(t, own, "access-nobody")
	_, partner := g.newUser(t, other, "access-partner")
	key := g.createKey(t, own)
	grant := g.mustCall(t, own, "CreateGrant", m{"KeyId": key, "GranteePrincipal": granted, "Operations": []string{"Encrypt"}})
	g.mustCall(t, own, "CreateAlias", m{"AliasName": "alias/access-of-a-key", "TargetKeyId": key})
	g.putPolicy(t, own, key, statement("Allow", own, "kms:*"), m{
		"Effect": "Allow", "Principal": m{"AWS": partner}, "Action": "kms:Encrypt", "Resource": "*",
	})
	r := run(t, g.binary, "access", "alias/access-of-a-key", "-account", own, "-config", g.config())
	r.wantSuccess(t, "access")
	for _, want := range []string{
		"Who can do what with " + key + ", which is Enabled",
		"account root " + rootOf(own), "user " + reader + "\n  always: Decrypt\n    through statement 1 of the policy of " + key + "\n    and statement 1 \"r\" of the policy p0 of " + reader,
		"user " + granted + "\n  always: Encrypt\n    through grant " + grant["GrantId"].(string),
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q is not in what access prints:\n%s", want, r.stdout)
		}
	}
	for _, who := range []string{nobody, partner} { // the partner's own account does not allow it
		if strings.Contains(r.stdout, who) {
			t.Errorf("access lists %s, who can do nothing:\n%s", who, r.stdout)
		}
	}
	var found kmsgateway.KeyAccess
	g.admin200(t, "/access/"+key, &found)
	if found.KeyARN != key || len(found.Principals) < 3 {
		t.Errorf("the admin listener says %+v, want three principals and more", found)
	}
	var uses []string
	for _, e := range g.audit(t) {
		if id := e.RequestParameters["keyId"]; e.EventName == "ListKeyAccess" && (id == "alias/access-of-a-key" || id == key) {
			uses = append(uses, e.RecipientAccountID)
		}
	}
	if !slices.Equal(uses, []string{own, own}) {
		t.Errorf("uses of access in the logs of %q, want two in that of %s", uses, own)
	}
	run(t, g.binary, "access", "alias/nothing", "-account", own, "-config", g.config()).wantFailure(t, "access", 1, "alias/nothing", "not found")
	run(t, g.binary, "access", "alias/nothing", "-config", g.config()).wantFailure(t, "access", 1, "of which account")
}

// admin200 gets something of the admin listener.
func (i *instance) admin200(t *testing.T, path string, out any) {
	t.Helper()
	status, body := i.adminGet(t, path)
	if status != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, status, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		t.Fatalf("GET %s: %s: %v", path, body, err)
	}
}

func (i *instance) adminGet(t *testing.T, path string) (status int, body []byte) {
	t.Helper()
	response, err := http.Get(i.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing is written
	if body, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func TestExplainByTheAdminListener(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	c := g.newClient(other)
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
	wantError(t, err, "AccessDeniedException", denied(other, "DescribeKey", "this resource")+hidden)
	var refused kmsgateway.Refused
	g.admin200(t, "/explain/"+c.last.requestID(), &refused)
	if refused.Reason != "Foreign" || refused.Principal.ARN != rootOf(other) || refused.Resource != key || !refused.Exists {
		t.Errorf("refusal %+v, want that of %s on %s", refused, rootOf(other), key)
	}
	for path, want := range map[string]int{
		"/explain/" + noRequest: http.StatusNotFound, "/explain/x": http.StatusBadRequest,
		"/access/" + noRequest: http.StatusNotFound, "/access/x": http.StatusBadRequest,
	} {
		if status, body := g.adminGet(t, path); status != want || !strings.Contains(string(body), `"error"`) {
			t.Errorf("GET %s: %d %s, want %d and what is wrong", path, status, body, want)
		}
	}
}

// TestRefusalsOfIAMAndSTSAreExplained has a user refused by IAM, and by the trust
// policy of a role.
func TestRefusalsOfIAMAndSTSAreExplained(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	who, alice := g.newUser(t, own, "explained-elsewhere")
	role := createRole(t, g.roleClient(own), "explained-role")
	g.form(t, g.root(own), "iam", "UpdateAssumeRolePolicy", m{"RoleName": "explained-role", "PolicyDocument": trusting(`{"AWS":"` + rootOf(other) + `"}`)})
	for _, tc := range []struct {
		service, operation string
		in                 m
		action, resource   string
		document           string // that has the statement which did not apply; empty for none
	}{
		{"iam", "CreateUser", m{"UserName": "explained-more"}, "iam:CreateUser", "arn:aws:iam::" + own + ":user/explained-more", ""},
		{"iam", "ListRoles", m{}, "iam:ListRoles", "*", ""},
		{"sts", "AssumeRole", m{"RoleArn": *role.Arn, "RoleSessionName": "session"}, "sts:AssumeRole", *role.Arn, "trust policy of " + *role.Arn},
	} {
		a := g.do(t, who, true, tc.service, tc.operation, tc.in)
		if a.status != http.StatusForbidden {
			t.Fatalf("%s: %d %s, want a refusal", tc.operation, a.status, a.body)
		}
		var refused kmsgateway.Refused
		g.admin200(t, "/explain/"+a.requestID(), &refused)
		if refused.Action != tc.action || refused.Resource != tc.resource || refused.Principal.ARN != alice || len(refused.Alternatives) == 0 {
			t.Errorf("refusal %+v, want that of %s to %s on %s, with ways to allow it", refused, alice, tc.action, tc.resource)
		}
		if tc.document != "" && (len(refused.Statements) != 1 || refused.Statements[0].Document != tc.document) {
			t.Errorf("statements %+v, want one of the %s", refused.Statements, tc.document)
		}
	}
}
