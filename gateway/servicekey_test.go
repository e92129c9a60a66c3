package gateway

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// storageService is a service that calls as the root of the first account, which
// has another user of its own too.
func storageService(c *Config) {
	c.Services = []Service{{Name: "storage", Callers: []string{"arn:aws:iam::" + account1 + ":root"}}}
}

const storageAlias = "alias/aws/storage"

// described is what DescribeKey says of a key.
func (f *fixture) described(t *testing.T, id string) (m struct{ KeyId, Arn, KeyManager, Description, KeyState string }) {
	t.Helper()
	var out struct {
		KeyMetadata *struct{ KeyId, Arn, KeyManager, Description, KeyState string }
	}
	out.KeyMetadata = &m
	if err := json.Unmarshal([]byte(f.mustCall(t, "DescribeKey", map[string]any{"KeyId": id}).body), &out); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestServiceKeyIsMadeAtFirstUse(t *testing.T) {
	f := newFixture(t, storageService)
	first := f.mustCall(t, "GenerateDataKey", map[string]any{"KeyId": storageAlias, "KeySpec": "AES_256"})
	var dataKey struct{ KeyId, CiphertextBlob string }
	if err := json.Unmarshal([]byte(first.body), &dataKey); err != nil {
		t.Fatal(err)
	}
	m := f.described(t, storageAlias)
	if m.Arn != dataKey.KeyId || m.KeyManager != "AWS" || m.KeyState != "Enabled" || m.Description == "" {
		t.Errorf("DescribeKey: %+v, want the key of %s, managed by AWS", m, dataKey.KeyId)
	}
	f.mustCall(t, "Decrypt", map[string]any{"CiphertextBlob": dataKey.CiphertextBlob})
	list := f.mustCall(t, "ListAliases", map[string]any{})
	if !strings.Contains(list.body, storageAlias) || !strings.Contains(list.body, m.KeyId) {
		t.Errorf("ListAliases: %s, want %s of %s", list.body, storageAlias, m.KeyId)
	}
	made := f.creations(t)
	if len(made) != 1 || made[0].EventType != "AwsServiceEvent" || made[0].RecipientAccountID != account1 || made[0].ServiceEventDetails.KeyID != m.KeyId {
		t.Errorf("records of CreateKey: %+v, want one service event about %s", made, m.KeyId)
	}
}

// creations are the records of keys being made.
func (f *fixture) creations(t *testing.T) (made []event) {
	t.Helper()
	for _, e := range f.events(t) {
		if e.EventName == "CreateKey" {
			made = append(made, e)
		}
	}
	return made
}

// TestServiceKeyIsMadeOnce has two instances asked for it at once.
func TestServiceKeyIsMadeOnce(t *testing.T) {
	f := newFixture(t, storageService)
	other := f.another(t, storageService)
	var calls sync.WaitGroup
	answers := make([]answer, 20)
	for i := range answers {
		calls.Go(func() {
			at := []*fixture{f, other}[i%2]
			answers[i], _ = at.call(t.Context(), account1, "Encrypt", `{"KeyId":"`+storageAlias+`","Plaintext":"aGVsbG8="}`)
		})
	}
	calls.Wait()
	keys := map[string]int{}
	for _, a := range answers {
		var out struct{ KeyId string }
		_ = json.Unmarshal([]byte(a.body), &out) // a refusal has no key
		keys[out.KeyId]++
	}
	if len(keys) != 1 || keys[""] > 0 {
		t.Errorf("keys used: %v, want one\n%v", keys, answers)
	}
	if made := f.creations(t); len(made) != 1 {
		t.Errorf("%d keys were made, want one", len(made))
	}
}

func TestServiceKeyIsForItsServiceAlone(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		storageService(c)
		c.Services = append(c.Services, Service{Name: "queue", Callers: []string{"arn:aws:iam::" + account2 + ":root"}})
	})
	ask := func(account, operation, body string, code kmsapi.Code) answer {
		t.Helper()
		a, err := f.call(t.Context(), account, operation, body)
		if err != nil || a.code != string(code) {
			t.Errorf("%s %s by %s: %v %s, want %q", operation, body, account, err, a.body, code)
		}
		return a
	}
	encrypt := func(alias string) string { return `{"KeyId":"` + alias + `","Plaintext":"aGVsbG8="}` }
	// Undeclared services, those that may not use the key, and trials make none.
	ask(account1, "Encrypt", encrypt("alias/aws/other"), kmsapi.NotFoundException)
	ask(account1, "Encrypt", encrypt("alias/aws/queue"), kmsapi.NotFoundException)
	ask(account1, "Encrypt", `{"KeyId":"`+storageAlias+`","Plaintext":"aGVsbG8=","DryRun":true}`, kmsapi.NotFoundException)
	ask(account2, "Encrypt", encrypt(storageAlias), kmsapi.NotFoundException)
	if made := f.creations(t); len(made) != 0 {
		t.Errorf("%d keys were made, want none", len(made))
	}
	// An account may look at the key that a service of its would get.
	ask(account2, "DescribeKey", `{"KeyId":"`+storageAlias+`"}`, "")
	a := ask(account2, "Encrypt", encrypt(storageAlias), kmsapi.AccessDeniedException)
	refused, err := f.whyRefused(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if c := refused.Statements[0].Condition; c == nil || c.Key != "kms:ViaService" || len(c.Got) != 0 {
		t.Errorf("refused by %+v, want the condition kms:ViaService", refused.Statements[0])
	}
	for _, way := range refused.Alternatives {
		if way[0].Kind == "AddStatement" {
			t.Errorf("a way to be allowed is %+v, which nobody can go", way[0])
		}
	}
	if len(refused.Alternatives) == 0 {
		t.Error("no way to be allowed, want a request that comes through the service, or a grant")
	}
	// A service's own key is another one in each account, and of no use elsewhere.
	own := f.described(t, storageAlias)
	ask(account2, "Encrypt", encrypt(own.Arn), kmsapi.AccessDeniedException)
	ask(account1, "Encrypt", encrypt(own.KeyId), "")
}

// TestServiceKeyIsManagedByNobody tries every change of a service's key, by its
// policy and by one that would allow it.
func TestServiceKeyIsManagedByNobody(t *testing.T) {
	f := newFixture(t, storageService)
	served := f.described(t, storageAlias).KeyId
	open := f.openServiceKey(t, served)
	own := f.createKey(t, account1, "{}")
	f.mustCall(t, "CreateAlias", map[string]any{"AliasName": "alias/mine", "TargetKeyId": own})
	for _, key := range []string{served, open} {
		for operation, in := range map[string]map[string]any{
			"EnableKey":            {"KeyId": key},
			"DisableKey":           {"KeyId": key},
			"PutKeyPolicy":         {"KeyId": key, "Policy": policy.DefaultKeyPolicy(account1)},
			"TagResource":          {"KeyId": key, "Tags": []any{map[string]any{"TagKey": "a", "TagValue": "b"}}},
			"UntagResource":        {"KeyId": key, "TagKeys": []string{"a"}},
			"UpdateKeyDescription": {"KeyId": key, "Description": "mine"},
			"CreateAlias":          {"AliasName": "alias/more", "TargetKeyId": key},
			"UpdateAlias":          {"AliasName": "alias/mine", "TargetKeyId": key},
		} {
			body, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			a, err := f.call(t.Context(), account1, operation, string(body))
			want := "because no resource-based policy allows the kms:" + operation + " action"
			if err != nil || a.code != string(kmsapi.AccessDeniedException) || !strings.Contains(a.body, want) {
				t.Errorf("%s: %v %s, want a denial %s", body, err, a.body, want)
			}
		}
		f.mustCall(t, "GetKeyPolicy", map[string]any{"KeyId": key})
		f.mustCall(t, "ListResourceTags", map[string]any{"KeyId": key})
	}
	for operation, in := range map[string]string{
		"CreateAlias": `{"AliasName":"alias/aws/mine","TargetKeyId":"` + own + `"}`,
		"UpdateAlias": `{"AliasName":"` + storageAlias + `","TargetKeyId":"` + own + `"}`,
		"DeleteAlias": `{"AliasName":"` + storageAlias + `"}`,
	} {
		if a, err := f.call(t.Context(), account1, operation, in); err != nil || a.code != string(kmsapi.NotAuthorizedException) {
			t.Errorf("%s %s: %v %s, want NotAuthorizedException", operation, in, err, a.body)
		}
	}
}

// openServiceKey stores a key of the service whose policy lets the account do
// everything, as no call can, with the material of another.
func (f *fixture) openServiceKey(t *testing.T, like string) string {
	t.Helper()
	entry, err := f.store.View().Key(t.Context(), testRegion, like)
	if err != nil {
		t.Fatal(err)
	}
	key, material := entry.Key, entry.Materials[0]
	key.ID = uuid.NewString()
	err = f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), tx.InsertKey(t.Context(), key, material, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(account1)}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return key.ID
}

func TestServicePrincipals(t *testing.T) {
	t.Parallel()
	g := &Gateway{regions: []Region{{Name: "us-east-1"}, {Name: "eu-central-1"}}, services: servicesOf([]Service{{Name: "storage"}})}
	for name, want := range map[string]bool{
		"storage.us-east-1.amazonaws.com": true, "storage.eu-central-1.amazonaws.com": true,
		"storage.eu-west-1.amazonaws.com": false, "storage.amazonaws.com": false, "queue.us-east-1.amazonaws.com": false, "": false,
	} {
		if got := g.isServicePrincipal(name); got != want {
			t.Errorf("isServicePrincipal(%q) = %v, want %v", name, got, want)
		}
	}
}
