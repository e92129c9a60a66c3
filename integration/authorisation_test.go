package integration_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// A person is a user of the SDK's: its name, ARN and what it calls with.
type person struct {
	name, arn string
	*clients
}

// person makes a user of an account with an access key.
func (i *instance) person(t testing.TB, account, name string) *person {
	t.Helper()
	root := i.clients(i.keys[account])
	user := root.createUser(t, name)
	return &person{name, *user.Arn, i.clients(root.createAccessKey(t, name))}
}

// wantEncrypt checks how Encrypt ends: why is the end of the refusal after the
// resource, empty for success.
func (p *person) wantEncrypt(t testing.TB, key, why string) {
	t.Helper()
	_, err := p.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
	if why == "" {
		must(t, "Encrypt by "+p.name, err)
		return
	}
	on := "resource: " + key
	if why == hidden {
		on = "this resource"
	}
	wantError(t, err, "AccessDeniedException", "User: "+p.arn+" is not authorized to perform: kms:Encrypt on "+on+why)
}

// Ends of refusals.
const (
	noIdentityAllows = " because no identity-based policy allows the kms:Encrypt action"
	noBoundaryAllows = " because no permissions boundary allows the kms:Encrypt action"
	noKeyAllows      = " because no resource-based policy allows the kms:Encrypt action"
	identityDenies   = " with an explicit deny in an identity-based policy"
)

// TestUserComesToAPermission by each of its policies, and loses it again, at once.
func TestUserComesToAPermission(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root, key := g.clients(g.keys[own]), g.createKey(t, own)
	p := g.person(t, own, "authorised-user")
	p.wantEncrypt(t, key, noIdentityAllows)

	root.putUserPolicy(t, p.name, "p", allowing("kms:Encrypt"))
	p.wantEncrypt(t, key, "")
	group, deny := aws.String("authorised-group"), strings.Replace(allowing("kms:*"), "Allow", "Deny", 1)
	_, err := root.iam.CreateGroup(t.Context(), &iam.CreateGroupInput{GroupName: group})
	must(t, "CreateGroup", err)
	_, err = root.iam.PutGroupPolicy(t.Context(), &iam.PutGroupPolicyInput{GroupName: group, PolicyName: group, PolicyDocument: &deny})
	must(t, "PutGroupPolicy", err)
	p.wantEncrypt(t, key, "")
	_, err = root.iam.AddUserToGroup(t.Context(), &iam.AddUserToGroupInput{GroupName: group, UserName: &p.name})
	must(t, "AddUserToGroup", err)
	p.wantEncrypt(t, key, identityDenies)
	_, err = root.iam.PutGroupPolicy(t.Context(), &iam.PutGroupPolicyInput{GroupName: group, PolicyName: group, PolicyDocument: aws.String(allowing("kms:Encrypt"))})
	must(t, "PutGroupPolicy", err)
	_, err = root.iam.DeleteUserPolicy(t.Context(), &iam.DeleteUserPolicyInput{UserName: &p.name, PolicyName: aws.String("p")})
	must(t, "DeleteUserPolicy", err)
	p.wantEncrypt(t, key, "") // by the group alone

	narrow, err := root.iam.CreatePolicy(t.Context(), &iam.CreatePolicyInput{PolicyName: group, PolicyDocument: aws.String(allowing("kms:Decrypt"))})
	must(t, "CreatePolicy", err)
	_, err = root.iam.PutUserPermissionsBoundary(t.Context(), &iam.PutUserPermissionsBoundaryInput{UserName: &p.name, PermissionsBoundary: narrow.Policy.Arn})
	must(t, "PutUserPermissionsBoundary", err)
	p.wantEncrypt(t, key, noBoundaryAllows)
	_, err = root.iam.DeleteUserPermissionsBoundary(t.Context(), &iam.DeleteUserPermissionsBoundaryInput{UserName: &p.name})
	must(t, "DeleteUserPermissionsBoundary", err)
	p.wantEncrypt(t, key, "")
	_, err = root.iam.RemoveUserFromGroup(t.Context(), &iam.RemoveUserFromGroupInput{GroupName: group, UserName: &p.name})
	must(t, "RemoveUserFromGroup", err)
	p.wantEncrypt(t, key, noIdentityAllows)
}

// TestKeyPolicyDecidesAboutUsers of the key's account and of another one.
func TestKeyPolicyDecidesAboutUsers(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	named, allowed := g.person(t, own, "keypolicy-named"), g.person(t, own, "keypolicy-allowed")
	foreign, poor := g.person(t, other, "keypolicy-foreign"), g.person(t, other, "keypolicy-poor")
	g.clients(g.keys[own]).putUserPolicy(t, allowed.name, "p", allowing("kms:Encrypt"))
	g.clients(g.keys[other]).putUserPolicy(t, foreign.name, "p", allowing("kms:Encrypt"))
	admin := statement("Allow", own, "kms:PutKeyPolicy")
	to := func(principals ...string) m {
		return m{"Effect": "Allow", "Principal": m{"AWS": principals}, "Action": "kms:Encrypt", "Resource": "*"}
	}

	foreign.wantEncrypt(t, key, hidden)
	allowed.wantEncrypt(t, key, "") // the default policy leaves it to IAM
	named.wantEncrypt(t, key, noIdentityAllows)

	g.putPolicy(t, own, key, admin, to(named.arn, foreign.arn))
	named.wantEncrypt(t, key, "")
	allowed.wantEncrypt(t, key, noKeyAllows)
	foreign.wantEncrypt(t, key, "")
	poor.wantEncrypt(t, key, hidden)

	g.putPolicy(t, own, key, admin, to(other))
	foreign.wantEncrypt(t, key, "")
	poor.wantEncrypt(t, key, noIdentityAllows)
	named.wantEncrypt(t, key, noKeyAllows)

	deny := to(named.arn)
	deny["Effect"] = "Deny"
	g.putPolicy(t, own, key, admin, to(named.arn), deny)
	named.wantEncrypt(t, key, policyDenies)
}

// TestTagsAllow: whoever has the tag of the key may use it, as a user has it now.
func TestTagsAllow(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root, key := g.clients(g.keys[own]), g.createKey(t, own)
	p := g.person(t, own, "tagged-user")
	root.putUserPolicy(t, p.name, "p", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*",
		"Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}}]}`)
	tagKey := func(value string) {
		_, err := root.kms.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &key, Tags: []kmstypes.Tag{{TagKey: aws.String("team"), TagValue: &value}}})
		must(t, "TagResource", err)
	}
	tagUser := func(value string) {
		_, err := root.iam.TagUser(t.Context(), &iam.TagUserInput{UserName: &p.name, Tags: []types.Tag{{Key: aws.String("team"), Value: &value}}})
		must(t, "TagUser", err)
	}
	p.wantEncrypt(t, key, noIdentityAllows)
	tagKey("red")
	p.wantEncrypt(t, key, noIdentityAllows)
	tagUser("red")
	p.wantEncrypt(t, key, "")
	tagKey("blue")
	p.wantEncrypt(t, key, noIdentityAllows)
	tagUser("blue")
	p.wantEncrypt(t, key, "")
}

// TestDeletedUserIsNobody: its access key ends with it, and what named it does not
// mean the next user of that name.
func TestDeletedUserIsNobody(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root, key := g.clients(g.keys[own]), g.createKey(t, own)
	first := root.createUser(t, "mortal-user")
	secret := root.createAccessKey(t, *first.UserName)
	p := &person{*first.UserName, *first.Arn, g.clients(secret)}
	g.putPolicy(t, own, key, statement("Allow", own, "kms:*"), m{"Effect": "Allow", "Principal": m{"AWS": p.arn}, "Action": "kms:*", "Resource": "*"})
	p.wantEncrypt(t, key, "")

	_, err := root.iam.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: &p.name, AccessKeyId: &secret.accessKey})
	must(t, "DeleteAccessKey", err)
	_, err = p.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
	wantError(t, err, "UnrecognizedClientException", "The security token included in the request is invalid.")
	_, err = root.iam.DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: &p.name})
	must(t, "DeleteUser", err)

	again := g.person(t, own, p.name)
	again.wantEncrypt(t, key, noIdentityAllows)
	shown := g.mustCall(t, own, "GetKeyPolicy", m{"KeyId": key})["Policy"].(string)
	if !strings.Contains(shown, `"AWS" : "`+*first.UserId+`"`) || strings.Contains(shown, p.arn) {
		t.Errorf("the policy still names %s, or does not name %s:\n%s", p.arn, *first.UserId, shown)
	}
	g.refused(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": shown}, "MalformedPolicyDocumentException", principalsText)
}

// TestNobodyLearnsWhetherAKeyExists by being refused: of a key that is there and of
// one that is not, the answers differ in the key's id alone.
func TestNobodyLearnsWhetherAKeyExists(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	missing := keyARN(own, "00000000-0000-4000-8000-000000000000")
	poor, foreign := g.person(t, own, "curious-poor"), g.person(t, other, "curious-foreign")
	g.clients(g.keys[other]).putUserPolicy(t, foreign.name, "p", allowing("kms:*"))
	for _, p := range []*person{poor, foreign} {
		var bodies []string
		for _, id := range []string{key, missing} {
			_, err := p.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
			if err == nil || p.wire.last.status != 400 {
				t.Fatalf("Encrypt by %s: %v, want a refusal", p.name, err)
			}
			bodies = append(bodies, strings.ReplaceAll(string(p.wire.last.body), id, "KEY"))
		}
		if bodies[0] != bodies[1] {
			t.Errorf("%s is told\n%s\nof a key, and of none\n%s", p.name, bodies[0], bodies[1])
		}
	}
}
