package integration_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// clients are the SDK in the hands of whoever has an access key.
type clients struct {
	iam  *iam.Client
	sts  *sts.Client
	kms  *kms.Client
	wire *client
}

func (i *instance) clients(key credentials) *clients {
	c := &clients{wire: new(client)}
	config := aws.Config{
		Region: region, Credentials: key, HTTPClient: &http.Client{Transport: c.wire}, BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1,
	}
	c.iam, c.sts, c.kms = iam.NewFromConfig(config), sts.NewFromConfig(config), kms.NewFromConfig(config)
	return c
}

// createUser makes a user.
func (c *clients) createUser(t testing.TB, name string) *types.User {
	t.Helper()
	out, err := c.iam.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name})
	if err != nil {
		t.Fatalf("CreateUser(%s): %v", name, err)
	}
	return out.User
}

// createAccessKey makes an access key of a user, or of the caller for no name.
func (c *clients) createAccessKey(t testing.TB, user string) credentials {
	t.Helper()
	out, err := c.iam.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: orNil(user)})
	if err != nil {
		t.Fatalf("CreateAccessKey(%s): %v", user, err)
	}
	return credentials{accessKey: *out.AccessKey.AccessKeyId, secret: hideText(*out.AccessKey.SecretAccessKey)}
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (c *clients) putUserPolicy(t testing.TB, user, name, document string) {
	t.Helper()
	_, err := c.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: &user, PolicyName: &name, PolicyDocument: &document})
	if err != nil {
		t.Fatalf("PutUserPolicy(%s): %v", user, err)
	}
}

// allowing is a policy of an identity that allows an action on everything.
func allowing(action string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"` + action + `","Resource":"*"}]}`
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestUserLife(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.clients(g.keys[own])
	ctx := t.Context()
	name, path := aws.String("Life.of+a=user@x,y"), aws.String("/users/life/")
	made, err := c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: name, Path: path, Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("")}}})
	must(t, "CreateUser", err)
	got, err := c.iam.GetUser(ctx, &iam.GetUserInput{UserName: name})
	must(t, "GetUser", err)
	for _, u := range []*types.User{made.User, got.User} {
		if *u.Arn != "arn:aws:iam::"+own+":user/users/life/"+*name || *u.Path != *path || *u.UserName != *name || !strings.HasPrefix(*u.UserId, "AIDA") ||
			len(*u.UserId) != 21 || time.Since(*u.CreateDate).Abs() > time.Hour || len(u.Tags) != 1 || *u.Tags[0].Key != "team" || *u.Tags[0].Value != "" {
			t.Errorf("user %+v", u)
		}
	}
	list, err := c.iam.ListUsers(ctx, &iam.ListUsersInput{PathPrefix: aws.String("/users/li")})
	if err != nil || len(list.Users) != 1 || *list.Users[0].UserId != *made.User.UserId || list.IsTruncated || len(list.Users[0].Tags) != 0 {
		t.Errorf("ListUsers = %+v, %v, want the one", list, err)
	}

	_, err = c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String(strings.ToUpper(*name))})
	wantIAMRefusal(t, "another letter case", err, 409, "EntityAlreadyExists", "User with name "+strings.ToUpper(*name)+" already exists.")
	_, err = c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("bad path"), Path: path})
	wantIAMRefusal(t, "a name with a space", err, 400, "ValidationError", "")
	_, err = c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("bad-path"), Path: aws.String("/open")})
	wantIAMRefusal(t, "an open path", err, 400, "ValidationError", "")
	_, err = c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("unbounded"), PermissionsBoundary: aws.String("arn:aws:iam::" + own + ":policy/none")})
	wantIAMRefusal(t, "a boundary that is not there", err, 404, "NoSuchEntity", "")

	tag := func(key, value string) error {
		_, err := c.iam.TagUser(ctx, &iam.TagUserInput{UserName: name, Tags: []types.Tag{{Key: &key, Value: &value}}})
		return err
	}
	must(t, "TagUser", tag("Team", "a"))
	must(t, "TagUser", tag("other", "b"))
	wantIAMRefusal(t, "a tag of the system's", tag("AWS:x", "y"), 400, "InvalidInput", "System tags cannot be added/updated by requester.")
	_, err = c.iam.TagUser(ctx, &iam.TagUserInput{UserName: name, Tags: []types.Tag{{Key: aws.String("a"), Value: path}, {Key: aws.String("A"), Value: path}}})
	wantIAMRefusal(t, "a tag twice", err, 400, "InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
	page, err := c.iam.ListUserTags(ctx, &iam.ListUserTagsInput{UserName: name, MaxItems: aws.Int32(1)})
	must(t, "ListUserTags", err)
	rest, err := c.iam.ListUserTags(ctx, &iam.ListUserTagsInput{UserName: name, Marker: page.Marker})
	must(t, "ListUserTags", err)
	if tags := append(page.Tags, rest.Tags...); !page.IsTruncated || rest.IsTruncated || len(tags) != 2 || *tags[0].Key != "Team" || *tags[1].Value != "b" {
		t.Errorf("tags %+v, want Team and other", tags)
	}
	_, err = c.iam.UntagUser(ctx, &iam.UntagUserInput{UserName: name, TagKeys: []string{"TEAM", "none"}})
	must(t, "UntagUser", err)
	_, err = c.iam.ListUserTags(ctx, &iam.ListUserTagsInput{UserName: name, Marker: aws.String("made up")})
	wantIAMRefusal(t, "a marker of nobody's", err, 400, "ValidationError", "")

	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: name})
	must(t, "DeleteUser", err)
	gone := "The user with name " + *name + " cannot be found."
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: name})
	wantIAMRefusal(t, "DeleteUser", err, 404, "NoSuchEntity", gone)
	_, err = c.iam.GetUser(ctx, &iam.GetUserInput{UserName: name})
	wantIAMRefusal(t, "GetUser", err, 404, "NoSuchEntity", gone)
	wantIAMRefusal(t, "TagUser", tag("k", "v"), 404, "NoSuchEntity", gone)
}

func TestGetUserOfTheRoot(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	got, err := g.clients(g.keys[own]).iam.GetUser(t.Context(), &iam.GetUserInput{})
	if err != nil || *got.User.Arn != rootOf(own) || *got.User.UserId != own || got.User.UserName != nil {
		t.Errorf("GetUser = %+v, %v, want the root", got, err)
	}
}

func TestUsersAreAnAccountsOwn(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	mine, theirs := g.clients(g.keys[own]), g.clients(g.keys[other])
	name := aws.String("users-are-own")
	mine.createUser(t, *name)
	_, err := theirs.iam.GetUser(t.Context(), &iam.GetUserInput{UserName: name})
	wantIAMRefusal(t, "GetUser of another account", err, 404, "NoSuchEntity", "The user with name users-are-own cannot be found.")
	if same := theirs.createUser(t, *name); *same.Arn != "arn:aws:iam::"+other+":user/users-are-own" {
		t.Errorf("user %+v", same)
	}
	_, err = theirs.iam.GetAccessKeyLastUsed(t.Context(), &iam.GetAccessKeyLastUsedInput{AccessKeyId: aws.String(g.keys[own].accessKey)})
	wantIAMRefusal(t, "an access key of another account", err, 404, "NoSuchEntity", "The Access Key with id "+g.keys[own].accessKey+" cannot be found.")
}

func TestGroupLife(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.clients(g.keys[own])
	ctx := t.Context()
	group, user := aws.String("Group-life"), aws.String("group-life-member")
	made, err := c.iam.CreateGroup(ctx, &iam.CreateGroupInput{GroupName: group, Path: aws.String("/groups/life/")})
	must(t, "CreateGroup", err)
	if gr := made.Group; *gr.Arn != "arn:aws:iam::"+own+":group/groups/life/Group-life" || !strings.HasPrefix(*gr.GroupId, "AGPA") || *gr.Path != "/groups/life/" {
		t.Errorf("group %+v", gr)
	}
	_, err = c.iam.CreateGroup(ctx, &iam.CreateGroupInput{GroupName: aws.String("GROUP-LIFE")})
	wantIAMRefusal(t, "another letter case", err, 409, "EntityAlreadyExists", "Group with name GROUP-LIFE already exists.")
	c.createUser(t, *user)
	for range 2 { // the second time nothing changes
		_, err = c.iam.AddUserToGroup(ctx, &iam.AddUserToGroupInput{GroupName: group, UserName: user})
		must(t, "AddUserToGroup", err)
	}
	_, err = c.iam.AddUserToGroup(ctx, &iam.AddUserToGroupInput{GroupName: group, UserName: aws.String("nobody")})
	wantIAMRefusal(t, "nobody in a group", err, 404, "NoSuchEntity", "The user with name nobody cannot be found.")
	_, err = c.iam.AddUserToGroup(ctx, &iam.AddUserToGroupInput{GroupName: aws.String("nothing"), UserName: user})
	wantIAMRefusal(t, "a user in no group", err, 404, "NoSuchEntity", "The group with name nothing cannot be found.")

	got, err := c.iam.GetGroup(ctx, &iam.GetGroupInput{GroupName: group})
	if err != nil || *got.Group.GroupId != *made.Group.GroupId || len(got.Users) != 1 || *got.Users[0].UserName != *user {
		t.Errorf("GetGroup = %+v, %v", got, err)
	}
	list, err := c.iam.ListGroups(ctx, &iam.ListGroupsInput{PathPrefix: aws.String("/groups/life/")})
	if err != nil || len(list.Groups) != 1 {
		t.Errorf("ListGroups = %+v, %v", list, err)
	}
	of, err := c.iam.ListGroupsForUser(ctx, &iam.ListGroupsForUserInput{UserName: user})
	if err != nil || len(of.Groups) != 1 || *of.Groups[0].Arn != *made.Group.Arn {
		t.Errorf("ListGroupsForUser = %+v, %v", of, err)
	}

	document := allowing("kms:ListKeys")
	_, err = c.iam.PutGroupPolicy(ctx, &iam.PutGroupPolicyInput{GroupName: group, PolicyName: aws.String("list"), PolicyDocument: &document})
	must(t, "PutGroupPolicy", err)
	policy, err := c.iam.GetGroupPolicy(ctx, &iam.GetGroupPolicyInput{GroupName: group, PolicyName: aws.String("list")})
	if err != nil || decoded(t, policy.PolicyDocument) != document {
		t.Errorf("GetGroupPolicy = %+v, %v", policy, err)
	}
	_, err = c.iam.PutGroupPolicy(ctx, &iam.PutGroupPolicyInput{GroupName: group, PolicyName: aws.String("large"), PolicyDocument: aws.String(allowing("kms:" + strings.Repeat("x", 5100)))})
	wantIAMRefusal(t, "a policy that is too large", err, 409, "LimitExceeded", "Maximum policy size of 5120 bytes exceeded for group Group-life")
	policies, err := c.iam.ListGroupPolicies(ctx, &iam.ListGroupPoliciesInput{GroupName: group})
	if err != nil || len(policies.PolicyNames) != 1 || policies.PolicyNames[0] != "list" {
		t.Errorf("ListGroupPolicies = %+v, %v", policies, err)
	}
	// The member has what the group has.
	member := g.clients(c.createAccessKey(t, *user))
	_, err = member.kms.ListKeys(ctx, &kms.ListKeysInput{})
	must(t, "ListKeys by a member", err)

	remove := func() error {
		_, err := c.iam.DeleteGroup(ctx, &iam.DeleteGroupInput{GroupName: group})
		return err
	}
	wantIAMRefusal(t, "a group with users", remove(), 409, "DeleteConflict", "Cannot delete entity, must remove users from group first.")
	_, err = c.iam.RemoveUserFromGroup(ctx, &iam.RemoveUserFromGroupInput{GroupName: group, UserName: user})
	must(t, "RemoveUserFromGroup", err)
	_, err = member.kms.ListKeys(ctx, &kms.ListKeysInput{})
	wantError(t, err, "AccessDeniedException", "User: arn:aws:iam::"+own+":user/"+*user+" is not authorized to perform: kms:ListKeys on resource: * because no identity-based policy allows the kms:ListKeys action")
	wantIAMRefusal(t, "a group with policies", remove(), 409, "DeleteConflict", "Cannot delete entity, must delete policies first.")
	_, err = c.iam.DeleteGroupPolicy(ctx, &iam.DeleteGroupPolicyInput{GroupName: group, PolicyName: aws.String("list")})
	must(t, "DeleteGroupPolicy", err)
	_, err = c.iam.DeleteGroupPolicy(ctx, &iam.DeleteGroupPolicyInput{GroupName: group, PolicyName: aws.String("list")})
	wantIAMRefusal(t, "a policy that is gone", err, 404, "NoSuchEntity", "The group policy with name list cannot be found.")
	must(t, "DeleteGroup", remove())
	_, err = c.iam.GetGroup(ctx, &iam.GetGroupInput{GroupName: group})
	wantIAMRefusal(t, "GetGroup", err, 404, "NoSuchEntity", "The group with name Group-life cannot be found.")
}

func TestUserPolicies(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.clients(g.keys[own])
	ctx := t.Context()
	user := aws.String("with-policies")
	c.createUser(t, *user)
	document := `{"Version": "2012-10-17",` + strings.Repeat("\n\t ", 1000) + `"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": {"StringEquals": {"aws:username": "ü+%"}}}]}`
	c.putUserPolicy(t, *user, "b", document) // white space does not count
	got, err := c.iam.GetUserPolicy(ctx, &iam.GetUserPolicyInput{UserName: user, PolicyName: aws.String("b")})
	if err != nil || decoded(t, got.PolicyDocument) != document || *got.PolicyName != "b" || *got.UserName != *user {
		t.Errorf("GetUserPolicy = %+v, %v", got, err)
	}
	c.putUserPolicy(t, *user, "a", allowing("kms:Encrypt"))
	list, err := c.iam.ListUserPolicies(ctx, &iam.ListUserPoliciesInput{UserName: user, MaxItems: aws.Int32(1)})
	if err != nil || len(list.PolicyNames) != 1 || list.PolicyNames[0] != "a" || !list.IsTruncated || list.Marker == nil {
		t.Errorf("ListUserPolicies = %+v, %v", list, err)
	}
	put := func(document string) error {
		_, err := c.iam.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: user, PolicyName: aws.String("c"), PolicyDocument: &document})
		return err
	}
	wantIAMRefusal(t, "too large", put(allowing("kms:"+strings.Repeat("x", 2000))), 409, "LimitExceeded", "Maximum policy size of 2048 bytes exceeded for user with-policies")
	wantIAMRefusal(t, "no JSON", put("{"), 400, "MalformedPolicyDocument", "")
	wantIAMRefusal(t, "a principal", put(trustOwn), 400, "MalformedPolicyDocument", "")
	wantIAMRefusal(t, "no Resource", put(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*"}]}`), 400, "MalformedPolicyDocument", "")
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: user})
	wantIAMRefusal(t, "a user with policies", err, 409, "DeleteConflict", "Cannot delete entity, must delete policies first.")
	for _, name := range []string{"a", "b"} {
		_, err = c.iam.DeleteUserPolicy(ctx, &iam.DeleteUserPolicyInput{UserName: user, PolicyName: &name})
		must(t, "DeleteUserPolicy", err)
	}
	_, err = c.iam.GetUserPolicy(ctx, &iam.GetUserPolicyInput{UserName: user, PolicyName: aws.String("a")})
	wantIAMRefusal(t, "a policy that is gone", err, 404, "NoSuchEntity", "The user policy with name a cannot be found.")
	_, err = c.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: user})
	must(t, "DeleteUser", err)
}

func TestListsOfUsersHavePages(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.clients(g.keys[third])
	prefix := aws.String("/pages-of-users/")
	for i := range 5 {
		name := "page-" + strconv.Itoa(i)
		_, err := c.iam.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name, Path: prefix})
		must(t, "CreateUser", err)
	}
	var names []string
	pages := iam.NewListUsersPaginator(c.iam, &iam.ListUsersInput{PathPrefix: prefix, MaxItems: aws.Int32(2)})
	for n := 0; pages.HasMorePages(); n++ {
		page, err := pages.NextPage(t.Context())
		must(t, "ListUsers", err)
		if n > 2 {
			t.Fatal("more pages than users")
		}
		for _, u := range page.Users {
			names = append(names, *u.UserName)
		}
	}
	if got := strings.Join(names, " "); got != "page-0 page-1 page-2 page-3 page-4" {
		t.Errorf("users %s", got)
	}
}
