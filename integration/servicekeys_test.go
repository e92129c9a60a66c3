package integration_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

const storageAlias = "alias/aws/storage"

// TestServiceKey has a service of the site use its key through two instances, and
// others try to.
func TestServiceKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, newDatabase(t, startPostgres(t, nil), "kmsgate"))
	s.plain(t)
	storage := "arn:aws:iam::" + own + ":user/storage"
	s.set(t, "#services:\n#  - name: storage\n#    callers: [\"arn:aws:iam::111122223333:role/storage\"]\n",
		"services:\n  - name: storage\n    callers: [\""+storage+"\", \"arn:aws:iam::"+own+":role/storage\"]\n")
	keys := map[string]credentials{own: s.prepare(t)}
	first, second := s.serve(t, keys), s.serve(t, keys)
	made, _ := first.newUser(t, own, "storage")
	user := credentials{made.AccessKeyID, made.SecretAccessKey}
	key := wantMadeOnce(t, user, first, second)

	root := first.newClient(own)
	described, err := root.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(storageAlias)})
	if err != nil {
		t.Fatal(err)
	}
	if m := described.KeyMetadata; m.KeyManager != types.KeyManagerTypeAws || *m.Arn != key || m.KeyState != types.KeyStateEnabled {
		t.Errorf("DescribeKey says %s, managed by %s, %s; want %s, AWS, Enabled", *m.Arn, m.KeyManager, m.KeyState, key)
	}
	wantForTheServiceAlone(t, first, first.clientWith(user), key)
	wantForItsRole(t, first, made, key)
	wantUnmanageable(t, first, key)

	creations := 0
	for _, e := range first.audit(t) {
		if e.EventName != "CreateKey" || e.EventType != "AwsServiceEvent" {
			continue
		}
		creations++
		if e.RecipientAccountID != own || e.ServiceEventDetails["service"] != "storage" || e.Resources[0].ARN != key {
			t.Errorf("record %s, want one about %s", e.text, key)
		}
	}
	if creations != 1 {
		t.Errorf("%d records of the service's keys being made, want one", creations)
	}
	r := s.kmsgate(t, "access", storageAlias, "-account", own)
	r.wantSuccess(t, "access")
	for _, want := range []string{"the key of the service storage, which calls as " + storage + ", arn:aws:iam::" + own + ":role/storage.", "if StringEquals kms:ViaService: storage.us-east-1.amazonaws.com"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q is not in what access prints:\n%s", want, r.stdout)
		}
	}
}

// wantMadeOnce has the service use its key for the first time twenty times at once,
// and returns the one key's ARN.
func wantMadeOnce(t *testing.T, user credentials, instances ...*instance) string {
	t.Helper()
	var calls sync.WaitGroup
	used := make([]string, 20)
	for n := range used {
		calls.Go(func() {
			in := &kms.GenerateDataKeyInput{KeyId: aws.String(storageAlias), KeySpec: types.DataKeySpecAes256}
			out, err := instances[n%len(instances)].clientWith(user).GenerateDataKey(t.Context(), in)
			if err != nil {
				t.Errorf("GenerateDataKey: %v", err)
				return
			}
			used[n] = *out.KeyId
		})
	}
	calls.Wait()
	slices.Sort(used)
	if used = slices.Compact(used); len(used) != 1 {
		t.Fatalf("keys %q were used, want one", used)
	}
	return used[0]
}

// wantForTheServiceAlone has the service, the account's root and another service
// use the key.
func wantForTheServiceAlone(t *testing.T, i *instance, service *client, key string) {
	t.Helper()
	sealed, err := service.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("stored")})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := service.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
	if err != nil || string(opened.Plaintext) != "stored" {
		t.Errorf("Decrypt by the service: %v", err)
	}
	// By alias as much as by ARN, and whatever its own policies allow.
	everything := m{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
	_, admin := i.userClient(t, own, "admin", everything)
	for who, c := range map[string]*client{rootOf(own): i.newClient(own), "arn:aws:iam::" + own + ":user/admin": admin} {
		_, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String(storageAlias), Plaintext: []byte("p")})
		wantError(t, err, "AccessDeniedException", "User: "+who+" is not authorized to perform: kms:Encrypt on resource: "+key+
			" because no resource-based policy allows the kms:Encrypt action")
	}
	_, err = admin.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("alias/aws/other"), Plaintext: []byte("p")})
	wantError(t, err, "NotFoundException", "Alias "+aliasARN(own, "alias/aws/other")+" is not found.")
}

// wantForItsRole has the service use the key by a session of a role.
func wantForItsRole(t *testing.T, i *instance, user aws.Credentials, key string) {
	t.Helper()
	for role, status := range map[string]int{"storage": http.StatusOK, "another": http.StatusBadRequest} {
		made := createRole(t, i.roleClient(own), role)
		i.form(t, i.root(own), "iam", "UpdateAssumeRolePolicy", m{"RoleName": role, "PolicyDocument": trusting(`{"AWS":"arn:aws:iam::` + own + `:user/storage"}`)})
		session := i.assume(t, user, *made.Arn, m{"RoleSessionName": "node-1"})
		if a := i.do(t, session, true, "kms", "Encrypt", m{"KeyId": key, "Plaintext": "aGVsbG8="}); a.status != status {
			t.Errorf("Encrypt by a session of the role %s: %d %s, want %d", role, a.status, a.body, status)
		}
	}
}

// wantUnmanageable tries to change the key as the account's root.
func wantUnmanageable(t *testing.T, i *instance, key string) {
	t.Helper()
	mine := i.createKey(t, own)
	for operation, in := range map[string]m{
		"DisableKey":           {"KeyId": key},
		"EnableKey":            {"KeyId": key},
		"PutKeyPolicy":         {"KeyId": key, "Policy": document(t, statement("Allow", own, "kms:*"))},
		"TagResource":          {"KeyId": key, "Tags": []m{{"TagKey": "a", "TagValue": "b"}}},
		"UntagResource":        {"KeyId": key, "TagKeys": []string{"a"}},
		"UpdateKeyDescription": {"KeyId": key, "Description": "mine"},
		"CreateAlias":          {"AliasName": "alias/mine", "TargetKeyId": key},
	} {
		i.refused(t, own, operation, in, "AccessDeniedException", denied(own, operation, "resource: "+key)+noPolicyAllows+operation+" action")
	}
	for operation, in := range map[string]m{
		"CreateAlias": {"AliasName": "alias/aws/mine", "TargetKeyId": mine},
		"UpdateAlias": {"AliasName": storageAlias, "TargetKeyId": mine},
		"DeleteAlias": {"AliasName": storageAlias},
	} {
		if a := i.call(t, own, operation, in); a.status != 400 || !strings.Contains(string(a.body), "NotAuthorizedException") {
			t.Errorf("%s: %d %s, want NotAuthorizedException", operation, a.status, a.body)
		}
	}
	aliases, err := i.newClient(own).ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: &key})
	if err != nil || len(aliases.Aliases) != 1 || *aliases.Aliases[0].AliasName != storageAlias {
		t.Errorf("ListAliases: %+v, %v; want %s", aliases, err, storageAlias)
	}
}
