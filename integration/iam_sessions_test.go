package integration_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
)

// assuming makes a user that may assume every role that trusts it, and returns its
// access key.
func assuming(t testing.TB, c *iam.Client, name string) aws.CredentialsProvider {
	t.Helper()
	_, err1 := c.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name})
	_, err2 := c.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: &name, PolicyName: &name, PolicyDocument: aws.String(allowing("sts:AssumeRole"))})
	key, err3 := c.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: &name})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return static(key.AccessKey.AccessKeyId, key.AccessKey.SecretAccessKey, nil)
}

// static are credentials that stay as they are.
func static(id, secret, token *string) aws.CredentialsProvider {
	hideText(*secret)
	if token != nil {
		hideText(*token)
	}
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: *id, SecretAccessKey: *secret, SessionToken: aws.ToString(token)}, nil
	})
}

// sessions makes sessions of a role.
type sessions struct {
	g    *instance
	as   aws.CredentialsProvider
	role string
}

func (s *sessions) assume(t testing.TB) *ststypes.Credentials {
	t.Helper()
	session, err := s.tryAssume(t)
	if err != nil {
		t.Fatalf("AssumeRole: %v", err)
	}
	return session
}

func (s *sessions) tryAssume(t testing.TB) (*ststypes.Credentials, error) {
	t.Helper()
	c := sts.NewFromConfig(aws.Config{Region: region, Credentials: s.as, BaseEndpoint: &s.g.endpoint, RetryMaxAttempts: 1})
	out, err := c.AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &s.role, RoleSessionName: aws.String("session")})
	if err != nil {
		return nil, err
	}
	return out.Credentials, nil
}

// use lists aliases with a session.
func (s *sessions) use(t testing.TB, session *ststypes.Credentials) error {
	t.Helper()
	c := kms.NewFromConfig(aws.Config{
		Region: region, BaseEndpoint: &s.g.endpoint, RetryMaxAttempts: 1,
		Credentials: static(session.AccessKeyId, session.SecretAccessKey, session.SessionToken),
	})
	_, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{})
	return err
}

// A trust policy trusts the user it was written about, not the next one of its name.
func TestTrustEndsWithTheUser(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.roleClient(own)
	name := aws.String("trusted-once")
	s := &sessions{g, assuming(t, c, *name), "arn:aws:iam::" + own + ":role/trusts-once"}
	userARN := "arn:aws:iam::" + own + ":user/" + *name
	trust := trusting(`{"AWS":"` + userARN + `"}`)
	if _, err := c.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("trusts-once"), AssumeRolePolicyDocument: &trust}); err != nil {
		t.Fatal(err)
	}
	s.assume(t)
	user, err := c.GetUser(t.Context(), &iam.GetUserInput{UserName: name})
	if err != nil {
		t.Fatal(err)
	}
	deleteAssuming(t, c, *name)
	s.as = assuming(t, c, *name)
	_, err = s.tryAssume(t)
	wantIAMRefusal(t, "AssumeRole of the next one", err, 403, "AccessDenied", "User: "+userARN+" is not authorized to perform: sts:AssumeRole on resource: "+s.role)
	role, err := c.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("trusts-once")})
	if err != nil {
		t.Fatal(err)
	}
	shown := decoded(t, role.Role.AssumeRolePolicyDocument)
	if strings.Contains(shown, userARN) || !strings.Contains(shown, `"`+*user.User.UserId+`"`) {
		t.Errorf("GetRole shows %s, want the user by its id %s", shown, *user.User.UserId)
	}
	if _, err := c.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: role.Role.RoleName, PolicyDocument: &shown}); err == nil {
		t.Error("the id of a deleted user is taken as a principal")
	}
	if _, err := c.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: role.Role.RoleName, PolicyDocument: &trust}); err != nil {
		t.Fatal(err)
	}
	s.assume(t)
}

// deleteAssuming deletes what assuming made.
func deleteAssuming(t testing.TB, c *iam.Client, name string) {
	t.Helper()
	keys, err := c.ListAccessKeys(t.Context(), &iam.ListAccessKeysInput{UserName: &name})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys.AccessKeyMetadata {
		if _, err := c.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: &name, AccessKeyId: k.AccessKeyId}); err != nil {
			t.Fatal(err)
		}
	}
	_, err1 := c.DeleteUserPolicy(t.Context(), &iam.DeleteUserPolicyInput{UserName: &name, PolicyName: &name})
	_, err2 := c.DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: &name})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
}
