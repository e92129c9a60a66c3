package gateway

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/identity"
	"kmsgate/gateway/session"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
	"kmsgate/policy"
)

var factTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Callers of the tests of facts.
var (
	factUser = identity.Caller{
		Kind: policy.User, Account: account1, ARN: "arn:aws:iam::" + account1 + ":user/a/u", UserID: "AIDA1", AccessKeyID: "AKIA1",
		Entry: &metadata.PrincipalEntry{
			Principal: metadata.Principal{Account: account1, Kind: metadata.User, Name: "u", Path: "/a/", ID: "AIDA1", Boundary: "b"},
			Tags:      []metadata.Tag{{Key: "Team", Value: "red"}},
		},
	}
	factSession = identity.Caller{
		Kind: policy.RoleSession, Account: account1, ARN: "arn:aws:sts::" + account1 + ":assumed-role/r/s", UserID: "AROA1:s",
		Entry: &metadata.PrincipalEntry{
			Principal: metadata.Principal{Account: account1, Kind: metadata.Role, Name: "r", Path: "/a/", ID: "AROA1"},
			Tags:      []metadata.Tag{{Key: "Team", Value: "red"}, {Key: "cost", Value: "1"}},
		},
		Session: &session.Claims{
			IssuedAt: factTime, Provider: "arn:aws:iam::" + account1 + ":oidc-provider/Issuer.example/x", Subject: "sub", Audience: "aud",
			SourceIdentity: "jo", Tags: map[string]string{"team": "blue"},
		},
	}
	factWeb = identity.Caller{
		Kind: policy.WebIdentity, Account: account1, ARN: "arn:aws:iam::" + account1 + ":oidc-provider/issuer", UserID: "issuer:aud:sub",
	}
)

func TestFactsOfCallers(t *testing.T) {
	t.Parallel()
	always := map[string]string{"aws:principalisawsservice": "false"}
	for name, tc := range map[string]struct {
		caller identity.Caller
		want   map[string]string
	}{
		"root": {identity.Root(account1, "AKIA0"), map[string]string{
			"aws:principalaccount": account1, "aws:principalarn": "arn:aws:iam::" + account1 + ":root", "aws:principaltype": "Account",
			"aws:userid": account1,
		}},
		"user": {factUser, map[string]string{
			"aws:principalaccount": account1, "aws:principalarn": factUser.ARN, "aws:principaltype": "User", "aws:userid": "AIDA1",
			"aws:username": "u", "aws:principaltag/team": "red",
		}},
		"role session": {factSession, map[string]string{
			"aws:principalaccount": account1, "aws:principalarn": "arn:aws:iam::" + account1 + ":role/a/r", "aws:principaltype": "AssumedRole",
			"aws:userid": "AROA1:s", "aws:principaltag/team": "blue", "aws:principaltag/cost": "1",
			"aws:federatedprovider": factSession.Session.Provider, "aws:multifactorauthpresent": "false", "aws:sourceidentity": "jo",
			"aws:tokenissuetime": "2026-03-01T12:00:00Z", "issuer.example/x:sub": "sub", "issuer.example/x:aud": "aud",
		}},
		"web identity": {factWeb, map[string]string{
			"aws:federatedprovider": factWeb.ARN, "aws:userid": factWeb.UserID, "issuer:sub": "sub", "issuer:amr": "a b",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &call{caller: tc.caller, gateway: &Gateway{}}
			if tc.caller.Kind == policy.WebIdentity {
				c.claims = map[string][]string{"issuer:sub": {"sub"}, "issuer:amr": {"a", "b"}}
			}
			keys := slices.Collect(maps.Keys(callerFacts))
			keys = append(keys, "aws:principaltag/team", "aws:principaltag/cost", "aws:principaltag/none",
				"issuer:sub", "issuer:amr", "issuer:none", "issuer.example/x:sub", "issuer.example/x:aud", "issuer.example/x:none")
			maps.Copy(tc.want, always)
			if diff := cmp.Diff(tc.want, told(c.facts(nil, nil), keys)); diff != "" {
				t.Errorf("facts (-want +got):\n%s", diff)
			}
		})
	}
}

// told are the keys that a request has, with their values.
func told(facts policy.Context, keys []string) map[string]string {
	got := map[string]string{}
	for _, key := range keys {
		if values, ok := facts.Values(key); ok {
			slices.Sort(values)
			got[key] = strings.Join(values, " ")
		}
	}
	return got
}

// TestFactsOfRequests asks for every condition key that is not about the caller.
func TestFactsOfRequests(t *testing.T) {
	t.Parallel()
	key := &metadata.KeyEntry{
		Key: metadata.Key{
			Region: testRegion, ID: "k", Account: account1, Spec: keyspec.SymmetricDefault, Usage: keyspec.EncryptDecrypt, Origin: keyspec.AWSKMS,
		},
		Tags: []metadata.Tag{{Key: "A", Value: "1"}}, Aliases: []string{"alias/a", "alias/b"},
	}
	ofKey := map[string]string{
		"kms:keyspec": "SYMMETRIC_DEFAULT", "kms:customermasterkeyspec": "SYMMETRIC_DEFAULT", "kms:keyusage": "ENCRYPT_DECRYPT",
		"kms:customermasterkeyusage": "ENCRYPT_DECRYPT", "kms:keyorigin": "AWS_KMS", "kms:multiregion": "false",
		"kms:resourcealiases": "alias/a alias/b", "aws:resourcetag/a": "1", "iam:resourcetag/a": "1",
	}
	for name, tc := range map[string]struct {
		service   service
		operation string
		request   string // as JSON, by the names of the type's fields
		resource  resource
		want      []map[string]string // beside what every request has
	}{
		"Encrypt": {
			serviceKMS, "Encrypt", `{"EncryptionContext":{"Pur":"x","b":"y"}}`,
			resource{key: key, alias: "alias/a"},
			[]map[string]string{ofKey, {
				"kms:encryptionalgorithm": "SYMMETRIC_DEFAULT", "kms:encryptioncontextkeys": "Pur b", "kms:encryptioncontext:pur": "x",
				"kms:requestalias": "alias/a",
			}},
		},
		"CreateKey": {
			serviceKMS, "CreateKey", `{"KeySpec":"RSA_2048","KeyUsage":"SIGN_VERIFY","Origin":"AWS_KMS","BypassPolicyLockoutSafetyCheck":true,
				"Tags":[{"TagKey":"A","TagValue":"1"},{"TagKey":"b","TagValue":""}]}`,
			resource{},
			[]map[string]string{{
				"kms:keyspec": "RSA_2048", "kms:customermasterkeyspec": "RSA_2048", "kms:keyusage": "SIGN_VERIFY",
				"kms:customermasterkeyusage": "SIGN_VERIFY", "kms:keyorigin": "AWS_KMS", "kms:multiregion": "false",
				"kms:bypasspolicylockoutsafetycheck": "true", "aws:requesttag/a": "1", "aws:tagkeys": "A b",
			}},
		},
		"CreateKey of several Regions": {
			serviceKMS, "CreateKey", `{"MultiRegion":true}`,
			resource{},
			[]map[string]string{{"kms:multiregion": "true", "kms:multiregionkeytype": "PRIMARY"}},
		},
		"ReplicateKey": {
			serviceKMS, "ReplicateKey", `{"ReplicaRegion":"eu-west-1","Tags":[{"TagKey":"A","TagValue":"1"}]}`,
			resource{key: key},
			[]map[string]string{ofKey, {"kms:replicaregion": "eu-west-1", "aws:requesttag/a": "1", "aws:tagkeys": "A"}},
		},
		"ReplicateKey, of the key that is made": {
			serviceKMS, "ReplicateKey", `{"ReplicaRegion":"eu-west-1"}`,
			resource{target: &target{kind: onReplica}},
			[]map[string]string{{
				"aws:requestedregion": "eu-west-1", "kms:replicaregion": "eu-west-1", "kms:keyspec": "SYMMETRIC_DEFAULT",
				"kms:customermasterkeyspec": "SYMMETRIC_DEFAULT", "kms:keyusage": "ENCRYPT_DECRYPT",
				"kms:customermasterkeyusage": "ENCRYPT_DECRYPT", "kms:keyorigin": "AWS_KMS", "kms:multiregion": "true",
				"kms:multiregionkeytype": "REPLICA",
			}},
		},
		"UntagResource": {
			serviceKMS, "UntagResource", `{"TagKeys":["x"]}`, resource{key: key}, []map[string]string{ofKey, {"aws:tagkeys": "x"}},
		},
		"CreateGrant": {
			serviceKMS, "CreateGrant", `{"GranteePrincipal":"g","RetiringPrincipal":"r","Operations":["Encrypt","Decrypt"],
				"Constraints":{"EncryptionContextSubset":{"a":"b"},"SourceArn":"s"}}`,
			resource{key: key},
			[]map[string]string{ofKey, {
				"kms:granteeprincipal": "g", "kms:retiringprincipal": "r", "kms:grantoperations": "Decrypt Encrypt",
				"kms:grantconstrainttype": "EncryptionContextSubset", "kms:grantconstraintsourcearn": "s", "kms:grantisforawsresource": "false",
				"kms:encryptioncontext:a": "b", "kms:encryptioncontextkeys": "a",
			}},
		},
		"CreateGrant to a service": {
			serviceKMS, "CreateGrant", `{"GranteeServicePrincipal":"g","RetiringServicePrincipal":"r"}`,
			resource{key: key},
			[]map[string]string{ofKey, {
				"kms:granteeserviceprincipal": "g", "kms:retiringserviceprincipal": "r", "kms:grantisforawsresource": "false",
			}},
		},
		"RetireGrant": {
			serviceKMS, "RetireGrant", `{}`,
			resource{key: key, grant: &metadata.Grant{Constraints: policy.GrantConstraints{EncryptionContextEquals: map[string]string{"a": "b"}}}},
			[]map[string]string{ofKey, {
				"kms:grantconstrainttype": "EncryptionContextEquals", "kms:encryptioncontext:a": "b", "kms:encryptioncontextkeys": "a",
			}},
		},
		"ListGrants": {
			serviceKMS, "ListGrants", `{"GranteePrincipal":"g"}`, resource{key: key}, []map[string]string{ofKey, {"kms:grantisforawsresource": "false"}},
		},
		"ListRetirableGrants": {serviceKMS, "ListRetirableGrants", `{"RetiringPrincipal":"r"}`, resource{}, nil},
		"ListKeys":            {serviceKMS, "ListKeys", `{}`, resource{}, nil},
		"UpdateAlias, of the key that has the alias": {
			serviceKMS, "UpdateAlias", `{"AliasName":"alias/a"}`,
			resource{key: key, alias: "alias/a", target: &target{kind: onAliasTarget}},
			[]map[string]string{ofKey},
		},
		"AttachUserPolicy": {
			serviceIAM, "AttachUserPolicy", `{"PolicyArn":"p"}`,
			resource{entry: factUser.Entry},
			[]map[string]string{{"iam:policyarn": "p", "iam:permissionsboundary": "b", "iam:resourcetag/team": "red", "aws:resourcetag/team": "red"}},
		},
		"CreateUser": {
			serviceIAM, "CreateUser", `{"PermissionsBoundary":"c","Tags":[{"Key":"a","Value":"1"}]}`,
			resource{},
			[]map[string]string{{"iam:permissionsboundary": "c", "aws:requesttag/a": "1", "aws:tagkeys": "a"}},
		},
		"AssumeRole": {
			serviceSTS, "AssumeRole", `{"RoleSessionName":"s","ExternalId":"e","SourceIdentity":"i","DurationSeconds":900,
				"Tags":[{"Key":"a","Value":"1"}],"TransitiveTagKeys":["a"]}`,
			resource{entry: factSession.Entry},
			[]map[string]string{{
				"sts:rolesessionname": "s", "sts:externalid": "e", "sts:sourceidentity": "i", "sts:durationseconds": "900",
				"sts:transitivetagkeys": "a", "aws:requesttag/a": "1", "aws:tagkeys": "a", "aws:resourcetag/team": "red", "iam:resourcetag/team": "red",
			}},
		},
		"AssumeRole for as long as usual": {
			serviceSTS, "AssumeRole", `{}`, resource{}, []map[string]string{{"sts:durationseconds": "3600"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &call{
				caller: factUser, gateway: &Gateway{}, now: factTime, region: testRegion, op: routesOf(operations, refusals)[route{tc.service, tc.operation}],
				event: audit.Event{SourceIP: "192.0.2.1", UserAgent: "agent"}, referer: "page",
			}
			in := c.op.newRequest()
			if err := json.Unmarshal([]byte(tc.request), in); err != nil {
				t.Fatal(err)
			}
			r := tc.resource
			if r.target != nil && r.target.kind == onReplica {
				c.resources = []resource{{target: &c.op.targets[0], key: key}}
			}
			if r.target == nil {
				r.target = &c.op.targets[0]
			}
			want := map[string]string{
				"aws:currenttime": "2026-03-01T12:00:00Z", "aws:epochtime": "1772366400", "aws:requestedregion": testRegion,
				"aws:securetransport": "false", "aws:sourceip": "192.0.2.1", "aws:useragent": "agent", "aws:referer": "page", "aws:viaawsservice": "false",
				"kms:calleraccount": account1,
			}
			for _, more := range tc.want {
				maps.Copy(want, more)
			}
			keys := slices.Collect(maps.Keys(factsByKey))
			keys = slices.DeleteFunc(keys, func(key string) bool { return callerFacts[key] != nil })
			keys = append(keys, "kms:encryptioncontext:pur", "kms:encryptioncontext:a", "kms:encryptioncontext:none", "aws:requesttag/a",
				"aws:resourcetag/a", "iam:resourcetag/a", "aws:resourcetag/team", "iam:resourcetag/team", "aws:resourcetag/none", "x:none")
			if diff := cmp.Diff(want, told(c.facts(&r, in), keys)); diff != "" {
				t.Errorf("facts (-want +got):\n%s", diff)
			}
		})
	}
}
