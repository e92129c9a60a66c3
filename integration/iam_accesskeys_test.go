package integration_test

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

const invalidClient = "The security token included in the request is invalid."

// wantCaller checks whom STS takes the caller for.
func (c *clients) wantCaller(t testing.TB, arn string) {
	t.Helper()
	got, err := c.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || *got.Arn != arn {
		t.Errorf("GetCallerIdentity = %+v, %v, want %s", got, err, arn)
	}
}

// wantStranger checks that the caller's access key is not good.
func (c *clients) wantStranger(t testing.TB) {
	t.Helper()
	<-pace().C
	_, err := c.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	wantIAMRefusal(t, "GetCallerIdentity", err, 403, "InvalidClientTokenId", invalidClient)
}

func TestAccessKeyLife(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	ctx := t.Context()
	name := aws.String("access-key-life")
	made := root.createUser(t, *name)
	out, err := root.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: name})
	must(t, "CreateAccessKey", err)
	k := out.AccessKey
	if len(*k.AccessKeyId) != 20 || !strings.HasPrefix(*k.AccessKeyId, "AKIA") || len(hideText(*k.SecretAccessKey)) != 40 || k.Status != types.StatusTypeActive ||
		*k.UserName != *name || time.Since(*k.CreateDate).Abs() > time.Hour {
		t.Errorf("access key %s of %s is %s", *k.AccessKeyId, *k.UserName, k.Status)
	}
	events := eventsOf(g.audit(t), root.wire.last.requestID())
	if len(events) != 1 || events[0].EventSource != "iam.amazonaws.com" || events[0].EventName != "CreateAccessKey" || events[0].RequestParameters["userName"] != *name {
		t.Fatalf("records %+v, want one of CreateAccessKey", events)
	}
	element, _ := events[0].ResponseElements["accessKey"].(m)
	if element["accessKeyId"] != *k.AccessKeyId || element["status"] != "Active" || element["secretAccessKey"] != nil {
		t.Errorf("responseElements %v, want the key without its secret", events[0].ResponseElements)
	}

	user := g.clients(credentials{*k.AccessKeyId, *k.SecretAccessKey})
	user.wantCaller(t, *made.Arn)
	_, err = user.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{})
	wantIAMRefusal(t, "CreateAccessKey without permission", err, 403, "AccessDenied",
		"User: "+*made.Arn+" is not authorized to perform: iam:CreateAccessKey on resource: user "+*name+" because no identity-based policy allows the iam:CreateAccessKey action")
	root.putUserPolicy(t, *name, "self", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::*:user/${aws:username}"}]}`)
	used, err := user.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: k.AccessKeyId})
	if err != nil || *used.UserName != *name {
		t.Errorf("GetAccessKeyLastUsed of the caller's = %+v, %v", used, err)
	}
	_, err = user.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: aws.String(g.keys[own].accessKey)})
	wantIAMRefusal(t, "the last use of a key of another", err, 403, "AccessDenied", "")
	second := g.clients(user.createAccessKey(t, "")) // its own
	second.wantCaller(t, *made.Arn)
	_, err = user.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{})
	wantIAMRefusal(t, "a third key", err, 409, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
	list, err := user.iam.ListAccessKeys(ctx, &iam.ListAccessKeysInput{})
	if err != nil || len(list.AccessKeyMetadata) != 2 || *list.AccessKeyMetadata[0].UserName != *name {
		t.Errorf("ListAccessKeys = %+v, %v, want two", list, err)
	}
	self, err := user.iam.GetUser(ctx, &iam.GetUserInput{})
	if err != nil || *self.User.UserId != *made.UserId {
		t.Errorf("GetUser = %+v, %v, want the caller", self, err)
	}
	_, err = user.iam.GetUser(ctx, &iam.GetUserInput{UserName: aws.String("nobody-at-all")})
	wantIAMRefusal(t, "GetUser of another", err, 403, "AccessDenied",
		"User: "+*made.Arn+" is not authorized to perform: iam:GetUser on resource: user nobody-at-all because no identity-based policy allows the iam:GetUser action")

	update := func(id string, status types.StatusType) error {
		_, err := second.iam.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{AccessKeyId: &id, Status: status})
		return err
	}
	must(t, "UpdateAccessKey", update(*k.AccessKeyId, types.StatusTypeInactive))
	user.wantStranger(t)
	wantIAMRefusal(t, "an access key of another", update(g.keys[own].accessKey, types.StatusTypeInactive), 404, "NoSuchEntity", "The Access Key with id "+g.keys[own].accessKey+" cannot be found.")
	wantIAMRefusal(t, "a status of nobody's", update(*k.AccessKeyId, "Asleep"), 400, "ValidationError", "")
	must(t, "UpdateAccessKey", update(*k.AccessKeyId, types.StatusTypeActive))
	user.wantCaller(t, *made.Arn)

	deleteUser := func() error {
		_, err := root.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: name})
		return err
	}
	wantIAMRefusal(t, "a user with keys", deleteUser(), 409, "DeleteConflict", "Cannot delete entity, must delete access keys first.")
	for _, key := range list.AccessKeyMetadata {
		_, err = root.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: name, AccessKeyId: key.AccessKeyId})
		must(t, "DeleteAccessKey", err)
	}
	user.wantStranger(t)
	second.wantStranger(t)
	_, err = root.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: name, AccessKeyId: k.AccessKeyId})
	wantIAMRefusal(t, "a key that is gone", err, 404, "NoSuchEntity", "The Access Key with id "+*k.AccessKeyId+" cannot be found.")
	_, err = root.iam.DeleteUserPolicy(ctx, &iam.DeleteUserPolicyInput{UserName: name, PolicyName: aws.String("self")})
	must(t, "DeleteUserPolicy", err)
	must(t, "DeleteUser", deleteUser())
}

// TestAccessKeysOfTheRoot replaces the key that kmsgate dev has made, and then deletes
// all there are: dev makes another when it comes back.
func TestAccessKeysOfTheRoot(t *testing.T) {
	t.Parallel()
	dir, err := newDirectory()
	must(t, "make a directory", err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	start := func() (g *instance, root *clients, key credentials) {
		g, err := startDev(t.Context(), binary(t), dir)
		must(t, "start", err)
		t.Cleanup(func() { g.stop() })
		return g, g.clients(g.keys[own]), g.keys[own]
	}
	g, root, key := start()
	second := root.createAccessKey(t, "")
	g.clients(second).wantCaller(t, rootOf(own))
	_, err = root.iam.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{})
	wantIAMRefusal(t, "a third key", err, 409, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
	list, err := root.iam.ListAccessKeys(t.Context(), &iam.ListAccessKeysInput{MaxItems: aws.Int32(1)})
	if err != nil || len(list.AccessKeyMetadata) != 1 || !list.IsTruncated || list.AccessKeyMetadata[0].UserName != nil {
		t.Errorf("ListAccessKeys = %+v, %v", list, err)
	}
	remove := func(by credentials, id string) {
		t.Helper()
		_, err := g.clients(by).iam.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{AccessKeyId: &id})
		must(t, "DeleteAccessKey", err)
	}
	remove(second, key.accessKey)
	root.wantStranger(t)
	g.stop()

	g, root, key = start()
	if key != second {
		t.Errorf("dev wrote the credentials of %s, want those of %s, the only key", key.accessKey, second.accessKey)
	}
	remove(second, second.accessKey) // nobody can sign any more
	root.wantStranger(t)
	g.stop()

	g, root, _ = start()
	root.wantCaller(t, rootOf(own))
	g.stop()
}

func TestLastUseOfAnAccessKey(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.clients(g.keys[own])
	root.createUser(t, "last-use")
	key := root.createAccessKey(t, "last-use")
	used := func() *iam.GetAccessKeyLastUsedOutput {
		t.Helper()
		out, err := root.iam.GetAccessKeyLastUsed(t.Context(), &iam.GetAccessKeyLastUsedInput{AccessKeyId: &key.accessKey})
		must(t, "GetAccessKeyLastUsed", err)
		return out
	}
	if u := used(); *u.UserName != "last-use" || *u.AccessKeyLastUsed.ServiceName != "N/A" || *u.AccessKeyLastUsed.Region != "N/A" || u.AccessKeyLastUsed.LastUsedDate != nil {
		t.Errorf("a key that was not used was used %+v", u.AccessKeyLastUsed)
	}
	_, err := g.clients(key).kms.ListKeys(t.Context(), &kms.ListKeysInput{})
	if err == nil {
		t.Error("a user without policies may list keys")
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		if u := used().AccessKeyLastUsed; u.LastUsedDate != nil {
			if *u.ServiceName != "kms" || *u.Region != region || time.Since(*u.LastUsedDate).Abs() > time.Hour {
				t.Errorf("used %+v, want kms in %s just now", u, region)
			}
			return
		}
	}
	t.Error("the use is not told in two minutes")
}

// TestIAMIsStrict sends what no SDK sends.
func TestIAMIsStrict(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for form, text := range map[string]string{
		"Action=CreateUser&UserName=strict&Shoes=1":        "The parameter Shoes is not recognized",
		"Action=CreateUser&UserName=strict&Tags.member.2=": "",
		"Action=CreateUser":                                "1 validation error detected: Value null at &#39;userName&#39; failed to satisfy constraint: Member must not be null",
		"Action=ListUsers&MaxItems=many":                   "The value of parameter MaxItems is not an integer",
	} {
		body := []byte(form + "&Version=2010-05-08")
		r, err := http.NewRequest(http.MethodPost, g.endpoint+"/", bytes.NewReader(body))
		must(t, form, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		g.signAs(t, r, g.keys[own], body, "iam", region, time.Now())
		a := send(t, r)
		if a.status != 400 || !strings.Contains(string(a.body), "<Code>ValidationError</Code>") || !strings.Contains(string(a.body), text) {
			t.Errorf("%s: %d %s, want 400 ValidationError %s", form, a.status, a.body, text)
		}
	}
}

func TestCLIUsers(t *testing.T) {
	t.Parallel()
	needAWS(t)
	g := gateway(t)
	c := g.newCLI(t, own)
	run := func(command string, arguments ...string) string {
		t.Helper()
		r := c.run(t, "iam", command, arguments...)
		r.wantSuccess(t, command)
		return r.stdout
	}
	run("create-user", "--user-name", "cli-user", "--tags", "Key=team,Value=a b")
	run("create-group", "--group-name", "cli-group")
	run("add-user-to-group", "--group-name", "cli-group", "--user-name", "cli-user")
	run("put-group-policy", "--group-name", "cli-group", "--policy-name", "list", "--policy-document", allowing("kms:ListKeys"))
	key := strings.Fields(run("create-access-key", "--user-name", "cli-user", "--query", "AccessKey.[AccessKeyId,SecretAccessKey]", "--output", "text"))
	if len(key) != 2 {
		t.Fatalf("create-access-key printed %d fields, want 2", len(key))
	}
	hideText(key[1])
	user := *c
	user.environment = append(awsEnvironment(), "AWS_ACCESS_KEY_ID="+key[0], "AWS_SECRET_ACCESS_KEY="+key[1], "AWS_DEFAULT_REGION="+region)
	user.kms(t, "list-keys")
	user.refused(t, "create-key", "AccessDeniedException", "User: arn:aws:iam::"+own+":user/cli-user is not authorized to perform: kms:CreateKey")
	if policy := run("get-group-policy", "--group-name", "cli-group", "--policy-name", "list", "--query", "PolicyDocument"); !strings.Contains(policy, `"kms:ListKeys"`) {
		t.Errorf("get-group-policy printed %s", policy)
	}
	if id := run("get-user", "--user-name", "cli-user", "--query", "User.Tags[0].Value"); !strings.Contains(id, "a b") {
		t.Errorf("get-user printed %s", id)
	}
	c.refusedBy(t, "iam", "delete-user", "DeleteConflict", "Cannot delete entity, must delete access keys first.", "--user-name", "cli-user")
}
