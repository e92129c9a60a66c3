package integration_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// roleClient is the SDK's IAM client in the hands of an account's root.
func (i *instance) roleClient(account string) *iam.Client {
	return iam.NewFromConfig(aws.Config{
		Region: region, Credentials: i.keys[account], BaseEndpoint: &i.endpoint, RetryMaxAttempts: 1,
		HTTPClient: &http.Client{Transport: &client{}},
	})
}

// wantIAMRefusal checks status, code and text of an error of IAM; an empty message is any.
func wantIAMRefusal(t testing.TB, what string, err error, status int, code, message string) {
	t.Helper()
	response, ok1 := errors.AsType[*smithyhttp.ResponseError](err)
	refusal, ok2 := errors.AsType[smithy.APIError](err)
	if !ok1 || !ok2 || response.HTTPStatusCode() != status || refusal.ErrorCode() != code || message != "" && refusal.ErrorMessage() != message {
		t.Errorf("%s: %v\nwant %d %s: %s", what, err, status, code, message)
	}
}

// trusting is a trust policy for a principal, by the JSON of its Principal element.
func trusting(principal string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":` + principal + `,"Action":"sts:AssumeRole"}]}`
}

// trustingTokens is a trust policy for identities of a provider.
func trustingTokens(provider, condition string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"` + provider +
		`"},"Action":"sts:AssumeRoleWithWebIdentity"` + condition + `}]}`
}

const (
	trustOwn   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + own + `"},"Action":"sts:AssumeRole"}]}`
	encryptAll = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*"}]}`
)

func createRole(t testing.TB, c *iam.Client, name string) *types.Role {
	t.Helper()
	out, err := c.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: aws.String(trustOwn)})
	if err != nil {
		t.Fatalf("CreateRole(%s): %v", name, err)
	}
	return out.Role
}

func createPolicy(t testing.TB, c *iam.Client, path, name string) string {
	t.Helper()
	out, err := c.CreatePolicy(t.Context(), &iam.CreatePolicyInput{PolicyName: &name, Path: &path, PolicyDocument: aws.String(encryptAll)})
	if err != nil {
		t.Fatalf("CreatePolicy(%s): %v", name, err)
	}
	return *out.Policy.Arn
}

// decoded is a document of an answer.
func decoded(t testing.TB, document *string) string {
	t.Helper()
	text, err := url.PathUnescape(aws.ToString(document))
	if err != nil {
		t.Error(err)
	}
	return text
}

func TestRoleLife(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	name, path := aws.String("life-of-a-role"), aws.String("/roles/life/")
	made, err := c.CreateRole(t.Context(), &iam.CreateRoleInput{
		RoleName: name, Path: path, AssumeRolePolicyDocument: aws.String(trustOwn), Description: aws.String("a role"),
		MaxSessionDuration: aws.Int32(7200), Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("red")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, r *types.Role) {
		t.Helper()
		if *r.Arn != "arn:aws:iam::"+own+":role/roles/life/life-of-a-role" || *r.Path != *path || *r.RoleName != *name ||
			!strings.HasPrefix(*r.RoleId, "AROA") || len(*r.RoleId) != 21 || r.CreateDate == nil || decoded(t, r.AssumeRolePolicyDocument) != trustOwn ||
			*r.Description != "a role" || *r.MaxSessionDuration != 7200 {
			t.Errorf("%s: %+v", what, r)
		}
	}
	check("CreateRole", made.Role)
	got, err := c.GetRole(t.Context(), &iam.GetRoleInput{RoleName: name})
	if err != nil {
		t.Fatal(err)
	}
	check("GetRole", got.Role)
	if len(got.Role.Tags) != 1 || *got.Role.Tags[0].Key != "team" || *got.Role.Tags[0].Value != "red" || *got.Role.RoleId != *made.Role.RoleId {
		t.Errorf("tags %+v", got.Role.Tags)
	}
	list, err := c.ListRoles(t.Context(), &iam.ListRolesInput{PathPrefix: path})
	if err != nil || len(list.Roles) != 1 || list.IsTruncated {
		t.Fatalf("ListRoles: %+v, %v", list, err)
	}
	check("ListRoles", &list.Roles[0])

	_, err = c.UpdateRole(t.Context(), &iam.UpdateRoleInput{RoleName: name, MaxSessionDuration: aws.Int32(43200)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.UpdateRole(t.Context(), &iam.UpdateRoleInput{RoleName: name, Description: aws.String("another")})
	if err != nil {
		t.Fatal(err)
	}
	described, err := c.UpdateRoleDescription(t.Context(), &iam.UpdateRoleDescriptionInput{RoleName: name, Description: aws.String("")})
	if err != nil || described.Role == nil || *described.Role.Arn != *made.Role.Arn || aws.ToString(described.Role.Description) != "" || *described.Role.MaxSessionDuration != 43200 {
		t.Errorf("UpdateRoleDescription to nothing: %+v, %v", described, err)
	}
	described, err = c.UpdateRoleDescription(t.Context(), &iam.UpdateRoleDescriptionInput{RoleName: name, Description: aws.String("another")})
	if err != nil || aws.ToString(described.Role.Description) != "another" {
		t.Errorf("UpdateRoleDescription: %+v, %v", described, err)
	}
	profiles, err := c.ListInstanceProfilesForRole(t.Context(), &iam.ListInstanceProfilesForRoleInput{RoleName: name})
	if err != nil || len(profiles.InstanceProfiles) != 0 || profiles.IsTruncated {
		t.Errorf("ListInstanceProfilesForRole: %+v, %v, want none", profiles, err)
	}
	trust := trusting(`"*"`)
	_, err = c.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: name, PolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	got, err = c.GetRole(t.Context(), &iam.GetRoleInput{RoleName: name})
	if err != nil || *got.Role.MaxSessionDuration != 43200 || *got.Role.Description != "another" || decoded(t, got.Role.AssumeRolePolicyDocument) != trust {
		t.Errorf("after the updates: %+v, %v", got.Role, err)
	}
	if _, err := c.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: name}); err != nil {
		t.Fatal(err)
	}
	_, err = c.GetRole(t.Context(), &iam.GetRoleInput{RoleName: name})
	wantIAMRefusal(t, "GetRole after it", err, 404, "NoSuchEntity", "The role with name life-of-a-role cannot be found.")
	if again := createRole(t, c, *name); *again.RoleId == *made.Role.RoleId {
		t.Error("an id is given again")
	}
}

func TestRoleRefusals(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	createRole(t, c, "refused-role")
	create := func(in iam.CreateRoleInput) error {
		if in.RoleName == nil {
			in.RoleName = aws.String("refused-new")
		}
		if in.AssumeRolePolicyDocument == nil {
			in.AssumeRolePolicyDocument = aws.String(trustOwn)
		}
		_, err := c.CreateRole(t.Context(), &in)
		return err
	}
	for what, r := range map[string]struct {
		err           error
		status        int
		code, message string
	}{
		"a name that is taken":     {create(iam.CreateRoleInput{RoleName: aws.String("refused-role")}), 409, "EntityAlreadyExists", "Role with name refused-role already exists."},
		"a name in another case":   {create(iam.CreateRoleInput{RoleName: aws.String("Refused-Role")}), 409, "EntityAlreadyExists", "Role with name Refused-Role already exists."},
		"a name of other letters":  {create(iam.CreateRoleInput{RoleName: aws.String("a/b")}), 400, "ValidationError", ""},
		"a name that is too long":  {create(iam.CreateRoleInput{RoleName: aws.String(strings.Repeat("a", 65))}), 400, "ValidationError", ""},
		"a path that does not end": {create(iam.CreateRoleInput{Path: aws.String("/a")}), 400, "ValidationError", "The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters."},
		"a session that is short":  {create(iam.CreateRoleInput{MaxSessionDuration: aws.Int32(3599)}), 400, "ValidationError", "1 validation error detected: Value '3599' at 'maxSessionDuration' failed to satisfy constraint: Member must have value greater than or equal to 3600"},
		"a session that is long":   {create(iam.CreateRoleInput{MaxSessionDuration: aws.Int32(43201)}), 400, "ValidationError", "1 validation error detected: Value '43201' at 'maxSessionDuration' failed to satisfy constraint: Member must have value less than or equal to 43200"},
		"a boundary there is not":  {create(iam.CreateRoleInput{PermissionsBoundary: aws.String("arn:aws:iam::" + own + ":policy/none")}), 404, "NoSuchEntity", "Scope ARN: arn:aws:iam::" + own + ":policy/none does not exist or is not attachable."},
		"a trust policy too long":  {create(iam.CreateRoleInput{AssumeRolePolicyDocument: aws.String(trusting(`{"AWS":["` + strings.Repeat(own+`","`, 140) + own + `"]}`))}), 409, "LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048"},
		"a tag twice":              {create(iam.CreateRoleInput{Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("")}, {Key: aws.String("A"), Value: aws.String("")}}}), 400, "InvalidInput", ""},
	} {
		wantIAMRefusal(t, what, r.err, r.status, r.code, r.message)
	}
	_, err := c.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("refused-new")})
	wantIAMRefusal(t, "the role that was refused", err, 404, "NoSuchEntity", "The role with name refused-new cannot be found.")

	missing := aws.String("refused-none")
	const text = "The role with name refused-none cannot be found."
	_, err = c.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: missing})
	wantIAMRefusal(t, "DeleteRole", err, 404, "NoSuchEntity", text)
	_, err = c.UpdateRole(t.Context(), &iam.UpdateRoleInput{RoleName: missing})
	wantIAMRefusal(t, "UpdateRole", err, 404, "NoSuchEntity", text)
	_, err = c.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: missing, PolicyDocument: aws.String(trustOwn)})
	wantIAMRefusal(t, "UpdateAssumeRolePolicy", err, 404, "NoSuchEntity", text)
	_, err = c.TagRole(t.Context(), &iam.TagRoleInput{RoleName: missing, Tags: []types.Tag{}})
	wantIAMRefusal(t, "TagRole", err, 404, "NoSuchEntity", text)
	_, err = c.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: missing, PolicyName: missing, PolicyDocument: aws.String(encryptAll)})
	wantIAMRefusal(t, "PutRolePolicy", err, 404, "NoSuchEntity", text)
	_, err = c.ListAttachedRolePolicies(t.Context(), &iam.ListAttachedRolePoliciesInput{RoleName: missing})
	wantIAMRefusal(t, "ListAttachedRolePolicies", err, 404, "NoSuchEntity", text)
}

func TestTrustPoliciesNameWhatExists(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	createRole(t, c, "trusted-role")
	if _, err := c.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("trusted-user"), Path: aws.String("/deep/")}); err != nil {
		t.Fatal(err)
	}
	provider, err := c.CreateOpenIDConnectProvider(t.Context(), &iam.CreateOpenIDConnectProviderInput{Url: aws.String("https://trusted.example.com")})
	if err != nil {
		t.Fatal(err)
	}
	tokens := *provider.OpenIDConnectProviderArn
	const bySubject = `,"Condition":{"StringEquals":{"trusted.example.com:sub":"system:serviceaccount:a:b"}}`
	foreign := strings.Replace(tokens, own, other, 1)
	iamARN := "arn:aws:iam::" + own
	for what, r := range map[string]struct{ document, message string }{
		"an account":                     {trusting(`{"AWS":"` + other + `"}`), ""},
		"a user":                         {trusting(`{"AWS":"` + iamARN + `:user/deep/trusted-user"}`), ""},
		"a role":                         {trusting(`{"AWS":"` + iamARN + `:role/trusted-role"}`), ""},
		"a session":                      {trusting(`{"AWS":"arn:aws:sts::` + own + `:assumed-role/trusted-role/s"}`), ""},
		"a service":                      {trusting(`{"Service":"ec2.amazonaws.com"}`), ""},
		"a provider":                     {trustingTokens(tokens, bySubject), ""},
		"an unknown account":             {trusting(`{"AWS":"999999999999"}`), `Invalid principal in policy: "AWS":"arn:aws:iam::999999999999:root"`},
		"an unknown user":                {trusting(`{"AWS":"` + iamARN + `:user/nobody"}`), `Invalid principal in policy: "AWS":"` + iamARN + `:user/nobody"`},
		"a user by another path":         {trusting(`{"AWS":"` + iamARN + `:user/trusted-user"}`), `Invalid principal in policy: "AWS":"` + iamARN + `:user/trusted-user"`},
		"a session of no role":           {trusting(`{"AWS":"arn:aws:sts::` + own + `:assumed-role/none/s"}`), `Invalid principal in policy: "AWS":"arn:aws:sts::` + own + `:assumed-role/none/s"`},
		"a federated user":               {trusting(`{"AWS":"arn:aws:sts::` + own + `:federated-user/f"}`), `Invalid principal in policy: "AWS":"arn:aws:sts::` + own + `:federated-user/f"`},
		"another account's provider":     {trustingTokens(foreign, bySubject), `Invalid principal in policy: "FEDERATED":"` + foreign + `"`},
		"an unknown provider":            {trustingTokens(tokens+"/x", strings.Replace(bySubject, ".com:sub", ".com/x:sub", 1)), `Invalid principal in policy: "FEDERATED":"` + tokens + `/x"`},
		"a provider without a subject":   {trustingTokens(tokens, ""), "*"},
		"a document with a resource":     {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Resource":"*"}]}`, "*"},
		"a document without a principal": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole"}]}`, "*"},
		"no document":                    {`{`, "*"},
	} {
		_, err := c.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: aws.String("trusted-role"), PolicyDocument: &r.document})
		_, err2 := c.CreateRole(t.Context(), &iam.CreateRoleInput{
			RoleName: aws.String("trusting-" + strings.ReplaceAll(strings.ReplaceAll(what, " ", "-"), "'", "")), AssumeRolePolicyDocument: &r.document,
		})
		for _, err := range []error{err, err2} {
			if r.message != "" {
				wantIAMRefusal(t, what, err, 400, "MalformedPolicyDocument", strings.TrimSuffix(r.message, "*"))
			} else if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func TestRolePoliciesAndTags(t *testing.T) {
	t.Parallel()
	c := gateway(t).roleClient(own)
	role := aws.String("role-with-policies")
	createRole(t, c, *role)
	for _, name := range []string{"one", "two", "three"} {
		if _, err := c.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: role, PolicyName: &name, PolicyDocument: aws.String(encryptAll)}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.GetRolePolicy(t.Context(), &iam.GetRolePolicyInput{RoleName: role, PolicyName: aws.String("two")})
	if err != nil || *got.RoleName != *role || *got.PolicyName != "two" || *got.PolicyDocument == encryptAll || decoded(t, got.PolicyDocument) != encryptAll {
		t.Errorf("GetRolePolicy: %+v, %v", got, err)
	}
	page := &iam.ListRolePoliciesInput{RoleName: role, MaxItems: aws.Int32(2)}
	first, err := c.ListRolePolicies(t.Context(), page)
	if err != nil || !slices.Equal(first.PolicyNames, []string{"one", "three"}) || !first.IsTruncated {
		t.Fatalf("first page: %+v, %v", first, err)
	}
	page.Marker = first.Marker
	second, err := c.ListRolePolicies(t.Context(), page)
	if err != nil || !slices.Equal(second.PolicyNames, []string{"two"}) || second.IsTruncated || second.Marker != nil {
		t.Errorf("second page: %+v, %v", second, err)
	}
	_, err = c.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: role, PolicyName: role, PolicyDocument: aws.String(trustOwn)})
	wantIAMRefusal(t, "a document with a principal", err, 400, "MalformedPolicyDocument", "")
	large := strings.Replace(encryptAll, `"*"`, `"arn:aws:kms:us-east-1:`+own+`:key/`+strings.Repeat("x", 10240)+`"`, 1)
	_, err = c.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: role, PolicyName: role, PolicyDocument: &large})
	wantIAMRefusal(t, "a large document", err, 409, "LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role role-with-policies")
	_, err = c.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: role})
	wantIAMRefusal(t, "DeleteRole", err, 409, "DeleteConflict", "Cannot delete entity, must delete policies first.")
	for _, name := range []string{"one", "two", "three"} {
		if _, err := c.DeleteRolePolicy(t.Context(), &iam.DeleteRolePolicyInput{RoleName: role, PolicyName: &name}); err != nil {
			t.Error(err)
		}
	}
	_, err = c.DeleteRolePolicy(t.Context(), &iam.DeleteRolePolicyInput{RoleName: role, PolicyName: aws.String("one")})
	wantIAMRefusal(t, "DeleteRolePolicy again", err, 404, "NoSuchEntity", "The role policy with name one cannot be found.")

	tag := func(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }
	_, err1 := c.TagRole(t.Context(), &iam.TagRoleInput{RoleName: role, Tags: []types.Tag{tag("a", "1"), tag("b", "2")}})
	_, err2 := c.TagRole(t.Context(), &iam.TagRoleInput{RoleName: role, Tags: []types.Tag{tag("b", "3"), tag("c", "")}})
	_, err3 := c.UntagRole(t.Context(), &iam.UntagRoleInput{RoleName: role, TagKeys: []string{"a", "none"}})
	tags, err4 := c.ListRoleTags(t.Context(), &iam.ListRoleTagsInput{RoleName: role})
	if err := errors.Join(err1, err2, err3, err4); err != nil || len(tags.Tags) != 2 || *tags.Tags[0].Key != "b" || *tags.Tags[0].Value != "3" || *tags.Tags[1].Key != "c" {
		t.Errorf("tags: %+v, %v", tags, err)
	}
	if _, err := c.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: role}); err != nil {
		t.Errorf("DeleteRole with tags: %v", err)
	}
}
