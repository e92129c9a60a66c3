package integration_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// TestGrantsToRolesAndSessions gives grants to a role, which are all its sessions',
// and to one session of it.
func TestGrantsToRolesAndSessions(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	root := g.root(own)
	user, _ := g.newUser(t, own, "grants-sessions", m{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"})
	makeRole := func() string {
		return g.form(t, root, "iam", "CreateRole", m{"RoleName": "grants-role", "Path": "/team/", "AssumeRolePolicyDocument": trustOwn}).text("Arn")
	}
	role := makeRole()
	session := func(name string) aws.Credentials { return g.assume(t, user, role, m{"RoleSessionName": name}) }
	a, b := session("first"), session("second")
	bounded := g.assume(t, user, role, m{"RoleSessionName": "bounded", "Policy": document(t, m{"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": "*"})})
	arnOf := func(name string) string { return "arn:aws:sts::" + own + ":assumed-role/grants-role/" + name }

	key := g.createKey(t, own)
	grant := func(grantee, retiring string, operations ...string) string {
		t.Helper()
		in := m{"KeyId": key, "GranteePrincipal": grantee, "Operations": operations}
		if retiring != "" {
			in["RetiringPrincipal"] = retiring
		}
		out := g.mustCall(t, own, "CreateGrant", in)
		hideText(out["GrantToken"].(string))
		return out["GrantId"].(string)
	}
	try := func(who aws.Credentials, operation string, in m, want string) {
		t.Helper()
		if answer := g.do(t, who, true, "kms", operation, in); answer.code(t) != want {
			t.Errorf("%s %v: %d %s, want %q", operation, in, answer.status, answer.body, want)
		}
	}
	const denied = "AccessDeniedException"
	encrypt, dataKey := m{"KeyId": key, "Plaintext": "AA=="}, m{"KeyId": key, "KeySpec": "AES_256"}
	try(a, "Encrypt", encrypt, denied)
	grant(role, "", "Encrypt")
	grant(arnOf("first"), "", "GenerateDataKey")
	grant(arnOf("bounded"), "", "GenerateDataKey")
	try(a, "Encrypt", encrypt, "")
	try(b, "Encrypt", encrypt, "")
	try(bounded, "Encrypt", encrypt, denied) // the session's policy limits what is the role's
	try(a, "GenerateDataKey", dataKey, "")
	try(b, "GenerateDataKey", dataKey, denied)
	try(bounded, "GenerateDataKey", dataKey, "")
	try(user, "Encrypt", encrypt, denied)

	byRole, bySession := grant(rootOf(third), role, "Decrypt"), grant(rootOf(third), arnOf("first"), "Decrypt")
	try(user, "RetireGrant", m{"KeyId": key, "GrantId": byRole}, denied)
	try(b, "RetireGrant", m{"KeyId": key, "GrantId": byRole}, "")
	try(b, "RetireGrant", m{"KeyId": key, "GrantId": bySession}, denied)
	try(a, "RetireGrant", m{"KeyId": key, "GrantId": bySession}, "")

	// Another role of the same name has nothing of its grants.
	g.form(t, root, "iam", "DeleteRole", m{"RoleName": "grants-role"})
	if makeRole() != role {
		t.Fatal("the new role has another ARN")
	}
	try(session("first"), "Encrypt", encrypt, denied)
	try(session("first"), "GenerateDataKey", dataKey, denied)
	g.refused(t, own, "CreateGrant", m{"KeyId": key, "GranteePrincipal": strings.Replace(role, "/team/", "/", 1), "Operations": []string{"Encrypt"}},
		"InvalidArnException", "ARN does not refer to a valid principal: "+strings.Replace(role, "/team/", "/", 1))
}
