package integration_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
)

// clientsOf are the SDK in the hands of whatever provider of credentials.
func (i *instance) clientsOf(provider aws.CredentialsProvider) *clients {
	c := &clients{wire: new(client)}
	config := aws.Config{
		Region: region, Credentials: provider, HTTPClient: &http.Client{Transport: c.wire}, BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1,
	}
	c.iam, c.sts, c.kms = iam.NewFromConfig(config), sts.NewFromConfig(config), kms.NewFromConfig(config)
	return c
}

// newRole makes a role with a trust policy and a policy of its own, and returns its ARN.
func newRole(t testing.TB, c *iam.Client, name, trust, document string) string {
	t.Helper()
	out, err := c.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatalf("CreateRole(%s): %v", name, err)
	}
	_, err = c.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: &name, PolicyName: aws.String("p"), PolicyDocument: &document})
	must(t, "PutRolePolicy", err)
	return *out.Role.Arn
}

// trustFor is a trust policy for a principal, for actions and under a condition.
func trustFor(t testing.TB, principal string, condition m, actions ...string) string {
	t.Helper()
	statement := m{"Effect": "Allow", "Principal": m{"AWS": principal}, "Action": actions}
	if condition != nil {
		statement["Condition"] = condition
	}
	return document(t, statement)
}

// session makes a session of a role; edit changes the request.
func (c *clients) session(t testing.TB, role, name string, edit ...func(*sts.AssumeRoleInput)) (*sts.AssumeRoleOutput, error) {
	t.Helper()
	in := &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &name}
	for _, e := range edit {
		e(in)
	}
	return c.sts.AssumeRole(t.Context(), in)
}

// mustSession is session that succeeds, as clients.
func (c *clients) mustSession(t testing.TB, g *instance, role, name string, edit ...func(*sts.AssumeRoleInput)) *clients {
	t.Helper()
	out, err := c.session(t, role, name, edit...)
	if err != nil {
		t.Fatalf("AssumeRole(%s): %v", role, err)
	}
	return g.clientsOf(static(out.Credentials.AccessKeyId, out.Credentials.SecretAccessKey, out.Credentials.SessionToken))
}

// wantErrorCode checks the code of an error of the SDK.
func wantErrorCode(t testing.TB, what string, err error, code string) {
	t.Helper()
	if refusal, ok := errors.AsType[smithy.APIError](err); !ok || refusal.ErrorCode() != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// TestAssumeRoleOfTheSDK has the SDK's own provider make sessions.
func TestAssumeRoleOfTheSDK(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	as := g.clientsOf(assuming(t, root.iam, "sts-sdk"))
	role := newRole(t, root.iam, "sts-sdk", trustFor(t, "arn:aws:iam::"+own+":user/sts-sdk", nil, "sts:AssumeRole"), allowing("kms:ListAliases"))
	provider := stscreds.NewAssumeRoleProvider(as.sts, role, func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = "build-7" })
	c := g.clientsOf(aws.NewCredentialsCache(provider))
	if _, err := c.kms.ListAliases(t.Context(), &kms.ListAliasesInput{}); err != nil {
		t.Fatalf("ListAliases by the role: %v", err)
	}
	arn := "arn:aws:sts::" + own + ":assumed-role/sts-sdk/build-7"
	c.wantCaller(t, arn)
	_, err := c.kms.ListKeys(t.Context(), &kms.ListKeysInput{})
	wantErrorCode(t, "ListKeys by the role", err, "AccessDeniedException")
	credentials, err := provider.Retrieve(t.Context())
	if err != nil || credentials.AccountID != own {
		t.Errorf("the SDK reads account %q, %v; want %s", credentials.AccountID, err, own)
	}
	eventually(t, "the records of the session", func() bool {
		made, used := false, false
		for _, e := range g.audit(t) {
			made = made || e.EventName == "AssumeRole" && e.RequestParameters["roleSessionName"] == "build-7" && e.ResponseElements["assumedRoleUser"] != nil
			used = used || e.EventName == "ListAliases" && e.UserIdentity.Type == "AssumedRole" && e.UserIdentity.ARN == arn
			if strings.Contains(e.text, credentials.SecretAccessKey) || strings.Contains(e.text, credentials.SessionToken) {
				t.Fatalf("a secret is in the record of %s", e.EventName)
			}
		}
		return made && used
	})
}

// TestAssumeRoleAcrossAccounts needs the permission of both.
func TestAssumeRoleAcrossAccounts(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root, foreign := g.clients(g.keys[own]), g.clients(g.keys[other])
	as := g.clientsOf(assuming(t, foreign.iam, "sts-partner"))
	condition := m{"StringEquals": m{"sts:ExternalId": "contract/42"}}
	role := newRole(t, root.iam, "sts-partner", trustFor(t, other, condition, "sts:AssumeRole"), allowing("kms:ListAliases"))
	external := func(id string) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) { in.ExternalId = &id }
	}
	_, err := as.session(t, role, "none")
	wantErrorCode(t, "without the external id", err, "AccessDenied")
	_, err = as.session(t, role, "none", external("contract/43"))
	wantErrorCode(t, "with another", err, "AccessDenied")
	as.mustSession(t, g, role, "partner", external("contract/42")).wantCaller(t, "arn:aws:sts::"+own+":assumed-role/sts-partner/partner")
	foreign.createUser(t, "sts-powerless")
	powerless := g.clients(foreign.createAccessKey(t, "sts-powerless"))
	_, err = powerless.session(t, role, "none", external("contract/42"))
	wantErrorCode(t, "without a permission of the own account", err, "AccessDenied")
	_, err = foreign.session(t, role, "none", external("contract/42"))
	wantErrorCode(t, "by a root", err, "AccessDenied")
}

// TestSourceIdentityStays: what is set once holds for all sessions made from there.
func TestSourceIdentityStays(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	as := g.clientsOf(assuming(t, root.iam, "sts-source"))
	root.putUserPolicy(t, "sts-source", "more", allowing("sts:SetSourceIdentity"))
	first := newRole(t, root.iam, "sts-source-1", trustFor(t, own, nil, "sts:AssumeRole", "sts:SetSourceIdentity"), allowing("sts:*"))
	second := newRole(t, root.iam, "sts-source-2", trustFor(t, own, m{"StringEqualsIfExists": m{"sts:SourceIdentity": "alice"}}, "sts:AssumeRole", "sts:SetSourceIdentity"), allowing("sts:*"))
	without := newRole(t, root.iam, "sts-source-3", trustFor(t, own, nil, "sts:AssumeRole"), allowing("sts:*"))
	identity := func(name string) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) { in.SourceIdentity = &name }
	}
	alice := as.mustSession(t, g, first, "alice", identity("alice"))
	out, err := alice.session(t, second, "chained")
	if err != nil || aws.ToString(out.SourceIdentity) != "alice" {
		t.Errorf("a session made with alice's: %v, want her source identity", err)
	}
	_, err = alice.session(t, second, "chained", identity("bob"))
	wantErrorCode(t, "another source identity", err, "AccessDenied")
	_, err = alice.session(t, without, "chained")
	wantErrorCode(t, "a role that does not let it be set", err, "AccessDenied")
	_, err = as.session(t, without, "direct", identity("alice"))
	wantErrorCode(t, "setting it on such a role", err, "AccessDenied")
	as.mustSession(t, g, without, "direct")
}

// TestSessionTagsDecide uses tags of sessions in conditions, and passes them on.
func TestSessionTagsDecide(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	as := g.clientsOf(assuming(t, root.iam, "sts-tags"))
	root.putUserPolicy(t, "sts-tags", "more", allowing("sts:TagSession"))
	const ofTheTeam = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"},
		{"Effect":"Allow","Action":"kms:DescribeKey","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}}]}`
	trust := trustFor(t, own, nil, "sts:AssumeRole", "sts:TagSession")
	first := newRole(t, root.iam, "sts-tags-1", trust, ofTheTeam)
	second := newRole(t, root.iam, "sts-tags-2", trust, ofTheTeam)
	untagged := newRole(t, root.iam, "sts-tags-3", trustFor(t, own, nil, "sts:AssumeRole"), ofTheTeam)
	key := g.createKey(t, own)
	g.mustCall(t, own, "TagResource", m{"KeyId": key, "Tags": []m{{"TagKey": "team", "TagValue": "blue"}}})
	tagged := func(team string, transitive ...string) func(*sts.AssumeRoleInput) {
		return func(in *sts.AssumeRoleInput) {
			in.Tags = []ststypes.Tag{{Key: aws.String("team"), Value: &team}, {Key: aws.String("Level"), Value: aws.String("2")}}
			in.TransitiveTagKeys = transitive
		}
	}
	describe := func(what string, c *clients, code string) {
		t.Helper()
		_, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		if code == "" && err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if code != "" {
			wantErrorCode(t, what, err, code)
		}
	}
	blue := as.mustSession(t, g, first, "blue", tagged("blue", "team"))
	describe("of the team", blue, "")
	describe("of another team", as.mustSession(t, g, first, "red", tagged("red")), "AccessDeniedException")
	describe("of no team", as.mustSession(t, g, first, "none"), "AccessDeniedException")
	describe("of the team by the session before", blue.mustSession(t, g, second, "passed-on"), "")
	passing := as.mustSession(t, g, first, "not-transitive", tagged("blue"))
	describe("of a session whose tags do not pass on", passing.mustSession(t, g, second, "not-passed-on"), "AccessDeniedException")
	_, err := blue.session(t, second, "changed", tagged("red"))
	wantErrorCode(t, "a tag that was passed on is changed", err, "InvalidParameterValue")
	_, err = blue.session(t, untagged, "untagged")
	wantErrorCode(t, "tags are passed on to a role that takes none", err, "AccessDenied")
	_, err = as.session(t, untagged, "untagged", tagged("blue"))
	wantErrorCode(t, "a role that takes none is given tags", err, "AccessDenied")
	for what, edit := range map[string]func(*sts.AssumeRoleInput){
		"a key twice": func(in *sts.AssumeRoleInput) {
			in.Tags = []ststypes.Tag{{Key: aws.String("a"), Value: aws.String("")}, {Key: aws.String("A"), Value: aws.String("")}}
		},
		"a key of AWS's": func(in *sts.AssumeRoleInput) {
			in.Tags = []ststypes.Tag{{Key: aws.String("aws:a"), Value: aws.String("")}}
		},
		"a transitive key without tag": func(in *sts.AssumeRoleInput) {
			in.Tags, in.TransitiveTagKeys = []ststypes.Tag{{Key: aws.String("a"), Value: aws.String("")}}, []string{"b"}
		},
	} {
		_, err := as.session(t, first, "none", edit)
		wantErrorCode(t, what, err, "InvalidParameterValue")
	}
}

// TestSessionPolicyOfTheSDK restricts a session to less than its role may do.
func TestSessionPolicyOfTheSDK(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	as := g.clientsOf(assuming(t, root.iam, "sts-policy"))
	role := newRole(t, root.iam, "sts-policy", trustFor(t, own, nil, "sts:AssumeRole"), allowing("kms:*"))
	managed, err := root.iam.CreatePolicy(t.Context(), &iam.CreatePolicyInput{PolicyName: aws.String("sts-policy"), PolicyDocument: aws.String(allowing("kms:ListAliases"))})
	must(t, "CreatePolicy", err)
	for what, edit := range map[string]func(*sts.AssumeRoleInput){
		"inline": func(in *sts.AssumeRoleInput) { in.Policy = aws.String(allowing("kms:ListAliases")) },
		"managed": func(in *sts.AssumeRoleInput) {
			in.PolicyArns = []ststypes.PolicyDescriptorType{{Arn: managed.Policy.Arn}}
		},
	} {
		c := as.mustSession(t, g, role, what, edit)
		if _, err := c.kms.ListAliases(t.Context(), &kms.ListAliasesInput{}); err != nil {
			t.Errorf("%s: what the policy allows: %v", what, err)
		}
		_, err := c.kms.ListKeys(t.Context(), &kms.ListKeysInput{})
		wantErrorCode(t, what+": what it does not", err, "AccessDeniedException")
	}
}

// TestPresignedCallerIdentity asks who a session is with a signed address, as
// authenticators of Kubernetes do.
func TestPresignedCallerIdentity(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	as := g.clientsOf(assuming(t, root.iam, "sts-presigned"))
	role := newRole(t, root.iam, "sts-presigned", trustFor(t, own, nil, "sts:AssumeRole"), allowing("kms:*"))
	c := as.mustSession(t, g, role, "node")
	signed, err := sts.NewPresignClient(c.sts).PresignGetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
	must(t, "presign", err)
	r, err := http.NewRequestWithContext(t.Context(), signed.Method, signed.URL, nil)
	must(t, "request", err)
	r.Header = signed.SignedHeader
	a := send(t, r)
	if want := "<Arn>arn:aws:sts::" + own + ":assumed-role/sts-presigned/node</Arn>"; a.status != http.StatusOK || !strings.Contains(string(a.body), want) {
		t.Errorf("answer %d %s, want %s", a.status, a.body, want)
	}
}
