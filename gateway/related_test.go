package gateway

import (
	"bytes"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/hsm/keyspec"
)

// farState is the state of a key in the other region.
func (f *fixture) farState(t *testing.T, key string) any {
	t.Helper()
	return f.far(t, "DescribeKey", object{"KeyId": key}, "")["KeyMetadata"].(object)["KeyState"]
}

// importFar imports material into the key in the other region; no code is success.
func (f *fixture) importFar(t *testing.T, key string, material []byte, more object, code kmsapi.Code) {
	t.Helper()
	p := f.far(t, "GetParametersForImport", parametersFor(key), "")
	f.far(t, "ImportKeyMaterial", wrappedFor(t, p, material, more), code)
}

// TestReplicasThatWereToBeDeletedGoOn: the deletion of a replica is cancelled before it
// has its materials, and it gets them all the same: those that are copied, and those that
// are imported.
func TestReplicasThatWereToBeDeletedGoOn(t *testing.T) {
	f := newRegions(t, nil)
	material := bytes.Repeat([]byte{1}, 32)
	for origin, want := range map[string]string{"AWS_KMS": "Enabled", "EXTERNAL": "PendingImport"} {
		key := f.primary(t, object{"Origin": origin})
		if origin == "EXTERNAL" {
			f.must(t, "ImportKeyMaterial", f.wrapped(t, key, material, nil))
		}
		f.must(t, "ReplicateKey", object{"KeyId": key, "ReplicaRegion": farRegion})
		f.far(t, "ScheduleKeyDeletion", object{"KeyId": key}, "")
		f.replicate(t, 0)
		f.far(t, "CancelKeyDeletion", object{"KeyId": key}, "")
		f.replicate(t, 1)
		if got := f.farState(t, key); got != want {
			t.Errorf("origin %s: the replica is %v, want %s", origin, got, want)
		}
		if origin == "EXTERNAL" {
			f.importFar(t, key, material, nil, "")
		}
		sealed := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("p")})["CiphertextBlob"]
		f.far(t, "Decrypt", object{"CiphertextBlob": sealed}, "")
	}
}

// TestReplicasThatCannotBeAreRefused: where keys live in the token none is copied to, and
// a replica that waited for its materials for ever would keep the primary key from being
// rotated.
func TestReplicasThatCannotBeAreRefused(t *testing.T) {
	f := newRegions(t, nil, farStore)
	key := f.primary(t, nil)
	f.wantRefused(t, object{"KeyId": key, "ReplicaRegion": farRegion}, kmsapi.ReplicaRegionUnable(farRegion, keyspec.SymmetricDefault))
	f.replicate(t, 0)
	imported := f.primary(t, object{"Origin": "EXTERNAL"})
	f.must(t, "ImportKeyMaterial", f.wrapped(t, imported, bytes.Repeat([]byte{1}, 32), nil))
	f.replicated(t, imported)
}

// TestObjectsOfReplicas: in a region whose keys live in the token a replica's object is
// made only of what the replica takes, and goes with the material that waits in the
// primary key, whether that is deleted or expires.
func TestObjectsOfReplicas(t *testing.T) {
	f := newRegions(t, nil, farStore)
	key := f.primary(t, object{"Origin": "EXTERNAL"})
	first, second, third := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	want := func(n int, what string) {
		t.Helper()
		if got := f.residents(t); got != n {
			t.Errorf("%s: %d objects of keys are in the token, want %d", what, got, n)
		}
	}
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, first, nil))
	f.replicated(t, key)
	f.importFar(t, key, second, nil, kmsapi.IncorrectKeyMaterialException)
	want(0, "what the replica does not take")
	f.importFar(t, key, first, nil, "")
	want(1, "the first material")
	f.importFar(t, key, second, nil, kmsapi.IncorrectKeyMaterialException)
	want(1, "other than the first material")

	pending := f.must(t, "ImportKeyMaterial", f.wrapped(t, key, second, object{"ImportType": "NEW_KEY_MATERIAL"}))["KeyMaterialId"]
	f.importFar(t, key, second, nil, "")
	want(2, "what waits")
	f.must(t, "DeleteImportedKeyMaterial", object{"KeyId": key, "KeyMaterialId": pending})
	want(1, "what waited and was deleted")

	hour := object{
		"ImportType": "NEW_KEY_MATERIAL", "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": f.now().Add(time.Hour).Unix(),
	}
	f.must(t, "ImportKeyMaterial", f.wrapped(t, key, third, hour))
	f.importFar(t, key, third, nil, "")
	want(2, "what waits and expires")
	f.skew.Add(int64(2 * time.Hour))
	if done, err := f.reconciler.ExpireMaterial(t.Context(), f.now()); err != nil || done != 1 {
		t.Fatalf("ExpireMaterial = %d, %v; want one", done, err)
	}
	want(1, "what waited and has expired")
	if got := f.farState(t, key); got != "Enabled" {
		t.Errorf("the replica is %v, want it Enabled", got)
	}
}
