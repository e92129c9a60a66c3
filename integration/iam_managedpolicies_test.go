package integration_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

func TestManagedPolicyLife(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	name, path := aws.String("life-of-a-policy"), aws.String("/policies/life/")
	made, err := c.CreatePolicy(t.Context(), &iam.CreatePolicyInput{
		PolicyName: name, Path: path, PolicyDocument: aws.String(encryptAll), Description: aws.String("a policy"),
	})
	if err != nil {
		t.Fatal(err)
	}
	arn := made.Policy.Arn
	check := func(what string, p *types.Policy, description *string) {
		t.Helper()
		if *p.Arn != "arn:aws:iam::"+own+":policy/policies/life/life-of-a-policy" || *p.PolicyName != *name || *p.Path != *path ||
			!strings.HasPrefix(*p.PolicyId, "ANPA") || *p.DefaultVersionId != "v1" || !p.IsAttachable || *p.AttachmentCount != 0 ||
			*p.PermissionsBoundaryUsageCount != 0 || p.CreateDate == nil || !p.UpdateDate.Equal(*p.CreateDate) ||
			aws.ToString(p.Description) != aws.ToString(description) {
			t.Errorf("%s: %+v", what, p)
		}
	}
	check("CreatePolicy", made.Policy, aws.String("a policy"))
	got, err := c.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: arn})
	if err != nil {
		t.Fatal(err)
	}
	check("GetPolicy", got.Policy, aws.String("a policy"))
	list, err := c.ListPolicies(t.Context(), &iam.ListPoliciesInput{PathPrefix: path, Scope: types.PolicyScopeTypeLocal})
	if err != nil || len(list.Policies) != 1 {
		t.Fatalf("ListPolicies: %+v, %v", list, err)
	}
	check("ListPolicies", &list.Policies[0], nil)
	version, err := c.GetPolicyVersion(t.Context(), &iam.GetPolicyVersionInput{PolicyArn: arn, VersionId: aws.String("v1")})
	if err != nil {
		t.Fatal(err)
	}
	if v := version.PolicyVersion; *v.VersionId != "v1" || !v.IsDefaultVersion || decoded(t, v.Document) != encryptAll {
		t.Errorf("GetPolicyVersion: %+v", v)
	}
	versions, err := c.ListPolicyVersions(t.Context(), &iam.ListPolicyVersionsInput{PolicyArn: arn})
	if err != nil || len(versions.Versions) != 1 || *versions.Versions[0].VersionId != "v1" || versions.Versions[0].Document != nil {
		t.Errorf("ListPolicyVersions: %+v, %v", versions, err)
	}
	_, err = c.GetPolicyVersion(t.Context(), &iam.GetPolicyVersionInput{PolicyArn: arn, VersionId: aws.String("v2")})
	wantIAMRefusal(t, "another version", err, 404, "NoSuchEntity", "")
	if _, err := c.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: arn}); err != nil {
		t.Fatal(err)
	}
	missing := "Policy " + *arn + " was not found."
	_, err = c.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: arn})
	wantIAMRefusal(t, "GetPolicy after it", err, 404, "NoSuchEntity", missing)
	_, err = c.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: arn})
	wantIAMRefusal(t, "DeletePolicy again", err, 404, "NoSuchEntity", missing)
}

func TestManagedPolicyRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.roleClient(own)
	createPolicy(t, c, "/", "refused-policy")
	foreign := createPolicy(t, g.roleClient(other), "/", "refused-foreign")
	large := strings.Replace(encryptAll, `"*"`, `"arn:aws:kms:us-east-1:`+own+`:key/`+strings.Repeat("x", 6144)+`"`, 1)
	create := func(name, document string) error {
		_, err := c.CreatePolicy(t.Context(), &iam.CreatePolicyInput{PolicyName: &name, PolicyDocument: &document})
		return err
	}
	get := func(arn string) error {
		_, err := c.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: &arn})
		return err
	}
	const awsManaged = "arn:aws:iam::aws:policy/AdministratorAccess"
	_, tags := c.CreatePolicy(t.Context(), &iam.CreatePolicyInput{
		PolicyName: aws.String("refused-tags"), PolicyDocument: aws.String(encryptAll), Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
	})
	for what, r := range map[string]struct {
		err           error
		status        int
		code, message string
	}{
		"a name that is taken":      {create("refused-policy", encryptAll), 409, "EntityAlreadyExists", "A policy called refused-policy already exists. Duplicate names are not allowed."},
		"a name in another case":    {create("Refused-policy", encryptAll), 409, "EntityAlreadyExists", "A policy called Refused-policy already exists. Duplicate names are not allowed."},
		"a document with principal": {create("refused-new", trustOwn), 400, "MalformedPolicyDocument", ""},
		"no document":               {create("refused-new", "{"), 400, "MalformedPolicyDocument", ""},
		"a large document":          {create("refused-new", large), 409, "LimitExceeded", "Cannot exceed quota for PolicySize: 6144"},
		"tags":                      {tags, 400, "ValidationError", ""},
		"one of AWS":                {get(awsManaged), 404, "NoSuchEntity", "Policy " + awsManaged + " was not found."},
		"one of another account":    {get(foreign), 404, "NoSuchEntity", "Policy " + foreign + " was not found."},
		"one by another path":       {get("arn:aws:iam::" + own + ":policy/a/refused-policy"), 404, "NoSuchEntity", "Policy arn:aws:iam::" + own + ":policy/a/refused-policy was not found."},
	} {
		wantIAMRefusal(t, what, r.err, r.status, r.code, r.message)
	}
	// White space does not count.
	if err := create("not-refused", strings.Replace(encryptAll, "{", "{"+strings.Repeat(" \n", 3072), 1)); err != nil {
		t.Errorf("a document with much white space: %v", err)
	}
	list, err := c.ListPolicies(t.Context(), &iam.ListPoliciesInput{Scope: types.PolicyScopeTypeAws})
	if err != nil || len(list.Policies) != 0 {
		t.Errorf("ListPolicies of AWS: %+v, %v, want none", list, err)
	}
}

// A holder is a kind of thing that managed policies are attached to.
type holder struct {
	create         func(name string) error
	attach, detach func(name, arn string) error
	attached       func(name string, max int32, marker *string) ([]types.AttachedPolicy, *string, error)
	remove         func(name string) error
	noSuch         func(name string) string
}

func holders(t *testing.T, c *iam.Client) map[string]holder {
	t.Helper()
	ctx := t.Context()
	return map[string]holder{
		"User": {
			create: func(n string) error { _, err := c.CreateUser(ctx, &iam.CreateUserInput{UserName: &n}); return err },
			attach: func(n, arn string) error {
				_, err := c.AttachUserPolicy(ctx, &iam.AttachUserPolicyInput{UserName: &n, PolicyArn: &arn})
				return err
			},
			detach: func(n, arn string) error {
				_, err := c.DetachUserPolicy(ctx, &iam.DetachUserPolicyInput{UserName: &n, PolicyArn: &arn})
				return err
			},
			attached: func(n string, max int32, marker *string) ([]types.AttachedPolicy, *string, error) {
				out, err := c.ListAttachedUserPolicies(ctx, &iam.ListAttachedUserPoliciesInput{UserName: &n, MaxItems: &max, Marker: marker})
				if err != nil {
					return nil, nil, err
				}
				return out.AttachedPolicies, out.Marker, nil
			},
			remove: func(n string) error { _, err := c.DeleteUser(ctx, &iam.DeleteUserInput{UserName: &n}); return err },
			noSuch: func(n string) string { return "The user with name " + n + " cannot be found." },
		},
		"Group": {
			create: func(n string) error { _, err := c.CreateGroup(ctx, &iam.CreateGroupInput{GroupName: &n}); return err },
			attach: func(n, arn string) error {
				_, err := c.AttachGroupPolicy(ctx, &iam.AttachGroupPolicyInput{GroupName: &n, PolicyArn: &arn})
				return err
			},
			detach: func(n, arn string) error {
				_, err := c.DetachGroupPolicy(ctx, &iam.DetachGroupPolicyInput{GroupName: &n, PolicyArn: &arn})
				return err
			},
			attached: func(n string, max int32, marker *string) ([]types.AttachedPolicy, *string, error) {
				out, err := c.ListAttachedGroupPolicies(ctx, &iam.ListAttachedGroupPoliciesInput{GroupName: &n, MaxItems: &max, Marker: marker})
				if err != nil {
					return nil, nil, err
				}
				return out.AttachedPolicies, out.Marker, nil
			},
			remove: func(n string) error { _, err := c.DeleteGroup(ctx, &iam.DeleteGroupInput{GroupName: &n}); return err },
			noSuch: func(n string) string { return "The group with name " + n + " cannot be found." },
		},
		"Role": {
			create: func(n string) error {
				_, err := c.CreateRole(ctx, &iam.CreateRoleInput{RoleName: &n, AssumeRolePolicyDocument: aws.String(trustOwn)})
				return err
			},
			attach: func(n, arn string) error {
				_, err := c.AttachRolePolicy(ctx, &iam.AttachRolePolicyInput{RoleName: &n, PolicyArn: &arn})
				return err
			},
			detach: func(n, arn string) error {
				_, err := c.DetachRolePolicy(ctx, &iam.DetachRolePolicyInput{RoleName: &n, PolicyArn: &arn})
				return err
			},
			attached: func(n string, max int32, marker *string) ([]types.AttachedPolicy, *string, error) {
				out, err := c.ListAttachedRolePolicies(ctx, &iam.ListAttachedRolePoliciesInput{RoleName: &n, MaxItems: &max, Marker: marker})
				if err != nil {
					return nil, nil, err
				}
				return out.AttachedPolicies, out.Marker, nil
			},
			remove: func(n string) error { _, err := c.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: &n}); return err },
			noSuch: func(n string) string { return "The role with name " + n + " cannot be found." },
		},
	}
}

func TestAttachments(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	foreign := createPolicy(t, g.roleClient(other), "/", "attached-foreign")
	for _, kind := range []string{"User", "Group", "Role"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			testAttachments(t, g.roleClient(own), kind, foreign)
		})
	}
}

func testAttachments(t *testing.T, c *iam.Client, kind, foreign string) {
	t.Helper()
	h, name, path := holders(t, c)[kind], "attached-to-"+kind, "/attached-to/"+kind+"/"
	if err := h.create(name); err != nil {
		t.Fatal(err)
	}
	var arns []string
	for i := range 11 {
		arns = append(arns, createPolicy(t, c, path, fmt.Sprintf("%s-%02d", kind, i)))
	}
	for _, arn := range append(arns[:10:10], arns[0]) { // once more is no error
		if err := h.attach(name, arn); err != nil {
			t.Fatal(err)
		}
	}
	const awsManaged = "arn:aws:iam::aws:policy/AdministratorAccess"
	refusals := []struct {
		what          string
		err           error
		status        int
		code, message string
	}{
		{"an eleventh", h.attach(name, arns[10]), 409, "LimitExceeded", "Cannot exceed quota for PoliciesPer" + kind + ": 10"},
		{"another account's", h.attach(name, foreign), 404, "NoSuchEntity", "Policy " + foreign + " does not exist or is not attachable."},
		{"one of AWS", h.attach(name, awsManaged), 404, "NoSuchEntity", "Policy " + awsManaged + " does not exist or is not attachable."},
		{"one by another path", h.attach(name, strings.Replace(arns[0], path, "/", 1)), 404, "NoSuchEntity", ""},
		{"no ARN", h.attach(name, "AdministratorAccess/x"), 400, "InvalidInput", "ARN AdministratorAccess/x is not valid."},
		{"to nobody", h.attach("attached-nobody", arns[0]), 404, "NoSuchEntity", h.noSuch("attached-nobody")},
		{"from nobody", h.detach("attached-nobody", arns[0]), 404, "NoSuchEntity", h.noSuch("attached-nobody")},
		{"what is not attached", h.detach(name, arns[10]), 404, "NoSuchEntity", "Policy " + arns[10] + " was not found."},
		{"deleting it", h.remove(name), 409, "DeleteConflict", "Cannot delete entity, must detach all policies first."},
	}
	for _, r := range refusals {
		wantIAMRefusal(t, r.what, r.err, r.status, r.code, r.message)
	}
	first, marker, err1 := h.attached(name, 4, nil)
	rest, end, err2 := h.attached(name, 10, marker)
	var listed []string
	for _, p := range append(first, rest...) {
		listed = append(listed, *p.PolicyArn)
	}
	if err := errors.Join(err1, err2); err != nil || len(first) != 4 || end != nil || !slices.Equal(listed, arns[:10]) {
		t.Errorf("attached: %v, %v\nwant %v", listed, err, arns[:10])
	}
	testPolicyUses(t, c, kind, name, path, arns)
	for _, arn := range arns[:10] {
		if err := h.detach(name, arn); err != nil {
			t.Error(err)
		}
	}
	if err := h.remove(name); err != nil {
		t.Error(err)
	}
	for _, arn := range arns {
		if _, err := c.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &arn}); err != nil {
			t.Error(err)
		}
	}
}

// testPolicyUses checks what policies say of whom they are attached to.
func testPolicyUses(t *testing.T, c *iam.Client, kind, name, path string, arns []string) {
	t.Helper()
	got, err := c.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: &arns[0]})
	if err != nil || *got.Policy.AttachmentCount != 1 {
		t.Errorf("GetPolicy: %+v, %v, want one attachment", got, err)
	}
	_, err = c.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &arns[0]})
	wantIAMRefusal(t, "DeletePolicy", err, 409, "DeleteConflict", "Cannot delete a policy attached to entities.")
	list, err := c.ListPolicies(t.Context(), &iam.ListPoliciesInput{PathPrefix: &path, OnlyAttached: true})
	if err != nil || len(list.Policies) != 10 {
		t.Errorf("ListPolicies of what is attached: %+v, %v, want 10", list, err)
	}
	entities, err := c.ListEntitiesForPolicy(t.Context(), &iam.ListEntitiesForPolicyInput{PolicyArn: &arns[0]})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entities.PolicyUsers {
		found = append(found, "User "+*e.UserName+" "+(*e.UserId)[:4])
	}
	for _, e := range entities.PolicyGroups {
		found = append(found, "Group "+*e.GroupName+" "+(*e.GroupId)[:4])
	}
	for _, e := range entities.PolicyRoles {
		found = append(found, "Role "+*e.RoleName+" "+(*e.RoleId)[:4])
	}
	prefix := map[string]string{"User": "AIDA", "Group": "AGPA", "Role": "AROA"}[kind]
	if want := kind + " " + name + " " + prefix; len(found) != 1 || found[0] != want {
		t.Errorf("ListEntitiesForPolicy: %v, want %s", found, want)
	}
	for _, filter := range []types.EntityType{types.EntityTypeLocalManagedPolicy, types.EntityTypeUser, types.EntityTypeGroup, types.EntityTypeRole} {
		entities, err := c.ListEntitiesForPolicy(t.Context(), &iam.ListEntitiesForPolicyInput{PolicyArn: &arns[0], EntityFilter: filter})
		if err != nil {
			t.Fatal(err)
		}
		n := len(entities.PolicyUsers) + len(entities.PolicyGroups) + len(entities.PolicyRoles)
		if want := map[bool]int{true: 1}[string(filter) == kind]; n != want {
			t.Errorf("ListEntitiesForPolicy of %s: %d, want %d", filter, n, want)
		}
	}
}

func TestPermissionsBoundaries(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.roleClient(own)
	bound, foreign := createPolicy(t, c, "/", "boundary-policy"), createPolicy(t, g.roleClient(other), "/", "boundary-foreign")
	user, role := aws.String("boundary-user"), aws.String("boundary-role")
	_, err := c.CreateUser(t.Context(), &iam.CreateUserInput{UserName: user})
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: role, AssumeRolePolicyDocument: aws.String(trustOwn), PermissionsBoundary: &bound})
	if err != nil {
		t.Fatal(err)
	}
	if b := made.Role.PermissionsBoundary; b == nil || *b.PermissionsBoundaryArn != bound || string(b.PermissionsBoundaryType) != "Policy" {
		t.Errorf("boundary of the role: %+v", b)
	}
	put := func(arn string) (onUser, onRole error) {
		_, onUser = c.PutUserPermissionsBoundary(t.Context(), &iam.PutUserPermissionsBoundaryInput{UserName: user, PermissionsBoundary: &arn})
		_, onRole = c.PutRolePermissionsBoundary(t.Context(), &iam.PutRolePermissionsBoundaryInput{RoleName: role, PermissionsBoundary: &arn})
		return onUser, onRole
	}
	for _, arn := range []string{foreign, "arn:aws:iam::" + own + ":policy/none", "arn:aws:iam::aws:policy/AdministratorAccess"} {
		err1, err2 := put(arn)
		for _, err := range []error{err1, err2} {
			wantIAMRefusal(t, arn, err, 404, "NoSuchEntity", "Scope ARN: "+arn+" does not exist or is not attachable.")
		}
	}
	err1, err2 := put(bound)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetUser(t.Context(), &iam.GetUserInput{UserName: user})
	if err != nil || got.User.PermissionsBoundary == nil || *got.User.PermissionsBoundary.PermissionsBoundaryArn != bound {
		t.Errorf("GetUser: %+v, %v", got, err)
	}
	policy, err := c.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: &bound})
	if err != nil || *policy.Policy.PermissionsBoundaryUsageCount != 2 || *policy.Policy.AttachmentCount != 0 {
		t.Errorf("GetPolicy: %+v, %v, want two boundaries", policy, err)
	}
	entities, err := c.ListEntitiesForPolicy(t.Context(), &iam.ListEntitiesForPolicyInput{PolicyArn: &bound, PolicyUsageFilter: types.PolicyUsageTypePermissionsBoundary})
	if err != nil || len(entities.PolicyUsers) != 1 || len(entities.PolicyRoles) != 1 {
		t.Errorf("ListEntitiesForPolicy: %+v, %v", entities, err)
	}
	_, err = c.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &bound})
	wantIAMRefusal(t, "DeletePolicy", err, 409, "DeleteConflict", "Cannot delete a policy attached to entities.")
	for _, again := range []bool{false, true} {
		_, err1 := c.DeleteUserPermissionsBoundary(t.Context(), &iam.DeleteUserPermissionsBoundaryInput{UserName: user})
		_, err2 := c.DeleteRolePermissionsBoundary(t.Context(), &iam.DeleteRolePermissionsBoundaryInput{RoleName: role})
		if again {
			wantIAMRefusal(t, "again", err1, 404, "NoSuchEntity", "")
			wantIAMRefusal(t, "again", err2, 404, "NoSuchEntity", "")
		} else if err := errors.Join(err1, err2); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &bound}); err != nil {
		t.Error(err)
	}
}
