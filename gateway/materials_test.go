package gateway

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
)

// bring imports 32 bytes of n into a key, and returns the material's id.
func (f *fixture) bring(t *testing.T, key string, n byte, more object) string {
	t.Helper()
	id, _ := f.must(t, "ImportKeyMaterial", f.wrapped(t, key, bytes.Repeat([]byte{n}, 32), more))["KeyMaterialId"].(string)
	return id
}

// asNew is an import of new material.
var asNew = object{"ImportType": "NEW_KEY_MATERIAL"}

// materialsOf are the materials of a key as ListKeyRotations tells them, with their
// states.
func (f *fixture) materialsOf(t *testing.T, key string) (materials []kmsapi.RotationsListEntry, states string) {
	t.Helper()
	materials = f.list(t, `{"KeyId":"`+key+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}`).Rotations
	for _, m := range materials {
		states += fmt.Sprintf("%s %s %s;", m.KeyMaterialState, m.ImportState, m.RotationType)
	}
	return materials, states
}

// rotateOnDemand has a key rotated now.
func (f *fixture) rotateOnDemand(t *testing.T, key string) {
	t.Helper()
	f.must(t, "RotateKeyOnDemand", object{"KeyId": key})
	f.rotate(t, 0, 1)
}

func (f *fixture) wantStates(t *testing.T, what, key, want string) {
	t.Helper()
	if _, got := f.materialsOf(t, key); got != want {
		t.Errorf("%s the materials are %q, want %q", what, got, want)
	}
}

// TestImportedKeysRotate to material that was imported for that, and decrypt by the
// one before.
func TestImportedKeysRotate(t *testing.T) {
	f := newFixture(t, nil)
	key := f.external(t)
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.KMSInvalidStateException, key+" is pending import.")
	first := f.bring(t, key, 1, object{"KeyMaterialDescription": "the first"})
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.KMSInvalidStateException, "No available key material pending rotation for the key: "+key+".")
	old := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("old")})["CiphertextBlob"]
	second := f.bring(t, key, 2, asNew)
	f.wantStates(t, "while new material waits,", key, "CURRENT IMPORTED ;PENDING_ROTATION IMPORTED ;")
	if m := f.describe(t, key); m["CurrentKeyMaterialId"] != first || m["KeyState"] != "Enabled" {
		t.Errorf("while new material waits the key is %v", m)
	}
	if out := f.must(t, "GenerateDataKey", object{"KeyId": key, "KeySpec": "AES_256"}); out["KeyMaterialId"] != first {
		t.Errorf("while new material waits, %v encrypts", out["KeyMaterialId"])
	}
	// The material would be known by its bytes; the text has both ids.
	f.refuses(t, "what waits, as new", "ImportKeyMaterial", f.wrapped(t, key, bytes.Repeat([]byte{2}, 32), asNew), kmsapi.IncorrectKeyMaterialException)
	f.refuses(t, "unknown material", "ImportKeyMaterial", f.wrapped(t, key, bytes.Repeat([]byte{3}, 32), nil), kmsapi.IncorrectKeyMaterialException)
	f.rotateOnDemand(t, key)
	if m := f.describe(t, key); m["CurrentKeyMaterialId"] != second {
		t.Errorf("after the rotation the key is %v", m)
	}
	f.wantStates(t, "after the rotation", key, "NON_CURRENT IMPORTED ;CURRENT IMPORTED ON_DEMAND;")
	if l := f.list(t, keyOnly(key)); len(l.Rotations) != 1 || l.Rotations[0].KeyMaterialID != second || l.Rotations[0].RotationDate.IsZero() {
		t.Errorf("the rotations are %+v", l.Rotations)
	}
	out := f.must(t, "GenerateDataKey", object{"KeyId": key, "KeySpec": "AES_256"})
	if opened := f.must(t, "Decrypt", object{"CiphertextBlob": out["CiphertextBlob"]}); out["KeyMaterialId"] != second || opened["KeyMaterialId"] != second {
		t.Errorf("after the rotation %v encrypts and %v decrypts", out["KeyMaterialId"], opened["KeyMaterialId"])
	}
	if out := f.must(t, "Decrypt", object{"CiphertextBlob": old}); out["KeyMaterialId"] != first || out["Plaintext"] != "b2xk" {
		t.Errorf("after the rotation what is old opens to %v", out)
	}
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.KMSInvalidStateException, "No available key material pending rotation for the key: "+key+".")
}

// TestOneMaterialWaits at a time; it can be deleted, and imported again.
func TestOneMaterialWaits(t *testing.T) {
	f := newFixture(t, nil)
	key := f.external(t)
	first := f.bring(t, key, 1, nil)
	second := f.bring(t, key, 2, asNew)
	third := f.try(t, "ImportKeyMaterial", f.wrapped(t, key, bytes.Repeat([]byte{3}, 32), asNew))
	f.must(t, "DeleteImportedKeyMaterial", object{"KeyId": key, "KeyMaterialId": second})
	f.wantStates(t, "after what waited was deleted", key, "CURRENT IMPORTED ;")
	if m := f.describe(t, key); m["KeyState"] != "Enabled" || m["CurrentKeyMaterialId"] != first {
		t.Errorf("after what waited was deleted the key is %v", m)
	}
	f.refuses(t, "the deletion of what is gone", "DeleteImportedKeyMaterial", object{"KeyId": key, "KeyMaterialId": second}, kmsapi.NotFoundException)
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.KMSInvalidStateException, "No available key material pending rotation for the key: "+key+".")
	id := f.bring(t, key, 3, asNew)
	want := kmsapi.AnotherMaterialPending(id, key, second)
	if third.code != string(want.Code) || third.body != `{"__type":"`+string(want.Code)+`","message":"`+want.Message+`"}` {
		t.Errorf("another material while one waits: %s, want %v", third.body, want)
	}
	if want.Message != "New key material (id: "+id+") cannot be imported into KMS key "+key+", because another key material (id: "+second+") is pending rotation." {
		t.Errorf("the refusal says %s", want.Message)
	}
	f.must(t, "RotateKeyOnDemand", object{"KeyId": key})
	f.must(t, "DeleteImportedKeyMaterial", object{"KeyId": key, "KeyMaterialId": id})
	if s := f.status(t, key); s.OnDemandRotationStartDate != 0 {
		t.Errorf("without material to be rotated to, the status is %+v", s)
	}
	f.rotate(t, time.Hour, 0)
	until := f.now().Add(time.Hour).Truncate(time.Second)
	f.bring(t, key, 4, object{"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "next"})
	expires := object{"ExpirationModel": nil, "ValidTo": until.Unix()}
	again := f.bring(t, key, 4, expires)
	expires["KeyMaterialId"] = again
	f.bring(t, key, 4, expires)
	materials, _ := f.materialsOf(t, key)
	if m := materials[1]; len(materials) != 2 || m.KeyMaterialID != again || m.KeyMaterialState != kmsapi.PendingRotation || m.KeyMaterialDescription != "next" ||
		m.ExpirationModel != kmsapi.KeyMaterialExpires || !m.ValidTo.Equal(until) {
		t.Errorf("imported again, what waits is %+v", m)
	}
	if m := f.describe(t, key); m["ExpirationModel"] != "KEY_MATERIAL_DOES_NOT_EXPIRE" || m["ValidTo"] != nil {
		t.Errorf("what waits expires, and the key is %v", m)
	}
}

// TestExpiredMaterialIsInNobodysWay: new material, another or the same, takes the place
// of what waited and has expired, before the job has run, and what was asked of it goes
// with it. An import that is refused leaves it there.
func TestExpiredMaterialIsInNobodysWay(t *testing.T) {
	f := newFixture(t, nil)
	key := f.external(t)
	f.bring(t, key, 1, nil)
	for n, next := range []byte{3, 4, 4} {
		until := f.now().Add(time.Hour).Truncate(time.Second)
		f.bring(t, key, 4, object{"ImportType": "NEW_KEY_MATERIAL", "ExpirationModel": nil, "ValidTo": until.Unix()})
		f.must(t, "RotateKeyOnDemand", object{"KeyId": key})
		f.skew.Add(int64(until.Sub(f.now())))
		f.refuses(t, "what the key has", "ImportKeyMaterial", f.wrapped(t, key, bytes.Repeat([]byte{1}, 32), asNew), kmsapi.IncorrectKeyMaterialException)
		if got := f.count(t, "DeleteExpiredKeyMaterial"); got != n {
			t.Errorf("after an import that was refused, %d expiries are on record, want %d", got, n)
		}
		id := f.bring(t, key, next, asNew)
		f.wantStates(t, "after new material came", key, "CURRENT IMPORTED ;PENDING_ROTATION IMPORTED ;")
		if materials, _ := f.materialsOf(t, key); materials[1].KeyMaterialID != id || !materials[1].ValidTo.IsZero() {
			t.Errorf("what waits is %+v, want %s", materials[1], id)
		}
		if s := f.status(t, key); s.OnDemandRotationStartDate != 0 {
			t.Errorf("the rotation to what has expired is still asked for: %+v", s)
		}
		if got := f.count(t, "DeleteExpiredKeyMaterial"); got != n+1 {
			t.Errorf("%d expiries are on record, want %d", got, n+1)
		}
		if done, err := f.reconciler.ExpireMaterial(t.Context(), f.now()); done != 0 || err != nil {
			t.Errorf("ExpireMaterial = %d, %v, want nothing to be left", done, err)
		}
		f.must(t, "DeleteImportedKeyMaterial", object{"KeyId": key, "KeyMaterialId": id})
	}
}

// count is how many records there are of an event.
func (f *fixture) count(t *testing.T, name string) (n int) {
	t.Helper()
	for _, e := range f.events(t) {
		if e.EventName == name {
			n++
		}
	}
	return n
}

// TestImportedKeysNeedAllTheirMaterials: one that is deleted or has expired makes the
// whole key wait.
func TestImportedKeysNeedAllTheirMaterials(t *testing.T) {
	f := newFixture(t, nil)
	key := f.external(t)
	early, late := f.now().Add(24*time.Hour).Truncate(time.Second), f.now().Add(48*time.Hour).Truncate(time.Second)
	first := f.bring(t, key, 1, object{"ExpirationModel": nil, "ValidTo": early.Unix()})
	old := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("old")})["CiphertextBlob"]
	second := f.bring(t, key, 2, object{"ImportType": "NEW_KEY_MATERIAL", "ExpirationModel": nil, "ValidTo": late.Unix()})
	f.rotateOnDemand(t, key)
	if m := f.describe(t, key); m["ValidTo"] != float64(early.Unix()) {
		t.Errorf("the key expires with the first of its materials, and is %v", m)
	}
	f.bring(t, key, 3, asNew)
	f.skew.Add(int64(early.Sub(f.now()))) // and no job has run
	for operation, in := range map[string]object{
		"Encrypt": {"KeyId": key, "Plaintext": []byte("p")}, "Decrypt": {"CiphertextBlob": old}, "RotateKeyOnDemand": {"KeyId": key},
	} {
		f.refuses(t, operation+" when the old material has expired", operation, in, kmsapi.KMSInvalidStateException)
	}
	if done, err := f.reconciler.ExpireMaterial(t.Context(), f.now()); done != 1 || err != nil {
		t.Fatalf("ExpireMaterial = %d, %v", done, err)
	}
	f.wantStates(t, "after the old one expired", key, "NON_CURRENT PENDING_IMPORT ;CURRENT IMPORTED ON_DEMAND;PENDING_ROTATION IMPORTED ;")
	if materials, _ := f.materialsOf(t, key); materials[0].ExpirationModel != "" || !materials[0].ValidTo.IsZero() {
		t.Errorf("the material that expired is %+v", materials[0])
	}
	if m := f.describe(t, key); m["KeyState"] != "PendingImport" || m["CurrentKeyMaterialId"] != second || m["ValidTo"] != nil {
		t.Errorf("after the old one expired the key is %v", m)
	}
	f.must(t, "DeleteImportedKeyMaterial", object{"KeyId": key})
	f.bring(t, key, 3, nil) // enables nothing: it waits itself
	f.bring(t, key, 1, nil)
	if m := f.describe(t, key); m["KeyState"] != "PendingImport" {
		t.Errorf("without its current material the key is %v", m)
	}
	f.bring(t, key, 2, object{"KeyMaterialId": second, "ImportType": "EXISTING_KEY_MATERIAL"})
	if m := f.describe(t, key); m["KeyState"] != "Enabled" || m["CurrentKeyMaterialId"] != second {
		t.Errorf("with all its materials the key is %v", m)
	}
	if out := f.must(t, "Decrypt", object{"CiphertextBlob": old}); out["KeyMaterialId"] != first {
		t.Errorf("what is old opens to %v", out)
	}
}

// TestCiphertextsOfMaterialThatWaitedUntilNow: another instance rotated the key, and the
// news is still on its way.
func TestCiphertextsOfMaterialThatWaitedUntilNow(t *testing.T) {
	f := newFixture(t, nil)
	key := f.external(t)
	first, second := f.bring(t, key, 1, nil), f.bring(t, key, 2, asNew)
	f.rotateOnDemand(t, key)
	blob, _ := f.must(t, "Encrypt", object{"KeyId": key, "Plaintext": []byte("new")})["CiphertextBlob"].(string)
	waits := func(waits bool) {
		t.Helper()
		f.database.Exec(t, `UPDATE materials SET current = false WHERE key_id = $1`, idOf(key))
		f.database.Exec(t, `UPDATE materials SET pending = $2 AND encode(id, 'hex') = $3, current = $2 = (encode(id, 'hex') = $4) WHERE key_id = $1`, idOf(key), waits, second, first)
	}
	waits(true)
	other := f.another(t, nil)
	other.status(t, key) // caches the key as it was before the rotation
	waits(false)
	var opened encrypted
	if other.ok(t, "Decrypt", `{"CiphertextBlob":"`+blob+`"}`, &opened); opened.Plaintext != "bmV3" || opened.KeyMaterialID != second {
		t.Errorf("it opens to %+v", opened)
	}
	// What waits has encrypted nothing.
	waits(true)
	f.another(t, nil).no(t, "Decrypt", `{"CiphertextBlob":"`+blob+`"}`, kmsapi.InvalidCiphertextException, "")
}
