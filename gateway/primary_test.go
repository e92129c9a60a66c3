package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/arn"
	"kmsgate/gateway/kmsapi"
)

// finishMoves does what is due of primary keys that have moved.
func (f *fixture) finishMoves(t *testing.T, want int) {
	t.Helper()
	if done, err := f.reconciler.FinishMoves(t.Context(), f.now()); err != nil || done != want {
		t.Fatalf("FinishMoves = %d, %v; want %d", done, err, want)
	}
}

// wantRole wants the key in one region to be in a role and in a state.
func wantRole(t *testing.T, metadata object, role, state string) {
	t.Helper()
	is, _ := metadata["MultiRegionConfiguration"].(object)
	if is["MultiRegionKeyType"] != role || metadata["KeyState"] != state {
		t.Errorf("the key is %v, want the %s %s", metadata, role, state)
	}
}

// TestUpdatePrimaryRegion moves a primary key there and back: the keys are used all the
// time, what is shared is shown by both, and the rotation is the primary key's.
func TestUpdatePrimaryRegion(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, nil)
	f.replicated(t, key)
	only, far := object{"KeyId": key}, func() object { return f.far(t, "DescribeKey", object{"KeyId": key}, "")["KeyMetadata"].(object) }
	f.must(t, "EnableKeyRotation", object{"KeyId": key, "RotationPeriodInDays": 90})
	if s := f.far(t, "GetKeyRotationStatus", only, ""); s["KeyRotationEnabled"] != true || s["RotationPeriodInDays"] != 90.0 {
		t.Errorf("GetKeyRotationStatus of the replica: %v, want the primary key's", s)
	}
	f.far(t, "EnableKeyRotation", only, kmsapi.UnsupportedOperationException)

	f.must(t, "UpdatePrimaryRegion", object{"KeyId": key, "PrimaryRegion": farRegion})
	wantRole(t, f.describe(t, key), "REPLICA", "Updating")
	wantRole(t, far(), "PRIMARY", "Updating")
	sealed := f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, "")["CiphertextBlob"]
	f.must(t, "Decrypt", object{"CiphertextBlob": sealed})
	f.refuses(t, "a key that is updated", "DisableKey", only, kmsapi.KMSInvalidStateException)
	f.finishMoves(t, 2)
	wantRole(t, f.describe(t, key), "REPLICA", "Enabled")
	wantRole(t, far(), "PRIMARY", "Enabled")
	f.far(t, "DisableKeyRotation", only, "")
	if s := f.must(t, "GetKeyRotationStatus", only); s["KeyRotationEnabled"] != false {
		t.Errorf("GetKeyRotationStatus of what is a replica now: %v, want none", s)
	}
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.UnsupportedOperationException, arn.KeyARNOf(testRegion, account1, key)+" is not a multi-region primary key.")
	f.far(t, "UpdatePrimaryRegion", object{"KeyId": key, "PrimaryRegion": testRegion}, "")
	f.finishMoves(t, 2)
	wantRole(t, f.describe(t, key), "PRIMARY", "Enabled")
	regions := map[string]int{}
	for _, e := range f.events(t) {
		if e.EventName == "UpdatePrimaryRegion" {
			regions[e.AWSRegion]++
		}
	}
	if regions[testRegion] != 2 || regions[farRegion] != 2 {
		t.Errorf("records of UpdatePrimaryRegion by region: %v, want two in each", regions)
	}
}

func TestUpdatePrimaryRegionIsRefused(t *testing.T) {
	f := newRegions(t, nil)
	single, alone, key := f.createKey(t, account1, "{}"), f.primary(t, nil), f.primary(t, nil)
	f.replicated(t, key)
	here, there := arn.KeyARNOf(testRegion, account1, key), arn.KeyARNOf(farRegion, account1, key)
	move := func(key, region string) string { return fmt.Sprintf(`{"KeyId":%q,"PrimaryRegion":%q}`, key, region) }
	const operation = "UpdatePrimaryRegion"
	f.no(t, operation, move(single, farRegion), kmsapi.UnsupportedOperationException, single+" is not a multi-region primary key.")
	f.no(t, operation, move(key, testRegion), kmsapi.ValidationException, kmsapi.PrimaryAlready(testRegion).Message)
	f.no(t, operation, move(alone, farRegion), kmsapi.NotFoundException, "Key '"+arn.KeyARNOf(farRegion, account1, alone)+"' does not exist")
	f.no(t, operation, move(key, "ap-south-1"), kmsapi.NotFoundException, "Key '"+arn.KeyARNOf("ap-south-1", account1, key)+"' does not exist")
	f.no(t, operation, move("alias/x", farRegion), kmsapi.InvalidArnException, "Key Aliases are not supported for this operation.")
	f.far(t, operation, object{"KeyId": key, "PrimaryRegion": testRegion}, kmsapi.UnsupportedOperationException)
	f.far(t, "DisableKey", object{"KeyId": key}, "")
	f.no(t, operation, move(key, farRegion), kmsapi.DisabledException, there+" is disabled.")
	f.far(t, "ScheduleKeyDeletion", object{"KeyId": key, "PendingWindowInDays": 7}, "")
	f.no(t, operation, move(key, farRegion), kmsapi.KMSInvalidStateException, there+" is pending deletion.")
	f.far(t, "CancelKeyDeletion", object{"KeyId": key}, "")
	f.far(t, "EnableKey", object{"KeyId": key}, "")
	f.must(t, "DisableKey", object{"KeyId": key})
	f.no(t, operation, move(key, farRegion), kmsapi.DisabledException, here+" is disabled.")
	f.must(t, "EnableKey", object{"KeyId": key})

	// Both key policies must allow it.
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account1 + `:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Principal":"*","Action":"kms:UpdatePrimaryRegion","Resource":"*","Condition":{"StringEquals":{"kms:PrimaryRegion":"` + farRegion + `"}}}]}`
	f.far(t, "PutKeyPolicy", object{"KeyId": key, "Policy": policy}, "")
	if a := f.try(t, operation, object{"KeyId": key, "PrimaryRegion": farRegion}); a.code != string(kmsapi.AccessDeniedException) || !strings.Contains(a.body, there) {
		t.Errorf("against the replica's policy: %d %s, want a refusal that names it", a.status, a.body)
	}
	f.far(t, "PutKeyPolicy", object{"KeyId": key, "Policy": strings.ReplaceAll(policy, `"`+farRegion+`"`, `"elsewhere"`)}, "")
	f.must(t, operation, object{"KeyId": key, "PrimaryRegion": farRegion})
}

// TestPrimaryIsDeletedAfterItsReplicas goes through the deletion of related keys.
func TestPrimaryIsDeletedAfterItsReplicas(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, nil)
	f.replicated(t, key)
	only := object{"KeyId": key}
	out := f.must(t, "ScheduleKeyDeletion", object{"KeyId": key, "PendingWindowInDays": 9})
	if out["KeyState"] != "PendingReplicaDeletion" || out["PendingWindowInDays"] != 9.0 || out["DeletionDate"] != nil {
		t.Errorf("ScheduleKeyDeletion of a primary key: %v, want no date", out)
	}
	if m := f.describe(t, key); m["PendingDeletionWindowInDays"] != 9.0 || m["DeletionDate"] != nil || m["Enabled"] != false {
		t.Errorf("DescribeKey: %v, want the window and no date", m)
	}
	f.no(t, "Encrypt", `{"KeyId":"`+key+`","Plaintext":"AA=="}`, kmsapi.KMSInvalidStateException, arn.KeyARNOf(testRegion, account1, key)+" is pending replica deletion.")
	f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, "")
	f.must(t, "CancelKeyDeletion", only)
	wantRole(t, f.describe(t, key), "PRIMARY", "Disabled")
	f.must(t, "ScheduleKeyDeletion", object{"KeyId": key, "PendingWindowInDays": 9})
	f.far(t, "ScheduleKeyDeletion", object{"KeyId": key, "PendingWindowInDays": 7}, "")
	f.skew.Add(int64(7*24*time.Hour + time.Minute))
	if done, err := f.reconciler.Delete(t.Context(), f.now()); err != nil || done != 1 {
		t.Fatalf("Delete = %d, %v; want the replica", done, err)
	}
	f.far(t, "DescribeKey", only, kmsapi.NotFoundException)
	m := f.describe(t, key)
	if date, ok := m["DeletionDate"].(float64); !ok || time.Unix(int64(date), 0).Sub(f.now()) < 8*24*time.Hour || m["PendingDeletionWindowInDays"] != nil {
		t.Errorf("after its last replica: %v, want a date nine days off", m)
	}
	f.skew.Add(int64(9*24*time.Hour + time.Minute))
	if done, err := f.reconciler.Delete(t.Context(), f.now()); err != nil || done != 1 {
		t.Fatalf("Delete = %d, %v; want the primary key", done, err)
	}
	f.refuses(t, "a deleted key", "DescribeKey", only, kmsapi.NotFoundException)
}

// TestRelatedKeysImportTheirMaterial brings material into each of two related keys, and
// rotates both.
func TestRelatedKeysImportTheirMaterial(t *testing.T) {
	f := newRegions(t, nil)
	key := f.primary(t, object{"Origin": "EXTERNAL"})
	first, second := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	f.refuses(t, "a primary key without material", "ReplicateKey", object{"KeyId": key, "ReplicaRegion": farRegion}, kmsapi.KMSInvalidStateException)
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, first, nil))
	f.replicated(t, key)
	there := func(material []byte, more object, code kmsapi.Code) {
		t.Helper()
		f.far(t, "ImportKeyMaterial", wrappedFor(t, f.far(t, "GetParametersForImport", parametersFor(key), ""), material, more), code)
	}
	far := func() object { return f.far(t, "DescribeKey", object{"KeyId": key}, "")["KeyMetadata"].(object) }
	wantRole(t, far(), "REPLICA", "PendingImport")
	there(second, nil, kmsapi.IncorrectKeyMaterialException)
	there(first, nil, "")
	wantRole(t, far(), "REPLICA", "Enabled")

	// states are those of what waits, by region.
	states := func(want string) {
		t.Helper()
		in := object{"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}
		for i, l := range []object{f.must(t, "ListKeyRotations", in), f.far(t, "ListKeyRotations", in, "")} {
			all, _ := l["Rotations"].([]any)
			last, _ := all[len(all)-1].(object)
			if (i == 0 || len(all) > 1) && last["KeyMaterialState"] != want {
				t.Errorf("region %d lists %v, want the last %s", i, all, want)
			}
		}
	}
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, second, object{"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "mine"}))
	states("PENDING_MULTI_REGION_IMPORT_AND_ROTATION")
	f.refuses(t, "what a replica has not", "RotateKeyOnDemand", object{"KeyId": key}, kmsapi.KMSInvalidStateException)
	f.refuses(t, "what the next primary has not", "UpdatePrimaryRegion", object{"KeyId": key, "PrimaryRegion": farRegion}, kmsapi.KMSInvalidStateException)
	there(second, object{"ImportType": "NEW_KEY_MATERIAL"}, kmsapi.UnsupportedOperationException)
	there(second, object{"KeyMaterialDescription": "other"}, kmsapi.ValidationException)
	there(second, object{"ImportType": "EXISTING_KEY_MATERIAL"}, "")
	states("PENDING_ROTATION")
	sealed := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})["CiphertextBlob"]
	f.must(t, "RotateKeyOnDemand", object{"KeyId": key})
	f.rotate(t, 0, 1)
	states("CURRENT")
	if here, there := f.describe(t, key)["CurrentKeyMaterialId"], far()["CurrentKeyMaterialId"]; here != there || here == nil {
		t.Errorf("the current materials are %v and %v, want one", here, there)
	}
	f.far(t, "Decrypt", object{"CiphertextBlob": sealed}, "")
	again := f.far(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")}, "")["CiphertextBlob"]
	if a := f.try(t, "Decrypt", object{"CiphertextBlob": again}); a.status != http.StatusOK {
		t.Errorf("Decrypt of the other region's ciphertext: %d %s", a.status, a.body)
	}
}
