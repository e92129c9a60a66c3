package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm"
	"kmsgate/metadata"
)

const (
	farRegion = "eu-west-1"
	farStore  = "far"
)

// newRegions makes a gateway that serves two regions, each with a store of its own. In
// those that are named keys live in the token.
func newRegions(t *testing.T, configure func(*Config), resident ...string) *fixture {
	t.Helper()
	engine := newEngine(t, resident...)
	addServiceKeys(t, engine, farStore)
	f := newFixtureOn(t, engine, func(c *Config) {
		c.Regions = append(c.Regions, Region{Name: farRegion, Store: farStore})
		c.Tokens = map[string]hsm.Token{testStore: engine, farStore: engine}
		if configure != nil {
			configure(c)
		}
	})
	err := f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		return []byte(`{}`), errors.Join(
			tx.EnsureRegion(t.Context(), metadata.Region{Name: farRegion, CreatedAt: f.now()}),
			tx.EnsureKeyStore(t.Context(), metadata.KeyStore{
				ID: farStore, Region: farRegion, Type: metadata.DefaultKeyStore, State: metadata.Connected, CreatedAt: f.now(),
			}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// far calls an operation in the other region as account1; no code is success.
func (f *fixture) far(t *testing.T, operation string, in object, code kmsapi.Code) object {
	t.Helper()
	f.skew.Add(int64(2 * time.Second))
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.callIn(t.Context(), farRegion, account1, operation, string(body))
	if err != nil || a.code != string(code) {
		t.Fatalf("%s %v in %s: %d %s, %v; want code %q", operation, in, farRegion, a.status, a.body, err, code)
	}
	out := object{}
	if len(a.body) > 0 {
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// primary makes a primary key and returns its id.
func (f *fixture) primary(t *testing.T, more object) string {
	t.Helper()
	in := object{"MultiRegion": true}
	for name, value := range more {
		in[name] = value
	}
	return f.must(t, "CreateKey", in)["KeyMetadata"].(object)["KeyId"].(string)
}

// replicated makes a replica of a key and has it brought its materials.
func (f *fixture) replicated(t *testing.T, key string) {
	t.Helper()
	f.must(t, "ReplicateKey", object{"KeyId": key, "ReplicaRegion": farRegion})
	f.replicate(t, 1)
}

// replicate does what is due of the replicas.
func (f *fixture) replicate(t *testing.T, want int) {
	t.Helper()
	if done, err := f.reconciler.Replicate(t.Context(), f.now()); err != nil || done != want {
		t.Fatalf("Replicate = %d, %v; want %d", done, err, want)
	}
}

func TestReplicateKey(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, object{"Description": "the first", "Tags": []object{{"TagKey": "a", "TagValue": "1"}}})
	here, there := arn.KeyARNOf(testRegion, account1, key), arn.KeyARNOf(farRegion, account1, key)
	f.far(t, "DescribeKey", object{"KeyId": key}, kmsapi.NotFoundException)
	out := f.must(t, "ReplicateKey", object{"KeyId": key, "ReplicaRegion": farRegion})
	made := out["ReplicaKeyMetadata"].(object)
	created := made["CreationDate"]
	delete(made, "CreationDate")
	configuration := func(role string) object {
		return object{
			"MultiRegionKeyType": role, "PrimaryKey": object{"Arn": here, "Region": testRegion},
			"ReplicaKeys": []any{object{"Arn": there, "Region": farRegion}},
		}
	}
	want := object{
		"AWSAccountId": account1, "Arn": there, "KeyId": key, "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "KeySpec": "SYMMETRIC_DEFAULT",
		"Description": "", "Enabled": false, "EncryptionAlgorithms": []any{"SYMMETRIC_DEFAULT"}, "KeyManager": "CUSTOMER",
		"KeyState": "Creating", "KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": true, "Origin": "AWS_KMS",
		"MultiRegionConfiguration": configuration("REPLICA"),
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("the replica (-want +got):\n%s", diff)
	}
	if _, sent := out["ReplicaTags"]; sent || !strings.Contains(out["ReplicaPolicy"].(string), "key-default-1") {
		t.Errorf("the answer is %v, want the default policy and no tags", out)
	}
	f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, kmsapi.KMSInvalidStateException)
	f.replicate(t, 1)
	f.replicate(t, 0)
	is := f.far(t, "DescribeKey", object{"KeyId": key}, "")["KeyMetadata"].(object)
	primary := f.describe(t, key)
	for what, differs := range map[string]bool{
		"state":             is["KeyState"] != "Enabled" || is["Enabled"] != true,
		"material":          is["CurrentKeyMaterialId"] != primary["CurrentKeyMaterialId"],
		"configuration":     !cmp.Equal(configuration("REPLICA"), is["MultiRegionConfiguration"]),
		"the primary's":     !cmp.Equal(configuration("PRIMARY"), primary["MultiRegionConfiguration"]),
		"time of creation":  is["CreationDate"] != created || created == primary["CreationDate"],
		"description":       is["Description"] != "" || primary["Description"] != "the first",
		"tags":              len(f.far(t, "ListResourceTags", object{"KeyId": key}, "")["Tags"].([]any)) != 0,
		"place in ListKeys": len(f.far(t, "ListKeys", object{}, "")["Keys"].([]any)) != 1,
	} {
		if differs {
			t.Errorf("%s of the replica is not as it should be: %v of the primary %v", what, is, primary)
		}
	}
}

// TestRelatedKeysAreOneKey in all that their material does, and no other.
func TestRelatedKeysAreOneKey(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, nil)
	f.replicated(t, key)
	context := object{"a": "b"}
	sealed := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p"), "EncryptionContext": context})["CiphertextBlob"]
	opened := f.far(t, "Decrypt", object{"CiphertextBlob": sealed, "EncryptionContext": context}, "")
	if opened["Plaintext"] != "cA==" || opened["KeyId"] != arn.KeyARNOf(farRegion, account1, key) {
		t.Errorf("Decrypt in %s: %v", farRegion, opened)
	}
	f.far(t, "Decrypt", object{"CiphertextBlob": sealed, "KeyId": key, "EncryptionContext": context}, "")
	f.far(t, "Decrypt", object{"CiphertextBlob": sealed, "EncryptionContext": object{"a": "c"}}, kmsapi.InvalidCiphertextException)
	f.far(t, "Decrypt", object{"CiphertextBlob": sealed, "KeyId": arn.KeyARNOf(testRegion, account1, key), "EncryptionContext": context}, kmsapi.NotFoundException)
	again := f.far(t, "ReEncrypt", object{"CiphertextBlob": sealed, "SourceEncryptionContext": context, "DestinationKeyId": key}, "")
	if back := f.must(t, "Decrypt", object{"CiphertextBlob": again["CiphertextBlob"]}); back["Plaintext"] != "cA==" {
		t.Errorf("Decrypt of what %s has encrypted: %v", farRegion, back)
	}
}

// TestRelatedKeysAreIndependent in their states, policies, aliases, tags and grants.
func TestRelatedKeysAreIndependent(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, nil)
	f.replicated(t, key)
	f.far(t, "CreateAlias", object{"AliasName": "alias/far", "TargetKeyId": key}, "")
	f.refuses(t, "an alias of another region", "DescribeKey", object{"KeyId": "alias/far"}, kmsapi.NotFoundException)
	f.far(t, "TagResource", object{"KeyId": key, "Tags": []object{{"TagKey": "a", "TagValue": "1"}}}, "")
	if tags := f.must(t, "ListResourceTags", object{"KeyId": key})["Tags"].([]any); len(tags) != 0 {
		t.Errorf("the primary key has the tags %v", tags)
	}
	f.far(t, "CreateGrant", object{"KeyId": key, "GranteePrincipal": arn.Root(account2), "Operations": []string{"Encrypt"}}, "")
	if grants := f.must(t, "ListGrants", object{"KeyId": key})["Grants"].([]any); len(grants) != 0 {
		t.Errorf("the primary key has the grants %v", grants)
	}
	f.far(t, "DisableKey", object{"KeyId": key}, "")
	f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})
	f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, kmsapi.DisabledException)
	f.far(t, "EnableKey", object{"KeyId": key}, "")
	f.must(t, "DisableKey", object{"KeyId": key})
	f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, "")
	deny := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Principal":{"AWS":"*"},"Action":"kms:Encrypt","Resource":"*"}]}`
	f.must(t, "EnableKey", object{"KeyId": key})
	f.far(t, "PutKeyPolicy", object{"KeyId": key, "Policy": deny}, "")
	f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, kmsapi.AccessDeniedException)
	f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})
}

func TestReplicasThatAreRefused(t *testing.T) {
	f := newRegions(t, func(c *Config) { c.Quotas.Keys = 2 })
	key, single := f.primary(t, nil), f.createKey(t, account1, "{}")
	id := arn.KeyARNOf(testRegion, account1, key)
	to := func(key, region string, more object) object {
		in := object{"KeyId": key, "ReplicaRegion": region}
		for name, value := range more {
			in[name] = value
		}
		return in
	}
	const lockedOut = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + account1 + `"},"Action":"kms:Encrypt","Resource":"*"}}`
	f.wantRefused(t, to(single, farRegion, nil), kmsapi.NotPrimary(single))
	f.wantRefused(t, to(key, testRegion, nil), kmsapi.ReplicaExists(id))
	f.wantRefused(t, to(key, "ap-east-1", nil), kmsapi.ReplicaRegionNotServed("ap-east-1"))
	f.wantRefused(t, to(key, farRegion, object{"Policy": lockedOut}), kmsapi.PolicyLockout())
	f.wantRefused(t, to(key, farRegion, object{"Tags": []object{{"TagKey": "aws:a", "TagValue": ""}}}), kmsapi.ReservedTag())
	f.must(t, "DisableKey", object{"KeyId": key})
	f.wantRefused(t, to(key, farRegion, nil), kmsapi.WrongState(id, kmsapi.Disabled))
	f.must(t, "EnableKey", object{"KeyId": key})
	if n, err := f.store.KeyCount(t.Context(), account1, farRegion); err != nil || n != 0 {
		t.Errorf("%d keys in %s, %v; want none", n, farRegion, err)
	}

	f.replicated(t, key)
	there := arn.KeyARNOf(farRegion, account1, key)
	f.wantRefused(t, to(key, farRegion, nil), kmsapi.ReplicaExists(there))
	f.far(t, "ReplicateKey", to(key, testRegion, nil), kmsapi.UnsupportedOperationException)
	f.far(t, "ScheduleKeyDeletion", object{"KeyId": key}, "")
	f.wantRefused(t, to(key, farRegion, nil), kmsapi.ReplicaExists(there))
	f.far(t, "CreateKey", object{}, "")
	other := f.primaryBeyondQuota(t)
	f.wantRefused(t, to(other, farRegion, nil), kmsapi.TooManyKeys(account1))
}

// primaryBeyondQuota makes a primary key for an account that has its fill.
func (f *fixture) primaryBeyondQuota(t *testing.T) string {
	t.Helper()
	f.quotas.Keys++
	defer func() { f.quotas.Keys-- }()
	return f.primary(t, nil)
}

// wantRefused wants ReplicateKey refused with exactly that.
func (f *fixture) wantRefused(t *testing.T, in object, want *kmsapi.Error) {
	t.Helper()
	a := f.try(t, "ReplicateKey", in)
	var got struct{ Message string }
	_ = json.Unmarshal([]byte(a.body), &got)
	if a.status != http.StatusBadRequest || a.code != string(want.Code) || got.Message != want.Message {
		t.Errorf("ReplicateKey %v: %d %s, want %+v", in, a.status, a.body, want)
	}
}

// TestDeletedReplicasAreMadeAnew: what was deleted keeps its row, and leaves the region
// to another replica, which has nothing of it.
func TestDeletedReplicasAreMadeAnew(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, nil)
	sealed := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})["CiphertextBlob"]
	for round := range 3 {
		f.replicated(t, key)
		f.far(t, "Decrypt", object{"CiphertextBlob": sealed}, "")
		f.far(t, "TagResource", object{"KeyId": key, "Tags": []object{{"TagKey": "a", "TagValue": "1"}}}, "")
		f.far(t, "CreateAlias", object{"AliasName": "alias/far", "TargetKeyId": key}, "")
		f.far(t, "ScheduleKeyDeletion", object{"KeyId": key, "PendingWindowInDays": 7}, "")
		f.skew.Add(int64(8 * 24 * time.Hour))
		if done, err := f.reconciler.Delete(t.Context(), f.now()); err != nil || done != 1 {
			t.Fatalf("round %d: Delete = %d, %v", round, done, err)
		}
		f.far(t, "DescribeKey", object{"KeyId": key}, kmsapi.NotFoundException)
		if got := f.describe(t, key)["MultiRegionConfiguration"].(object)["ReplicaKeys"].([]any); len(got) != 0 {
			t.Errorf("round %d: the primary key has the replicas %v", round, got)
		}
	}
	f.replicated(t, key)
	if tags := f.far(t, "ListResourceTags", object{"KeyId": key}, "")["Tags"].([]any); len(tags) != 0 {
		t.Errorf("the new replica has the tags %v", tags)
	}
	if n, err := f.store.KeyCount(t.Context(), account1, farRegion); err != nil || n != 1 {
		t.Errorf("%d keys are counted, %v; want one", n, err)
	}
}

// TestImportedReplicasWaitForTheirMaterial, for none is copied.
func TestImportedReplicasWaitForTheirMaterial(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, object{"Origin": "EXTERNAL"})
	f.refuses(t, "a primary key without material", "ReplicateKey", object{"KeyId": key, "ReplicaRegion": farRegion}, kmsapi.KMSInvalidStateException)
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, make([]byte, 32), nil))
	f.replicated(t, key)
	if m := f.far(t, "DescribeKey", object{"KeyId": key}, "")["KeyMetadata"].(object); m["KeyState"] != "PendingImport" {
		t.Errorf("the replica is %v, want one that waits for its import", m)
	}
}

// TestRecordsOfReplication: in the primary key's region who asked and what was copied,
// in the replica's the new key.
func TestRecordsOfReplication(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, nil)
	here, there := arn.KeyARNOf(testRegion, account1, key), arn.KeyARNOf(farRegion, account1, key)
	a := f.try(t, "ReplicateKey", object{"KeyId": key, "ReplicaRegion": farRegion, "Description": "d", "Tags": []object{{"TagKey": "a", "TagValue": "1"}}})
	f.wantRecord(t, a, "")
	f.replicate(t, 1)
	log := f.auditText(t)
	for _, want := range []string{
		`"requestParameters":{"keyId":"` + key + `","replicaRegion":"eu-west-1","description":"d","tags":[{"tagKey":"a","tagValue":"1"}]},"responseElements":{"replicaKeyMetadata":{"aWSAccountId":"111122223333","keyId":"` + key + `","arn":"` + there + `"`,
		`"eventName":"CreateKey","awsRegion":"eu-west-1","sourceIPAddress":"AWS Internal","userAgent":"AWS Internal","requestParameters":{"description":"d"`,
		`"tags":[{"tagKey":"a","tagValue":"1"}]`,
		`"eventName":"SynchronizeMultiRegionKey","awsRegion":"us-east-1","sourceIPAddress":"AWS Internal","userAgent":"AWS Internal","requestParameters":{"keyArn":"` + here + `"},"responseElements":{"keyArn":"` + there + `"},"additionalEventData":{"keyMaterialIds":["` + f.describe(t, key)["CurrentKeyMaterialId"].(string) + `"]}`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no record has %s:\n%s", want, log)
		}
	}
}

// TestReplicatorsNeedLeaveInBothRegions: to replicate the primary key, and to make a
// replica, with its tags, where it is made.
func TestReplicatorsNeedLeaveInBothRegions(t *testing.T) {
	f := newRegions(t, nil)
	key := arn.KeyARNOf(testRegion, account1, f.primary(t, nil))
	policyOf := func(statements ...string) string {
		return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
	}
	allow := func(action, condition string) string {
		return `{"Effect":"Allow","Action":"kms:` + action + `","Resource":"*","Condition":{"StringEquals":` + condition + `}}`
	}
	replicate := allow("ReplicateKey", `{"kms:ReplicaRegion":"eu-west-1","aws:RequestedRegion":"us-east-1"}`)
	far := allow("CreateKey", `{"aws:RequestedRegion":"eu-west-1","kms:MultiRegionKeyType":"REPLICA","kms:KeySpec":"SYMMETRIC_DEFAULT"}`)
	in := object{"KeyId": key, "ReplicaRegion": farRegion}
	tagged := object{"KeyId": key, "ReplicaRegion": farRegion, "Tags": []object{{"TagKey": "a", "TagValue": "1"}}}
	for name, tc := range map[string]struct {
		document string
		in       object
		code     kmsapi.Code
	}{
		"nothing":             {policyOf(far), in, kmsapi.AccessDeniedException},
		"elsewhere":           {policyOf(allow("ReplicateKey", `{"kms:ReplicaRegion":"ap-east-1"}`), far), in, kmsapi.AccessDeniedException},
		"the primary alone":   {policyOf(replicate), in, kmsapi.AccessDeniedException},
		"keys of this region": {policyOf(replicate, allow("CreateKey", `{"aws:RequestedRegion":"us-east-1"}`)), in, kmsapi.AccessDeniedException},
		"primary keys":        {policyOf(replicate, allow("CreateKey", `{"kms:MultiRegionKeyType":"PRIMARY"}`)), in, kmsapi.AccessDeniedException},
		"no tags":             {policyOf(replicate, far), tagged, kmsapi.AccessDeniedException},
	} {
		user := strings.ReplaceAll(name, " ", "-")
		f.addUser(t, account1, user, tc.document)
		f.ask(t, user, "ReplicateKey", tc.in, tc.code)
	}
	all := policyOf(replicate, far, allow("TagResource", `{"aws:RequestedRegion":"eu-west-1","aws:RequestTag/a":"1"}`))
	f.addUser(t, account1, "all", all)
	f.ask(t, "all", "ReplicateKey", tagged, "")
}
