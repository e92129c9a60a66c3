package integration_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

const (
	lockoutText    = "The new key policy will not allow you to update the key policy in the future."
	principalsText = "Policy contains a statement with one or more invalid principals."
)

// defaultPolicy is what CreateKey gives a key without a policy, byte for byte.
const defaultPolicy = "{\n  \"Version\" : \"2012-10-17\",\n  \"Id\" : \"key-default-1\",\n  \"Statement\" : [ {\n    \"Sid\" : \"Enable IAM User Permissions\",\n    \"Effect\" : \"Allow\",\n    \"Principal\" : {\n      \"AWS\" : \"arn:aws:iam::" + own + ":root\"\n    },\n    \"Action\" : \"kms:*\",\n    \"Resource\" : \"*\"\n  } ]\n}"

// statement is a statement of a key policy for an account's root.
func statement(effect, account, action string) m {
	return m{"Effect": effect, "Principal": m{"AWS": rootOf(account)}, "Action": action, "Resource": "*"}
}

// document is a key policy as text.
func document(t testing.TB, statements ...m) string {
	t.Helper()
	text, err := json.Marshal(m{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// putPolicy replaces the policy of a key.
func (i *instance) putPolicy(t testing.TB, account, key string, statements ...m) {
	t.Helper()
	i.mustCall(t, account, "PutKeyPolicy", m{"KeyId": key, "Policy": document(t, statements...)})
}

func denied(account, action, where string) string {
	return "User: " + rootOf(account) + " is not authorized to perform: kms:" + action + " on " + where
}

// because are the grounds of a denial.
const (
	noPolicyAllows = " because no resource-based policy allows the kms:"
	policyDenies   = " with an explicit deny in a resource-based policy"
	hidden         = " because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"
)

func TestKeyPolicies(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	c := g.newClient(own)
	key := g.createKey(t, own)
	for _, name := range []*string{nil, aws.String("default")} {
		got, err := c.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: name})
		if err != nil {
			t.Fatal(err)
		}
		c.wantMembers(t, "Policy", "PolicyName")
		if *got.Policy != defaultPolicy || *got.PolicyName != "default" {
			t.Errorf("policy %q\n%s\nwant default\n%s", *got.PolicyName, *got.Policy, defaultPolicy)
		}
	}
	list, err := c.ListKeyPolicies(t.Context(), &kms.ListKeyPoliciesInput{KeyId: aws.String(idOf(key)), Limit: aws.Int32(1)})
	if err != nil || len(list.PolicyNames) != 1 || list.PolicyNames[0] != "default" || list.Truncated {
		t.Errorf("ListKeyPolicies = %+v, %v; want default alone", list, err)
	}
	c.wantMembers(t, "PolicyNames", "Truncated")
	for _, operation := range []string{"GetKeyPolicy", "PutKeyPolicy"} {
		in := minimal(operation, key)
		in["PolicyName"] = "another"
		g.refused(t, own, operation, in, "NotFoundException", "No such policy exists")
	}
	// Members come back in the order in which they were written.
	text := `{"Statement":{"Resource":"*","Action":["kms:*"],"Principal":{"AWS":["` + own + `"]},"Effect":"Allow","Sid":"a b"},"Version":"2012-10-17"}`
	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, Policy: &text})
	c.wantEmpty(t, err)
	want := "{\n  \"Statement\" : {\n    \"Resource\" : \"*\",\n    \"Action\" : [ \"kms:*\" ],\n    \"Principal\" : {\n      \"AWS\" : [ \"" + own + "\" ]\n    },\n    \"Effect\" : \"Allow\",\n    \"Sid\" : \"a b\"\n  },\n  \"Version\" : \"2012-10-17\"\n}"
	if got := g.mustCall(t, own, "GetKeyPolicy", m{"KeyId": key})["Policy"]; got != want {
		t.Errorf("policy\n%s\nwant\n%s", got, want)
	}
	// A key can be made with a policy of its own.
	made := g.mustCall(t, own, "CreateKey", m{"Policy": document(t, statement("Allow", own, "kms:*"), statement("Deny", own, "kms:Encrypt"))})["KeyMetadata"].(m)["Arn"].(string)
	g.refused(t, own, "Encrypt", m{"KeyId": made, "Plaintext": "AA=="}, "AccessDeniedException", denied(own, "Encrypt", "resource: "+made)+policyDenies)
	g.mustCall(t, own, "GenerateDataKey", m{"KeyId": made, "NumberOfBytes": 1})
}

func TestPolicyDecides(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key, second := g.createKey(t, own), g.createKey(t, own)
	blob := g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA==", "EncryptionContext": m{"a": "b"}})["CiphertextBlob"]
	decrypt := m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "b"}}
	all := statement("Allow", own, "kms:*")

	g.putPolicy(t, own, key, all, statement("Deny", own, "kms:Decrypt"))
	const byCiphertext = "the resource associated with this ciphertext"
	g.refused(t, own, "Decrypt", decrypt, "AccessDeniedException", denied(own, "Decrypt", byCiphertext)+policyDenies)
	decrypt["KeyId"] = key
	g.refused(t, own, "Decrypt", decrypt, "AccessDeniedException", denied(own, "Decrypt", "resource: "+key)+policyDenies)
	decrypt["DryRun"] = true
	g.refused(t, own, "Decrypt", decrypt, "AccessDeniedException", denied(own, "Decrypt", "resource: "+key)+policyDenies)
	g.mustCall(t, own, "ReEncrypt", m{"CiphertextBlob": blob, "SourceEncryptionContext": m{"a": "b"}, "DestinationKeyId": second})

	// The two sides of ReEncrypt are two decisions.
	g.putPolicy(t, own, key, all, statement("Deny", own, "kms:ReEncryptFrom"))
	reEncrypt := m{"CiphertextBlob": blob, "SourceKeyId": key, "SourceEncryptionContext": m{"a": "b"}, "DestinationKeyId": second}
	g.refused(t, own, "ReEncrypt", reEncrypt, "AccessDeniedException", denied(own, "ReEncryptFrom", "resource: "+key)+policyDenies)
	g.putPolicy(t, own, key, all)
	g.putPolicy(t, own, second, statement("Allow", own, "kms:PutKeyPolicy"))
	g.refused(t, own, "ReEncrypt", reEncrypt, "AccessDeniedException", denied(own, "ReEncryptTo", "resource: "+second)+noPolicyAllows+"ReEncryptTo action")
	g.putPolicy(t, own, second, all)
	g.mustCall(t, own, "ReEncrypt", reEncrypt)

	// Conditions are judged by the request: context, algorithm, alias.
	condition := statement("Allow", own, "kms:Decrypt")
	condition["Condition"] = m{"StringEquals": m{"kms:EncryptionContext:a": "b", "kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}}
	g.putPolicy(t, own, key, condition, statement("Allow", own, "kms:PutKeyPolicy"))
	g.mustCall(t, own, "Decrypt", m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "b"}})
	g.refused(t, own, "Decrypt", m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "c"}}, "AccessDeniedException", denied(own, "Decrypt", byCiphertext)+noPolicyAllows+"Decrypt action")

	// Authorisation comes before state and usage.
	g.mustCall(t, own, "DisableKey", m{"KeyId": second})
	g.putPolicy(t, own, second, all, statement("Deny", own, "kms:Encrypt"))
	g.refused(t, own, "Encrypt", m{"KeyId": second, "Plaintext": "AA=="}, "AccessDeniedException", denied(own, "Encrypt", "resource: "+second)+policyDenies)

	// Aliases ask the policies of the keys that they point to, before and after.
	g.putPolicy(t, own, key, all, statement("Deny", own, "kms:CreateAlias"), statement("Deny", own, "kms:UpdateAlias"), statement("Deny", own, "kms:DeleteAlias"))
	alias := "alias/policy-" + idOf(key)
	g.refused(t, own, "CreateAlias", m{"AliasName": alias, "TargetKeyId": key}, "AccessDeniedException", denied(own, "CreateAlias", "resource: "+key)+policyDenies)
	g.mustCall(t, own, "CreateAlias", m{"AliasName": alias, "TargetKeyId": second})
	g.refused(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": key}, "AccessDeniedException", denied(own, "UpdateAlias", "resource: "+key)+policyDenies)
	g.putPolicy(t, own, key, all)
	g.mustCall(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": key})
	g.putPolicy(t, own, key, all, statement("Deny", own, "kms:UpdateAlias"), statement("Deny", own, "kms:DeleteAlias"))
	g.refused(t, own, "UpdateAlias", m{"AliasName": alias, "TargetKeyId": second}, "AccessDeniedException", denied(own, "UpdateAlias", "resource: "+key)+policyDenies)
	g.refused(t, own, "DeleteAlias", m{"AliasName": alias}, "AccessDeniedException", denied(own, "DeleteAlias", "resource: "+key)+policyDenies)
}

// Every operation on a key asks its policy, under its own name.
func TestPolicyIsAskedByEveryOperation(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	for _, operation := range append(append([]string{}, aForms...), kForms...) {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			key := g.createKey(t, own)
			if operation != "PutKeyPolicy" {
				g.putPolicy(t, own, key, statement("Allow", own, "kms:*"), statement("Deny", own, "kms:"+operation))
			} else {
				g.mustCall(t, own, operation, m{"KeyId": key, "BypassPolicyLockoutSafetyCheck": true, "Policy": document(t, statement("Allow", own, "kms:*"), statement("Deny", own, "kms:"+operation))})
			}
			g.refused(t, own, operation, minimal(operation, key), "AccessDeniedException", denied(own, operation, "resource: "+key)+policyDenies)
		})
	}
}

func TestPolicyLockout(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	never := statement("Allow", own, "kms:*")
	never["Condition"] = m{"StringEquals": m{"kms:CallerAccount": other}}
	for name, statements := range map[string][]m{
		"nothing for the caller":     {statement("Allow", own, "kms:Encrypt")},
		"denied":                     {statement("Allow", own, "kms:*"), statement("Deny", own, "kms:Put*")},
		"for another account":        {statement("Allow", other, "kms:*")},
		"under another condition":    {never},
		"for a service":              {{"Effect": "Allow", "Principal": m{"Service": "s3.amazonaws.com"}, "Action": "kms:*", "Resource": "*"}},
		"a statement without Action": {{"Effect": "Allow", "Principal": "*", "Resource": "*"}},
	} {
		t.Run(name, func(t *testing.T) {
			g.refused(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": document(t, statements...)}, "MalformedPolicyDocumentException", lockoutText)
			g.refused(t, own, "CreateKey", m{"Policy": document(t, statements...)}, "MalformedPolicyDocumentException", lockoutText)
			g.refused(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": document(t, statements...), "BypassPolicyLockoutSafetyCheck": false}, "MalformedPolicyDocumentException", lockoutText)
			if got := g.mustCall(t, own, "GetKeyPolicy", m{"KeyId": key})["Policy"]; got != defaultPolicy {
				t.Errorf("a policy that was refused is in force: %s", got)
			}
		})
	}
	// On request it locks its author out, and for good.
	locked := g.mustCall(t, own, "CreateKey", m{"Policy": document(t, statement("Allow", own, "kms:Encrypt")), "BypassPolicyLockoutSafetyCheck": true})["KeyMetadata"].(m)["Arn"].(string)
	g.mustCall(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": document(t, statement("Allow", own, "kms:Encrypt")), "BypassPolicyLockoutSafetyCheck": true})
	for _, key := range []string{locked, key} {
		for _, bypass := range []bool{false, true} {
			g.refused(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": defaultPolicy, "BypassPolicyLockoutSafetyCheck": bypass}, "AccessDeniedException",
				denied(own, "PutKeyPolicy", "resource: "+key)+noPolicyAllows+"PutKeyPolicy action")
		}
		g.mustCall(t, own, "Encrypt", m{"KeyId": key, "Plaintext": "AA=="})
		g.refused(t, own, "DescribeKey", m{"KeyId": key}, "AccessDeniedException", denied(own, "DescribeKey", "resource: "+key)+noPolicyAllows+"DescribeKey action")
	}
}

func TestPolicyDocumentRefusals(t *testing.T) {
	t.Parallel()
	g := gateway(t)
	key := g.createKey(t, own)
	wrap := func(statement string) string { return `{"Version":"2012-10-17","Statement":[` + statement + `]}` }
	principal := func(p string) string {
		return wrap(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},{"Effect":"Allow","Principal":` + p + `,"Action":"kms:*","Resource":"*"}`)
	}
	for _, tc := range []struct {
		name, document string
		message        string // empty: not recorded
	}{
		{"not JSON", "nonsense", ""},
		{"a list", "[]", ""},
		{"cut off", defaultPolicy[:len(defaultPolicy)-1], ""},
		{"more behind it", defaultPolicy + "{}", ""},
		{"no statement", `{"Version":"2012-10-17"}`, ""},
		{"unknown element", `{"Version":"2012-10-17","Statements":[]}`, ""},
		{"unknown version", strings.Replace(defaultPolicy, "2012-10-17", "2013-10-17", 1), ""},
		{"unknown effect", strings.Replace(defaultPolicy, `"Allow"`, `"Permit"`, 1), ""},
		{"no principal", wrap(`{"Effect":"Allow","Action":"kms:*","Resource":"*"}`), ""},
		{"duplicate element", wrap(`{"Effect":"Allow","Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}`), ""},
		{"unknown operator", wrap(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringSame":{"a":"b"}}}`), ""},
		{"unknown account", principal(`{"AWS":"999999999999"}`), principalsText},
		{"root of an unknown account", principal(`{"AWS":["arn:aws:iam::999999999999:root"]}`), principalsText},
		{"unknown user", principal(`{"AWS":"arn:aws:iam::` + own + `:user/nobody"}`), principalsText},
		{"group", principal(`{"AWS":"arn:aws:iam::` + own + `:group/g"}`), principalsText},
		{"wildcard in an ARN", principal(`{"AWS":"arn:aws:iam::*:root"}`), principalsText},
		{"id of a deleted principal", principal(`{"AWS":"AIDAQ3EGQEXAMPLEABCD"}`), principalsText},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, in := range []struct {
				operation string
				in        m
			}{{"PutKeyPolicy", m{"KeyId": key, "Policy": tc.document}}, {"CreateKey", m{"Policy": tc.document}}} {
				a := g.call(t, own, in.operation, in.in)
				body := a.object(t)
				if a.status != 400 || body["__type"] != "MalformedPolicyDocumentException" || tc.message != "" && body["message"] != tc.message {
					t.Errorf("%s: %d %s, want MalformedPolicyDocumentException %s", in.operation, a.status, a.body, tc.message)
				}
			}
		})
	}
	large := strings.Replace(defaultPolicy, "key-default-1", strings.Repeat("x", 32769), 1)
	g.refused(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": large}, "LimitExceededException", "The key policy must not be larger than 32768 bytes.")
	g.refused(t, own, "CreateKey", m{"Policy": large}, "LimitExceededException", "The key policy must not be larger than 32768 bytes.")
	failed := "1 validation error detected: Value '%' at 'policy' failed to satisfy constraint: Member must "
	for value, constraint := range map[string]string{
		"":                          `have length greater than or equal to 1; Value '' at 'policy' failed to satisfy constraint: Member must satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+`,
		"\u0100":                    `satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+`,
		strings.Repeat("x", 131073): "have length less than or equal to 131072",
	} {
		want := strings.Replace(failed+constraint, "%", value, 1)
		if value == "" {
			want = strings.Replace(want, "1 validation error ", "2 validation errors ", 1)
		}
		g.refused(t, own, "PutKeyPolicy", m{"KeyId": key, "Policy": value}, "ValidationException", want)
	}
	if got := g.mustCall(t, own, "GetKeyPolicy", m{"KeyId": key})["Policy"]; got != defaultPolicy {
		t.Errorf("a policy that was refused is in force: %s", got)
	}
}
