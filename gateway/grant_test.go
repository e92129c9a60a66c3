package gateway

import (
	"context"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/identity"
	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/metadata/audit"
)

// object is a JSON object.
type object = map[string]any

// addUser makes a user with no policy, or one, and an access key; f.keys has it
// under the name, which no other user has. It returns the user's ARN.
func (f *fixture) addUser(t *testing.T, account, name, document string) string {
	t.Helper()
	user := metadata.Principal{
		Account: account, Kind: metadata.User, Name: name, Path: "/", CreatedAt: f.now(),
		ID: "AIDA" + strings.ToUpper(strings.ReplaceAll(uuid.NewString(), "-", ""))[:17],
	}
	key, secret, err := identity.NewAccessKey(t.Context(), f.engine, testStore, metadata.AccessKey{
		Account: account, User: name, Principal: user.ARN(), CreatedAt: f.now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		if err := tx.InsertPrincipal(ctx, user, nil); err != nil {
			return err
		}
		if document != "" {
			if err := tx.PutPrincipalPolicy(ctx, account, metadata.User, name, "p", document); err != nil {
				return err
			}
		}
		return tx.InsertAccessKey(ctx, key)
	})
	f.keys[name] = aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: string(secret)}
	return user.ARN()
}

// deleteUser removes a user that addUser made, and everything of it.
func (f *fixture) deleteUser(t *testing.T, account, name string) {
	t.Helper()
	f.changeIAM(t, func(ctx context.Context, tx *metadata.Tx) error {
		if err := tx.DeleteAccessKey(ctx, account, name, f.keys[name].AccessKeyID); err != nil {
			return err
		}
		return tx.DeletePrincipal(ctx, account, metadata.User, name)
	})
}

func (f *fixture) changeIAM(t *testing.T, change func(context.Context, *metadata.Tx) error) {
	t.Helper()
	event := audit.Event{
		Identity: audit.UserIdentity{Type: audit.Unknown}, Time: f.now(), Source: "iam.amazonaws.com", Name: "ChangeUser",
		Region: testRegion, SourceIP: "127.0.0.1", EventID: uuid.NewString(), Type: audit.ServiceEvent, RecipientAccount: account1,
	}
	err := f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return event.AppendJSON(nil), change(t.Context(), tx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask calls an operation as a user or an account's root and checks its error code;
// none is a success. It returns the answer's object, nil if it has none.
func (f *fixture) ask(t *testing.T, caller, operation string, in object, code kmsapi.Code) object {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.call(t.Context(), caller, operation, string(body))
	if err != nil {
		t.Fatal(err)
	}
	if a.code != string(code) {
		t.Errorf("%s %s by %s: %d %s, want %q", operation, body, caller, a.status, a.body, code)
	}
	var out object
	if a.body != "" {
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// grant makes a grant as an account's root or a user, with further members.
func (f *fixture) grant(t *testing.T, caller, key, grantee string, more object, operations ...string) (id, token string) {
	t.Helper()
	in := object{"KeyId": key, "GranteePrincipal": grantee, "Operations": operations}
	maps.Copy(in, more)
	out := f.ask(t, caller, "CreateGrant", in, "")
	id, _ = out["GrantId"].(string)
	token, _ = out["GrantToken"].(string)
	if err := checkGrantID(id); err != nil {
		t.Fatalf("CreateGrant: id %q", id)
	}
	return id, token
}

const denied = kmsapi.AccessDeniedException

func TestGrantsAllowAtOnceAndEndAtOnce(t *testing.T) {
	f := newFixture(t, nil)
	key, other := f.createKey(t, account1, "{}"), f.createKey(t, account1, "{}")
	alice := f.addUser(t, account1, "alice", "")
	bob := f.addUser(t, account2, "bob", "")
	f.addUser(t, account2, "carol", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*"}}`)
	encrypt := object{"KeyId": key, "Plaintext": "AA=="}

	f.ask(t, "alice", "Encrypt", encrypt, denied)
	id, token := f.grant(t, account1, key, alice, nil, "Encrypt", "DescribeKey")
	blob := f.ask(t, "alice", "Encrypt", encrypt, "")["CiphertextBlob"]
	f.ask(t, "alice", "DescribeKey", object{"KeyId": key}, "")
	f.ask(t, "alice", "Encrypt", object{"KeyId": other, "Plaintext": "AA=="}, denied)
	f.ask(t, "alice", "Decrypt", object{"CiphertextBlob": blob}, denied)
	f.ask(t, "alice", "Encrypt", object{"KeyId": key, "Plaintext": "AA==", "GrantTokens": []string{token}}, "")
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": id, "DryRun": true}, kmsapi.DryRunOperationException)
	f.ask(t, "alice", "Encrypt", encrypt, "")
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": id}, "")
	f.ask(t, "alice", "Encrypt", encrypt, denied)
	f.ask(t, "alice", "Encrypt", object{"KeyId": key, "Plaintext": "AA==", "GrantTokens": []string{token}}, denied)
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": id}, kmsapi.NotFoundException)

	// To another account, whose own policies decide who of it may; to a user of it,
	// who needs them too.
	f.ask(t, account2, "Encrypt", encrypt, denied)
	f.grant(t, account1, key, arn.Root(account2), nil, "Encrypt")
	f.ask(t, account2, "Encrypt", encrypt, "")
	f.ask(t, "carol", "Encrypt", encrypt, "")
	f.ask(t, "bob", "Encrypt", encrypt, denied)
	f.grant(t, account1, key, bob, nil, "Decrypt")
	f.ask(t, "carol", "Decrypt", object{"CiphertextBlob": blob}, denied)
}

func TestGrantConstraintsHold(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	equals, subset := f.addUser(t, account1, "equals", ""), f.addUser(t, account1, "subset", "")
	source := f.addUser(t, account1, "source", "")
	f.grant(t, account1, key, equals, object{"Constraints": object{"EncryptionContextEquals": object{"a": "1"}}}, "Encrypt", "DescribeKey")
	f.grant(t, account1, key, subset, object{"Constraints": object{"EncryptionContextSubset": object{"a": "1"}}}, "Encrypt")
	f.grant(t, account1, key, source, object{"Constraints": object{"SourceArn": "arn:aws:s3:::b"}}, "Encrypt", "DescribeKey")
	for _, c := range []struct {
		context        object
		equals, subset kmsapi.Code
	}{
		{nil, denied, denied},
		{object{"a": "1"}, "", ""},
		{object{"a": "1", "b": "2"}, denied, ""},
		{object{"a": "2"}, denied, denied},
		{object{"A": "1"}, denied, denied},
		{object{"b": "1"}, denied, denied},
	} {
		in := object{"KeyId": key, "Plaintext": "AA==", "EncryptionContext": c.context}
		f.ask(t, "equals", "Encrypt", in, c.equals)
		f.ask(t, "subset", "Encrypt", in, c.subset)
		f.ask(t, "source", "Encrypt", in, denied)
	}
	f.ask(t, "equals", "DescribeKey", object{"KeyId": key}, "")
	f.ask(t, "source", "DescribeKey", object{"KeyId": key}, denied)
}

// TestGrantsAreOfOneUserOnly gives a grant to a user whose name another has later.
func TestGrantsAreOfOneUserOnly(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	encrypt := object{"KeyId": key, "Plaintext": "AA=="}
	alice := f.addUser(t, account1, "alice", "")
	properties := object{"Name": "n", "RetiringPrincipal": alice}
	first, _ := f.grant(t, account1, key, alice, properties, "Encrypt", "RetireGrant")
	f.ask(t, "alice", "Encrypt", encrypt, "")

	f.deleteUser(t, account1, "alice")
	f.ask(t, account1, "CreateGrant", object{"KeyId": key, "GranteePrincipal": alice, "Operations": []string{"Encrypt"}}, kmsapi.InvalidArnException)
	f.addUser(t, account1, "alice", "")
	f.ask(t, "alice", "Encrypt", encrypt, denied)
	f.ask(t, "alice", "RetireGrant", object{"KeyId": key, "GrantId": first}, denied)
	list := f.ask(t, account1, "ListRetirableGrants", object{"RetiringPrincipal": alice}, "")
	if grants, _ := list["Grants"].([]any); len(grants) != 0 {
		t.Errorf("ListRetirableGrants: %v, want none of the former user's", list)
	}
	if second, _ := f.grant(t, account1, key, alice, properties, "Encrypt", "RetireGrant"); second == first {
		t.Error("a grant to the former user was taken for one to the new one")
	}
	f.ask(t, "alice", "Encrypt", encrypt, "")
	f.ask(t, "alice", "RetireGrant", object{"KeyId": key, "GrantId": first}, denied)
}

func TestChildGrantsGiveNoMoreThanTheirParents(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	alice, bob := f.addUser(t, account1, "alice", ""), f.addUser(t, account1, "bob", "")
	child := func(code kmsapi.Code, constraints object, operations ...string) {
		t.Helper()
		f.ask(t, "alice", "CreateGrant", object{
			"KeyId": key, "GranteePrincipal": bob, "Operations": operations, "Constraints": constraints,
		}, code)
	}
	subset := func(pairs object) object { return object{"EncryptionContextSubset": pairs} }
	equals := func(pairs object) object { return object{"EncryptionContextEquals": pairs} }
	a1, a1b2 := object{"a": "1"}, object{"a": "1", "b": "2"}

	child(denied, nil, "Encrypt")
	f.grant(t, account1, key, alice, object{"Constraints": subset(a1)}, "Encrypt", "Decrypt", "CreateGrant")
	child("", subset(a1), "Encrypt")
	child("", subset(a1b2), "Encrypt", "Decrypt", "CreateGrant")
	child("", equals(a1b2), "Encrypt")
	child(denied, nil, "Encrypt")
	child(denied, subset(object{"b": "2"}), "Encrypt")
	child(denied, equals(object{"b": "2"}), "Encrypt")
	child(denied, subset(a1), "Encrypt", "GenerateDataKey")
	f.ask(t, "bob", "Encrypt", object{"KeyId": key, "Plaintext": "AA==", "EncryptionContext": a1}, "")

	// Any of several parents may be the one that covers it, and no two together.
	f.grant(t, account1, key, alice, nil, "GenerateDataKey", "CreateGrant")
	f.grant(t, account1, key, alice, nil, "DescribeKey")
	child("", nil, "GenerateDataKey")
	child(denied, nil, "DescribeKey")
	child(denied, subset(a1), "Encrypt", "GenerateDataKey")
	// Those who hold CreateGrant by policy give what they do not have.
	f.grant(t, account1, key, bob, nil, "Encrypt", "ReEncryptTo")
}

// TestGranteeWithManyGrants has a grant for each of many volumes, as storage has.
func TestGranteeWithManyGrants(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	alice, bob := f.addUser(t, account1, "alice", ""), f.addUser(t, account1, "bob", "")
	volume := func(i int) object { return object{"volume": strconv.Itoa(i)} }
	ids := make([]string, 120)
	for i := range ids {
		ids[i], _ = f.grant(t, account1, key, alice, object{"Constraints": object{"EncryptionContextSubset": volume(i)}}, "Encrypt", "CreateGrant", "DescribeKey")
	}
	encrypt := func(context object, code kmsapi.Code) {
		t.Helper()
		f.ask(t, "alice", "Encrypt", object{"KeyId": key, "Plaintext": "AA==", "EncryptionContext": context}, code)
	}
	child := func(constraints object, code kmsapi.Code, operations ...string) {
		t.Helper()
		f.ask(t, "alice", "CreateGrant", object{"KeyId": key, "GranteePrincipal": bob, "Operations": operations, "Constraints": constraints}, code)
	}
	encrypt(volume(7), "")
	encrypt(object{"volume": "8", "more": "x"}, "")
	encrypt(volume(120), denied)
	encrypt(nil, denied)
	f.ask(t, "alice", "DescribeKey", object{"KeyId": key}, "")
	f.ask(t, "alice", "GenerateDataKey", object{"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": volume(7)}, denied)
	child(object{"EncryptionContextEquals": volume(7)}, "", "Encrypt")
	child(object{"EncryptionContextSubset": object{"volume": "7", "more": "x"}}, "", "Encrypt", "CreateGrant")
	child(object{"EncryptionContextSubset": volume(7)}, denied, "Encrypt", "Decrypt")
	child(object{"EncryptionContextSubset": volume(120)}, denied, "Encrypt")
	child(nil, denied, "Encrypt")
	f.ask(t, account1, "RevokeGrant", object{"KeyId": key, "GrantId": ids[7]}, "")
	encrypt(volume(7), denied)
	encrypt(volume(8), "")
}
