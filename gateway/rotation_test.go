package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"kmsgate/gateway/kmsapi"
	"kmsgate/metadata"
)

// rotate rotates what is due at a time from now on.
func (f *fixture) rotate(t *testing.T, after time.Duration, want int) {
	t.Helper()
	if done, err := f.reconciler.Rotate(t.Context(), f.now().Add(after)); err != nil || done != want {
		t.Fatalf("Rotate = %d, %v; want %d", done, err, want)
	}
}

// ok calls an operation that must succeed, and decodes its answer; nil for none.
func (f *fixture) ok(t *testing.T, operation, body string, out any) answer {
	t.Helper()
	a, err := f.call(t.Context(), account1, operation, body)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%s %s: %d %s, %v; want success", operation, body, a.status, a.body, err)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(a.body), out); err != nil {
			t.Fatalf("%s: %s: %v", operation, a.body, err)
		}
	} else if a.body != "" {
		t.Errorf("%s: body %s, want none", operation, a.body)
	}
	return a
}

// no calls an operation that must be refused with a code and a message.
func (f *fixture) no(t *testing.T, operation, body string, code kmsapi.Code, message string) {
	t.Helper()
	a, err := f.call(t.Context(), account1, operation, body)
	var refusal struct{ Message string }
	_ = json.Unmarshal([]byte(a.body), &refusal)
	if err != nil || a.status != http.StatusBadRequest || a.code != string(code) || refusal.Message != message {
		t.Errorf("%s %s: %d %s, %v; want %s %q", operation, body, a.status, a.body, err, code, message)
	}
	f.wantRecord(t, a, code)
}

type rotationStatus struct {
	KeyID                     string
	KeyRotationEnabled        bool
	RotationPeriodInDays      int
	NextRotationDate          float64
	OnDemandRotationStartDate float64
}

func (f *fixture) status(t *testing.T, key string) (s rotationStatus) {
	t.Helper()
	f.ok(t, "GetKeyRotationStatus", keyOnly(key), &s)
	return s
}

type rotations struct {
	Rotations  []kmsapi.RotationsListEntry
	Truncated  bool
	NextMarker string
}

func (f *fixture) list(t *testing.T, body string) (l rotations) {
	t.Helper()
	f.ok(t, "ListKeyRotations", body, &l)
	return l
}

func keyOnly(key string) string { return `{"KeyId":"` + key + `"}` }

// idOf is the bare id of a key by ARN.
func idOf(key string) string {
	_, id, _ := strings.Cut(key, ":key/")
	return id
}

func TestRotationStatusTellsTheSchedule(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Clock = func() time.Time { return time.Unix(1_800_000_000, 0) } })
	f.skew.Store(int64(time.Until(time.Unix(1_800_000_000, 0))))
	key := f.createKey(t, account1, "{}")
	if s := f.status(t, key); s != (rotationStatus{KeyID: key}) {
		t.Errorf("at first %+v, want no rotation", s)
	}
	const day = 86400
	f.ok(t, "EnableKeyRotation", keyOnly(key), nil)
	want := rotationStatus{KeyID: key, KeyRotationEnabled: true, RotationPeriodInDays: 365, NextRotationDate: 1_800_000_000 + 365*day}
	if s := f.status(t, key); s != want {
		t.Errorf("without a period %+v, want %+v", s, want)
	}
	f.ok(t, "EnableKeyRotation", `{"KeyId":"`+key+`","RotationPeriodInDays":90}`, nil)
	want.RotationPeriodInDays, want.NextRotationDate = 90, 1_800_000_000+90*day
	if s := f.status(t, key); s != want {
		t.Errorf("with a period %+v, want %+v", s, want)
	}
	f.ok(t, "DisableKey", keyOnly(key), nil)
	if s := f.status(t, key); s != want {
		t.Errorf("while disabled %+v, want %+v", s, want)
	}
	f.ok(t, "EnableKey", keyOnly(key), nil)
	f.ok(t, "DisableKeyRotation", keyOnly(key), nil)
	f.ok(t, "DisableKeyRotation", keyOnly(key), nil) // again changes nothing
	if s := f.status(t, key); s != (rotationStatus{KeyID: key}) {
		t.Errorf("afterwards %+v, want no rotation", s)
	}
	f.ok(t, "EnableKeyRotation", `{"KeyId":"`+key+`","RotationPeriodInDays":2560}`, nil)
	f.leave(t, key)
	if s := f.status(t, key); s != (rotationStatus{KeyID: key}) {
		t.Errorf("pending deletion %+v, want no rotation", s)
	}
	for _, operation := range []string{"EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"} {
		f.no(t, operation, keyOnly(key), kmsapi.KMSInvalidStateException, key+" is pending deletion.")
	}
}

// leave schedules the deletion of a key.
func (f *fixture) leave(t *testing.T, key string) {
	t.Helper()
	err := f.store.Change(t.Context(), nil, func(tx *metadata.Tx) ([]byte, error) {
		name := metadata.KeyName{Region: testRegion, Account: account1, ID: idOf(key)}
		_, err := tx.ScheduleDeletion(t.Context(), name, f.now(), 7)
		return []byte(`{}`), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRotationRefusals(t *testing.T) {
	f := newFixture(t, nil)
	symmetric, mac := f.createKey(t, account1, "{}"), f.createKey(t, account1, ofSecret)
	for _, days := range []string{"89", "0", "-1"} {
		f.no(t, "EnableKeyRotation", `{"KeyId":"`+symmetric+`","RotationPeriodInDays":`+days+`}`, kmsapi.ValidationException,
			"1 validation error detected: Value '"+days+"' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value greater than or equal to 90")
	}
	f.no(t, "EnableKeyRotation", `{"KeyId":"alias/none","RotationPeriodInDays":2561}`, kmsapi.ValidationException,
		"1 validation error detected: Value '2561' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value less than or equal to 2560")
	f.no(t, "EnableKeyRotation", keyOnly("alias/none"), kmsapi.InvalidArnException, "Key Aliases are not supported for this operation.")

	f.no(t, "EnableKeyRotation", keyOnly(mac), kmsapi.UnsupportedOperationException, "")
	f.no(t, "RotateKeyOnDemand", keyOnly(mac), kmsapi.UnsupportedOperationException, "")
	f.ok(t, "DisableKeyRotation", keyOnly(mac), nil)
	if s := f.status(t, mac); s.KeyRotationEnabled {
		t.Error("an HMAC key is rotated")
	}
	if l := f.list(t, keyOnly(mac)); l.Rotations == nil || len(l.Rotations) != 0 || l.Truncated {
		t.Errorf("the rotations of an HMAC key are %+v, want an empty list", l)
	}
	f.no(t, "ListKeyRotations", `{"KeyId":"`+mac+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}`, kmsapi.UnsupportedOperationException, "")

	for _, key := range []string{symmetric, mac} { // the state wins over the spec
		f.ok(t, "DisableKey", keyOnly(key), nil)
		for _, operation := range []string{"EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"} {
			f.no(t, operation, keyOnly(key), kmsapi.DisabledException, key+" is disabled.")
		}
		f.status(t, key)
		f.list(t, keyOnly(key))
	}
}

// TestRotationOfKeysMadeElsewhere: their origin is what is refused.
func TestRotationOfKeysMadeElsewhere(t *testing.T) {
	f := newFixture(t, nil)
	imported, waiting, custom := f.createKey(t, account1, "{}"), f.createKey(t, account1, "{}"), f.createKey(t, account1, "{}")
	f.database.Exec(t, `UPDATE keys SET origin = 'EXTERNAL' WHERE id = ANY ($1)`, []string{idOf(imported), idOf(waiting)})
	f.database.Exec(t, `UPDATE keys SET state = 'PendingImport' WHERE id = $1`, idOf(waiting))
	f.database.Exec(t, `UPDATE keys SET origin = 'AWS_CLOUDHSM' WHERE id = $1`, idOf(custom))
	for _, key := range []string{imported, waiting, custom} {
		origin := map[bool]string{true: "AWS_CLOUDHSM", false: "EXTERNAL"}[key == custom]
		for _, operation := range []string{"EnableKeyRotation", "DisableKeyRotation"} {
			f.no(t, operation, keyOnly(key), kmsapi.UnsupportedOperationException,
				key+" origin is "+origin+" which is not valid for this operation.")
		}
	}
	for _, operation := range []string{"GetKeyRotationStatus", "ListKeyRotations", "RotateKeyOnDemand"} {
		f.no(t, operation, keyOnly(custom), kmsapi.UnsupportedOperationException,
			custom+" origin is AWS_CLOUDHSM which is not valid for this operation.")
	}
	if s := f.status(t, waiting); s.KeyRotationEnabled {
		t.Error("an imported key is rotated by itself")
	}
	f.no(t, "RotateKeyOnDemand", keyOnly(waiting), kmsapi.KMSInvalidStateException, waiting+" is pending import.")
	f.no(t, "RotateKeyOnDemand", keyOnly(imported), kmsapi.KMSInvalidStateException,
		"No available key material pending rotation for the key: "+imported+".")
	l := f.list(t, `{"KeyId":"`+imported+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}`)
	if len(l.Rotations) != 1 || l.Rotations[0].ImportState != kmsapi.Imported || l.Rotations[0].ExpirationModel != kmsapi.KeyMaterialDoesNotExpire {
		t.Errorf("the materials of an imported key are %+v", l.Rotations)
	}
}

// TestResidentKeysAreNotRotated: a material that a crash left behind would be nobody's.
func TestResidentKeysAreNotRotated(t *testing.T) {
	f := newFixtureOn(t, newEngine(t, testStore), nil)
	key := f.createKey(t, account1, "{}")
	for _, operation := range []string{"EnableKeyRotation", "RotateKeyOnDemand"} {
		f.no(t, operation, keyOnly(key), kmsapi.UnsupportedOperationException,
			key+" is kept in the token itself which is not valid for this operation.")
	}
	f.ok(t, "DisableKeyRotation", keyOnly(key), nil)
}

func TestRotationOnDemand(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	for n := 1; n <= metadata.MaxOnDemandRotations; n++ {
		var out struct{ KeyID string }
		if f.ok(t, "RotateKeyOnDemand", keyOnly(key), &out); out.KeyID != key {
			t.Fatalf("KeyId %s, want %s", out.KeyID, key)
		}
		if s := f.status(t, key); s.OnDemandRotationStartDate == 0 || s.KeyRotationEnabled {
			t.Errorf("under way the status is %+v", s)
		}
		if n == 1 {
			f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.ConflictException, "An on-demand rotation is in progress for the key: "+key)
		}
		f.rotate(t, 0, 1)
		if s := f.status(t, key); s.OnDemandRotationStartDate != 0 {
			t.Errorf("afterwards the status is %+v", s)
		}
	}
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.LimitExceededException,
		"The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: "+key)
	f.wantLists(t, key, metadata.MaxOnDemandRotations)
}

// wantLists checks the pages of a key's rotations.
func (f *fixture) wantLists(t *testing.T, key string, rotations int) {
	t.Helper()
	all := f.list(t, `{"KeyId":"`+key+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}`)
	if len(all.Rotations) != rotations+1 || all.Truncated {
		t.Fatalf("%d materials, want %d", len(all.Rotations), rotations+1)
	}
	for i, r := range all.Rotations {
		state, kind := kmsapi.NonCurrent, "ON_DEMAND"
		switch i {
		case 0:
			kind = ""
		case rotations:
			state = kmsapi.Current
		}
		if r.KeyID != key || r.KeyMaterialState != state || r.RotationType != kind || r.RotationDate.IsZero() != (i == 0) || r.ImportState != "" {
			t.Errorf("material %d is %+v, want it %s, by %q", i, r, state, kind)
		}
		if i > 1 && r.RotationDate.Before(all.Rotations[i-1].RotationDate.Time) {
			t.Errorf("material %d is older than the one before", i)
		}
	}
	var paged []kmsapi.RotationsListEntry
	marker := ""
	for {
		page := f.list(t, `{"KeyId":"`+key+`","Limit":10`+marker+`}`)
		paged = append(paged, page.Rotations...)
		if page.Truncated != (page.NextMarker != "") || len(page.Rotations) > 10 {
			t.Fatalf("page %+v", page)
		}
		if !page.Truncated {
			break
		}
		marker = `,"Marker":"` + page.NextMarker + `"`
	}
	if fmt.Sprint(paged) != fmt.Sprint(all.Rotations[1:]) {
		t.Errorf("page by page the rotations are %v, want %v", paged, all.Rotations[1:])
	}
	f.no(t, "ListKeyRotations", `{"KeyId":"`+key+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"`+marker+`}`, kmsapi.InvalidMarkerException,
		kmsapi.InvalidMarker().Message)
}

// TestRotationOnDemandGivesWayToAnAutomaticOne that is less than 20 minutes off.
func TestRotationOnDemandGivesWayToAnAutomaticOne(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.ok(t, "EnableKeyRotation", `{"KeyId":"`+key+`","RotationPeriodInDays":90}`, nil)
	period := 90 * 24 * time.Hour
	f.skew.Add(int64(period - 19*time.Minute))
	f.no(t, "RotateKeyOnDemand", keyOnly(key), kmsapi.ConflictException, kmsapi.AutomaticRotationNear().Message)
	f.skew.Add(-int64(2 * time.Minute))
	next := f.status(t, key).NextRotationDate
	f.ok(t, "RotateKeyOnDemand", keyOnly(key), &struct{}{})
	f.rotate(t, 0, 1)
	if s := f.status(t, key); s.NextRotationDate != next {
		t.Errorf("the next rotation is at %f, want %f as before", s.NextRotationDate, next)
	}
	f.rotate(t, time.Hour, 1)
	l := f.list(t, keyOnly(key))
	if len(l.Rotations) != 2 || l.Rotations[0].RotationType != "ON_DEMAND" || l.Rotations[1].RotationType != "AUTOMATIC" {
		t.Errorf("rotations %+v, want one on demand, then an automatic one", l.Rotations)
	}
}

type encrypted struct {
	CiphertextBlob, KeyMaterialID string
	Plaintext                     string
}

// TestOldMaterialsDecrypt whatever came after, on every instance at once, and answers
// and records name the material.
func TestOldMaterialsDecrypt(t *testing.T) {
	f := newFixture(t, nil)
	other := f.another(t, nil)
	key := f.createKey(t, account1, "{}")
	request := `{"KeyId":"` + key + `","Plaintext":"c2VjcmV0","EncryptionContext":{"a":"b"}}`
	var blobs []string
	for range 3 {
		var e, again encrypted
		f.ok(t, "Encrypt", request, &e)
		blobs = append(blobs, e.CiphertextBlob)
		// It has cached the key as it was before.
		if other.decrypts(t, e.CiphertextBlob, &again); again.Plaintext != "c2VjcmV0" {
			t.Errorf("elsewhere it opens to %s", again.Plaintext)
		}
		f.ok(t, "RotateKeyOnDemand", keyOnly(key), &struct{}{})
		f.rotate(t, 0, 1)
	}
	materials := f.list(t, `{"KeyId":"`+key+`","IncludeKeyMaterial":"ALL_KEY_MATERIAL"}`).Rotations
	for i, blob := range blobs {
		var e encrypted
		a := f.decrypts(t, blob, &e)
		if e.Plaintext != "c2VjcmV0" || e.KeyMaterialID != materials[i].KeyMaterialID {
			t.Errorf("ciphertext %d opens to %s by %s, want c2VjcmV0 by %s", i, e.Plaintext, e.KeyMaterialID, materials[i].KeyMaterialID)
		}
		f.wantRecord(t, a, "")
		var re struct{ SourceKeyMaterialID, DestinationKeyMaterialID string }
		f.ok(t, "ReEncrypt", `{"CiphertextBlob":"`+blob+`","DestinationKeyId":"`+key+`","SourceEncryptionContext":{"a":"b"}}`, &re)
		if re.SourceKeyMaterialID != materials[i].KeyMaterialID || re.DestinationKeyMaterialID != materials[3].KeyMaterialID {
			t.Errorf("ReEncrypt of ciphertext %d: %+v, want from %s to the current one", i, re, materials[i].KeyMaterialID)
		}
	}
}

// TestCiphertextsOfMaterialsThatWereNotSeenYet: another instance rotated the key, and
// the news is still on its way.
func TestCiphertextsOfMaterialsThatWereNotSeenYet(t *testing.T) {
	f := newFixture(t, nil)
	key := f.createKey(t, account1, "{}")
	f.ok(t, "RotateKeyOnDemand", keyOnly(key), &struct{}{})
	f.rotate(t, 0, 1)
	var e, opened encrypted
	f.ok(t, "Encrypt", `{"KeyId":"`+key+`","Plaintext":"c2VjcmV0","EncryptionContext":{"a":"b"}}`, &e)
	other := f.another(t, nil)
	f.database.Exec(t, `CREATE TABLE hidden AS SELECT * FROM materials WHERE current`)
	f.database.Exec(t, `DELETE FROM materials WHERE current`)
	other.status(t, key) // caches the key without its newest material
	f.database.Exec(t, `INSERT INTO materials SELECT * FROM hidden`)
	if other.decrypts(t, e.CiphertextBlob, &opened); opened.Plaintext != "c2VjcmV0" {
		t.Errorf("it opens to %s", opened.Plaintext)
	}
	// One that there never was stays unknown.
	f.database.Exec(t, `DELETE FROM materials WHERE current`)
	f.another(t, nil).no(t, "Decrypt", `{"CiphertextBlob":"`+e.CiphertextBlob+`","EncryptionContext":{"a":"b"}}`, kmsapi.InvalidCiphertextException, "")
}

func (f *fixture) decrypts(t *testing.T, blob string, out *encrypted) answer {
	t.Helper()
	return f.ok(t, "Decrypt", `{"CiphertextBlob":"`+blob+`","EncryptionContext":{"a":"b"}}`, out)
}

// TestServicesKeysAreRotatedEveryYear and nobody changes that.
func TestServicesKeysAreRotatedEveryYear(t *testing.T) {
	f := newFixture(t, storageService)
	f.ok(t, "Encrypt", `{"KeyId":"`+storageAlias+`","Plaintext":"aGVsbG8="}`, &struct{}{})
	key := f.described(t, storageAlias).Arn
	if s := f.status(t, key); !s.KeyRotationEnabled || s.RotationPeriodInDays != 365 || s.NextRotationDate == 0 {
		t.Errorf("the status is %+v, want it rotated every year", s)
	}
	for _, operation := range []string{"EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"} {
		if a, err := f.call(t.Context(), account1, operation, keyOnly(key)); err != nil || a.code != string(kmsapi.AccessDeniedException) {
			t.Errorf("%s: %d %s, %v; want it denied", operation, a.status, a.body, err)
		}
	}
	f.rotate(t, 366*24*time.Hour, 1)
	if l := f.list(t, keyOnly(key)); len(l.Rotations) != 1 || l.Rotations[0].RotationType != "AUTOMATIC" {
		t.Errorf("rotations %+v, want one", l.Rotations)
	}
}

// TestRotationPeriodIsAFactForPolicies has a policy that lets no key wait for long.
func TestRotationPeriodIsAFactForPolicies(t *testing.T) {
	f := newFixture(t, nil)
	const policy = `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%[1]s:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Principal":"*","Action":"kms:EnableKeyRotation","Resource":"*","Condition":{"NumericGreaterThan":{"kms:RotationPeriodInDays":"365"}}}]}`
	key := f.createKey(t, account1, "{}")
	f.mustCall(t, "PutKeyPolicy", map[string]any{"KeyId": key, "Policy": fmt.Sprintf(policy, account1)})
	if a := f.sent(t, "EnableKeyRotation", key, `"RotationPeriodInDays":366`); a.code != string(kmsapi.AccessDeniedException) {
		t.Errorf("366 days: %s, want a refusal", a.body)
	}
	f.ok(t, "EnableKeyRotation", keyOnly(key), nil) // has the default
	f.ok(t, "EnableKeyRotation", `{"KeyId":"`+key+`","RotationPeriodInDays":90}`, nil)
}
