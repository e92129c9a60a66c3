package reconcile

import (
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"kmsgate/hsm"
	"kmsgate/hsm/keyspec"
	"kmsgate/metadata"
	"kmsgate/policy"
)

// imported makes a key with imported material that expires at a time.
func (f *fixture) imported(t *testing.T, expires time.Time) metadata.KeyName {
	t.Helper()
	return f.importedTo(t, expires, hsm.Wrapped)
}

// importedTo is imported with material of a residency.
func (f *fixture) importedTo(t *testing.T, expires time.Time, residency hsm.Residency) metadata.KeyName {
	t.Helper()
	k := metadata.Key{
		Region: testRegion, ID: uuid.NewString(), Account: testAccount, Store: testStore, Spec: keyspec.SymmetricDefault,
		Usage: keyspec.EncryptDecrypt, Origin: keyspec.External, State: metadata.Enabled, CreatedAt: noon,
	}
	m := metadata.Material{Current: true, CreatedAt: noon, ExpiresAt: &expires, Key: hsm.Key{
		Store: k.Store, Region: k.Region, Account: k.Account, KeyID: k.ID, MaterialID: hsm.MaterialID(append([]byte(k.ID[:16]), k.ID[:16]...)),
		Spec: k.Spec, Usage: k.Usage, Origin: k.Origin, Residency: residency, Generation: 1, Blob: []byte("sixteen bytes ID"), Binding: []byte("b"),
	}}
	f.change(t, func(tx *metadata.Tx) error {
		return tx.InsertKey(t.Context(), k, m, metadata.KeyPolicy{Document: policy.DefaultKeyPolicy(k.Account)}, nil)
	})
	return metadata.KeyName{Region: k.Region, Account: k.Account, ID: k.ID}
}

// TestImportedMaterialExpires at its second and not before, is recorded once however
// many instances see it, and stays away.
func TestImportedMaterialExpires(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	year := noon.Add(365 * 24 * time.Hour)
	k, other := f.imported(t, year), f.imported(t, year.Add(time.Hour))
	first, _ := f.instance(t)
	if done, err := first.ExpireMaterial(t.Context(), year.Add(-time.Second)); done != 0 || err != nil {
		t.Errorf("ExpireMaterial before its time = %d, %v", done, err)
	}
	var wg sync.WaitGroup
	total := make(chan int, 3)
	for range cap(total) {
		r, _ := f.instance(t)
		wg.Go(func() {
			done, err := r.ExpireMaterial(t.Context(), year)
			if err != nil {
				t.Errorf("ExpireMaterial = %v", err)
			}
			total <- done
		})
	}
	wg.Wait()
	if n := <-total + <-total + <-total; n != 1 {
		t.Errorf("it was done %d times, want once", n)
	}
	e := f.key(t, k)
	if m := e.Current(); e.State != metadata.PendingImport || m == nil || m.Residency != hsm.Absent || m.Blob != nil || m.ExpiresAt != nil {
		t.Errorf("after its expiry: %+v", e)
	}
	if e := f.key(t, other); e.State != metadata.Enabled || e.Current().Residency != hsm.Wrapped {
		t.Errorf("another key: %+v", e)
	}
	events := f.events(t, materialExpired)
	if len(events) != 1 || events[0].ServiceEventDetails["keyId"] != k.ID || events[0].ServiceEventDetails["keyMaterialId"] != e.Current().MaterialID.String() {
		t.Errorf("records: %+v", events)
	}
}

// waits imports material that expires at a time and waits for the key to be rotated.
func (f *fixture) waits(t *testing.T, name metadata.KeyName, expires time.Time) hsm.MaterialID {
	t.Helper()
	m := *f.key(t, name).Current()
	p := metadata.ImportParameters{ID: uuid.New(), Algorithm: keyspec.WrapOAEPSHA1, Wrapping: m.Key, CreatedAt: noon, ExpiresAt: noon.Add(day)}
	p.Wrapping.Spec, p.Wrapping.PublicKey = keyspec.RSA2048, []byte("p")
	m.MaterialID[0] ^= 1
	m.ExpiresAt = &expires
	f.change(t, func(tx *metadata.Tx) error {
		return errors.Join(
			tx.InsertImportParameters(t.Context(), p),
			tx.ImportMaterial(t.Context(), m, metadata.NewMaterial, p.ID, noon),
		)
	})
	return m.MaterialID
}

// TestEachMaterialExpiresByItself: what waits for a rotation leaves the key enabled and
// takes the rotation with it; of the others each is recorded by itself.
func TestEachMaterialExpiresByItself(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hour, year := noon.Add(time.Hour), noon.Add(365*day)
	k := f.imported(t, year)
	first := f.key(t, k).Current().MaterialID
	waited := f.waits(t, k, hour)
	f.ask(t, k, noon)
	r, _ := f.instance(t)
	mustRotate(t, r, hour, 0) // and nobody has noticed
	mustExpire(t, r, hour, 1)
	if e := f.key(t, k); e.State != metadata.Enabled || len(e.Materials) != 1 || e.Rotation.RequestedAt != nil {
		t.Errorf("without what waited the key is %+v", e)
	}
	second := f.waits(t, k, year.Add(time.Second))
	f.ask(t, k, hour)
	mustRotate(t, r, hour, 1)
	mustExpire(t, r, year, 1)
	mustExpire(t, r, year.Add(time.Second), 1)
	if e := f.key(t, k); e.State != metadata.PendingImport || len(e.Materials) != 2 || e.Current().MaterialID != second {
		t.Errorf("at last the key is %+v", e)
	}
	got := map[any]int{}
	for _, e := range f.events(t, materialExpired) {
		got[e.ServiceEventDetails["keyMaterialId"]]++
	}
	if waited != second {
		t.Errorf("the same material is %s, and then %s", waited, second)
	}
	if want := (map[any]int{first.String(): 1, second.String(): 2}); !maps.Equal(got, want) {
		t.Errorf("expiries on record: %v, want %v", got, want)
	}
	if e := f.events(t, "RotateKey"); len(e) != 1 || e[0].ServiceEventDetails["keyOrigin"] != "EXTERNAL" || e[0].ServiceEventDetails["currentKeyMaterialId"] != second.String() {
		t.Errorf("rotations on record: %+v", e)
	}
}

func mustExpire(t *testing.T, r *Reconciler, now time.Time, want int) {
	t.Helper()
	if done, err := r.ExpireMaterial(t.Context(), now); err != nil || done != want {
		t.Errorf("ExpireMaterial at %v = %d, %v; want %d", now, done, err, want)
	}
}

// TestExpiryWaitsForTheToken that holds the material: only when its object is gone is
// the row erased. This token does not destroy it, because the row is not its own.
func TestExpiryWaitsForTheToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k := f.importedTo(t, noon, hsm.Resident)
	r, _ := f.instance(t)
	if done, err := r.ExpireMaterial(t.Context(), noon); done != 0 || !errors.Is(err, hsm.ErrBinding) {
		t.Errorf("ExpireMaterial = %d, %v, want %v", done, err, hsm.ErrBinding)
	}
	if e := f.key(t, k); e.Current().Residency != hsm.Resident || len(e.Current().Blob) == 0 {
		t.Errorf("after an expiry that failed: %+v", e)
	}
}

// TestExpiryIsToldToTheWebhook, once, by the instance that did it: of material in use, and
// of what waits for a rotation and is erased.
func TestExpiryIsToldToTheWebhook(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	used := f.imported(t, noon)
	f.wantExpiryTold(t, used, f.key(t, used).Current().MaterialID)
	waits := f.imported(t, noon.Add(day))
	f.wantExpiryTold(t, waits, f.waits(t, waits, noon))
	f.wantKey(t, waits, metadata.Enabled, 1)
}

// wantExpiryTold has the one material expire that is due, and wants it to be told.
func (f *fixture) wantExpiryTold(t *testing.T, k metadata.KeyName, id hsm.MaterialID) {
	t.Helper()
	for range 2 {
		r, _ := f.instance(t)
		r.Store = f.database.Open(t, func(c *metadata.Config) { c.QueueEvents = true })
		if _, err := r.ExpireMaterial(t.Context(), noon); err != nil {
			t.Errorf("ExpireMaterial = %v", err)
		}
	}
	queued, err := f.store.ClaimEvents(t.Context(), uuid.New(), noon, noon.Add(time.Hour), 10)
	if err != nil || len(queued) != 1 {
		t.Fatalf("events: %v, %v, want one", queued, err)
	}
	var told struct {
		Type   string            `json:"detail-type"`
		Detail map[string]string `json:"detail"`
	}
	if err := json.Unmarshal(queued[0].Document, &told); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"key-id": k.ID, "key-material-id": id.String()}
	if told.Type != "KMS Imported Key Material Expiration" || !maps.Equal(told.Detail, want) {
		t.Errorf("the event is %+v, want the expiration of %v", told, want)
	}
}

// TestExpiryGoesOnAfterACrash that left material for which the token has done its part.
func TestExpiryGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k := f.imported(t, noon)
	m := f.key(t, k).Current()
	died, _ := f.instance(t)
	_ = died.destroy(t.Context(), &m.Key) // and no transaction after it
	if e := f.key(t, k); e.State != metadata.Enabled {
		t.Fatalf("half an expiry: %+v", e)
	}
	lives, _ := f.instance(t)
	if done, err := lives.ExpireMaterial(t.Context(), noon); done != 1 || err != nil || f.key(t, k).State != metadata.PendingImport {
		t.Errorf("ExpireMaterial = %d, %v", done, err)
	}
}

func TestImportParametersAreForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k := f.key(t, f.imported(t, noon.Add(time.Hour)))
	p := metadata.ImportParameters{ID: uuid.New(), Algorithm: keyspec.WrapOAEPSHA1, Wrapping: k.Current().Key, CreatedAt: noon, ExpiresAt: noon.Add(24 * time.Hour)}
	p.Wrapping.Spec, p.Wrapping.PublicKey = keyspec.RSA2048, []byte("p")
	f.change(t, func(tx *metadata.Tx) error { return tx.InsertImportParameters(t.Context(), p) })
	r, _ := f.instance(t)
	for at, want := range map[time.Time]int{p.ExpiresAt.Add(-time.Second): 0, p.ExpiresAt: 1} {
		if done, err := r.ForgetImports(t.Context(), at); at.Equal(p.ExpiresAt) && done != want || err != nil {
			t.Errorf("ForgetImports = %d, %v, want %d", done, err, want)
		}
	}
}
