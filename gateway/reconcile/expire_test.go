package reconcile

import (
	"encoding/json"
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
	k := metadata.Key{
		Region: testRegion, ID: uuid.NewString(), Account: testAccount, Store: testStore, Spec: keyspec.SymmetricDefault,
		Usage: keyspec.EncryptDecrypt, Origin: keyspec.External, State: metadata.Enabled, CreatedAt: noon,
	}
	m := metadata.Material{Current: true, CreatedAt: noon, ExpiresAt: &expires, Key: hsm.Key{
		Store: k.Store, Region: k.Region, Account: k.Account, KeyID: k.ID, MaterialID: hsm.MaterialID(append([]byte(k.ID[:16]), k.ID[:16]...)),
		Spec: k.Spec, Usage: k.Usage, Origin: k.Origin, Residency: hsm.Wrapped, Generation: 1, Blob: []byte("b"), Binding: []byte("b"),
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

// TestExpiryIsToldToTheWebhook, once, by the instance that did it.
func TestExpiryIsToldToTheWebhook(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	k := f.imported(t, noon)
	id := f.key(t, k).Current().MaterialID.String()
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
	want := map[string]string{"key-id": k.ID, "key-material-id": id}
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
