package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"

	"kmsgate/metadata"
)

// unread is what the calls of TestWhatIsNotReadRefuses are about.
type unread struct {
	key, role, token string
	retired          string // grant that the account may retire
	material         object
}

// newUnread makes it: users who may something by each kind of policy, sessions of
// both kinds, and what else calls have read.
func (f *fixture) newUnread(t *testing.T) *unread {
	t.Helper()
	u := new(unread)
	f.addUser(t, account1, "alice", identityPolicy("Allow", "*", "*"))
	bob := f.addUser(t, account1, "bob", "")
	u.role = f.addRole(t, "lister", trustAccount("sts:AssumeRole"), mayList)
	keys := metadata.ManagedPolicy{Account: account1, Name: "keys", Path: "/", ID: "ANPAKEYS", Document: mayList, CreatedAt: f.now()}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error { return tx.InsertManagedPolicy(ctx, keys) })
	f.mustAssume(t, "alice", u.role, "session", func(in *awssts.AssumeRoleInput) {
		in.PolicyArns = []types.PolicyDescriptorType{{Arn: aws.String(keys.ARN())}}
	})
	u.role = f.addRole(t, "shop", trustServiceAccount, mayList)
	u.token = f.addIssuer(t).token(t, serviceAccount, f.now())
	made, _ := f.ask(t, account1, "CreateKey", object{}, "")["KeyMetadata"].(object)
	u.key, _ = made["Arn"].(string)
	f.ask(t, account1, "CreateAlias", object{"AliasName": "alias/unread", "TargetKeyId": u.key}, "")
	f.grant(t, account1, u.key, bob, nil, "DescribeKey")
	u.retired, _ = f.grant(t, account1, u.key, bob, object{"Constraints": object{"EncryptionContextEquals": object{"a": "b"}}}, "Decrypt")
	external := f.external(t)
	u.material = f.wrapped(t, external, []byte(strings.Repeat("m", 32)), nil)
	return u
}

// asks is a call of KMS, whose error code it returns; empty for none.
func asks(caller, operation string, in func(*unread) object) func(*testing.T, *fixture, *unread) string {
	return func(t *testing.T, f *fixture, u *unread) string {
		t.Helper()
		body, err := json.Marshal(in(u))
		if err != nil {
			t.Fatal(err)
		}
		a, err := f.call(t.Context(), caller, operation, string(body))
		if err != nil {
			t.Fatal(err)
		}
		if a.code != "" && strings.Contains(a.body, "Blob") {
			t.Errorf("%s has failed and has an answer: %s", operation, a.body)
		}
		return a.code
	}
}

// exchanges has the token of a web identity exchanged.
func exchanges(t *testing.T, f *fixture, u *unread) string {
	t.Helper()
	_, err := f.exchange(t, u.role, u.token)
	if refusal, ok := errors.AsType[smithy.APIError](err); ok {
		return refusal.ErrorCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return ""
}

// formed is a call of IAM or STS by the account's root.
func formed(service, form string) func(*testing.T, *fixture, *unread) string {
	return func(t *testing.T, f *fixture, _ *unread) string {
		t.Helper()
		a := f.form(t, account1, service, globalRegion, form)
		_, rest, failed := strings.Cut(a.body, "<Code>")
		if !failed {
			return ""
		}
		code, _, _ := strings.Cut(rest, "<")
		return code
	}
}

// unreadCase is a call that fails after one statement and succeeds after another.
type unreadCase struct {
	spoil, mend string
	call        func(*testing.T, *fixture, *unread) string
	after       string // code once all is there again; empty for success
}

// row makes a case of what spoils and mends.
func row(spoil, mend string) func(func(*testing.T, *fixture, *unread) string) unreadCase {
	return func(call func(*testing.T, *fixture, *unread) string) unreadCase {
		return unreadCase{spoil, mend, call, ""}
	}
}

// policyFor is a key policy that lets one principal do everything, and the account.
func policyFor(principal string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["` + account1 + `","` + principal + `"]},"Action":"kms:*","Resource":"*"}]}`
}

func nothingOf(*unread) object { return object{} }

func itsKey(u *unread) object { return object{"KeyId": u.key} }

// gone takes a table away.
func gone(table string) (spoil, mend string) {
	return "ALTER TABLE " + table + " RENAME TO gone", "ALTER TABLE gone RENAME TO " + table
}

// malformed makes documents malformed.
func malformed(table, column, where string) (spoil, mend string) {
	update := "UPDATE " + table + " SET " + column + " = "
	return update + column + " || '}' WHERE " + where, update + "left(" + column + ", -1) WHERE " + where
}

// flipped flips a bit of what is sealed.
func flipped(table, column string) (spoil, mend string) {
	flip := "UPDATE " + table + " SET " + column + " = set_byte(" + column + ", 40, get_byte(" + column + ", 40) # 1)"
	return flip, flip
}

// withoutBoundary lets alice have a permissions boundary that is not there.
func withoutBoundary() (spoil, mend string) {
	return "UPDATE principals SET boundary = 'arn:aws:iam::" + account1 + ":policy/gone' WHERE name = 'alice'", "UPDATE principals SET boundary = NULL"
}

// unreadCallers are what is read to know who calls, and what they may.
func unreadCallers() map[string]unreadCase {
	lists := asks("alice", "ListKeys", nothingOf)
	return map[string]unreadCase{
		"access keys":             row(gone("access_keys"))(lists),
		"secret of an access key": row(flipped("access_keys", "sealed_secret"))(lists),
		"users":                   row(gone("principals"))(lists),
		"policies of users":       row(gone("principal_policies"))(lists),
		"groups":                  row(gone("group_members"))(lists),
		"attached policies":       row(gone("policy_attachments"))(lists),
		"managed policies":        row(gone("managed_policies"))(lists),
		"tags of users":           row(gone("principal_tags"))(lists),
		"a policy of a user":      row(malformed("principal_policies", "document", "name = 'alice'"))(lists),
		"a boundary":              row(withoutBoundary())(lists),
		"session keys":            row(gone("session_keys"))(asks("session", "ListKeys", nothingOf)),
		"a session key":           row(flipped("session_keys", "sealed"))(asks("session", "ListKeys", nothingOf)),
		"a policy of a session":   row(malformed("managed_policies", "document", "true"))(asks("session", "ListKeys", nothingOf)),
		"providers":               row(gone("oidc_providers"))(exchanges),
		"keys of a provider":      row(malformed("oidc_providers", "jwks", "true"))(exchanges),
		"a trust policy":          row(malformed("principals", "trust", "name = 'shop'"))(exchanges),
		"roles":                   row(gone("principals"))(exchanges),
		"session keys to seal":    row(gone("session_keys"))(exchanges),
	}
}

// unreadTargets are what is read of what a call is about, and what is written.
func unreadTargets() map[string]unreadCase {
	refused := row(gone("refusals"))(asks("bob", "Encrypt", func(u *unread) object { return object{"KeyId": u.key, "Plaintext": "AAAA"} }))
	refused.after = string(denied)
	return map[string]unreadCase{
		"keys":                  row(gone("keys"))(asks(account1, "DescribeKey", itsKey)),
		"key policies":          row(gone("policies"))(asks(account1, "DescribeKey", itsKey)),
		"a key policy":          row(malformed("policies", "document", "true"))(asks(account1, "DescribeKey", itsKey)),
		"aliases":               row(gone("aliases"))(asks(account1, "DescribeKey", func(*unread) object { return object{"KeyId": "alias/unread"} })),
		"grants":                row(gone("grants"))(asks("bob", "DescribeKey", itsKey)),
		"a grant to be retired": row(gone("grants"))(asks(account1, "RetireGrant", func(u *unread) object { return object{"KeyId": u.key, "GrantId": u.retired} })),
		"import parameters":     row(gone("import_parameters"))(asks(account1, "ImportKeyMaterial", func(u *unread) object { return u.material })),
		"principals of a policy": row(gone("principals"))(asks(account1, "PutKeyPolicy", func(u *unread) object {
			return object{"KeyId": u.key, "Policy": policyFor("arn:aws:iam::" + account1 + ":user/alice")}
		})),
		"a grantee": row(gone("principals"))(asks(account1, "CreateGrant", func(u *unread) object {
			return object{"KeyId": u.key, "GranteePrincipal": "arn:aws:iam::" + account1 + ":user/bob", "Operations": []string{"Decrypt"}}
		})),
		"a user that is a target":  row(gone("principals"))(formed("iam", iamForm+"GetUser&UserName=bob")),
		"a policy that is one":     row(gone("managed_policies"))(formed("iam", iamForm+"GetPolicy&PolicyArn=arn:aws:iam::"+account1+":policy/keys")),
		"a provider that is one":   row(gone("oidc_providers"))(formed("iam", iamForm+"GetOpenIDConnectProvider&OpenIDConnectProviderArn=arn:aws:iam::"+account1+":oidc-provider/OIDC.example.com/c1")),
		"the outbox of the record": row(gone("audit_outbox"))(asks(account1, "GenerateDataKey", func(u *unread) object { return object{"KeyId": u.key, "NumberOfBytes": 32} })),
		"the outbox of a change":   row(gone("audit_outbox"))(formed("iam", iamForm+"CreateUser&UserName=carol")),
		"the outbox of a session":  row(gone("audit_outbox"))(exchanges),
		"why it was refused":       refused,
	}
}

// TestWhatIsNotReadRefuses has an instance that knows nothing yet meet a database in
// which something cannot be read or written, or is no longer what was stored: the
// call fails inside. It ends as it should once all is there again.
func TestWhatIsNotReadRefuses(t *testing.T) {
	f := newFixture(t, nil)
	u := f.newUnread(t)
	cases := unreadCallers()
	maps.Copy(cases, unreadTargets())
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cold := f.another(t, nil)
			f.database.Exec(t, tc.spoil)
			code := tc.call(t, cold, u)
			f.database.Exec(t, tc.mend)
			if code != "KMSInternalException" && code != "InternalFailure" {
				t.Errorf("the call ends with %q, want an internal error", code)
			}
			if code := tc.call(t, f.another(t, nil), u); code != tc.after {
				t.Errorf("the call ends with %q when all is there again, want %q", code, tc.after)
			}
			cold.wantIdle(t)
		})
	}
}
